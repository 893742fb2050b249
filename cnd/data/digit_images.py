"""Augmented handwritten digits from scikit-learn's ``load_digits`` (1,797 scans of 8x8 pixels).

They train the generator and the classifier of the ``digits69`` experiment, so that both know real
handwriting but never saw the stimuli of the fMRI experiment.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

IMAGE_SIZE = 32


def augmented_digits(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw digits under a random affine map, enlarged and sharpened to pen strokes.

    Returns:
        uint8 images [n, 1, 32, 32] (white ink on black) and their int64 digit [n].
    """
    scans = load_digits()
    chosen = rng.integers(0, len(scans.target), n)
    images = torch.as_tensor(scans.images[chosen] / 16.0, dtype=torch.float32)[:, None]
    images = F.interpolate(F.pad(images, (2, 2, 2, 2)), size=48, mode="bicubic", align_corners=False)
    angle, shear = rng.uniform(-0.25, 0.25, n), rng.uniform(-0.2, 0.2, n)
    zoom_x, zoom_y = rng.uniform(0.85, 1.35, n), rng.uniform(0.8, 1.2, n)
    shift = rng.uniform(-0.06, 0.06, (n, 2))
    affine = np.zeros((n, 2, 3), dtype=np.float32)
    affine[:, 0, 0], affine[:, 0, 1] = zoom_x * np.cos(angle), zoom_x * (shear - np.sin(angle))
    affine[:, 1, 0], affine[:, 1, 1] = zoom_y * np.sin(angle), zoom_y * np.cos(angle)
    affine[:, :, 2] = shift
    grid = F.affine_grid(torch.from_numpy(affine), [n, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    images = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    threshold = torch.as_tensor(rng.uniform(0.4, 0.75, n), dtype=torch.float32)[:, None, None, None]
    images = torch.sigmoid((images - threshold) * 12)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy(), scans.target[chosen].astype(np.int64)
