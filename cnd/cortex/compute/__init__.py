"""From fMRI and a run's conditions to tables: hidden states, their linear decoding, what passes its null."""
