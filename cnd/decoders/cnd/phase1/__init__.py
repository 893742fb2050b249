"""Phase 1: double contrastive masked autoencoder of fMRI patterns (sec. 3.2, 8.2)."""
