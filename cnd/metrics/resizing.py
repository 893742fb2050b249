"""Images brought to the sizes of a convention."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cnd.metrics.published import CONVENTIONS, ConventionName, NetworkName
from cnd.protocols import ImageArray


def for_pixels(images: ImageArray, convention: ConventionName, stimulus_side: tuple[int, int]) -> np.ndarray:
    """Images for PixCorr and SSIM, RGB, float64 [n, 3, height, width] from 0 to 1.

    Args:
        images: uint8 [n, channels, height, width].
        stimulus_side: height and width of the stimuli.
    """
    ours = CONVENTIONS[convention]
    side = stimulus_side if ours.pixels is None else (ours.pixels, ours.pixels)
    return _resized(images, convention, side, ours.pixel_filter).astype(np.float64)


def for_network(images: ImageArray, convention: ConventionName, network: NetworkName) -> np.ndarray:
    """Images as a network gets them but for the normalisation of colours, RGB, float32 [n, 3, side, side], 0 to 1."""
    side = CONVENTIONS[convention].sizes[network]
    return _resized(images, convention, (side, side), "bilinear").astype(np.float32)


def _resized(
    images: ImageArray, convention: ConventionName, side: tuple[int, int], method: Literal["bilinear", "bicubic"]
) -> np.ndarray:
    ours = CONVENTIONS[convention]
    colour = np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
    if ours.resizing == "pillow":
        return _by_pillow(colour, side, method)
    return _by_torch(colour, side if ours.first is None else (ours.first, ours.first), side, method)


def _by_torch(images: np.ndarray, first: tuple[int, int], side: tuple[int, int], method: str) -> np.ndarray:
    """As torchvision resizes tensors."""
    import torch
    from torch.nn.functional import interpolate

    x = torch.from_numpy(images.astype(np.float32) / 255)
    for size in (first, side):
        if x.shape[2:] != size:
            x = interpolate(x, size=size, mode=method, align_corners=False, antialias=True)
    return x.numpy()


def _by_pillow(images: np.ndarray, side: tuple[int, int], method: str) -> np.ndarray:
    """Rounded to 8 bits."""
    from PIL import Image

    if images.shape[2:] == side:
        return images / 255
    kernel, size = Image.Resampling[method.upper()], side[::-1]
    pictures = (Image.fromarray(np.ascontiguousarray(image)) for image in images.transpose(0, 2, 3, 1))
    resized = np.stack([np.asarray(picture.resize(size, kernel)) for picture in pictures])
    return resized.transpose(0, 3, 1, 2) / 255
