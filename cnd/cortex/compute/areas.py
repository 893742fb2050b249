"""How much of a hidden state single areas tell: each alone, and all with the same number of voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnd.cortex.settings import AnalysisConfig
from cnd.linear.ridge import VoxelRidge
from cnd.protocols import FmriDataset

if TYPE_CHECKING:
    from cnd.cortex.compute.states import Cell

FEWEST_VOXELS = 20  # smaller areas are left out, for the smallest one sets the number for all
DRAWS = 3  # random sets of voxels of an area, averaged


def areas_of(roi: list[str]) -> dict[str, np.ndarray]:
    """Voxels of each area, both hemispheres together (``L_V1`` and ``R_V1`` are V1), areas of at least 20 voxels."""
    names = np.array([name[2:] if name[:2] in ("L_", "R_") else name for name in roi])
    voxels = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
    return {name: rows for name, rows in voxels.items() if len(rows) >= FEWEST_VOXELS}


class AreaScores:
    """Held-out R^2 of every state from each area, pooled over components and folds.

    Args:
        seed: of the draws of voxels, which are the same in every fold.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.n_voxels: dict[str, int] = {}
        self.sums: dict[tuple[Cell, str], np.ndarray] = {}  # squared error, squares about the training mean

    def add(
        self,
        config: AnalysisConfig,
        dataset: FmriDataset,
        targets: np.ndarray,
        truth: np.ndarray,
        columns: dict[Cell, slice],
    ) -> None:
        """Add a fold. Nothing is added where fewer than two areas are known.

        The penalty is chosen by leave-one-out: with few voxels it matters little, and it is cheap.

        Args:
            targets: components of all states, training items [n_train, n_targets]; ``truth`` of the test items.
            columns: each state's columns in them.
        """
        areas = areas_of(dataset.roi)
        if len(areas) < 2:
            return
        fewest = min(len(rows) for rows in areas.values())
        squares = np.square(truth, dtype=np.float64).sum(0)
        for index, (area, rows) in enumerate(areas.items()):
            self.n_voxels[area] = fewest
            rng = np.random.default_rng([self.seed, index, 23])
            for _ in range(DRAWS if len(rows) > fewest else 1):
                chosen = np.sort(rng.choice(rows, fewest, replace=False))
                model = VoxelRidge(config.alphas).fit(dataset.train.fmri[:, chosen], targets)
                error = np.square(truth - model.predict(dataset.test.fmri[:, chosen]), dtype=np.float64).sum(0)
                for cell, part in columns.items():
                    sums = np.array([error[part].sum(), squares[part].sum()])
                    self.sums[cell, area] = self.sums.get((cell, area), 0) + sums

    def r2(self) -> dict[tuple[Cell, str], float]:
        """R^2 by state and area; NaN for a state that does not vary."""
        return {key: float(1 - error / total) if total > 0 else np.nan for key, (error, total) in self.sums.items()}
