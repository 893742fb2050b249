"""A simulated visual cortex that sees rendered objects (:mod:`cnd.data.simulation.simulate`): its settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from cnd.data.simulation.names import CATEGORY_NAMES, IMAGE_SIZE, category_split, items
from cnd.keys import files_hash
from cnd.protocols import Classes, DataSource, FmriDataset, Stimuli
from cnd.settings import Fraction, Positive, Rate
from cnd.steps import Step

if TYPE_CHECKING:
    import numpy as np

    from cnd.protocols import Bench

NETWORK = Path(__file__).parent / "weights" / "visual_network"


class SimulatedData(DataSource):
    """Simulated visual cortex seeing rendered objects."""

    kind: Literal["simulated"] = "simulated"
    subject: Annotated[int, Field(ge=1, le=5)] = 1  # receptive fields, mixing and voxel count of its own
    brain_seed: Annotated[int, Field(ge=0)] = 0  # another seed is another set of five subjects
    stimulus_seed: Annotated[int, Field(ge=0)] = 0
    n_voxels: Annotated[int, Field(ge=64, le=6000)] = 1200  # of subject 1; the others differ by up to 15 %
    images_per_category: Positive = 8  # of the 150 training categories
    test_images_per_category: Positive = 4  # of the 50 test categories
    test_repetitions: Positive = 35  # trials averaged for a test item
    snr: Rate = 0.03  # median over voxels of single-trial signal variance / noise variance
    noise_correlation: Fraction = 0.3  # share of the noise variance that is smooth over the cortex
    drift: Fraction = 0.2  # share of the noise variance that drifts slowly over a run
    n_unlabelled: Annotated[int, Field(ge=0)] = 3000  # rest-like patterns, the stand-in for HCP
    unlabelled_signal: bool = True  # False: a null pool of noise without the generative subspace

    @property
    def simulated(self) -> bool:
        """Always."""
        return True

    @model_validator(mode="after")
    def _noise_shares(self) -> SimulatedData:
        if self.noise_correlation + self.drift > 1:
            raise ValueError("noise_correlation + drift must not exceed 1: both are shares of the noise variance")
        return self

    def identity(self) -> Any:
        """The settings, and the network behind the higher areas."""
        return self.model_dump(mode="json") | {"network": files_hash(sorted(NETWORK.iterdir()))}

    def classes(self) -> Classes:
        """The 200 kinds of objects."""
        return Classes(list(CATEGORY_NAMES), [], True)

    def test_stimuli(self) -> Stimuli:
        """All images of the test categories."""
        names = items(category_split()[1], self.test_images_per_category)[1]
        return Stimuli(names, (3, IMAGE_SIZE, IMAGE_SIZE))

    def load(self, fold: int, images: Path | None = None) -> FmriDataset:
        """Render the stimuli and let the subject see them."""
        from cnd.data.simulation.simulate import simulate

        return simulate(self)

    def load_validation(self, share: float, fold: int, images: Path | None = None) -> FmriDataset:
        """The subject sees new images of some training categories as often as it sees test images."""
        from cnd.data.simulation.simulate import simulate

        return simulate(self, share)

    def pools(self, data: Step) -> Step | None:
        """The rest-like patterns, which are simulated with the trials."""
        return Step("pools", own_patterns, needs={"data": data}, kept=False) if self.n_unlabelled else None


def own_patterns(bench: Bench, data: Step) -> tuple[np.ndarray, ...]:
    """The unlabelled patterns that come with a data set."""
    dataset: FmriDataset = bench.value(data)
    return dataset.unlabelled
