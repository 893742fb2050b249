"""SIGTERM and SIGHUP, which Slurm, Docker and a closed terminal send, end the command as Ctrl-C does."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Iterator
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGHUP)
_received: list[int] = []
_active = False


@contextlib.contextmanager
def as_interrupts() -> Iterator[None]:
    """Where it is entered in the main thread, the first such signal raises KeyboardInterrupt there.

    Further ones count for nothing, so that the command ends in order. A signal that was ignored, as by nohup, stays so.
    """
    global _active
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    _received.clear()
    _active = True
    take()
    try:
        yield
    finally:
        _active = False
        for number, handler in before.items():
            signal.signal(number, handler)


def take() -> None:
    """Handle them from here on: once more after ``ray.init``, which puts a handler of its own there."""
    if not _active:
        return
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def exit_code() -> int:
    """Of a command that was interrupted: 128 and the number of the signal, as shells have it."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def name() -> str:
    """What interrupted it."""
    return f"ended by {signal.Signals(_received[0]).name}" if _received else "interrupted"


def _interrupt(number: int, frame: Any) -> None:
    if _received:
        return
    _received.append(number)
    if number == signal.SIGHUP:
        _leave_the_terminal()
    raise KeyboardInterrupt


def _leave_the_terminal() -> None:
    """It may be gone: whatever is written there would be an error in the midst of ending."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)
