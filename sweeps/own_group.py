"""Processes that outlive a signal to the command's group: Ray's, which the command ends itself, in order."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def own_group() -> Iterator[None]:
    """Whatever is started meanwhile gets a process group of its own.

    Slurm's scancel, a closed terminal and ``kill -TERM -GROUP`` send a signal to all processes of a group at once. Ray
    ends the command within its own C++, exit code 1 and nothing written, when its raylet is the first to go.
    """
    start = subprocess.Popen.__init__

    def apart(self: Any, *args: Any, **more: Any) -> None:
        start(self, *args, **{"process_group": 0} | more)

    subprocess.Popen.__init__ = apart  # type: ignore[method-assign]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = start  # type: ignore[method-assign]
