"""Work that is done in order, in a thread of its own that does not keep the process alive."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Background:
    """Calls functions one after the other; each must deal with its own errors."""

    def __init__(self, name: str) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def do(self, work: Callable[[], None]) -> None:
        """Put it behind all that waits."""
        self._waiting.put(work)

    def wait(self, seconds: float | None = None) -> bool:
        """Until all that waits is done, or some time; whether it is done."""
        done = threading.Event()
        self.do(done.set)
        return done.wait(seconds)

    def _work(self) -> None:
        while True:
            self._waiting.get()()
