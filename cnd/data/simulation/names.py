"""Names of the objects, 20 shapes x 10 surfaces, and their split. Loads no torch, since the plan asks for them."""

from __future__ import annotations

import numpy as np

SHAPE_NAMES = (
    "disc", "ring", "half-disc", "crescent", "lens", "square", "frame", "triangle", "wedge", "star", "plus", "saltire",
    "heart", "arrow", "hourglass", "ell", "tee", "cup", "dumbbell", "trefoil",
)  # fmt: skip
SURFACES = ("red", "stripes", "bars", "checker", "dots", "rings", "glow", "diagonal", "waves", "grid")
"""Names of the surfaces, in the order of their index; each has its own two colours."""

CATEGORY_NAMES = tuple(f"{surface} {shape}" for shape in SHAPE_NAMES for surface in SURFACES)
"""Name of each category; category index = shape index * 10 + surface index."""

IMAGE_SIZE = 64
N_SHAPES, N_SURFACES = len(SHAPE_NAMES), len(SURFACES)
N_CATEGORIES = N_SHAPES * N_SURFACES


def category_split() -> tuple[np.ndarray, np.ndarray]:
    """The 150 training and 50 test categories.

    Every shape loses two or three of its ten surfaces to the test set and every surface four or six shapes, so each
    attribute is seen in training and each test combination is new.
    """
    shape = np.arange(N_SHAPES)
    held = [(shape, 3 * shape % 10), (shape, (3 * shape + 4) % 10), (shape[::2], (3 * shape[::2] + 7) % 10)]
    test = np.sort(np.concatenate([s * N_SURFACES + c for s, c in held]))
    return np.setdiff1d(np.arange(N_CATEGORIES), test), test


def items(categories: np.ndarray, each: int) -> tuple[np.ndarray, list[str]]:
    """Category and name of so many images of each category."""
    category = np.repeat(categories, each)
    return category, [f"{CATEGORY_NAMES[c]} {i % each + 1}" for i, c in enumerate(category)]
