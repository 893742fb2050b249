"""Reconstruct test items: DDIM under each item's condition (sec. 4.2, 5.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnd.protocols import Condition, OnProgress, SamplingConfig, no_progress

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from cnd.protocols import Generator


def draw(
    config: SamplingConfig,
    generator: Generator,
    condition: Condition,
    start: Float[Tensor, "items samples c h w"],
    report: OnProgress = no_progress,
    skip: int = 0,
) -> np.ndarray:
    """Images uint8 [n_items, n_samples, channels, height, width] of each item's condition, one a start.

    Args:
        start: noise; where the first ``skip`` steps are left out, latents as noisy as there (:func:`image_start`).
    """
    import torch

    n_items, n_samples = start.shape[:2]
    flat_start = start.flatten(0, 1)
    item = torch.arange(n_items).repeat_interleave(n_samples)
    images = []
    for rows in torch.arange(len(item)).split(config.batch_size):
        part = Condition(condition.context[item[rows]], condition.pooled[item[rows]])
        latents = generator.sample(part, flat_start[rows].to(generator.device), config.steps, config.guidance, skip)
        images.append(generator.decode(latents))
        done = int(rows[-1]) + 1
        report(done / len(item), done, {})
    flat = np.concatenate(images)
    return flat.reshape(n_items, n_samples, *flat.shape[1:])


def image_start(
    config: SamplingConfig,
    generator: Generator,
    clean: Float[Tensor, "items c h w"],
    noise: Float[Tensor, "items samples c h w"],
    strength: float,
) -> tuple[Float[Tensor, "items samples c h w"], int]:
    """Where denoising starts that should keep something of an image, and the steps left out before it.

    SDEdit (Meng et al. 2022): of ``steps`` steps the last ``int(steps * strength)`` are taken, from the image's latents
    brought to the noise of the first of them. Strength 1 starts from the noise alone, 0 leaves the latents as they are.
    """
    taken = int(config.steps * strength)
    skip = config.steps - taken
    if not skip:
        return noise, 0
    repeated = clean[:, None].expand_as(noise)
    if not taken:
        return repeated, skip
    latents, added = (part.flatten(0, 1).to(generator.device) for part in (repeated, noise))
    noisy = generator.add_noise(latents, added, generator.timesteps(config.steps)[skip].expand(len(latents)))
    return noisy.reshape(noise.shape), skip
