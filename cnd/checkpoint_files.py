"""Checkpoint files read without running anything in them: the published ones are pickles, written by ``torch.save``.

``torch.load(weights_only=True)`` builds tensors and plain containers only, and refuses a file that holds anything else.
Published ones do: PyTorch Lightning keys callbacks by their classes, MinD-Vis adds its config object. Here
every such object becomes an :class:`Inert`: its module is not imported, and what the file would have called is not.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
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
