"""Pictures of the report's image sheets as PNG, each once in the page, and small enough together."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDES = (128, 112, 96, 80, 64, 48, 32)  # px; larger pictures are reduced to the first at which all fit in BYTES
BYTES = 5_000_000  # of all pictures together, as they stand in the page
NARROWEST = 64  # px on the screen: smaller pictures are magnified


class Picture(NamedTuple):
    """One picture of the page; every sheet that shows it refers to it."""

    source: str  # data: URL
    width: int  # px, its own
    height: int
    magnified: int  # times on the screen


class Cell(NamedTuple):
    """A picture in its place."""

    picture: int  # index into the pictures
    description: str
    score: str  # of this very picture


class Album:
    """The pictures of all sheets, each once."""

    def __init__(self) -> None:
        self._pixels: list[NDArray[np.uint8]] = []

    def add(self, pixels: NDArray[np.uint8], description: str, score: str = "") -> Cell:
        """A cell that shows this picture, uint8 [1 or 3, height, width]."""
        self._pixels.append(pixels)
        return Cell(len(self._pixels) - 1, description, score)

    def encoded(self) -> list[Picture]:
        """All pictures, reduced as far as it takes to keep the page small."""
        for side in SIDES:
            found = [encode(pixels, side) for pixels in self._pixels]
            if sum(len(picture.source) for picture in found) <= BYTES:
                break
        return found


def encode(pixels: NDArray[np.uint8], side: int) -> Picture:
    """A PNG of the picture at its own size, or reduced to ``side`` px where it is larger.

    Args:
        pixels: uint8 [1 or 3, height, width].
    """
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels[:3], 0, -1))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(source, *image.size, magnified=-(-NARROWEST // max(image.size)))
