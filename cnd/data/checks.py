"""What a file of a known layout must hold; whatever else it holds becomes a single line that says what to do."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cnd.errors import UserError, nearest


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Turn what a broken file raises while it is read into one :class:`cnd.errors.UserError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a readable {kind} ({reason}); download the file again") from error


def require_keys(path: Path, found: Iterable[str], keys: list[str]) -> None:
    """Raises:
    UserError: one of the keys is missing.
    """
    for key in keys:
        if key not in found:
            raise UserError(f"{path}: key '{key}' is missing{nearest(key, found)}; download the file again")


def expect_shape(path: Path, key: str, array: np.ndarray, shape: tuple[int | None, ...], finite: bool = True) -> None:
    """Numbers of the expected shape, where None allows any length.

    Args:
        finite: refuse NaN and infinite values.

    Raises:
        UserError: wrong shape, no numbers, NaN or infinite values.
    """
    if array.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        wanted = str(tuple("any" if n is None else n for n in shape)).replace("'", "")
        raise UserError(f"{path}: {key} has shape {array.shape}, expected {wanted}; download the file again")
    if array.dtype.kind not in "fiub":
        raise UserError(f"{path}: {key} has type {array.dtype}, expected numbers; download the file again")
    bad = 0 if array.dtype.kind != "f" or not finite else int((~np.isfinite(array)).sum())
    if bad:
        raise UserError(f"{path}: {key} holds {bad} NaN or infinite values, expected none; drop those voxels or trials")
