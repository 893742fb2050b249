"""Small made stimuli, and reconstructions of them as another program would export them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ["barn 1", "barn 3", "item 3 (6)", "n01518878_10042"]
FILES = ["barn-1", "barn-3", "item-3--6-", "n01518878_10042"]  # how the files of these stimuli are named


def picture(seed: int, size: int = 16) -> np.ndarray:
    """uint8 [size, size, 3], smooth."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def mixed(seed: int, share: float, size: int = 16) -> np.ndarray:
    """A picture with a share of the stimulus of that seed in it."""
    return np.round(share * picture(seed, size) + (1 - share) * picture(seed + 1000, size)).astype(np.uint8)


def save(folder: Path, names: Sequence[str], images: Sequence[np.ndarray]) -> Path:
    """One PNG file a name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def stimuli(folder: Path, names: Sequence[str] = NAMES) -> Path:
    return save(folder, names, [picture(seed) for seed in range(len(names))])


def reconstructions(folder: Path, share: float, names: Sequence[str] = FILES) -> Path:
    return save(folder, names, [mixed(seed, share) for seed in range(len(names))])
