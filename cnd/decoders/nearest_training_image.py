"""Floor without a generator: the training image whose fMRI is most like the item's."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from cnd.errors import UserError
from cnd.protocols import Decoder, Fitted, ImageArray, Lab, Noise, Patterns, Reconstruction, TrainingSet


class NearestTrainingImageDecoder(Decoder):
    """The stimulus of the training item whose pattern correlates most with the item's: retrieval, no generation."""

    uses_generator: ClassVar[bool] = False
    in_steps: ClassVar[bool] = False
    kind: Literal["nearest_training_image"] = "nearest_training_image"

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Remember the training set.

        Raises:
            UserError: the data has no images.
        """
        if not train.items.images.size:
            raise UserError("decoder.kind = nearest_training_image: the data has labels only; add images")
        return _Nearest(_unit(train.items.fmri), train.items.images)


class _Nearest:
    def __init__(self, patterns: np.ndarray, images: ImageArray) -> None:
        self.patterns, self.images = patterns, images

    def reconstruct(self, items: Patterns, noise: Noise) -> Reconstruction:
        nearest = (_unit(items.fmri) @ self.patterns.T).argmax(1)
        return Reconstruction(np.repeat(self.images[nearest][:, None], noise.samples, axis=1))


def _unit(patterns: np.ndarray) -> np.ndarray:
    """Rows centred and scaled to length 1, so that products are correlations."""
    centred = patterns - patterns.mean(1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
