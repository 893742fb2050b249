"""The simulated visual cortex: stimuli, cortex, trials."""
