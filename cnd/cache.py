"""Results of stages, kept under the hash of what produced them.

A result is a folder ``ROOT/<stage>/<key>/`` with the stage's own files, ``stage.json`` (what produced it) and
``manifest.json`` (size and SHA-256 of every file). It appears by one atomic rename and is checked whenever
it is read, so a folder that is there is whole. One process builds a key at a time; the lock belongs to the
operating system and is released when its holder dies, however it dies.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from cnd.errors import UserError

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
                temporary.rename(path)
                _sync(path.parent)
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
            if _read_and_hash(path / name) != expected["sha256"]:
                return f"{name} has changed since it was written"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is not readable"
    return None


def _seal(folder: Path) -> None:
    """Write the manifest, and everything to the disk."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: {"size": (folder / name).stat().st_size, "sha256": _read_and_hash(folder / name)} for name in names}
    write_json(folder / MANIFEST, {"files": files})
    mode = (folder / MANIFEST).stat().st_mode
    for name in names:
        (folder / name).chmod(mode)  # safetensors lets nobody else read its files, but a lab may share a cache
    for name in [*names, MANIFEST, "."]:
        _sync(folder / name)


def _sync(path: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


# ---------------------------------------------------------------- hashes


def content_hash(content: Any) -> str:
    """32 hex digits (128 bits) of SHA-256 of JSON values; the order of a mapping's keys does not matter.

    Raises:
        TypeError: something in it is no JSON value.
        ValueError: a number is not finite.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits. A file of unchanged time and size is read once in a process."""
    status = path.stat()
    return _known_file_hash(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16384)  # a data set may have one image a file
def _known_file_hash(path: Path, modified: int, size: int) -> str:
    return _read_and_hash(path)


def _read_and_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=256)
def code_version(*sources: Path | str | ModuleType) -> str:
    """A hash that changes with what the code does: comments, docstrings, layout and assertions do not count.

    It hashes compiled code, which differs between versions of Python too. Each source is read once in a process.

    Args:
        sources: files, folders (every ``*.py`` below them), or imported modules and packages.
    """
    hashes: list[list[str]] = []
    for path in map(_source_path, sources):
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        hashes += [[file.relative_to(path.parent).as_posix(), _code_hash(file)] for file in files]
    return content_hash(hashes)


def _source_path(source: Path | str | ModuleType) -> Path:
    if not isinstance(source, ModuleType):
        return Path(source)
    if source.__file__ is None:
        raise ValueError(f"module {source.__name__} has no source file")
    file = Path(source.__file__)
    return file.parent if file.name == "__init__.py" else file


@lru_cache(maxsize=1024)
def _code_hash(file: Path) -> str:
    # compiling is twice as fast as ast.parse + ast.dump, and drops docstrings and comments by itself
    return _of_code(compile(file.read_bytes(), "", "exec", dont_inherit=True, optimize=2))


def _of_code(code: CodeType) -> str:
    fixed = (code.co_name, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    exceptions = getattr(code, "co_exceptiontable", b"")
    constants = [_of_constant(constant) for constant in code.co_consts]
    return hashlib.sha256(repr((fixed, names, code.co_code, exceptions, constants)).encode()).hexdigest()


def _of_constant(constant: Any) -> str:
    if isinstance(constant, CodeType):
        return _of_code(constant)
    if isinstance(constant, tuple):
        return repr([_of_constant(item) for item in constant])
    if isinstance(constant, frozenset):  # its order differs from process to process
        return repr(sorted(_of_constant(item) for item in constant))
    return repr(constant)
