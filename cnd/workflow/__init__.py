"""From an experiment to its results: the steps of a run, where they are kept, and how they are made."""
