"""Training of SS-AE: the encoder on pairs, then the decoder with the encoder frozen, by one loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnd.decoders.ss_ae.losses import fmri_loss, image_loss
from cnd.decoders.ss_ae.model import ImageDecoder, ImageEncoder, unit_range
from cnd.decoders.ss_ae.settings import SsAeDecoderConfig, SsAeEncoderConfig
from cnd.decoders.training import StateFile, load_optimizer, optimizer_tensors, prefixed, under
from cnd.protocols import FmriSplit, ImageArray, OnProgress, no_progress

GRADIENT_CLIP = 1.0
"""Largest norm of the gradient."""

Losses = Callable[[torch.Generator], dict[str, Tensor]]
"""Draws a batch, and gives its weighted losses by name; what is trained is their sum."""


class Measured(NamedTuple):
    """What is found at a checkpoint.

    Attributes:
        values: for the history, by name.
        items: score of each validation item, for the curve; empty where there is none.
        worth: what the choice of the checkpoint compares; None where it is the last.
    """

    values: dict[str, float]
    items: list[float]
    worth: float | None = None


@dataclass
class TrainingState:
    """Outcome of :func:`fit`, and where it stands: at the end the network holds the chosen checkpoint's weights."""

    rng: torch.Generator  # the only source of random numbers
    history: list[dict[str, Any]] = field(default_factory=list)  # phase, samples_seen, name, value
    step: int = 0
    recent: list[dict[str, float]] = field(default_factory=list)  # losses since the last rows of the history
    curve: list[tuple[int, list[float]]] = field(default_factory=list)  # samples seen, score of each validation item
    best: float = -math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    chosen_step: int = 0


@dataclass(frozen=True)
class Plan:
    """What a training is, besides its network and its losses.

    Attributes:
        phase: its name in progress and history.
        samples: pairs in a batch, which progress counts.
        settings: JSON values that tell this training from others.
    """

    phase: str
    max_steps: int
    samples: int
    n_checkpoints: int
    settings: dict[str, Any]
    seed: int

    def is_checkpoint(self, step: int) -> bool:
        """Whether this step ends one of the equal parts of the training."""
        return step * self.n_checkpoints // self.max_steps > (step - 1) * self.n_checkpoints // self.max_steps


def fit(
    plan: Plan,
    network: nn.Module,
    groups: list[dict[str, Any]],
    losses: Losses,
    measure: Callable[[], Measured] | None = None,
    report: OnProgress = no_progress,
    resume: Path | None = None,
    save_every: float = 60.0,
) -> TrainingState:
    """Train a network, and keep the checkpoint that ``measure`` prefers, and its curve.

    Same network, losses, plan and seed give the same weights, bit for bit on a CPU with the same number of threads,
    whether or not the training was interrupted.

    Args:
        groups: AdamW's parameter groups, each with its rate, which falls to 0 by a cosine.
        measure: scores the network as it stands, at every checkpoint; None keeps the last.
        resume: folder for the state of a long training; a call that finds such a state there goes on from it.
        save_every: seconds between two writes of the state.

    Raises:
        FloatingPointError: a loss or the gradient is not finite.
        UserError: the state in ``resume`` is of another training.
    """
    optimizer = torch.optim.AdamW(groups, amsgrad=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    at = TrainingState(torch.Generator().manual_seed(plan.seed))
    file = StateFile(resume, plan.phase, plan.settings | {"seed": plan.seed}, save_every)
    load_state(file, network, optimizer, at)
    network.train()
    while at.step < plan.max_steps:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * at.step / plan.max_steps))
        at.recent.append(train_step(plan.phase, optimizer, losses, at))
        at.step += 1
        if measure is not None and plan.is_checkpoint(at.step):
            look(plan, network, measure, at)
        ended = at.step == plan.max_steps
        if len(at.recent) >= max(1, plan.max_steps // 100) or ended:
            means = {name: float(np.mean([one[name] for one in at.recent])) for name in at.recent[0]}
            note(plan, at, means)
            at.recent.clear()
            shown = {f"{plan.phase}/{name}": value for name, value in means.items()}
            report(at.step / plan.max_steps, at.step * plan.samples, shown)
        if file.due() or (ended and file.exists()):  # a finished long one is not done again
            save_state(file, network, optimizer, at)
    if at.best_weights:
        network.load_state_dict(at.best_weights)
    else:
        at.chosen_step = at.step
    network.eval()
    return at


def train_step(phase: str, optimizer: torch.optim.Optimizer, losses: Losses, at: TrainingState) -> dict[str, float]:
    """One update on one batch; returns the losses and their sum."""
    optimizer.zero_grad(set_to_none=True)
    found = losses(at.rng)
    total = torch.stack(list(found.values())).sum()
    told = {name: value.item() for name, value in found.items()} | {"loss": total.item()}
    for name, value in told.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"SS-AE, {phase}: {name} is {value} at step {at.step}")
    total.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP).item()
    if not math.isfinite(norm):
        raise FloatingPointError(f"SS-AE, {phase}: the norm of the gradient is {norm} at step {at.step}")
    optimizer.step()
    return told


def look(plan: Plan, network: nn.Module, measure: Callable[[], Measured], at: TrainingState) -> None:
    """Measure the weights at a checkpoint, and keep a copy where they are worth most so far."""
    network.eval()
    values, items, worth = measure()
    network.train()
    note(plan, at, values)
    if items:
        at.curve.append((at.step * plan.samples, items))
    if worth is not None and worth > at.best:
        at.best, at.chosen_step = worth, at.step
        at.best_weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}


