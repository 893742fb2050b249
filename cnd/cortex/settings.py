"""Linear decoding analysis (sec. 3.4, 5.2)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cnd.settings import Config, Fraction, Positive, Rate


class AnalysisConfig(Config):
    """Which hidden states of the frozen UNet are decoded from the voxels, and how.

    The paper's layers 4, 9 and 14 count sub-modules of a UNet with 18 in the encoder and 24 in the decoder; in another
    UNet they are taken at the same relative depth.
    """

    layers: tuple[Positive, ...] = (4, 9, 14)
    modules: tuple[str, ...] | None = None  # module paths of the UNet; replaces ``layers``
    steps: tuple[Fraction, ...] = (0.0, 0.2, 0.6, 1.0)  # of the denoising: steps 0, 50, 150 and the last of 250
    drives: tuple[Literal["reconstruction", "stimulus"], ...] = ("reconstruction", "stimulus")
    noise_seeds: Positive = 3  # hidden states are averaged over them
    n_components: Positive = 300  # of the PCA; fewer where there are fewer training items
    alphas: tuple[Rate, ...] = (1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
    n_splits: Annotated[int, Field(ge=2)] = 5  # cross-validation over training categories
    n_permutations: Annotated[int, Field(ge=19)] = 199
    fdr: Annotated[float, Field(gt=0, lt=1)] = 0.05

    @model_validator(mode="after")
    def _not_empty(self) -> AnalysisConfig:
        if not (self.steps and self.drives and (self.modules if self.modules is not None else self.layers)):
            raise ValueError("steps, drives and layers (or modules) must each name at least one")
        return self
