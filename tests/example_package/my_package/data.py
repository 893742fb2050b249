"""Ten kinds of stripes, seen by voxels that respond to each kind in their own way."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from cnd.protocols import DataSource, FmriDataset, FmriSplit
from cnd.settings import Positive, Weight


class StripesData(DataSource):
    """Simulated voxels seeing stripes of ten widths."""

    simulated: ClassVar[bool] = True
    kind: Literal["stripes"] = "stripes"
    n_voxels: Positive = 40
    noise: Weight = 0.5  # standard deviation; that of the responses is 1

    def load(self, fold: int, images: Path | None = None) -> FmriDataset:
        """60 items for training and 20 for the test, z-scored with the statistics of training."""
        rng = np.random.default_rng(0)
        responses = rng.standard_normal((10, self.n_voxels))
        category = np.arange(80) % 10
        fmri = responses[category] + self.noise * rng.standard_normal((80, self.n_voxels))
        fmri = ((fmri - fmri[:60].mean(0)) / fmri[:60].std(0)).astype(np.float32)
        waves = np.sin(np.arange(64) * (category[:, None] + 1) / 10)  # [item, width]
        pictures = np.broadcast_to((127.5 * (1 + waves)).astype(np.uint8)[:, None, None], (80, 3, 64, 64))
        items = FmriSplit(fmri, pictures, category, [f"stripes {i}" for i in range(80)])
        names = [f"{n} waves" for n in range(1, 11)]
        train, test = items.take(np.arange(60)), items.take(np.arange(60, 80))
        return FmriDataset(train, test, (), names, "stripes: simulated voxels", simulated=True)
