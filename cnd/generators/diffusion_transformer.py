"""DiT-XL/2-256 (Peebles & Xie 2023), frozen, from the folder of a diffusers ``DiTPipeline``.

The model has no cross-attention. A class enters through adaLN only, as a vector added to the time embedding, so the
pooled vector of a condition replaces the class vector and the context tokens are not used. That is another method
than the paper's, and reports say so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from cnd.errors import UserError
from cnd.generators.latent_diffusion import LatentDiffusion, load_part, load_scheduler
from cnd.protocols import Condition

from diffusers import AutoencoderKL, DiTTransformer2DModel  # isort: skip  # importable since the line above


class DiffusionTransformer(LatentDiffusion):
    """Implements :class:`cnd.protocols.Generator`; ``unet`` is the transformer.

    It has no cross-attention: the decoded vector replaces the class vector, and the context tokens are not used. That
    is a different method from the paper's, and the settings (:mod:`cnd.generators.dit`) say so wherever it is reported.
    """

    @classmethod
    def from_folder(cls, folder: Path) -> DiffusionTransformer:
        """Load from a DiTPipeline's folder.

        Raises:
            UserError: a file is missing or damaged, or it is another kind of model.
        """
        transformer = load_part(DiTTransformer2DModel, folder, "transformer")
        table = _take_class_table(transformer, folder)
        vae = load_part(AutoencoderKL, folder, "vae")
        return cls(vae, transformer, load_scheduler(folder), table).checked(folder)

    def _fit(self) -> list[tuple[str, Any, Any]]:
        return [("vae/config.json: latent_channels", self.unet.config.in_channels, self.vae.config.latent_channels)]

    def predict_noise(self, noisy: Tensor, timesteps: Int[Tensor, " n"], condition: Condition) -> Tensor:
        """epsilon_theta(z_t, t, condition) of eq. 2, differentiable in the pooled vector.

        The model also predicts a variance in the second half of its channels, which DDIM does not use.
        """
        output = self.unet(noisy, timesteps, class_labels=condition.pooled, return_dict=False)[0]
        return output[:, : noisy.shape[1]]


def _take_class_table(transformer: nn.Module, folder: Path) -> Tensor:
    """The label table [classes + 1, width], taken out of the transformer, which then takes vectors in place of labels.

    diffusers keeps a copy of the one table in every block.
    """
    embeddings = [block.norm1.emb for block in transformer.transformer_blocks]  # type: ignore[union-attr]
    tables = [embedding.class_embedder.embedding_table.weight for embedding in embeddings]
    if not all(torch.equal(table, tables[0]) for table in tables[1:]):
        raise UserError(f"{folder / 'transformer'}: the blocks disagree on the class embedding; expected DiT-XL-2-256")
    for embedding in embeddings:
        embedding.class_embedder = nn.Identity()
    return tables[0].detach().clone()
