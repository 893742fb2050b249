"""Warm start of Phase 2: the condition itself is aimed at before eq. 2 is (``phase2.warm_start``); the paper has none.

All that stands before the UNet learns, without the UNet, to give the condition of each training item's class, or what
inverting the UNet on its stimulus gave (:mod:`cnd.decoders.cnd.phase2.inversion`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from cnd.decoders.cnd.phase2.model import ConditionModule
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.decoders.cnd.phase2.targets import condition_loss
from cnd.decoders.cnd.phase2.training import rate_factor, trainable_parameters
from cnd.protocols import Condition, Generator


def warm_up(
    config: Phase2Config, module: ConditionModule, generator: Generator, fmri: np.ndarray, wanted: Condition, seed: int
) -> list[dict[str, Any]]:
    """Train the module in place by the squared error to the wanted conditions; returns rows of the history.

    ``warm_start_steps`` steps, with the rates, batches and clipping of Phase 2. Phase 2 begins with an optimiser of its
    own: Adam's second moments are those of this loss, whose gradient is far larger than that of eq. 2, and with them
    its steps would be too small to move anything.

    Args:
        fmri: float32 [n, voxels], the training patterns.
        wanted: of the same items, context [n, tokens or 1, width] and pooled [n, width].

    Raises:
        FloatingPointError: the loss is not finite.
    """
    patterns, rng = torch.from_numpy(fmri), torch.Generator().manual_seed(seed)
    n_steps, history = config.warm_start_steps, []
    groups = trainable_parameters(config, module, generator)
    optimizer = torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    module.train()
    for step in range(n_steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * rate_factor(config, step, n_steps)
        rows = torch.randint(len(fmri), (config.batch_size,), generator=rng)
        own, _ = module(patterns[rows].to(generator.device))
        loss = condition_loss(own, Condition(wanted.context[rows], wanted.pooled[rows]).to(generator.device))
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"Phase 2: the loss of the warm start is {value} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), config.gradient_clip)
        optimizer.step()
        if step % max(1, n_steps // 100) == 0:
            seen = (step + 1) * config.batch_size
            history.append(dict(phase="warm_start", samples_seen=seen, name="loss", value=value))
    return history
