"""A home folder that can be written: Ray keeps a file there, and does not start where it cannot."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def writable_home(instead: Path) -> Iterator[None]:
    """Another HOME, for this process and those that it starts, where the user's cannot be written or is not there."""
    before = os.environ.get("HOME")
    if not _can_be_written():
        os.environ["HOME"] = str(instead)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("HOME", None)
        else:
            os.environ["HOME"] = before


def _can_be_written() -> bool:
    """By what Ray does there; root may be allowed all that a file system then refuses."""
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home at all
        return False
    return os.access(folder, os.W_OK)
