"""JSON files, and other small ones: the one writer, and the one reader."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write JSON as :func:`write_text` does.

    Raises:
        ValueError: a number is not finite.
        TypeError: something in it is no JSON value.
        OSError: it cannot be written.
    """
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a half of either, even after a power cut.

    Raises:
        OSError: it cannot be written; the old one is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # the disk is full, and says so without naming the file
        with contextlib.suppress(OSError):
            temporary.unlink()
        error.filename = error.filename or str(path)
        raise
    sync(path.parent)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def sync(path: Path) -> None:
    """Have a file or a folder written to the disk, where its file system can."""
    with contextlib.suppress(OSError):  # some cannot sync a folder
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
