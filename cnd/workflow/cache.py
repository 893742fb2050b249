"""Results of stages, kept under the hash of what produced them.

A result is a folder ``ROOT/<stage>/<key>/`` with the stage's own files, ``stage.json`` (what produced it) and
``manifest.json`` (size and SHA-256 of every file). It appears by one atomic rename and is checked whenever
it is read, so a folder that is there is whole. One process builds a key at a time; the lock belongs to the
operating system and is released when its holder dies, however it dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnd.errors import UserError
from cnd.json_files import sync, write_json
from cnd.keys import read_and_hash

MANIFEST = "manifest.json"
DESCRIPTION = "stage.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class StageCache:
    """Stage results below one folder, shared by any number of processes.

    Args:
        root: a folder on a local or shared file system that supports ``flock``; created when first written.

    Raises:
        UserError: ``root`` is a URL such as ``s3://...``; only folders are supported.
    """

    def __init__(self, root: Path | str) -> None:
        if "://" in str(root) or re.match(r"[a-z][a-z0-9+]+:/", str(root)):
            raise UserError(f"{root}: the cache must be a folder; URLs are not supported")
        self.root = Path(root).expanduser().absolute()

    def path(self, stage: str, key: str) -> Path:
        """Where the result lies, or would lie."""
        for name in (stage, key):
            if not _NAME.fullmatch(name):
                raise ValueError(f"'{name}' cannot name a stage or a key")
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        """Whether the result is there, without reading it (:meth:`find` checks it too)."""
        return (self.path(stage, key) / MANIFEST).is_file()

    def was_set_aside(self, stage: str, key: str) -> bool:
        """Whether the result was found damaged, moved aside, and not made again yet."""
        path = self.path(stage, key)
        return not path.exists() and any(path.parent.glob(f"{key}.damaged-*"))

    def problem(self, stage: str, key: str) -> str | None:
        """What is wrong with a result, in words; None when every file is as it was written."""
        return _problem(self.path(stage, key))

    def find(self, stage: str, key: str) -> Path | None:
        """The checked folder of a result, or None where it is missing.

        A damaged folder counts as missing; it is moved aside, with a warning, so that it is built again.
        """
        path = self.path(stage, key)
        if _problem(path) is None:
            return path
        if not path.exists():
            return None
        lock = self._lock(stage, key)
        with contextlib.suppress(TimeoutError), lock.acquire(timeout=0):  # a busy lock: it is being rebuilt
            return self._checked(path)
        return None

    def build(self, stage: str, key: str, describe: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of a result, made if it is missing.

        Args:
            describe: what produces the result, as JSON values; kept beside it as ``stage.json``.
            make: writes the result's files into the empty folder it is given. While one process is in it,
                others that want the same key wait.
        """
        if (found := self.find(stage, key)) is not None:
            return found
        path = self.path(stage, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock(stage, key):
            if (found := self._checked(path)) is not None:
                return found
            for leftover in path.parent.glob(f".{key}.tmp-*"):  # we hold the lock, so its writer is dead
                shutil.rmtree(leftover)
            temporary = path.parent / f".{key}.tmp-{os.getpid()}"
            temporary.mkdir()
            try:
                make(temporary)
                write_json(temporary / DESCRIPTION, describe)
                _seal(temporary)
                try:
                    temporary.rename(path)
                except OSError:  # somebody's is there: a shared file system may show it late, even to the lock's holder
                    if self._checked(path) is None:
                        raise
                sync(path.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(self._scratch(stage, key), ignore_errors=True)
        return path

    def scratch(self, stage: str, key: str) -> Path:
        """A folder for the unfinished work of ``make``: it survives a kill, and goes once the result is built.

        Only ``make`` of this key may use it, so that one process does.
        """
        folder = self._scratch(stage, key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remove(self, stage: str, key: str) -> bool:
        """Delete a result with its scratch and leftovers; False when there was none. Waits for a running build."""
        path = self.path(stage, key)
        if not path.parent.is_dir():
            return False
        with self._lock(stage, key):
            folders = [path, self._scratch(stage, key), *path.parent.glob(f".{key}.tmp-*")]
            existing = [folder for folder in folders if folder.exists()]
            for folder in existing:
                shutil.rmtree(folder)
        return bool(existing)

    def _scratch(self, stage: str, key: str) -> Path:
        path = self.path(stage, key)
        return path.parent / f".{key}.scratch"

    def _lock(self, stage: str, key: str) -> Any:
        from filelock import FileLock

        path = self.path(stage, key)
        return FileLock(path.parent / f".{key}.lock")

    def _checked(self, path: Path) -> Path | None:
        """As :meth:`find`, for the holder of the lock."""
        problem = _problem(path)
        if problem is None:
            return path
        if path.exists():
            aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
            path.rename(aside)
            warnings.warn(f"{path}: {problem}; moved to {aside.name}, it will be made again", stacklevel=3)
        return None


def _problem(path: Path) -> str | None:
    if not path.is_dir():
        return "missing"
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, expected in files.items():
            size = (path / name).stat().st_size
            if size != expected["size"]:
                return f"{name} has {size} bytes instead of {expected['size']}"
            if read_and_hash(path / name) != expected["sha256"]:
                return f"{name} has changed since it was written"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is not readable"
    return None


def _seal(folder: Path) -> None:
    """Write the manifest, and everything to the disk."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: {"size": (folder / name).stat().st_size, "sha256": read_and_hash(folder / name)} for name in names}
    write_json(folder / MANIFEST, {"files": files})
    mode = (folder / MANIFEST).stat().st_mode
    for name in names:
        (folder / name).chmod(mode)  # safetensors lets nobody else read its files, but a lab may share a cache
    for name in [*names, MANIFEST, "."]:
        sync(folder / name)
