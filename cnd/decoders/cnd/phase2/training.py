"""Phase 2 training: only what stands before the frozen UNet learns (sec. 3.3, 4.2, 8.2)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cnd.decoders.cnd.phase2.model import ConditionModule, denoising_loss
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.decoders.cnd.phase2.targets import ClassTargets, Wanted, attention_loss, condition_loss
from cnd.decoders.training import (
    StateFile,
    autocast,
    load_optimizer,
    loss_scaler,
    may_overflow,
    optimizer_tensors,
    prefixed,
    under,
)
from cnd.protocols import Condition, Generator, OnProgress, no_progress

CAP = 8
"""Ordinary trainings that one until convergence may take, where no cap is set."""


class Measured(NamedTuple):
    """What is found at a checkpoint.

    Attributes:
        values: for the history, by name.
        items: score of each validation item, for the curve; empty where there is none.
        worth: what the rule ``checkpoint`` compares; None where it keeps the last.
    """

    values: dict[str, float]
    items: list[float]
    worth: float | None = None


@dataclass
class Phase2State:
    """Outcome of :func:`fit`, and where it stands: at the end the module holds the chosen checkpoint's weights."""

    rng: torch.Generator  # the only source of random numbers
    order: Tensor  # of the items in the current epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # phase, samples_seen, name, value
    step: int = 0
    samples_seen: int = 0
    recent: list[float] = field(default_factory=list)  # losses since the last row of the history
    curve: list[tuple[int, list[float]]] = field(default_factory=list)  # samples seen, score of each validation item
    flat: int = 0  # checkpoints in a row at which the curve was flat
    best: float = -math.inf  # worth of the chosen checkpoint
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)  # of the weights so far, where one is kept
    chosen_step: int = 0


def trainable_parameters(config: Phase2Config, module: ConditionModule, generator: Generator) -> list[dict[str, Any]]:
    """Freeze what the config freezes; return AdamW's parameter groups."""
    module.requires_grad_(True)
    module.encoder.requires_grad_(config.train_encoder)
    generator.unet.requires_grad_(False)
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
    """Optimiser steps of an ordinary training: ``max_steps``, or ``max_epochs`` passes over the items."""
    return config.max_steps or config.max_epochs * math.ceil(n_items / config.batch_size)


def most_steps(config: Phase2Config, ordinary: int) -> int:
    """The last step that may be done: of an ordinary training, or where one until convergence is cut off."""
    until = config.until_converged
    return ordinary if until is None else max(ordinary, until.cap or CAP * ordinary)


def is_checkpoint(config: Phase2Config, step: int, ordinary: int) -> bool:
    """Whether this step ends one of the ``n_checkpoints`` equal parts of an ordinary training, or of what follows."""
    return step * config.n_checkpoints // ordinary > (step - 1) * config.n_checkpoints // ordinary


def rate_factor(config: Phase2Config, step: int, total: int) -> float:
    """Learning-rate multiplier: linear warm-up, then constant or a cosine to zero."""
    warm_up = config.warmup_fraction * total
    if step < warm_up:
        return (step + 1) / warm_up
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1.0, total - warm_up)))


def forward_loss(
    config: Phase2Config,
    module: ConditionModule,
    generator: Generator,
    fmri: Tensor,
    clean: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    wanted: Wanted | None = None,
) -> Tensor:
    """Eq. 2 of items on the generator's device, and what their classes ask of condition and attention where it counts.

    The networks run in ``config.precision``, the loss does not.
    """
    target, loss = config.target, torch.zeros((), device=clean.device)
    with autocast(config.precision, clean.device):
        condition, attention = module(fmri)
    if target.denoising:
        with autocast(config.precision, clean.device):
            predicted = generator.predict_noise(generator.add_noise(clean, noise, timesteps), timesteps, condition)
        alphas = generator.alphas_cumprod
        loss = denoising_loss(predicted.to(clean.dtype), noise, alphas, timesteps, config.loss_weighting)
        loss = loss if target.denoising == 1 else target.denoising * loss
    near, classes = wanted or Wanted()
    if near is not None:
        own = Condition(*(part.to(clean.dtype) for part in condition))
        loss = loss + target.embedding * condition_loss(own, near.to(clean.device))
    if classes is not None and attention is not None:
        loss = loss + config.attention_loss * attention_loss(attention.to(clean.dtype), classes.to(clean.device))
    return loss


