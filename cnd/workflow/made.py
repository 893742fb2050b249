"""What made a result, kept beside it as ``made.json``: when, how long, on which machine, with which code and packages.

It says of one result what its key does not name. Rows that share a step share it, as do commands of other days and
machines: of a run it is therefore known step by step. Nothing in it tells one computer of a kind from another.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from cnd.json_files import write_json, write_text
from cnd.registry import BUILT_IN
from cnd.workflow.origin import changes, origin

MADE = "made.json"
DISTRIBUTION = "cnd-decoding"
CHANGES = "changes"  # folder of the cache: what was not committed, by the beginning of its hash
LONGEST = 2**20  # characters of such a text that are kept


class Watch:
    """Wall and CPU time of each result, without those of results that it had to wait for or to make on the way."""

    def __init__(self) -> None:
        self._elsewhere = [0.0, 0.0]

    @contextmanager
    def away(self) -> Iterator[None]:
        """What is inside counts for nobody outside."""
        before, start = list(self._elsewhere), _now()
        try:
            yield
        finally:
            self._elsewhere = [b + now - then for b, now, then in zip(before, _now(), start, strict=True)]

    def begin(self) -> tuple[list[float], list[float]]:
        return list(self._elsewhere), _now()

    def own(self, begun: tuple[list[float], list[float]]) -> list[float]:
        """Seconds of wall and CPU since :meth:`begin`."""
        elsewhere, start = begun
        there = [now - then for now, then in zip(self._elsewhere, elsewhere, strict=True)]
        return [now - then - t for now, then, t in zip(_now(), start, there, strict=True)]


def _now() -> list[float]:
    return [time.monotonic(), time.process_time()]


def write_made(folder: Path, cache: Path, wall: float, cpu: float) -> None:
    """Write ``made.json`` into a result's folder, and what the code has that was not committed into the cache.

    Args:
        wall, cpu: seconds; the process may have served other trials with the CPU (``--fuse``).
    """
    content = {"when": datetime.now(UTC).isoformat(timespec="seconds")}
    content |= {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3)} | device()
    write_json(folder / MADE, content | machine() | {"code": code(cache), "versions": versions()})


def device() -> dict[str, Any]:
    """What PyTorch works on in this process, and with how many threads; nothing is loaded for it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {"device": "cpu", "threads": None}
    gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {"device": torch.cuda.get_device_name() if gpu else "cpu", "threads": torch.get_num_threads()}


@lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """The kind of machine."""
    return {"machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()}}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a processor that has no such line
        return platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Of Python, of the packages that CnD names, and of those that bring parts of their own."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # not installed, only found on the path
        lines = ["torch", "torchvision", "timm", "diffusers", "safetensors", "numpy", "scipy", "pandas", "scikit-learn"]
    names = [re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in lines if "extra ==" not in line]
    points = [point for group in BUILT_IN for point in importlib.metadata.entry_points(group=group)]
    theirs = {point.dist.name for point in points if point.dist is not None}
    found = {"python": platform.python_version()}
    for name in [*sorted(names, key=str.lower), *sorted(theirs)]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # one that is named for other systems
            continue
    return found


def code(cache: Path) -> dict[str, Any]:
    """Hash and commit of what runs here, and the name of the file below the cache with what was not committed."""
    found = origin()
    text = _changes(found.folder) if found.commit and not found.commit.isalnum() else ""
    if not text:
        return {"hash": found.code, "commit": found.commit, "changes": None}
    path = cache / CHANGES / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.diff"
    if not path.is_file():
        write_text(path, text)
    return {"hash": found.code, "commit": found.commit, "changes": path.relative_to(cache).as_posix()}


@lru_cache(maxsize=4)
def _changes(package: str) -> str:
    """Found once in a process: what is edited later does not run here."""
    text = changes(Path(package))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n... cut after {LONGEST} characters\n"
