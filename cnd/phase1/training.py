"""Training of Phase 1 (sec. 3.2, 8.2): one loop for pre-training and for tuning.

A checkpoint carries over to another voxel count as it is: ``other.load_state_dict(model.state_dict())``.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cnd.config import Phase1Config
from cnd.errors import UserError
from cnd.phase1.losses import backward_in_micro_batches, double_contrastive_loss, sparsify
from cnd.phase1.model import MaskedAutoencoder
from cnd.protocols import Report, no_report

HISTORY_POINTS = 200


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
class Progress:
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
    on_step: Report = no_report,
    resume: Path | None = None,
    save_every: float = 60.0,
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

    Returns:
        rows {"phase": "phase1.pretrain", "samples_seen", "name", "value"} of about 200 steps: "loss", its unweighted
        parts, "gradient_norm" before clipping, "lr".

    Raises:
        FloatingPointError: a metric is not finite; the message names it and the step.
        UserError: fewer than two patterns, or the state in ``resume`` is of another training.
    """
    device = model.encoder.class_token.device
    data = torch.from_numpy(np.ascontiguousarray(patterns, dtype=np.float32)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True)
    starts = batch_starts(len(data), config.batch_size)
    n_steps = epochs * len(starts)
    progress = Progress(torch.Generator().manual_seed(seed), torch.arange(len(data)))
    settings = dict(seed=seed, epochs=epochs, shape=list(data.shape), phase1=config.model_dump())
    settings["encoder"] = model.encoder.config.model_dump()
    state = resume / f"{phase}.safetensors" if resume is not None else None
    if state is not None and state.exists():
        load_state(state, model, optimizer, progress, settings)
    saved = time.monotonic()
    model.train()
    while progress.step < n_steps:
        epoch, batch = divmod(progress.step, len(starts))
        if batch == 0:
            progress.order = torch.randperm(len(data), generator=progress.generator)
        fmri = data[progress.order[starts[batch] : starts[batch] + config.batch_size].to(device)]
        lr = learning_rate(epoch + batch / len(starts), epochs, config)
        metrics = train_step(model, fmri, optimizer, lr, config, progress.generator)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"phase1.{phase}: {name} is {value} at step {progress.step}")
        progress.samples_seen += len(fmri)
        if progress.step % math.ceil(n_steps / HISTORY_POINTS) == 0 or progress.step == n_steps - 1:
            progress.history += history_rows(f"phase1.{phase}", progress.samples_seen, metrics)
        progress.step += 1
        on_step(progress.step / n_steps, progress.samples_seen, metrics)
        if state is not None and time.monotonic() - saved >= save_every:
            save_state(state, model, optimizer, progress, settings)
            saved = time.monotonic()
    if state is not None and state.exists():  # a long one: should what follows be killed, it is not done again
        save_state(state, model, optimizer, progress, settings)
    return progress.history


def train_step(
    model: MaskedAutoencoder,
    fmri: Float[Tensor, "batch voxels"],
    optimizer: torch.optim.Optimizer,
    lr: float,
    config: Phase1Config,
    generator: torch.Generator,
) -> dict[str, float]:
    """One update on one batch; a non-finite gradient leaves the weights as they were."""
    optimizer.zero_grad(set_to_none=True)
    sparsified = sparsify(fmri, config.sparsification, generator)
    if config.micro_batch_size is None:
        loss, parts = double_contrastive_loss(model, fmri, sparsified, config, generator)
        torch.autograd.backward(loss)
    else:
        loss, parts = backward_in_micro_batches(model, fmri, sparsified, config, generator, config.micro_batch_size)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
    for group in optimizer.param_groups:
        group["lr"] = lr
    values = torch.stack([*parts.values(), loss, norm]).tolist()  # one wait for the device
    if all(map(math.isfinite, values)):
        optimizer.step()
    return dict(zip([*parts, "loss", "gradient_norm"], values, strict=True)) | {"lr": lr}


def history_rows(phase: str, samples_seen: int, metrics: dict[str, float]) -> list[dict[str, Any]]:
    """One row a metric, for ``pandas.DataFrame``."""
    return [{"phase": phase, "samples_seen": samples_seen, "name": n, "value": v} for n, v in metrics.items()]


# ---------------------------------------------------------------- state of an unfinished training


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for index, state in optimizer.state_dict()["state"].items():
        for name, tensor in state.items():
            yield f"optimizer.{index}.{name}", tensor


def save_state(
    path: Path,
    model: MaskedAutoencoder,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: dict[str, Any],
) -> None:
    """Write one safetensors file, its metadata as JSON, so that a crash leaves the old one or the new one."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= dict(_optimizer_tensors(optimizer))
    tensors |= {"generator": progress.generator.get_state(), "order": progress.order}
    plain = {"step": progress.step, "samples_seen": progress.samples_seen, "history": progress.history}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata={"progress": json.dumps(plain), "settings": json.dumps(settings)})
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(path)


def load_state(
    path: Path,
    model: MaskedAutoencoder,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    settings: dict[str, Any],
) -> None:
    """Put model, optimiser and progress where :func:`save_state` found them.

    Raises:
        UserError: the file was written by a training with other settings or other data.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if metadata["settings"] != json.dumps(settings):
        raise UserError(f"{path}: belongs to another training; delete it to start this one afresh")
    states: dict[int, dict[str, Tensor]] = {}
    for name in [name for name in tensors if name.startswith("optimizer.")]:
        _, index, key = name.split(".")
        states.setdefault(int(index), {})[key] = tensors.pop(name)
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    progress.generator.set_state(tensors.pop("generator"))
    progress.order = tensors.pop("order")
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
    for name, value in json.loads(metadata["progress"]).items():
        setattr(progress, name, value)