def fit(
    config: Phase2Config,
    module: ConditionModule,
    generator: Generator,
    fmri: np.ndarray,
    latents: Tensor,
    seed: int,
    measure: Callable[[], Measured] | None = None,
    report: OnProgress = no_progress,
    resume: Path | None = None,
    save_every: float = 60.0,
    targets: ClassTargets | None = None,
) -> Phase2State:
    """Train the condition module by eq. 2, keep the checkpoint that ``measure`` prefers, and its curve.

    Same module, data, config and seed give the same weights, bit for bit on a CPU with the same number of threads,
    whether or not the training was interrupted.

    Args:
        fmri: float32 [n, voxels], the training patterns.
        latents: [n, c, h, w], latents of the stimuli, unit variance.
        measure: scores the module as it stands, at every checkpoint; None keeps the last.
        resume: folder for the state of a long training; the caller removes it when it has kept the result.
            A call that finds such a state there goes on from it.
        save_every: seconds between two writes of the state.
        targets: of the same items, what ``config.target`` aims at beside the stimuli; None: nothing.

    Raises:
        FloatingPointError: the loss or its gradient is not finite.
        UserError: the state in ``resume`` is of another training.
    """
    patterns, targets = torch.from_numpy(fmri), targets or ClassTargets()
    groups = trainable_parameters(config, module, generator)
    optimizer = torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    scaler = loss_scaler(config.precision, generator.device)
    ordinary, starts = n_steps(config, len(fmri)), range(0, len(fmri), config.batch_size)
    most = most_steps(config, ordinary)
    at = Phase2State(torch.Generator().manual_seed(seed), torch.arange(len(fmri)))
    settings = dict(seed=seed, shape=[*fmri.shape, *latents.shape], phase2=config.model_dump(mode="json"))
    state = StateFile(resume, "phase2", settings, save_every)
    load_state(state, module, generator, optimizer, scaler, at)
    module.train()
    while not has_ended(config, at, ordinary):
        if at.step % len(starts) == 0:
            at.order = torch.randperm(len(fmri), generator=at.rng)
        start = starts[at.step % len(starts)]
        rows = at.order[start : start + config.batch_size]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * rate_factor(config, at.step, ordinary)
        aim = (targets.latents(rows, latents, at.rng), targets.wanted(rows))
        loss = train_step(config, module, generator, optimizer, scaler, patterns[rows], *aim, at)

        at.step += 1
        at.samples_seen += len(rows)
        if config.weight_average is not None:
            update_average(at, config.weight_average, weights(module, generator))
        at.recent.append(loss)
        if measure is not None and (is_checkpoint(config, at.step, ordinary) or at.step == most):
            look(config, at, measure, module, generator)
        ended = has_ended(config, at, ordinary)
        if len(at.recent) >= max(1, ordinary // 100) or ended:
            mean = float(np.mean(at.recent))
            at.history.append(dict(phase="phase2", samples_seen=at.samples_seen, name="loss", value=mean))
            at.recent.clear()
            report(at.step / most, at.samples_seen, {"phase2/loss": mean})
        if state.due() or (ended and state.exists()):  # a finished long one is not done again
            save_state(state, module, generator, optimizer, scaler, at)
    if not at.best_weights:
        at.chosen_step = at.step
    if kept := at.best_weights or at.average:
        load_weights(kept, module, generator)
    module.eval()
    return at


def has_ended(config: Phase2Config, at: Phase2State, ordinary: int) -> bool:
    """Whether all steps are done: the ordinary ones, or those until the curve is flat."""
    until = config.until_converged
    if until is not None and at.step >= ordinary and at.flat >= until.patience:
        return True
    return at.step >= most_steps(config, ordinary)


def train_step(
    config: Phase2Config,
    module: ConditionModule,
    generator: Generator,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    fmri: Tensor,
    latents: Tensor,
    wanted: Wanted,
    at: Phase2State,
) -> float:
    """One update on one batch, ``micro_batch_size`` items in memory at once; returns the loss."""
    device = generator.device
    noise = torch.randn(latents.shape, generator=at.rng)
    timesteps = torch.randint(*config.timestep_range, (len(fmri),), generator=at.rng)
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for rows in torch.arange(len(fmri)).split(config.micro_batch_size or len(fmri)):
        x, z, e, t = (part[rows].to(device) for part in (fmri, latents, noise, timesteps))
        loss = forward_loss(config, module, generator, x, z, e, t, wanted.take(rows))
        loss = loss * (len(rows) / len(fmri))  # the batch's mean
        total += loss.item()
        if not math.isfinite(total):
            raise FloatingPointError(f"Phase 2: the loss is {total} at step {at.step}")
        generator.backward(scaler.scale(loss))
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, config.gradient_clip).item()
    if not (math.isfinite(norm) or may_overflow(scaler)):
        raise FloatingPointError(f"Phase 2: the norm of the gradient is {norm} at step {at.step}")
    scaler.step(optimizer)  # in float16 it leaves out a step whose gradient overflowed
    scaler.update()
    return total


def look(
    config: Phase2Config,
    at: Phase2State,
    measure: Callable[[], Measured],
    module: ConditionModule,
    generator: Generator,
) -> None:
    """Measure the weights at a checkpoint, and keep a copy where they are worth most so far."""
    with scored_weights(module, generator, at.average):
        values, items, worth = measure()
        at.history += [dict(phase="phase2", samples_seen=at.samples_seen, name=n, value=v) for n, v in values.items()]
        if worth is not None and worth > at.best:
            at.best, at.chosen_step = worth, at.step
            at.best_weights = {name: tensor.clone() for name, tensor in weights(module, generator).items()}
    if items:
        at.curve.append((at.samples_seen, items))
        until = config.until_converged
        at.flat = at.flat + 1 if until is not None and is_flat(at.curve, until.tolerance) else 0