def note(plan: Plan, at: TrainingState, values: dict[str, float]) -> None:
    """Add values to the history."""
    seen = at.step * plan.samples
    at.history += [dict(phase=plan.phase, samples_seen=seen, name=n, value=v) for n, v in values.items()]


def save_state(file: StateFile, network: nn.Module, optimizer: torch.optim.Optimizer, at: TrainingState) -> None:
    """Write all that :func:`load_state` needs to go on."""
    tensors = prefixed("now", network.state_dict()) | prefixed("best", at.best_weights)
    tensors |= prefixed("optimizer", optimizer_tensors(optimizer)) | {"rng": at.rng.get_state()}
    names = ("history", "step", "recent", "curve", "best", "chosen_step")
    file.save(tensors, {name: getattr(at, name) for name in names})


def load_state(file: StateFile, network: nn.Module, optimizer: torch.optim.Optimizer, at: TrainingState) -> None:
    """Put everything where :func:`save_state` found it, if it ever did."""
    if (saved := file.load()) is None:
        return
    tensors, plain = saved
    network.load_state_dict(under("now", tensors))
    load_optimizer(optimizer, under("optimizer", tensors))
    at.rng.set_state(tensors["rng"])
    at.best_weights = under("best", tensors)
    for name, value in plain.items():
        setattr(at, name, value)


# ---------------------------------------------------------------- what is learned from


def drawn_rows(n: int, batch: int, rng: torch.Generator) -> np.ndarray:
    """Positions of a batch, each drawn from all items."""
    return torch.randint(n, (batch,), generator=rng).numpy()


def shifted(images: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Each image shifted by up to ``most`` pixels along both axes, its border repeated."""
    if not most:
        return images
    height, width = images.shape[2:]
    padded = F.pad(images, [most] * 4, mode="replicate")
    offsets = torch.randint(2 * most + 1, (len(images), 2), generator=rng).tolist()
    moved = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, offsets, strict=True)]
    return torch.stack(moved)


def encoder_losses(config: SsAeEncoderConfig, encoder: ImageEncoder, items: FmriSplit, rows: np.ndarray) -> Losses:
    """The fMRI loss of pairs, at the training items ``rows``."""
    fmri, device = torch.from_numpy(items.fmri), encoder.bias.device

    def losses(rng: torch.Generator) -> dict[str, Tensor]:
        batch = rows[drawn_rows(len(rows), config.batch_size, rng)]
        images = shifted(unit_range(items.images, batch, device), config.max_shift, rng)
        return {"fmri": fmri_loss(encoder(images), fmri[batch].to(device), config.cosine)}

    return losses


@dataclass(frozen=True)
class Material:
    """What the decoder learns from.

    Attributes:
        items, rows: pairs, and which of them are not held out.
        more_images: uint8 [m, c, h, w], unlabelled ones beside those of the pairs.
        unlabelled: float32 [m, voxels], patterns for the cycle of fMRI: those of the pairs and any without images.
    """

    items: FmriSplit
    rows: np.ndarray
    more_images: ImageArray
    unlabelled: Tensor


def decoder_losses(
    config: SsAeDecoderConfig, cosine: float, decoder: ImageDecoder, encoder: ImageEncoder, material: Material
) -> Losses:
    """The image loss of pairs (D), of images sent through encoder and decoder (ED), and the fMRI loss of patterns sent
    through decoder and encoder (DE). The encoder, and the patterns that it predicts, take no gradient.
    """
    encoder.requires_grad_(False).eval()
    items, rows, features = material.items, material.rows, encoder.features[0]
    fmri, device = torch.from_numpy(items.fmri), encoder.bias.device

    def unlabelled_images(rng: torch.Generator) -> Tensor:
        drawn = drawn_rows(len(rows) + len(material.more_images), config.image_batch, rng)
        own = unit_range(items.images, rows[drawn[drawn < len(rows)]], device)
        more = unit_range(material.more_images, drawn[drawn >= len(rows)] - len(rows), device)
        return torch.cat([own, more])

    def losses(rng: torch.Generator) -> dict[str, Tensor]:
        batch = rows[drawn_rows(len(rows), config.batch_size, rng)]
        images = unit_range(items.images, batch, device)
        found = {"pairs": image_loss(config, features, decoder(fmri[batch].to(device)), images)}
        if config.image_cycle:
            images = unlabelled_images(rng)
            with torch.no_grad():
                predicted = encoder(images)
            found["image_cycle"] = config.image_cycle * image_loss(config, features, decoder(predicted), images)
        if config.fmri_cycle:
            patterns = material.unlabelled[drawn_rows(len(material.unlabelled), config.fmri_batch, rng)].to(device)
            found["fmri_cycle"] = config.fmri_cycle * fmri_loss(encoder(decoder(patterns)), patterns, cosine)
        return found

    return losses


def decoder_groups(config: SsAeDecoderConfig, decoder: ImageDecoder) -> list[dict[str, Any]]:
    """The layer that reads the voxels has a rate of its own."""
    rest = [p for name, p in decoder.named_parameters() if not name.startswith("read.")]
    return [
        dict(params=list(decoder.read.parameters()), lr=config.voxel_lr, weight_decay=0.0),
        dict(params=rest, lr=config.lr, weight_decay=0.0),
    ]
