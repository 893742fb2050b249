"""Pixel correlation: how alike a reconstruction and its stimulus are, value by value."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from cnd.errors import UserError
from cnd.protocols import ImageArray, Metric, Truth


class PixelCorrelation(Metric):
    """Pearson correlation of a reconstruction with its stimulus over all pixel values of the RGB images."""

    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    kind: Literal["pixel_correlation"] = "pixel_correlation"

    @property
    def note(self) -> str:
        """What it is, and what it is not."""
        return (
            "Pixel correlation is Pearson's r over all values of the RGB image, 0 where one of the two is constant. It "
            "has no chance level: photographs resemble each other, so that a fixed blurred image scores above 0."
        )

    def score(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> np.ndarray:
        """[item, sample] from -1 to 1; 0 for a constant image, which resembles nothing.

        Raises:
            UserError: no stimuli, or reconstructions of another size.
        """
        if not stimuli.size:
            raise UserError("evaluation.metrics: pixel_correlation compares with stimuli, and the data has labels only")
        if stimuli.shape[-2:] != images.shape[-2:]:
            (h, w), (height, width) = stimuli.shape[-2:], images.shape[-2:]
            raise UserError(
                f"evaluation.metrics: pixel_correlation needs images of one size; stimuli are {w}x{h}, reconstructions "
                f"{width}x{height}: set data.image_size, where the data has it, or leave the metric out"
            )
        return np.stack([correlation(np.asarray(stimuli[i]), images[i]) for i in range(len(images))])


def correlation(stimulus: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Pearson's r of each sample with the stimulus, float64 [sample].

    Args:
        stimulus: [channels, height, width].
        samples: [sample, channels, height, width]; where one of the two has a single channel, it counts as grey RGB.
    """
    channels = max(len(stimulus), samples.shape[1])
    stimulus = np.broadcast_to(stimulus, (channels, *stimulus.shape[1:]))
    samples = np.broadcast_to(samples, (len(samples), channels, *samples.shape[2:]))
    a, b = _unit(stimulus[None]), _unit(samples)
    return np.clip((a * b).sum(1), -1.0, 1.0)


def _unit(images: np.ndarray) -> np.ndarray:
    """Images as rows, centred, of length 1; constant ones become 0."""
    rows = images.reshape(len(images), -1).astype(np.float64)
    rows -= rows.mean(1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
