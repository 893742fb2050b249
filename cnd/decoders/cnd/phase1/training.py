"""Training of Phase 1 (sec. 3.2, 8.2): one loop for pre-training and for tuning.

A checkpoint carries over to another voxel count as it is: ``other.load_state_dict(model.state_dict())``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cnd.decoders.cnd.phase1.losses import backward_in_micro_batches, double_contrastive_loss, sparsify
from cnd.decoders.cnd.phase1.model import MaskedAutoencoder
from cnd.decoders.cnd.phase1.settings import Phase1Config
from cnd.decoders.training import (
    StateFile,
    load_optimizer,
    loss_scaler,
    may_overflow,
    optimizer_tensors,
    prefixed,
    under,
)
from cnd.errors import UserError
from cnd.protocols import OnProgress, no_progress

HISTORY_POINTS = 200
CHECKPOINTS = 8


def learning_rate(epoch: float, epochs: int, config: Phase1Config) -> float:
    """Linear from 0 over ``warmup_epochs``, then half a cosine to 0 at ``epochs``; ``epoch`` counts in fractions."""
    if epoch < config.warmup_epochs:
        return config.lr * epoch / config.warmup_epochs
    done = (epoch - config.warmup_epochs) / (epochs - config.warmup_epochs)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def batch_starts(n_patterns: int, batch_size: int) -> range:
    """Where the batches of an epoch start; a last batch of one pattern has no negatives and is dropped.

    Raises:
        UserError: fewer than two patterns.
    """
    if n_patterns < 2:
        raise UserError(f"Phase 1 contrasts patterns with each other: two are needed, there are {n_patterns}")
    return range(0, n_patterns - 1, batch_size)


@dataclass
class Phase1State:
    """What changes during a training besides the tensors of model and optimiser."""

    generator: torch.Generator  # the only source of random numbers
    order: Tensor  # of the patterns in the current epoch
    step: int = 0
    samples_seen: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def fit(
    model: MaskedAutoencoder,
    patterns: Float[np.ndarray, "n voxels"],
    config: Phase1Config,
    epochs: int,
    seed: int,
    phase: Literal["pretrain", "tune"],
    on_step: OnProgress = no_progress,
    resume: Path | None = None,
    save_every: float = 60.0,
    held: Float[np.ndarray, "m voxels"] | None = None,
) -> list[dict[str, Any]]:
    """Train ``model`` in place, on the device where it is.

    Same model, patterns, config and seed give the same weights, bit for bit on a CPU with the same number of
    threads, whether or not the training was interrupted.

    Args:
        patterns: z-scored fMRI, one row a pattern. Fewer than ``batch_size`` make one batch.
        on_step: called after every step with the fraction done, the samples seen and the step's metrics.
        resume: folder for the state of a long training; the caller removes it when it has kept the result.
            A call that finds such a state there goes on from it, or returns at once if it is a finished one.
        save_every: seconds between two writes of the state.
        held: patterns that are not trained on, at least two; their loss is taken at eight checkpoints.

    Returns:
        rows {"phase": "phase1.pretrain", "samples_seen", "name", "value"} of about 200 steps: "loss", its unweighted
        parts, "gradient_norm" before clipping, "lr"; and "validation_loss" at the checkpoints.

    Raises:
        FloatingPointError: a metric is not finite; the message names it and the step.
        UserError: fewer than two patterns, or the state in ``resume`` is of another training.
    """
    device = model.encoder.class_token.device
    data = torch.from_numpy(np.ascontiguousarray(patterns, dtype=np.float32)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True)
    starts = batch_starts(len(data), config.batch_size)
    n_steps = epochs * len(starts)
    progress = Phase1State(torch.Generator().manual_seed(seed), torch.arange(len(data)))
    scaler = loss_scaler(config.precision, device)
    settings = dict(seed=seed, epochs=epochs, shape=list(data.shape), phase1=config.model_dump(mode="json"))
    settings["encoder"] = model.encoder.config.model_dump(mode="json")
    state = StateFile(resume, phase, settings, save_every)
    load_state(state, model, optimizer, scaler, progress)
    model.train()
    while progress.step < n_steps:
        epoch, batch = divmod(progress.step, len(starts))
        if batch == 0:
            progress.order = torch.randperm(len(data), generator=progress.generator)
        fmri = data[progress.order[starts[batch] : starts[batch] + config.batch_size].to(device)]
        lr = learning_rate(epoch + batch / len(starts), epochs, config)
        metrics = train_step(model, fmri, optimizer, lr, config, progress.generator, scaler)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"phase1.{phase}: {name} is {value} at step {progress.step}")
        progress.samples_seen += len(fmri)
        if progress.step % math.ceil(n_steps / HISTORY_POINTS) == 0 or progress.step == n_steps - 1:
            progress.history += history_rows(f"phase1.{phase}", progress.samples_seen, metrics)
        progress.step += 1
        if held is not None and progress.step * CHECKPOINTS // n_steps > (progress.step - 1) * CHECKPOINTS // n_steps:
            loss = {"validation_loss": validation_loss(model, held, config)}
            progress.history += history_rows(f"phase1.{phase}", progress.samples_seen, loss)
        on_step(progress.step / n_steps, progress.samples_seen, metrics)
        if state.due():
            save_state(state, model, optimizer, scaler, progress)
    if state.exists():  # a long one: should what follows be killed, it is not done again
        save_state(state, model, optimizer, scaler, progress)
    return progress.history


def train_step(
    model: MaskedAutoencoder,
    fmri: Float[Tensor, "batch voxels"],
    optimizer: torch.optim.Optimizer,
    lr: float,
    config: Phase1Config,
    generator: torch.Generator,
    scaler: torch.amp.GradScaler,
) -> dict[str, float]:
    """One update on one batch; a non-finite gradient leaves the weights as they were.

    Returns:
        metrics of the step; without "gradient_norm" where float16 overflowed, as it does while the scale settles.
    """
    optimizer.zero_grad(set_to_none=True)
    sparsified = sparsify(fmri, config.sparsification, generator)
    if config.micro_batch_size is None:
        loss, parts = double_contrastive_loss(model, fmri, sparsified, config, generator)
        torch.autograd.backward(scaler.scale(loss))
    else:
        size = config.micro_batch_size
        loss, parts = backward_in_micro_batches(model, fmri, sparsified, config, generator, size, scaler)
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
    for group in optimizer.param_groups:
        group["lr"] = lr
    values = torch.stack([*parts.values(), loss, norm]).tolist()  # one wait for the device
    metrics = dict(zip([*parts, "loss", "gradient_norm"], values, strict=True)) | {"lr": lr}
    if all(map(math.isfinite, values)):
        scaler.step(optimizer)
    elif may_overflow(scaler) and math.isfinite(metrics["loss"]):
        del metrics["gradient_norm"]
    scaler.update()
    return metrics


@torch.no_grad()
def validation_loss(model: MaskedAutoencoder, held: Float[np.ndarray, "m voxels"], config: Phase1Config) -> float:
    """The loss of held-out patterns as one batch, with the same masks and the same voxels set to zero at every call."""
    generator = torch.Generator().manual_seed(0)
    fmri = torch.from_numpy(np.ascontiguousarray(held, dtype=np.float32)).to(model.encoder.class_token.device)
    loss, _ = double_contrastive_loss(model, fmri, sparsify(fmri, config.sparsification, generator), config, generator)
    return float(loss)


def history_rows(phase: str, samples_seen: int, metrics: dict[str, float]) -> list[dict[str, Any]]:
    """One row a metric, for ``pandas.DataFrame``."""
    return [{"phase": phase, "samples_seen": samples_seen, "name": n, "value": v} for n, v in metrics.items()]


# ---------------------------------------------------------------- state of an unfinished training


def save_state(
    file: StateFile,
    model: MaskedAutoencoder,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Phase1State,
) -> None:
    """Write all that :func:`load_state` needs to go on."""
    tensors = prefixed("model", model.state_dict()) | prefixed("optimizer", optimizer_tensors(optimizer))
    tensors |= {"generator": progress.generator.get_state(), "order": progress.order}
    plain = {name: getattr(progress, name) for name in ("step", "samples_seen", "history")}
    file.save(tensors, plain | {"scaler": scaler.state_dict()})


def load_state(
    file: StateFile,
    model: MaskedAutoencoder,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Phase1State,
) -> None:
    """Put model, optimiser and progress where :func:`save_state` found them, if it ever did.

    Raises:
        UserError: the file was written by a training with other settings or other data.
    """
    if (saved := file.load()) is None:
        return
    tensors, plain = saved
    model.load_state_dict(under("model", tensors))
    load_optimizer(optimizer, under("optimizer", tensors))
    progress.generator.set_state(tensors["generator"])
    progress.order = tensors["order"]
    scaler.load_state_dict(plain.pop("scaler"))
    for name, value in plain.items():
        setattr(progress, name, value)
