"""What a part must offer. A data set, a generator, a classifier or a decoder is swapped by meeting these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:  # the data sets and the plan need no torch
    from jaxtyping import Float, Int
    from torch import Tensor


class ImageArray(Protocol):
    """uint8 images [n, channels, height, width]: an array, or a file of which only the rows asked for are read.

    Indexing gives arrays; ``np.asarray`` reads everything, so take large sets in chunks.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def size(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Any: ...
    def __array__(self, dtype: Any = None, /) -> np.ndarray: ...


@dataclass(frozen=True)
class FmriSplit:
    """Aligned patterns and stimuli.

    Attributes:
        fmri: float32 [n, voxels], z-scored with training statistics.
        images: uint8 [n, channels, height, width]; [n, 0, 0, 0], of size 0, where there are labels only.
        category: int64 [n], index into the data set's ``class_names``.
        stimulus: name of each item; single trials of one stimulus share it.
        seen: bool [n], True where generator and judge have probably been trained on the very stimulus; None: nowhere.
        run: int64 [n], the run each item was measured in; None where items are averages or it is unknown.
    """

    fmri: np.ndarray
    images: ImageArray
    category: np.ndarray
    stimulus: list[str]
    seen: np.ndarray | None = None
    run: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.fmri)

    def take(self, rows: np.ndarray) -> FmriSplit:
        """The items at integer positions ``rows``."""
        names = [self.stimulus[i] for i in rows]
        seen, run = (None if a is None else a[rows] for a in (self.seen, self.run))
        return FmriSplit(self.fmri[rows], self.images[rows], self.category[rows], names, seen, run)


@dataclass(frozen=True)
class FmriDataset:
    """One training / test partition of one subject (a fold, where there is cross-validation).

    Attributes:
        unlabelled: pools for pre-training, each float32 [m, voxels of the pool]: of this subject's voxels or of others.
        wnid: WordNet id of each class, e.g. ``n01443537``; "" for a class that is no synset, empty where none is.
        roi: area of each voxel, e.g. ``L_V1``.
        vertex: index of each voxel in the cortical vertices of ``surface`` (fs_LR 32k: 0..59411, both hemispheres
            without the medial wall; fsaverage5: 0..20483, left then right), or None for voxels of a volume.
        surface: mesh that ``vertex`` counts in.
        xyz: float32 [voxels, 3], millimetres, for voxels of a volume; None where it is unknown.
        facts: numbers worth reporting, e.g. the noise ceiling.
    """

    train: FmriSplit
    test: FmriSplit
    unlabelled: tuple[np.ndarray, ...]
    class_names: list[str]
    description: str
    simulated: bool
    roi: list[str] = field(default_factory=list)
    vertex: np.ndarray | None = None
    surface: Literal["fs_LR_32k", "fsaverage5"] = "fs_LR_32k"
    xyz: np.ndarray | None = None
    wnid: list[str] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)


class Condition(NamedTuple):
    """What steers the frozen UNet: it takes exactly the place of the class embedding.

    Attributes:
        context: [batch, tokens, width], keys and values of the UNet's cross-attention.
        pooled: [batch, width], enters with the time embedding.
    """

    context: Float[Tensor, "batch tokens width"]
    pooled: Float[Tensor, "batch width"]


class Generator(Protocol):
    """A frozen class-conditional latent diffusion model."""

    concept_bank: Float[Tensor, "classes width"]  # class embeddings without the null class
    alphas_cumprod: Float[Tensor, " timesteps"]

    def encode(self, images: ImageArray) -> Float[Tensor, "n channels height width"]:
        """Latents of uint8 images, scaled to unit variance."""
        ...

    def decode(self, latents: Float[Tensor, "n channels height width"]) -> np.ndarray:
        """uint8 images of latents."""
        ...

    def predict_noise(
        self, noisy: Float[Tensor, "n ..."], timesteps: Int[Tensor, " n"], condition: Condition
    ) -> Float[Tensor, "n ..."]:
        """epsilon_theta(z_t, t, condition) of eq. 2, differentiable in the condition."""
        ...

    def sample(
        self, condition: Condition, noise: Float[Tensor, "n ..."], steps: int, guidance: float
    ) -> Float[Tensor, "n ..."]:
        """DDIM from ``noise`` to clean latents."""
        ...


class Classifier(Protocol):
    """The judge F of Algorithm 1."""

    def probabilities(self, images: ImageArray) -> np.ndarray:
        """Class probabilities float64 [n, classes] of uint8 images."""
        ...


class Decoder(Protocol):
    """Turns test fMRI into conditions of the generator."""

    def condition(self, split: FmriSplit) -> Condition: ...


Report = Callable[[float, int, dict[str, float]], None]
"""Progress of a stage: fraction done (0..1), samples seen, metrics."""


def no_report(fraction: float, samples_seen: int, metrics: dict[str, Any]) -> None:
    """The report that goes nowhere."""
