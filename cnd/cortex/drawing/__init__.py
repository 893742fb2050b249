"""From the tables of an analysis to maps, figures and the interactive cortex. Loads no torch."""

from pathlib import Path

PAGE = Path(__file__).parent / "cortex.html"
"""Template of the interactive cortex."""
