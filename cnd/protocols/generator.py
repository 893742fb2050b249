"""Generators: what steers one, and what it must offer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Protocol, Self

from pydantic import Field

from cnd.protocols.data import ImageArray
from cnd.settings import Config, Part, Positive

if TYPE_CHECKING:  # the plan needs no torch
    from collections.abc import Iterator, Sequence

    import numpy as np
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor, nn


IMAGENET = "ImageNet-1K"
"""The class space of generators and judges whose classes are those of :mod:`cnd.imagenet`."""


class Condition(NamedTuple):
    """What steers the frozen UNet: it takes exactly the place of the class embedding.

    Attributes:
        context: [batch, tokens, width], keys and values of the UNet's cross-attention.
        pooled: [batch, width], enters with the time embedding.
    """

    context: Float[Tensor, "batch tokens width"]
    pooled: Float[Tensor, "batch width"]

    def to(self, device: Any) -> Condition:
        """The same on another device."""
        return Condition(self.context.to(device), self.pooled.to(device))


class DrawnLatents(NamedTuple):
    """Latents that a generator drew of some of its classes.

    Attributes:
        classes: int64 [classes], ascending.
        latents: [classes, images, channels, height, width], as many images of each.
    """

    classes: Int[Tensor, " classes"]
    latents: Float[Tensor, "classes images c h w"]


class SamplingConfig(Config):
    """DDIM sampling of the test items (sec. 4.2, 5.2)."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 250  # few begin early: from pure noise, 2 at time-step 500 of 1,000
    guidance: Annotated[float, Field(ge=1)] = 1.0  # classifier-free guidance; 1 is none
    samples_per_item: Positive = 5
    batch_size: Positive = 50


class Generator(Protocol):
    """A frozen class-conditional latent diffusion model. Nobody changes one; :meth:`copy` gives what may be trained."""

    concept_bank: Float[Tensor, "classes width"]  # class embeddings without the null class
    null_class: Float[Tensor, " width"]
    alphas_cumprod: Float[Tensor, " timesteps"]
    unet: Any  # the denoising network

    @property
    def device(self) -> torch.device: ...
    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        ...

    @property
    def image_size(self) -> int:
        """Height and width of an image, pixels."""
        ...

    @property
    def time_embedding_width(self) -> int | None:
        """Width of ``Condition.pooled`` where it is added to the time embedding as it is; None: that of the bank."""
        ...

    def encode(self, images: ImageArray) -> Float[Tensor, "n channels height width"]:
        """Latents of uint8 images, scaled to unit variance."""
        ...

    def decode(self, latents: Float[Tensor, "n channels height width"]) -> np.ndarray:
        """uint8 images of latents."""
        ...

    def add_noise(
        self, clean: Float[Tensor, "n ..."], noise: Float[Tensor, "n ..."], timesteps: Int[Tensor, " n"]
    ) -> Float[Tensor, "n ..."]:
        """Forward diffusion q(z_t | z_0)."""
        ...

    def predict_noise(
        self, noisy: Float[Tensor, "n ..."], timesteps: Int[Tensor, " n"], condition: Condition
    ) -> Float[Tensor, "n ..."]:
        """epsilon_theta(z_t, t, condition) of eq. 2, differentiable in the condition."""
        ...

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """``loss.backward()`` of a loss of predicted noise; a generator that trials share does it for all at once."""
        ...

    def class_condition(self, category: Int[Tensor, " n"]) -> Condition:
        """The condition of classes, as the model was trained with."""
        ...

    def embedding_condition(self, embedding: Float[Tensor, "n width"]) -> Condition:
        """The condition of vectors in the space of the concept bank."""
        ...

    def null_condition(self, like: Condition) -> Condition:
        """The unconditional counterpart of a condition."""
        ...

    def timesteps(self, steps: int) -> Int[Tensor, " steps"]:
        """Time-steps of a sampling, from the noisiest on."""
        ...

    def sample(
        self, condition: Condition, start: Float[Tensor, "n ..."], steps: int, guidance: float, skip: int = 0
    ) -> Float[Tensor, "n ..."]:
        """DDIM to clean latents, from noise or, without the first ``skip`` steps, from latents as noisy as there."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def to(self, device: Any) -> Self: ...
    def copy(self) -> Self:
        """A copy whose denoising network may be trained; the autoencoder is shared."""
        ...


class GeneratorChoice(Part):
    """Settings that name a frozen generator."""

    kind: Any
    has_cross_attention: ClassVar[bool] = True
    brings_judge: ClassVar[bool] = False  # whether a classifier ships in the folder
    of_photographs: ClassVar[bool] = True  # whether classifiers of its classes can tell that of any photograph
    licence: ClassVar[str] = "not stated"  # of its weights

    def folder(self) -> Path:
        """Folder of the weights, in diffusers format.

        Raises:
            UserError: it is not there.
        """
        raise NotImplementedError

    def load(self) -> Generator:
        """The generator, frozen and in evaluation mode.

        Raises:
            UserError: a file is missing or damaged.
        """
        raise NotImplementedError

    def class_names(self) -> list[str]:
        """Names of the classes in the concept bank, in its order."""
        raise NotImplementedError

    def image_form(self) -> tuple[int, int] | None:
        """Channels and size (pixels a side) of its images; None where that takes loading it."""
        return None

    def class_space(self) -> str:
        """Whose classes these are, in words: parts of one class space count the same classes in the same order."""
        return f"the generator '{self.kind}'"

    def class_indices(self, names: Sequence[str], wnids: Sequence[str] = ()) -> list[int | None]:
        """The generator's class for each class of a data set; None for one that it does not have.

        Args:
            names: of the data set's classes, as the generator calls them.
            wnids: their WordNet ids, where they are known.
        """
        by_name = {name: index for index, name in enumerate(self.class_names())}
        return [by_name.get(name) for name in names]
