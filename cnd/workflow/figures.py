"""The pictures of a linear decoding analysis as a step (Figures 5 and 6, and what the paper does not show)."""

from __future__ import annotations

from pathlib import Path

from cnd.protocols import Bench
from cnd.settings import FileOf
from cnd.steps import Step


def draw_figures(bench: Bench, folder: Path, page: FileOf, analysis: Step, title: str) -> None:
    """Draw the tables of an analysis."""
    from cnd.cortex.drawing.draw import draw

    draw(bench.value(analysis), folder, title)
