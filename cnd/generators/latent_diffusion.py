"""A class-conditional latent diffusion model in diffusers format (Rombach et al. 2022), frozen.

A folder holds ``vae`` (AutoencoderKL), ``unet`` (UNet2DConditionModel), ``scheduler`` (DDIMScheduler) and
``class_embedding.safetensors``, whose table ends with the null class. In the embedded generators a class enters twice:
as the single context token of the cross-attention, and through the UNet's class projection added to the time embedding.
A condition decoded from fMRI takes exactly these two places. :mod:`cnd.generators.vq_diffusion` and
:mod:`cnd.generators.diffusion_transformer` say what differs in theirs.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cnd._compat import make_torchvision_importable
from cnd.checkpoint_files import MALFORMED, check_values
from cnd.errors import UserError
from cnd.protocols import Condition, ImageArray

make_torchvision_importable()

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: E402
from safetensors import SafetensorError  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

UNREADABLE = (OSError, ArithmeticError, *MALFORMED)
"""What diffusers raises on files that are not there, damaged, or hold settings that make no model."""


def load_part(kind: Any, folder: Path, name: str) -> Any:
    """One model of a diffusers folder; weights kept in half precision become float32.

    Raises:
        UserError: a file is missing or damaged, or weights are missing.
    """
    options: dict[str, Any] = dict(
        torch_dtype=torch.float32, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
    )
    # Without safetensors diffusers reads its .bin file, by torch.load(weights_only=True).
    safe = any((folder / name).glob("*.safetensors"))
    try:
        model, info = kind.from_pretrained(folder, subfolder=name, use_safetensors=safe, **options)
    except UNREADABLE as error:
        told = f"cannot load {kind.__name__} ({_reason(error)})"
        raise UserError(f"{folder / name}: {told}; get or convert it again") from error
    if info["missing_keys"]:
        raise UserError(
            f"{folder / name}: {len(info['missing_keys'])} weights are missing, the first is "
            f"'{sorted(info['missing_keys'])[0]}'; get or convert it again"
        )
    try:
        check_values(model.state_dict())
    except UserError as error:
        raise UserError(f"{folder / name}: {error}") from error
    return model


def load_scheduler(folder: Path) -> DDIMScheduler:
    """The noise schedule of a diffusers folder with DDIM as its sampler, whichever sampler the folder names.

    Raises:
        UserError: the file is missing or damaged, or is of a model that our trainings do not know.
    """
    path = folder / "scheduler"
    try:
        scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot load it ({_reason(error)}); get or convert it again") from error
    expectations = {"prediction_type": "epsilon", "num_train_timesteps": 1000, "thresholding": False}  # eq. 2
    for key, expected in expectations.items():
        if scheduler.config[key] != expected:
            found = scheduler.config[key]
            raise UserError(f"{path}: {key}: expected {expected}, found {found}; use cin256-v2 or DiT-XL-2-256")
    return scheduler


def load_class_table(folder: Path) -> Tensor:
    """Class embeddings [classes + 1, width], float32; the last row is the null class.

    Raises:
        UserError: the file is missing, damaged or has no such table.
    """
    path = folder / "class_embedding.safetensors"
    try:
        table = load_file(path)["weight"]
        check_values({"weight": table})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{path}: expected a tensor 'weight' [classes + 1, width]; convert the model again") from error
    if table.ndim != 2 or len(table) < 2:
        shape = list(table.shape)
        raise UserError(f"{path}: weight: expected [classes + 1, width], found {shape}; convert the model again")
    return table.float()


def _reason(error: Exception) -> str:
    """What diffusers says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


