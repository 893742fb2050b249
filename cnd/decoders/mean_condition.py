"""Floor: every item gets the mean class embedding of the training set, whatever its fMRI."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from cnd.decoders.conditioned import ByEmbedding
from cnd.protocols import Decoder, Fitted, Lab, TrainingSet


class MeanConditionDecoder(Decoder):
    """The mean class embedding of the training items: what a decoder scores that ignores its input."""

    uses_labels: ClassVar[bool] = True
    in_steps: ClassVar[bool] = False
    kind: Literal["mean_condition"] = "mean_condition"

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Average the embeddings."""
        mean = lab.generator.concept_bank.cpu().numpy()[lab.classes].mean(0)
        return ByEmbedding(lambda fmri: np.tile(mean, (len(fmri), 1)), lab)
