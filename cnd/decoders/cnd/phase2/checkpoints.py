"""What is measured at a checkpoint of Phase 2: the validation score, the validation loss, and the score of the rule.

The validation score is the table's score of reconstructions of held-out training items, one sample each, drawn as the
test items are. They start from the same noise at every checkpoint, so that differences along a curve are paired.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cnd.decoders.cnd.phase2.model import ConditionModule
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.decoders.cnd.phase2.training import Measured, validation_loss
from cnd.generators.sampling import draw
from cnd.protocols import FmriSplit, Generator, Noise, SamplingConfig, TrainingSet


def curve_items(train: TrainingSet, n: int) -> np.ndarray:
    """Positions of at most ``n`` held-out items, evenly spaced: of every held-out category, where there is room."""
    return train.held[np.unique(np.linspace(0, len(train.held) - 1, min(n, len(train.held))).astype(int))]


@torch.no_grad()
def draw_items(
    module: ConditionModule, generator: Generator, fmri: np.ndarray, sampling: SamplingConfig, seed: int
) -> np.ndarray:
    """Reconstructions by the module as it stands, uint8 [item, sample, c, h, w]; the same seed, the same noise."""
    condition, _ = module(torch.from_numpy(fmri).to(module.bank.device))
    noise = Noise(seed, sampling.samples_per_item).latents(len(fmri), generator.latent_shape)
    return draw(sampling, generator, condition, noise)


@dataclass
class Checkpoints:
    """Called at a checkpoint, it measures the module as it stands.

    Attributes:
        train, latents: the training items and the latents of their stimuli.
        rows: positions of the items of the curve.
        drawn: how they are drawn.
        score: reconstructions of training items and their positions to the score of each; None: no curve.
        test: the test items, how they are drawn and what scores them, where the checkpoint is chosen by them.
        seconds: spent so far.
    """

    module: ConditionModule
    generator: Generator
    phase2: Phase2Config
    seed: int
    train: TrainingSet
    latents: Tensor
    rows: np.ndarray
    drawn: SamplingConfig | None
    score: Callable[[np.ndarray, np.ndarray], np.ndarray] | None
    test: tuple[FmriSplit, SamplingConfig, Callable[[np.ndarray], float]] | None = None
    seconds: float = field(default=0.0)

    def __call__(self) -> Measured:
        began = time.monotonic()
        items, values = self._curve(), {}
        if len(items):
            values = {"validation_score": float(np.mean(items)), "validation_loss": self._loss(self.rows)}
        worth = self._worth()
        if worth is not None:
            values["checkpoint_score"] = worth
        self.seconds += time.monotonic() - began
        return Measured(values, items, worth)

    def wanted(self) -> bool:
        """Whether there is anything to measure."""
        return self.score is not None or self.phase2.checkpoint != "last"

    def _curve(self) -> list[float]:
        if self.score is None or self.drawn is None:
            return []
        images = draw_items(self.module, self.generator, self.train.items.fmri[self.rows], self.drawn, self.seed)
        return [float(value) for value in self.score(images, self.rows)]

    def _worth(self) -> float | None:
        """What the rule of the checkpoint compares; None keeps the last."""
        if self.phase2.checkpoint == "validation":
            return -self._loss(self.train.held)
        if self.test is None:
            return None
        items, sampling, score = self.test
        return score(draw_items(self.module, self.generator, items.fmri, sampling, self.seed))

    def _loss(self, rows: np.ndarray) -> float:
        fmri, clean = self.train.items.fmri[rows], self.latents[rows]
        return validation_loss(self.module, self.generator, self.phase2, fmri, clean)
