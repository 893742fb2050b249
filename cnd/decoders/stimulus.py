"""Ceilings of the judge: the stimuli themselves, and the stimuli through the generator's autoencoder."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from cnd.errors import UserError
from cnd.protocols import Decoder, Fitted, Lab, Noise, Patterns, Reconstruction, TrainingSet


class StimulusDecoder(Decoder):
    """The stimulus of each test item as it is, or as the autoencoder gives it back: what the judge makes of it."""

    learns: ClassVar[bool] = False
    in_steps: ClassVar[bool] = False
    needs_truth: ClassVar[bool] = True
    kind: Literal["stimulus"] = "stimulus"
    autoencoded: bool = False

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Nothing is learned."""
        return _Stimulus(self.autoencoded, lab)


class _Stimulus:
    def __init__(self, autoencoded: bool, lab: Lab) -> None:
        self.autoencoded, self.lab = autoencoded, lab

    def reconstruct(self, items: Patterns, noise: Noise) -> Reconstruction:
        """The stimuli, the same for every sample.

        Raises:
            UserError: the data has labels only.
        """
        if items.images is None or not items.images.size:
            raise UserError("decoder.kind = stimulus: the data has labels and no stimuli; leave this control out")
        images = np.asarray(items.images)
        if self.autoencoded:
            generator = self.lab.generator.to(self.lab.device)
            images = generator.decode(generator.encode(images))
        return Reconstruction(np.repeat(images[:, None], noise.samples, axis=1))
