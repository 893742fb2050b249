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
    noise: Float[Tensor, "items samples c h w"],
    report: OnProgress = no_progress,
) -> np.ndarray:
    """Images uint8 [n_items, n_samples, channels, height, width] of each item's condition, one a noise."""
    import torch

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