def update_average(at: Phase2State, gamma: float, now: dict[str, Tensor]) -> None:
    """Power-function average of the weights (Karras et al. 2024, EDM2, sec. 3.1): the weights after step s enter in
    proportion to s^gamma, so that the average reaches back over the same share of the training however long it is.
    """
    if not at.average:
        at.average = {name: tensor.clone() for name, tensor in now.items()}
    rest = 1 - (1 - 1 / at.step) ** (gamma + 1)
    with torch.no_grad():
        torch._foreach_lerp_([at.average[name] for name in now], list(now.values()), rest)


@contextlib.contextmanager
def scored_weights(module: ConditionModule, generator: Generator, average: dict[str, Tensor]) -> Iterator[None]:
    """Inside it the networks hold the weights that are scored, and kept if they are chosen: the average, if any."""
    now = {name: tensor.clone() for name, tensor in weights(module, generator).items()} if average else {}
    if average:
        load_weights(average, module, generator)
    module.eval()
    yield
    module.train()
    if average:
        load_weights(now, module, generator)


def is_flat(curve: list[tuple[int, list[float]]], tolerance: float) -> bool:
    """Whether the mean score rose by no more than ``tolerance`` over the last quarter of the samples seen so far."""
    before = [items for seen, items in curve if seen <= 0.76 * curve[-1][0]]  # .76: epochs may end in a small batch
    return bool(before) and float(np.mean(curve[-1][1]) - np.mean(before[-1])) <= tolerance


@torch.no_grad()
def validation_loss(
    module: ConditionModule,
    generator: Generator,
    config: Phase2Config,
    fmri: np.ndarray,
    latents: Tensor,
    targets: ClassTargets | None = None,
) -> float:
    """The loss of held-out items, with the same noise, time-steps and drawn latents at every call."""
    rng, targets = torch.Generator().manual_seed(0), targets or ClassTargets()
    latents = targets.latents(torch.arange(len(latents)), latents, rng)
    noise = torch.randn(latents.shape, generator=rng)
    timesteps = torch.randint(*config.timestep_range, (len(latents),), generator=rng)
    losses = []
    for rows in torch.arange(len(latents)).split(config.micro_batch_size or 64):
        x, z, e, t = (part[rows].to(generator.device) for part in (torch.from_numpy(fmri), latents, noise, timesteps))
        loss = forward_loss(config, module, generator, x, z, e, t, targets.wanted(rows))
        losses.append(loss.item() * len(rows))
    return sum(losses) / len(latents)


# ---------------------------------------------------------------- state of an unfinished training


def weights(module: ConditionModule, generator: Generator) -> dict[str, Tensor]:
    """All that the training changes: the module, and what it trains of the generator."""
    trained = {name: p.detach() for name, p in generator.unet.named_parameters() if p.requires_grad}
    return prefixed("module", module.state_dict()) | prefixed("generator", trained)


def load_weights(tensors: dict[str, Tensor], module: ConditionModule, generator: Generator) -> None:
    """Put back what :func:`weights` gave."""
    module.load_state_dict(under("module", tensors))
    generator.unet.load_state_dict(under("generator", tensors), strict=False)


def save_state(
    file: StateFile,
    module: ConditionModule,
    generator: Generator,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    at: Phase2State,
) -> None:
    """Write all that :func:`load_state` needs to go on."""
    tensors = prefixed("now", weights(module, generator)) | prefixed("best", at.best_weights)
    tensors |= prefixed("average", at.average)
    tensors |= prefixed("optimizer", optimizer_tensors(optimizer)) | {"rng": at.rng.get_state(), "order": at.order}
    names = ("history", "step", "samples_seen", "recent", "curve", "flat", "best", "chosen_step")
    file.save(tensors, {name: getattr(at, name) for name in names} | {"scaler": scaler.state_dict()})


def load_state(
    file: StateFile,
    module: ConditionModule,
    generator: Generator,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    at: Phase2State,
) -> None:
    """Put everything where :func:`save_state` found it, if it ever did.

    Raises:
        UserError: the file was written by a training with other settings or other data.
    """
    if (saved := file.load()) is None:
        return
    tensors, plain = saved
    load_weights(under("now", tensors), module, generator)
    load_optimizer(optimizer, under("optimizer", tensors))
    at.rng.set_state(tensors["rng"])
    at.order, at.best_weights = tensors["order"], under("best", tensors)
    at.average = under("average", tensors)
    scaler.load_state_dict(plain.pop("scaler"))
    for name, value in plain.items():
        setattr(at, name, value)
