"""Image files as they are: which lie in a folder, their size, their pixels. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cnd.data.images import SUFFIXES, eight_bit
from cnd.errors import UserError


def images_in(folder: Path) -> list[Path]:
    """PNG and JPEG files directly in a folder, by name; hidden ones are left out."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def size_of(path: Path) -> tuple[int, int]:
    """Height and width, read from the file's head.

    Raises:
        UserError: it is no readable image.
    """
    with _opened(path) as image:
        return int(image.height), int(image.width)


def pixels_of(path: Path) -> np.ndarray:
    """uint8 [3, height, width]; grey images become RGB, see :func:`cnd.data.images.eight_bit`.

    Raises:
        UserError: it is no readable image, or lets something shine through.
    """
    with _opened(path) as image:
        return np.asarray(eight_bit(path, image)).transpose(2, 0, 1)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        reason = (str(error).splitlines() or [type(error).__name__])[0].removesuffix(f" {str(path)!r}")
        raise UserError(f"{path}: not a readable PNG or JPEG ({reason}); write it again") from error
