"""Two linear streams: what the image looks like and what it shows (Takagi & Nishimoto 2023; Ozcelik & VanRullen 2023).

The first regresses the autoencoder's latents of the stimulus on the fMRI. They are brought to the noise of a time-step,
and DDIM starts from there instead of from noise alone (SDEdit, Meng et al. 2022). The second is the condition of the
control ``ridge``: the embedding of the stimulus's class. Takagi & Nishimoto have strength 0.8 of 50 steps,
Brain-Diffuser 0.75 of 50.

Departures: both streams read all voxels (Takagi & Nishimoto: early areas for the latents, higher ones for the
condition), and the latents are the generator's own (Brain-Diffuser: those of a VDVAE, decoded and encoded again).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from cnd.decoders.conditioned import ByEmbedding
from cnd.decoders.ridge import RidgeDecoder, fit, parameters
from cnd.errors import UserError
from cnd.protocols import Fitted, Lab, Patterns, TrainingSet
from cnd.settings import Fraction

if TYPE_CHECKING:
    from torch import Tensor

Predict = Callable[[np.ndarray], np.ndarray]


class RidgeLatentsDecoder(RidgeDecoder):
    """Ridge from voxels into the latents, where denoising starts, and into the concept bank, which steers it."""

    has_condition: ClassVar[bool] = False  # the condition alone gives other images: an analysis would start from noise
    kind: Literal["ridge_latents"] = "ridge_latents"  # type: ignore[assignment]
    strength: Fraction = 0.8  # share of the steps that is taken; 1 is the decoder ``ridge``, 0 the latents decoded

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Regress latents and class embeddings, each with a penalty of its own by cross-validation.

        Raises:
            UserError: the data has no images.
        """
        if not train.items.images.size:
            raise UserError(
                f"decoder.kind = {self.kind}: starts from the image, and the data has labels only; add images or "
                "choose decoder.kind = ridge"
            )
        embeddings = lab.generator.concept_bank.cpu().numpy()[lab.classes]
        embedding, alpha = fit(self, train.items, embeddings)
        latents = lab.value(lab.given.latents).flatten(1).numpy()
        latent, latent_alpha = fit(self, train.items, latents)
        fitted = parameters(train.items, embeddings) + parameters(train.items, latents)
        facts = {"ridge_alpha": alpha, "latent_ridge_alpha": latent_alpha, "parameters": fitted}
        return _FromImage(embedding, latent, self.strength, lab, facts)


class _FromImage(ByEmbedding):
    def __init__(self, embedding: Predict, latent: Predict, strength: float, lab: Lab, facts: dict[str, float]) -> None:
        super().__init__(embedding, lab, facts)
        self.latent, self.strength = latent, strength

    def start(self, items: Patterns, noise: Tensor) -> tuple[Tensor, int]:
        """The predicted latents, as noisy as ``strength`` says."""
        import torch

        from cnd.generators.sampling import image_start

        clean = torch.from_numpy(self.latent(items.fmri)).reshape(len(items), *noise.shape[2:])
        return image_start(self.lab.sampling, self.generator, clean, noise, self.strength)
