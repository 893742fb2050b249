"""From the tables of an analysis to maps, figures and the interactive cortex. Loads no torch."""
