"""Phase 2 training: only what stands before the frozen UNet learns (sec. 3.3, 4.2, 8.2)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnd.config import Phase2Config
from cnd.generators.latent_diffusion import LatentDiffusion
from cnd.phase2.model import ConditionModule, denoising_loss
from cnd.protocols import Report, no_report


@dataclass
class Fitted:
    """Outcome of :func:`fit`: the module holds the chosen checkpoint's weights."""

    history: list[dict[str, Any]] = field(default_factory=list)  # phase, samples_seen, name, value
    chosen_step: int = 0


def trainable_parameters(
    config: Phase2Config, module: ConditionModule, generator: LatentDiffusion
) -> list[dict[str, Any]]:
    """Freeze what the config freezes; return AdamW's parameter groups."""
    module.requires_grad_(True)
    module.encoder.requires_grad_(config.train_encoder)
    generator.requires_grad_(False)
    encoder = [p for p in module.encoder.parameters() if p.requires_grad]
    rest = [p for name, p in module.named_parameters() if not name.startswith("encoder.")]
    if config.train_unet_cross_attention:  # DC-LDM: attn2 and the norm before it
        for name, parameter in generator.unet.named_parameters():
            if ".attn2." in name or (".norm2." in name and "transformer_blocks" in name):
                parameter.requires_grad_(True)
                rest.append(parameter)
    groups = [dict(params=rest, lr=config.lr)]
    if encoder:
        groups.append(dict(params=encoder, lr=config.encoder_lr or config.lr))
    return groups


def n_steps(config: Phase2Config, n_items: int) -> int:
    """Optimiser steps: ``max_steps``, or ``max_epochs`` passes over the items."""
    return config.max_steps or config.max_epochs * math.ceil(n_items / config.batch_size)


def rate_factor(config: Phase2Config, step: int, total: int) -> float:
    """Learning-rate multiplier: linear warm-up, then constant or a cosine to zero."""
    warm_up = config.warmup_fraction * total
    if step < warm_up:
        return (step + 1) / warm_up
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1.0, total - warm_up)))


def split_validation(category: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Item positions for training and validation: whole categories are held out, or items where categories are few.

    With fewer than ten categories, holding one out would remove a class rather than test generalisation.
    """
    rng = np.random.default_rng([seed, 2])
    categories = np.unique(category)
    if len(categories) >= 10:
        n_held = max(1, round(fraction * len(categories)))
        held = np.isin(category, rng.choice(categories, n_held, replace=False))
    else:
        held = np.zeros(len(category), dtype=bool)
        held[rng.choice(len(category), max(1, round(fraction * len(category))), replace=False)] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def shuffled_batches(n: int, size: int, total: int, rng: torch.Generator) -> Iterator[Tensor]:
    """``total`` index batches, each epoch a fresh permutation; the last batch of an epoch may be smaller."""
    produced = 0
    while produced < total:
        for rows in torch.randperm(n, generator=rng).split(size):
            if produced == total:
                return
            produced += 1
            yield rows


def fit(
    config: Phase2Config,
    module: ConditionModule,
    generator: LatentDiffusion,
    fmri: np.ndarray,
    latents: Tensor,
    seed: int,
    score: Callable[[], float] | None = None,
    report: Report = no_report,
) -> Fitted:
    """Train the condition module by eq. 2 and keep the checkpoint that ``score`` prefers.

    Args:
        fmri: float32 [n, voxels], the training patterns.
        latents: [n, c, h, w], latents of the stimuli, unit variance.
        score: of the module as it stands, higher is better, called ``n_checkpoints`` times; None keeps the last.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    rng = torch.Generator().manual_seed(seed)
    device = generator.device
    patterns = torch.from_numpy(fmri)
    groups = trainable_parameters(config, module, generator)
    parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    total = n_steps(config, len(fmri))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(config, step, total))
    every = max(1, total // config.n_checkpoints)
    fitted, best, best_state = Fitted(), -math.inf, None
    recent: list[float] = []
    samples_seen = 0
    module.train()
    for step, rows in enumerate(shuffled_batches(len(fmri), config.batch_size, total, rng)):
        clean = latents[rows].to(device)
        noise = torch.randn(clean.shape, generator=rng).to(device)
        timesteps = torch.randint(*config.timestep_range, (len(rows),), generator=rng).to(device)
        condition, _ = module(patterns[rows].to(device))
        predicted = generator.predict_noise(generator.add_noise(clean, noise, timesteps), timesteps, condition)
        loss = denoising_loss(predicted, noise, generator.alphas_cumprod, timesteps, config.loss_weighting)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"Phase 2: the loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        optimizer.step()
        schedule.step()

        samples_seen += len(rows)
        recent.append(loss.item())
        if len(recent) >= max(1, total // 100) or step == total - 1:
            mean = float(np.mean(recent))
            fitted.history.append(dict(phase="phase2", samples_seen=samples_seen, name="loss", value=mean))
            report((step + 1) / total, samples_seen, {"phase2/loss": mean})
            recent.clear()
        if score is not None and ((step + 1) % every == 0 or step == total - 1):
            module.eval()
            value = score()
            module.train()
            fitted.history.append(dict(phase="phase2", samples_seen=samples_seen, name="checkpoint_score", value=value))
            if value > best:
                best, best_state, fitted.chosen_step = value, copy.deepcopy(module.state_dict()), step + 1
    if best_state is None:
        fitted.chosen_step = total
    else:
        module.load_state_dict(best_state)
    module.eval()
    return fitted


@torch.no_grad()
def validation_score(
    module: ConditionModule, generator: LatentDiffusion, config: Phase2Config, fmri: np.ndarray, latents: Tensor
) -> float:
    """Minus the denoising loss of held-out items, with the same noise and time-steps at every call."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=rng)
    timesteps = torch.randint(*config.timestep_range, (len(latents),), generator=rng)
    losses = []
    for rows in torch.arange(len(latents)).split(64):
        clean, eps, t = (x[rows].to(generator.device) for x in (latents, noise, timesteps))
        condition, _ = module(torch.from_numpy(fmri)[rows].to(generator.device))
        predicted = generator.predict_noise(generator.add_noise(clean, eps, t), t, condition)
        loss = denoising_loss(predicted, eps, generator.alphas_cumprod, t, config.loss_weighting)
        losses.append(loss.item() * len(rows))
    return -sum(losses) / len(latents)