class LatentDiffusion(nn.Module):
    """Implements :class:`cnd.protocols.Generator`."""

    concept_bank: Tensor
    null_class: Tensor
    alphas_cumprod: Tensor

    def __init__(self, vae: Any, unet: Any, scheduler: DDIMScheduler, class_table: Tensor) -> None:
        super().__init__()
        self.vae, self.unet, self.scheduler = vae, unet, scheduler
        self.register_buffer("concept_bank", class_table[:-1].clone())
        self.register_buffer("null_class", class_table[-1].clone())
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.clone())
        self.requires_grad_(False).eval()

    @classmethod
    def from_folder(cls, folder: Path) -> LatentDiffusion:
        """Load from a diffusers folder.

        Raises:
            UserError: a file is missing or damaged.
        """
        return cls(
            load_part(AutoencoderKL, folder, "vae"),
            load_part(UNet2DConditionModel, folder, "unet"),
            load_scheduler(folder),
            load_class_table(folder),
        ).checked(folder)

    def checked(self, folder: Path) -> Self:
        """Itself.

        Raises:
            UserError: its parts, which lie in ``folder``, do not belong together.
        """
        for what, expected, found in self._fit():
            if expected != found:
                told = f"expected {expected}, found {found}"
                raise UserError(
                    f"{folder / what}: {told}; the parts are of different models, get or convert them again"
                )
        return self

    def _fit(self) -> list[tuple[str, Any, Any]]:
        """File and key, what the UNet expects there, what is found."""
        size = self.unet.config.sample_size
        return [
            ("unet/config.json: sample_size", "int", type(size).__name__),
            ("vae/config.json: latent_channels", self.unet.config.in_channels, self.vae.config.latent_channels),
            ("class_embedding.safetensors: width", self.unet.config.cross_attention_dim, self.concept_bank.shape[1]),
        ]

    def copy(self) -> Self:
        """A copy whose UNet may be trained; everything else is shared, because nothing changes it."""
        twin = copy.copy(self)
        twin._modules = self._modules | {"unet": copy.deepcopy(self.unet)}
        return twin

    @property
    def device(self) -> torch.device:
        return self.concept_bank.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        size = self.unet.config.sample_size
        return self.unet.config.in_channels, size, size

    @property
    def image_size(self) -> int:
        """Height and width of an image, pixels."""
        return self.latent_shape[1] * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def time_embedding_width(self) -> int | None:
        """Width of ``Condition.pooled`` where it is added to the time embedding as it is, zero adding nothing.

        None where it stands in for the class embedding and has the width of the concept bank.
        """
        return None

    @property
    def _batch(self) -> int:
        """Images that the autoencoder takes at once: 100 of 64 x 64, fewer of larger ones."""
        return min(100, max(1, 100 * 64**2 // self.image_size**2))

    @torch.no_grad()
    def encode(self, images: ImageArray) -> Float[Tensor, "n channels height width"]:
        """Mean latents of uint8 images, scaled to unit variance. Grey images may stand for RGB.

        Raises:
            UserError: the images have another size.
        """
        expected, channels = self.image_size, self.vae.config.in_channels
        if images.shape[1] not in (1, channels) or images.shape[2:] != (expected, expected):
            found = " x ".join(map(str, images.shape[1:]))
            grey = channels == 1 and images.shape[1] == 3
            remedy = "give grey images [n, h, w]" if grey else f"set data.image_size = {expected}"
            raise UserError(
                f"data: images are {found} (channels, height, width), the generator takes "
                f"{channels} x {expected} x {expected}; {remedy} or another generator"
            )
        starts = range(0, len(images), self._batch)
        parts = (torch.from_numpy(np.asarray(images[start : start + self._batch])) for start in starts)
        return torch.cat(
            [self._encode(p.to(self.device).expand(-1, channels, -1, -1).float() / 127.5 - 1) for p in parts]
        )

    def _encode(self, images: Tensor) -> Tensor:
        return self.vae.encode(images).latent_dist.mean * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n channels height width"]) -> np.ndarray:
        """uint8 images of latents."""
        parts = [self.vae.decode(p / self.vae.config.scaling_factor).sample for p in latents.split(self._batch)]
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

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """``loss.backward()``; what trials share does more (:mod:`cnd.generators.shared`)."""
        torch.autograd.backward(loss)

    def embedding_condition(self, embedding: Float[Tensor, "n width"]) -> Condition:
        """The condition of vectors in the space of the concept bank: one context token, as in the model's training."""
        return Condition(embedding[:, None], embedding)

    def class_condition(self, category: Int[Tensor, " n"]) -> Condition:
        """The condition of classes: their embeddings, as the model was trained with."""
        return self.embedding_condition(self.concept_bank[category])

    def null_condition(self, like: Condition) -> Condition:
        """The unconditional counterpart of a condition, for classifier-free guidance."""
        return Condition(self.null_class.expand_as(like.context), self.null_class.expand_as(like.pooled))

    def timesteps(self, steps: int) -> Int[Tensor, " steps"]:
        """Time-steps of DDIM, from the noisiest on: :func:`leading`, or as the folder of the model spaces them."""
        if self.scheduler.config.timestep_spacing != "leading":
            self.scheduler.set_timesteps(steps, device=self.device)
            return self.scheduler.timesteps
        found = torch.tensor(leading(steps, len(self.alphas_cumprod)), device=self.device)
        found += self.scheduler.config.steps_offset
        # LDM counts time-steps from 1: with all 1000 of them the first would lie beyond the schedule
        return found - 1 if found[0] >= len(self.alphas_cumprod) else found

    @torch.no_grad()
    def sample(self, condition: Condition, start: Tensor, steps: int, guidance: float, skip: int = 0) -> Tensor:
        """DDIM (Song et al. 2021, eta = 0) from ``start`` to clean latents, without the first ``skip`` steps.

        With ``guidance`` above 1: :meth:`guided_noise`.
        """
        timesteps, latents = self.timesteps(steps)[skip:], start
        for timestep, before in zip(timesteps, [*timesteps[1:], None], strict=False):  # none where all are left out
            predicted = self.guided_noise(latents, timestep, condition, guidance)
            latents = self.denoised(latents, predicted, timestep, before)
        return latents

    def guided_noise(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        """Noise of latents that are all at one time-step; eps where w = ``guidance`` is 1, else eps_null +
        w (eps - eps_null) (Ho & Salimans 2022)."""
        if guidance == 1:
            return self.predict_noise(latents, timestep.expand(len(latents)), condition)
        null = self.null_condition(condition)
        both = Condition(torch.cat([null.context, condition.context]), torch.cat([null.pooled, condition.pooled]))
        doubled = torch.cat([latents, latents])
        without, with_condition = self.predict_noise(doubled, timestep.expand(len(doubled)), both).chunk(2)
        return without + guidance * (with_condition - without)

    def denoised(self, latents: Tensor, predicted: Tensor, at: Tensor, before: Tensor | None) -> Tensor:
        """Latents of time-step ``at`` brought to time-step ``before``, None being the end (Song et al. 2021, eq. 12).

        Not the scheduler's own step: that takes the distance to the next time-step for 1000 // steps, whatever it is.
        """
        kept = self.scheduler.alphas_cumprod  # in single precision, whatever the model's is
        alpha, next_alpha = kept[at], self.scheduler.final_alpha_cumprod if before is None else kept[before]
        clean = (latents - (1 - alpha) ** 0.5 * predicted) / alpha**0.5
        if self.scheduler.config.clip_sample:
            clean = clean.clamp(-self.scheduler.config.clip_sample_range, self.scheduler.config.clip_sample_range)
        return next_alpha**0.5 * clean + (1 - next_alpha) ** 0.5 * predicted


def leading(steps: int, of: int = 1000) -> list[int]:
    """Time-steps from the noisiest on, at most one stride under the last of the schedule.

    Where ``steps`` divides ``of`` these are LDM's and diffusers': every c-th from 0 on, c = of // steps. Elsewhere LDM
    takes more steps than it is asked for, and diffusers stops early, with 501 of 1000 steps at time-step 500, and
    calls pure noise what the model expects to be half an image. Here every c-th is taken as long as less than one
    stride is left over, and beyond that the same number of steps spread evenly.
    """
    stride = of // steps
    even = of - steps * stride >= stride
    return [k * of // steps if even else k * stride for k in reversed(range(steps))]
