"""Mean absolute error of pixels."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from cnd.protocols import ImageArray, Metric, Truth


class PixelError(Metric):
    """Mean absolute difference to the stimulus, in grey levels."""

    bounds: ClassVar[tuple[float, float]] = (0.0, 255.0)
    higher_is_better: ClassVar[bool] = False
    kind: Literal["pixel_error"] = "pixel_error"

    def score(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> np.ndarray:
        """Error of each reconstruction, float64 [item, sample]; NaN where the data has labels only."""
        if not stimuli.size:
            return np.full(images.shape[:2], np.nan)
        wanted = np.asarray(stimuli, dtype=np.float64)[:, None]
        return np.abs(images - wanted).mean((2, 3, 4))
