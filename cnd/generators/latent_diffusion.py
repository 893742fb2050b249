"""A class-conditional latent diffusion model in diffusers format (Rombach et al. 2022), frozen.

A folder holds ``vae`` (AutoencoderKL), ``unet`` (UNet2DConditionModel), ``scheduler`` (DDIMScheduler) and
``class_embedding.safetensors``, whose table ends with the null class. A class enters twice: as the single context token
of the cross-attention, and through the UNet's class projection added to the time embedding. A condition decoded
from fMRI takes exactly these two places.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cnd._compat import make_torchvision_importable
from cnd.protocols import Condition

make_torchvision_importable()

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: E402
from safetensors.torch import load_file  # noqa: E402


class LatentDiffusion(nn.Module):
    """Implements :class:`cnd.protocols.Generator`."""

    concept_bank: Tensor
    null_class: Tensor
    alphas_cumprod: Tensor

    def __init__(
        self, vae: AutoencoderKL, unet: UNet2DConditionModel, scheduler: DDIMScheduler, class_table: Tensor
    ) -> None:
        super().__init__()
        self.vae, self.unet, self.scheduler = vae, unet, scheduler
        self.register_buffer("concept_bank", class_table[:-1].clone())
        self.register_buffer("null_class", class_table[-1].clone())
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.clone())
        self.requires_grad_(False).eval()

    @classmethod
    def from_folder(cls, folder: Path) -> LatentDiffusion:
        """Load from a diffusers folder; weights kept in half precision become float32."""
        options: dict[str, Any] = dict(
            torch_dtype=torch.float32, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
        return cls(
            AutoencoderKL.from_pretrained(folder, subfolder="vae", **options),
            UNet2DConditionModel.from_pretrained(folder, subfolder="unet", **options),
            DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
            load_file(folder / "class_embedding.safetensors")["weight"].float(),
        )

    @property
    def device(self) -> torch.device:
        return self.concept_bank.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        size = self.unet.config.sample_size
        return self.unet.config.in_channels, size, size

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> Float[Tensor, "n channels height width"]:
        """Mean latents of uint8 images, scaled to unit variance."""
        parts = torch.from_numpy(images).split(100)
        scale = self.vae.config.scaling_factor
        return torch.cat(
            [self.vae.encode(p.to(self.device).float() / 127.5 - 1).latent_dist.mean * scale for p in parts]
        )

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n channels height width"]) -> np.ndarray:
        """uint8 images of latents."""
        parts = [self.vae.decode(p / self.vae.config.scaling_factor).sample for p in latents.split(100)]
        return ((torch.cat(parts).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Int[Tensor, " n"]) -> Tensor:
        """Forward diffusion q(z_t | z_0)."""
        alpha = self.alphas_cumprod[timesteps].view(-1, *[1] * (clean.dim() - 1))
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

    def predict_noise(self, noisy: Tensor, timesteps: Int[Tensor, " n"], condition: Condition) -> Tensor:
        """epsilon_theta(z_t, t, condition) of eq. 2, differentiable in the condition."""
        result: Tensor = self.unet(
            noisy, timesteps, condition.context, class_labels=condition.pooled, return_dict=False
        )[0]
        return result

    def class_condition(self, category: Int[Tensor, " n"]) -> Condition:
        """The condition the model was trained with: one context token, the class embedding itself."""
        embedding = self.concept_bank[category]
        return Condition(embedding[:, None], embedding)

    def null_condition(self, like: Condition) -> Condition:
        """The unconditional counterpart of a condition, for classifier-free guidance."""
        return Condition(self.null_class.expand_as(like.context), self.null_class.expand_as(like.pooled))

    @torch.no_grad()
    def sample(self, condition: Condition, noise: Tensor, steps: int, guidance: float) -> Tensor:
        """DDIM (Song et al. 2021, eta = 0) from ``noise`` to clean latents.

        With ``guidance`` w > 1 the noise is eps_null + w (eps - eps_null) (Ho & Salimans 2022).
        """
        self.scheduler.set_timesteps(steps, device=noise.device)
        null = self.null_condition(condition)
        both = Condition(torch.cat([null.context, condition.context]), torch.cat([null.pooled, condition.pooled]))
        latents = noise
        for timestep in self.scheduler.timesteps:
            if guidance == 1:
                predicted = self.predict_noise(latents, timestep.expand(len(latents)), condition)
            else:
                doubled = torch.cat([latents, latents])
                without, with_condition = self.predict_noise(doubled, timestep.expand(len(doubled)), both).chunk(2)
                predicted = without + guidance * (with_condition - without)
            latents = self.scheduler.step(predicted, timestep, latents, eta=0.0).prev_sample
        return latents
