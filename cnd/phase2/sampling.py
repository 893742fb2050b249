"""Reconstruct test items: DDIM under each item's condition (sec. 4.2, 5.2)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cnd.config import SamplingConfig
from cnd.generators.latent_diffusion import LatentDiffusion
from cnd.protocols import Condition, Report, no_report


def initial_noise(n_items: int, n_samples: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Starting noise [n_items, n_samples, c, h, w].

    It depends on the item, the sample and the seed only: rows that are compared start from the same noise, which
    removes most of the sampling variance from their difference.
    """
    rng = torch.Generator().manual_seed(seed + 1_000_003)
    return torch.randn((n_items, n_samples, *shape), generator=rng)


def reconstruct(
    config: SamplingConfig, generator: LatentDiffusion, condition: Condition, seed: int, report: Report = no_report
) -> np.ndarray:
    """Images uint8 [n_items, n_samples, channels, height, width] from the noise of a seed."""
    noise = initial_noise(len(condition.pooled), config.samples_per_item, generator.latent_shape, seed)
    return draw(config, generator, condition, noise, report)


def draw(
    config: SamplingConfig,
    generator: LatentDiffusion,
    condition: Condition,
    noise: Float[Tensor, "items samples c h w"],
    report: Report = no_report,
) -> np.ndarray:
    """Images uint8 [n_items, n_samples, channels, height, width] of each item's condition, one a noise."""
    n_items, n_samples = noise.shape[:2]
    flat_noise = noise.flatten(0, 1)
    item = torch.arange(n_items).repeat_interleave(n_samples)
    images = []
    for rows in torch.arange(len(item)).split(config.batch_size):
        part = Condition(condition.context[item[rows]], condition.pooled[item[rows]])
        latents = generator.sample(part, flat_noise[rows].to(generator.device), config.steps, config.guidance)
        images.append(generator.decode(latents))
        done = int(rows[-1]) + 1
        report(done / len(item), done, {})
    flat = np.concatenate(images)
    return flat.reshape(n_items, n_samples, *flat.shape[1:])
