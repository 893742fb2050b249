"""cin256-v2, the class-conditional latent diffusion model of ImageNet at 256 x 256 (Rombach et al. 2022), frozen.

The folder is written once by ``python -m cnd.generators convert``: ``vae`` (VQModel), ``unet`` (UNet2DConditionModel),
``scheduler`` and ``class_embedding.safetensors`` (1001 x 512, the last row is the null class).

A class enters this model once, as the single context token of the cross-attention. The pooled vector of double
conditioning (sec. 3.3) is new to it: it is added to the output of the time embedding, before any residual block, where
DC-LDM adds its own. So the pooled vector has the time embedding's width (768), its projection belongs to the condition
module, and zero is the original model exactly. diffusers calls an input that is only added a class embedding of type
"identity".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cnd.generators.latent_diffusion import LatentDiffusion, load_class_table, load_part, load_scheduler
from cnd.protocols import Condition

from diffusers import UNet2DConditionModel, VQModel  # isort: skip  # importable since the line above


class VqLatentDiffusion(LatentDiffusion):
    """Implements :class:`cnd.protocols.Generator` with an autoencoder that quantises before it decodes."""

    @classmethod
    def from_folder(cls, folder: Path) -> VqLatentDiffusion:
        """Load from a converted folder.

        Raises:
            UserError: a file is missing or damaged.
        """
        return cls(
            load_part(VQModel, folder, "vae"),
            load_part(UNet2DConditionModel, folder, "unet"),
            load_scheduler(folder),
            load_class_table(folder),
        ).checked(folder)

    def _fit(self) -> list[tuple[str, Any, Any]]:
        # without it the UNet would leave the pooled vector out, silently
        return [*super()._fit(), ("unet/config.json: class_embed_type", "identity", self.unet.config.class_embed_type)]

    @property
    def time_embedding_width(self) -> int:
        return int(self.unet.time_embedding.linear_2.out_features)

    def _encode(self, images: Tensor) -> Tensor:
        # The diffusion model lives in the space before quantisation (LDM's VQModelInterface).
        return self.vae.encode(images).latents * self.vae.config.scaling_factor

    def embedding_condition(self, embedding: Float[Tensor, "n width"]) -> Condition:
        """One context token; nothing is added to the time embedding."""
        return Condition(embedding[:, None], embedding.new_zeros(len(embedding), self.time_embedding_width))

    def null_condition(self, like: Condition) -> Condition:
        """The null class in every context token; nothing is added to the time embedding."""
        return Condition(self.null_class.expand_as(like.context), torch.zeros_like(like.pooled))
