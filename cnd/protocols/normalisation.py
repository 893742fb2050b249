"""How raw patterns become those that decoders see: numbers that travel with a data set and with exported decoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

Rule = Literal["training", "run mean", "run"]
FEWEST = 8  # patterns of a run that make its own statistics worth taking


@dataclass(frozen=True)
class Normalisation:
    """Z-scores of a subject's voxels.

    Attributes:
        mean, std: float64 [voxels], of the training items; a voxel that did not vary has ``std`` 0, and becomes 0.
        rule: ``training``: these numbers for every pattern. ``run mean``: the mean of the pattern's own run is taken
            off in place of ``mean``. ``run``: a run's own mean and standard deviation stand in the place of both.
    """

    mean: np.ndarray
    std: np.ndarray
    rule: Rule = "training"

    @classmethod
    def of(cls, training: np.ndarray, rule: Rule = "training") -> Self:
        """Of training items, real [n, voxels]."""
        mean, std = training.mean(0, dtype=np.float64), training.std(0, dtype=np.float64)
        # a constant float32 column has a tiny standard deviation by rounding
        return cls(mean, np.where(std > 1e-7 * np.abs(mean), std, 0), rule)

    def apply(self, patterns: np.ndarray, run: Any = None) -> np.ndarray:
        """Z-scores float32 [n, voxels] of raw patterns.

        Args:
            patterns: real [n, voxels], measured and estimated as the training items were.
            run: [n] names of their runs, where the rule asks for them. Patterns of a run that has fewer than eight, or
                all of them where None is given, take the statistics of the training items.
        """
        result = self._scaled(patterns)
        if run is None or self.rule == "training":
            return result
        runs = np.asarray(run)
        for name in np.unique(runs):
            rows = runs == name
            if rows.sum() >= FEWEST:
                own = Normalisation.of(patterns[rows])
                std = own.std if self.rule == "run" else self.std
                result[rows] = Normalisation(own.mean, std)._scaled(patterns[rows])
        return result

    def _scaled(self, patterns: np.ndarray) -> np.ndarray:
        varies = self.std > 0
        scaled = (patterns - self.mean) / np.where(varies, self.std, 1)
        return np.where(varies, scaled, 0).astype(np.float32)
