"""What the trainings of both phases share: precision of the forward pass, and the state of an unfinished training."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cnd.errors import UserError
from cnd.settings import Precision

HISTORY = ["phase", "samples_seen", "name", "value"]
"""Columns of a training history; the record adds the fold."""

# ---------------------------------------------------------------- precision


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Matrix products inside it run in ``precision``; float32 changes nothing. Parameters stay float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def loss_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Keeps small gradients from vanishing in float16 (Micikevicius et al. 2018); otherwise it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


def may_overflow(scaler: torch.amp.GradScaler) -> bool:
    """Whether an infinite gradient only means that the scale is still too large.

    In float16 such a step is left out and the scale halved. Below 1 the scale is not to blame.
    """
    return scaler.is_enabled() and scaler.get_scale() >= 1


# ---------------------------------------------------------------- state of an unfinished training


class StateFile:
    """One safetensors file that holds where a training stands, JSON in its metadata.

    Args:
        folder: where it lies; None keeps nothing.
        settings: JSON values that tell this training from others.
        every: seconds between two writes, or more where writing is slow: it may take a twentieth of the time.
    """

    def __init__(self, folder: Path | None, name: str, settings: dict[str, Any], every: float) -> None:
        self.path = None if folder is None else folder / f"{name}.safetensors"
        self.settings = json.dumps(settings)
        self.every = every
        self.last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to write."""
        return self.path is not None and time.monotonic() - self.last >= self.every

    def exists(self) -> bool:
        return self.path is not None and self.path.exists()

    def save(self, tensors: Mapping[str, Tensor], progress: dict[str, Any]) -> None:
        """Replace the file so that a crash leaves the old one or the new one."""
        if self.path is None:
            return
        start = time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        own = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(own, partial, metadata={"progress": json.dumps(progress), "settings": self.settings})
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(self.path)
        self.last = time.monotonic()
        self.every = max(self.every, 20 * (self.last - start)) if self.every else 0.0

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and progress as they were saved, or None where nothing was.

        Raises:
            UserError: the file was written by a training with other settings or other data.
        """
        if self.path is None or not self.path.exists():
            return None
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if metadata["settings"] != self.settings:
            raise UserError(f"{self.path}: belongs to another training; delete it to start this one afresh")
        return tensors, json.loads(metadata["progress"])


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under ``prefix.name``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors named ``prefix.name``, without the prefix."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments as ``index.name``."""
    states = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, state in states.items() for name, tensor in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave; rates and other settings stay as they are."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".")
        states.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
