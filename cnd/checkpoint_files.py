"""Checkpoint files read without running anything in them: the published ones are pickles, written by ``torch.save``.

``torch.load(weights_only=True)`` builds tensors and plain containers only, and refuses a file that holds anything else.
Published ones do: PyTorch Lightning keys callbacks by their classes, MinD-Vis adds its config object. Here
every such object becomes an :class:`Inert`: its module is not imported, and what the file would have called is not.

What trained a network leaves its traces in the names of the weights: DistributedDataParallel, ``torch.compile``,
Lightning, averaged copies of the weights, in any order. :func:`find_weights` takes them off.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cnd.errors import UserError

MALFORMED = (
    SafetensorError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, AssertionError
)  # fmt: skip
"""What the readers raise on bytes that were not written for them."""


EMA = frozenset(["ema", "ema_model", "model_ema", "averaged_model", "state_dict_ema", "ema_state_dict"])
"""What averaged copies of the weights are called, in names and as keys of a file."""
PREFIXES = EMA | {"module", "model", "net", "network", "online_model", "_forward_module"}
"""Attributes that hold the network in what trains it: DataParallel, Lightning, AveragedModel, Fabric, ..."""
ANYWHERE = frozenset(["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
"""Attributes that wrap parts of a network too: ``torch.compile``, FSDP, activation checkpointing."""
CONTAINERS = (
    "state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema",
    "state_dict", "model_state_dict", "model", "module", "network", "net",
)  # fmt: skip
"""Keys where a file may keep its weights, below each other too; averaged ones come first."""
COUNTERS = frozenset(["n_averaged", "num_updates", "decay", "initted", "step"])
"""Single numbers that averaging keeps beside the weights."""


class Inert:
    """Stands for every object of a file that is neither tensor nor plain value; keeps attributes and does nothing."""

    def __new__(cls, *args: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        """Whatever the object was made of is not needed."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def open_checkpoint(path: Path, weights_key: str) -> tuple[Any, list[str]]:
    """Content of a file, a pickle's tensors mapped from the disk; and the names of what became :class:`Inert`.

    Args:
        path: of safetensors where it ends so, else of ``torch.save``.
        weights_key: where pickles of this kind keep their weights; the remedy names it.

    Raises:
        OSError: the file cannot be opened.
        UserError: it is of another kind, is damaged, or holds objects that nothing can stand for.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path), []
        foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        with torch.serialization.safe_globals([(Inert, name) for name in foreign]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True), foreign
    except pickle.UnpicklingError as error:  # torch fills no dict or list but plain ones, and bars modules such as os
        raise UserError(
            f"{path}: holds objects that only their own code can build; nothing was run. Where you trust the file, "
            f"keep its weights alone: torch.save(torch.load(OLD, weights_only=False)['{weights_key}'], NEW)"
        ) from error
    except MALFORMED as error:
        raise UserError(
            f"{path}: expected a checkpoint of tensors (.safetensors, or written by torch >= 1.6), found something "
            f"else or a part of one ({' '.join(str(error).split())[:100]}); download or export it again"
        ) from error


def check_values(tensors: Mapping[str, Tensor]) -> None:
    """Raise a UserError, which names the tensor but not its file, unless all hold finite floating-point numbers."""
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or not tensor.is_floating_point():
            found = "no values" if tensor.is_meta else f"{tensor.layout} {tensor.dtype}"
            raise UserError(f"{key}: expected floating-point numbers, found {found}; export the checkpoint again")
        if not tensor.isfinite().all():
            raise UserError(f"{key}: expected finite numbers, found NaN or infinity; take another checkpoint")


def find_weights(content: Any, known: Callable[[str], bool]) -> dict[str, Tensor]:
    """The weights of a checkpoint under the names that the network itself gives them, whatever wrapped it.

    Of a file with averaged weights (EMA) beside those of the last step the averaged ones are taken, as timm does: they
    are what the model was judged by.

    Args:
        content: of the file: a state dict, or dictionaries in which one lies.
        known: whether the network has such a name. It decides where names end and prefixes begin: ``model.0.weight``
            may be the name itself.

    Returns:
        tensors by name; those with unknown names too, without their prefixes, for the caller to refuse or to leave out.
        Empty where the file holds no tensors by name.
    """
    first: dict[str, Tensor] = {}
    for tensors in _state_dicts(content):
        found: dict[str, Tensor] = {}
        averaged: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            bare, ema = _without_prefixes(name, known)
            if known(bare) or bare.rpartition(".")[2] not in COUNTERS or tensor.numel() > 1:
                (averaged if ema else found)[bare] = tensor
        found |= averaged
        if any(map(known, found)):
            return found
        first = first or found
    return first


def _state_dicts(content: Any, depth: int = 3) -> Iterator[dict[str, Tensor]]:
    """Mappings from names to tensors, those of :data:`CONTAINERS` before the one that they lie in."""
    if not isinstance(content, Mapping):
        return
    for key in CONTAINERS:
        if depth and key in content:
            yield from _state_dicts(content[key], depth - 1)
    if tensors := {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}:
        yield tensors


def _without_prefixes(name: str, known: Callable[[str], bool]) -> tuple[str, bool]:
    """A name without what wrapped the network, and whether an averaged copy was among that."""
    parts, ema = [part for part in name.split(".") if part not in ANYWHERE], False
    while not known(".".join(parts)) and len(parts) > 1 and parts[0] in PREFIXES:
        ema = ema or parts[0] in EMA
        parts = parts[1:]
    whole = ".".join(parts)
    if not known(whole) and known(inner := ".".join(part for part in parts if part != "module")):
        return inner, ema  # DistributedDataParallel around a part of the network
    return whole, ema
