"""Floor: every item gets the class of a training item drawn at random, whatever its fMRI."""

from __future__ import annotations

import zlib
from typing import ClassVar, Literal

import numpy as np

from cnd.decoders.conditioned import ByEmbedding
from cnd.protocols import Decoder, Fitted, Lab, TrainingSet


class RandomClassDecoder(Decoder):
    """A random class of the training set: what a decoder scores that knows which classes occur, and no more."""

    uses_labels: ClassVar[bool] = True
    in_steps: ClassVar[bool] = False
    kind: Literal["random_class"] = "random_class"

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Remember the classes."""
        bank, classes = lab.generator.concept_bank.cpu().numpy(), lab.classes
        fold = zlib.crc32("".join(train.items.stimulus).encode())  # so that folds draw independently

        def draw(fmri: np.ndarray) -> np.ndarray:
            chosen = np.random.default_rng([lab.seed, 8, fold]).integers(0, len(classes), len(fmri))
            return bank[classes[chosen]]

        return ByEmbedding(draw, lab)
