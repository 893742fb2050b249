"""Augmented handwritten digits from scikit-learn's ``load_digits`` (1,797 scans of 8x8 pixels).

They train the generator and the classifier of the ``digits69`` experiment, so that both know real
handwriting but never saw the stimuli of the fMRI experiment. Its stimuli are 28x28 pixels in MNIST's documented
format (LeCun et al. 1998): a digit scaled to a box of 20x20 with its aspect kept, its centre of mass in the middle of
28x28, and grey only where a pixel is partly ink. The scans are brought into that format; nothing is fitted to stimuli.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

IMAGE_SIZE = 32
FIELD = 28  # side of MNIST's field, here with a margin around it
BOX = 20  # longest side of a digit within it
FINE = 3  # the ink is drawn on a grid so many times finer
CHUNK = 1000


def augmented_digits(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw digits as crisp pen strokes, bent, slanted and of any width, framed as MNIST frames them.

    Returns:
        uint8 images [n, 1, 32, 32] (white ink on black) and their int64 digit [n].
    """
    scans = load_digits()
    chosen = rng.integers(0, len(scans.target), n)
    digits = torch.as_tensor(scans.images[chosen] / 16.0, dtype=torch.float32)[:, None]
    images = torch.cat([_framed(_strokes(part, rng)) for part in digits.split(CHUNK)])
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy(), scans.target[chosen].astype(np.int64)


def _strokes(scans: Tensor, rng: np.random.Generator) -> Tensor:
    """Ink between 0 and 1 [n, 1, 96, 96] of scans [n, 1, 8, 8]."""
    size = 96
    images = F.interpolate(F.pad(scans, (2, 2, 2, 2)), size=size, mode="bicubic", align_corners=False)
    # sharpening opens loops that the coarse scan closed, and thins strokes without breaking them
    images = images + _uniform(rng, 0.5, 4.0, len(scans)) * (images - _blurred(images, size // 8))
    images = F.grid_sample(images, _warp(len(scans), size, rng), mode="bilinear", align_corners=False)
    threshold = _uniform(rng, 0.35, 0.65, len(scans))
    return torch.sigmoid((images - threshold) * 40)


def _warp(n: int, size: int, rng: np.random.Generator) -> Tensor:
    """Where each pixel comes from [n, size, size, 2]: a turn, a slant, an aspect and a smooth bending."""
    angle, aspect = rng.uniform(-0.2, 0.2, n), np.exp(rng.uniform(-0.3, 0.3, n))
    slant = rng.uniform(-0.3, 0.8, n)  # handwriting leans to the right
    affine = np.zeros((n, 2, 3), dtype=np.float32)
    affine[:, 0, 0], affine[:, 0, 1] = np.cos(angle) * aspect, slant - np.sin(angle)
    affine[:, 1, 0], affine[:, 1, 1] = np.sin(angle) * aspect, np.cos(angle)
    grid = F.affine_grid(torch.from_numpy(affine * 1.25), [n, 1, size, size], align_corners=False)
    bend = torch.as_tensor(rng.standard_normal((n, 2, 5, 5)) * 0.08, dtype=torch.float32)
    return grid + F.interpolate(bend, size=size, mode="bicubic", align_corners=False).permute(0, 2, 3, 1)


def _framed(ink: Tensor) -> Tensor:
    """Longest side scaled to the box, centre of mass in the middle of the field, a margin around it [n, 1, 32, 32]."""
    n, _, size, _ = ink.shape
    position = (torch.arange(size, dtype=torch.float32) + 0.5) / size * 2 - 1
    sides, centres = [], []
    for dim in (2, 3):  # x, then y
        profile, there = ink.sum(dim).squeeze(1), ink.amax(dim).squeeze(1) > 0.5
        low = torch.where(there, position, 2.0).amin(1)
        high = torch.where(there, position, -2.0).amax(1)
        sides.append((high - low).clamp_min(0.1) + 2 / size)
        centres.append((profile * position).sum(1) / profile.sum(1).clamp_min(1e-6))
    scale = torch.maximum(*sides) / 2 * FIELD / BOX
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = scale, scale
    affine[:, 0, 2], affine[:, 1, 2] = centres[0], centres[1]
    grid = F.affine_grid(affine, [n, 1, FIELD * FINE, FIELD * FINE], align_corners=False)
    field = F.grid_sample(ink, grid, mode="bilinear", align_corners=False)
    return F.pad(F.avg_pool2d(field, FINE), ((IMAGE_SIZE - FIELD) // 2,) * 4)


def _blurred(images: Tensor, side: int) -> Tensor:
    """Mean over a square window of that side."""
    return F.avg_pool2d(images, side + 1, 1, side // 2, count_include_pad=False)


def _uniform(rng: np.random.Generator, low: float, high: float, n: int) -> Tensor:
    """One number an image [n, 1, 1, 1]."""
    return torch.as_tensor(rng.uniform(low, high, n), dtype=torch.float32)[:, None, None, None]
