"""The table of trials while they run: redrawn on a terminal, one line a change elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

ORDER = {"running": 0, "failed": 1, "pending": 2, "pruned": 3, "complete": 4}
STYLE = {"running": "bold cyan", "failed": "bold red", "pending": "dim", "pruned": "yellow", "complete": "green"}


@dataclass
class BoardLine:
    """What the table knows of a trial."""

    name: str
    state: str = "pending"
    phase: str = ""
    fraction: float = 0.0
    loss: float | None = None
    score: str = ""
    error: str = ""
    began: float | None = None
    seconds: float | None = None

    def left(self, now: float) -> float | None:
        """Seconds until it is done, judged by its progress so far."""
        if self.state != "running" or self.began is None or self.fraction < 0.02:
            return None
        return (now - self.began) * (1 - self.fraction) / self.fraction


@dataclass
class Board:
    """Live table of trials; use as a context manager.

    Args:
        title: above the table.
        names: of the trials in the order in which they will run.
        concurrency: trials at once, for the time left.
        expected: seconds a trial is expected to take, until trials tell.
        more: how many trials besides ``names`` are still to come.
    """

    title: str
    names: Iterable[str]
    concurrency: int
    expected: float
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    more: int = 0

    def __post_init__(self) -> None:
        self.lines = {name: BoardLine(name) for name in self.names}
        self.began = time.monotonic()
        self._live: Live | None = None
        self._work: dict[str, float] = {}
        self._after = 0.0

    def expect(self, work: dict[str, float], after: float) -> None:
        """Args:
        work: of each trial with what follows it, in units of the trial alone; others are alone.
        after: seconds of what comes when all are done.
        """
        self._work, self._after = work, after

    def __enter__(self) -> Board:
        if self.stream.isatty() and (self.lines or self.more):
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self.stream)
            self._live = Live(
                get_renderable=lambda: self.table(console.size.height),
                console=console,
                refresh_per_second=2,
                redirect_stdout=False,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    # ---- what happens to a trial

    def add(self, name: str) -> None:
        """One of those that were still to come."""
        self.lines[name] = BoardLine(name)
        self.more = max(0, self.more - 1)

    def started(self, name: str) -> None:
        """A trial runs."""
        line = self.lines[name]
        line.state, line.phase, line.began = "running", "", time.monotonic()
        self._say(line)

    def progressed(self, name: str, phase: str, fraction: float, metrics: dict[str, float]) -> None:
        """A trial got on; ``metrics`` may hold losses and scores."""
        line = self.lines[name]
        changed, line.phase, line.fraction = phase != line.phase, phase, fraction
        losses = [value for key, value in metrics.items() if key.rpartition("/")[2] == "loss"]
        line.loss = losses[-1] if losses else line.loss
        if changed and phase != "done":
            self._say(line)

    def finished(self, name: str, score: str, seconds: float, known: bool = False) -> None:
        """A trial is complete; ``score`` with its unit. ``known``: from an earlier run, which says nothing of time."""
        line = self.lines[name]
        line.state, line.phase, line.fraction, line.score = "complete", "", 1.0, score
        line.seconds = None if known else seconds
        self._say(line)

    def pruned(self, name: str, seconds: float) -> None:
        """A trial was stopped, because others were better."""
        line = self.lines[name]
        line.state, line.seconds = "pruned", seconds
        self._say(line)

    def set_back(self, name: str, why: str) -> None:
        """A trial did not end by itself and waits to be started once more."""
        line = self.lines[name]
        line.state, line.phase, line.fraction = "pending", why, 0.0
        self._say(line)

    def failed(self, name: str, error: str) -> None:
        """A trial ended with an error."""
        line = self.lines[name]
        line.state, line.error = "failed", error
        self._say(line)

    # ---- how it looks

    def left(self) -> float:
        """Seconds until all are done."""
        now = time.monotonic()
        done = [line.seconds for line in self.lines.values() if line.seconds is not None]
        typical = sum(done) / len(done) if done else self.expected
        running = [line for line in self.lines.values() if line.state == "running"]
        waiting = [line for line in self.lines.values() if line.state == "pending"]
        work = typical * (self.more + sum(self._work.get(line.name, 1.0) for line in waiting))
        for line in running:
            left = line.left(now)
            work += typical * self._work.get(line.name, 1.0) / 2 if left is None else left
        return work / max(1, min(self.concurrency, len(self.lines) + self.more)) + self._after

    def summary(self) -> str:
        """Counts and the time left, on one line."""
        states = [line.state for line in self.lines.values()]
        counts = [f"{states.count(state)} {state}" for state in reversed(ORDER) if state in states]
        if self.more or "running" in states or "pending" in states:
            counts.append(f"about {clock(self.left())} left")
        return f"{', '.join(counts)}, {clock(time.monotonic() - self.began)} elapsed"

    def table(self, height: int) -> Table:
        """The table as it is now, at most ``height`` lines: what runs and what failed has precedence."""
        from rich.table import Table
        from rich.text import Text

        room = max(3, height - 7)
        shown = list(self.lines.values())
        if len(shown) > room:
            chosen = {line.name for line in sorted(shown, key=lambda line: ORDER[line.state])[:room]}
            shown = [line for line in shown if line.name in chosen]
        table = Table(title=self.title, caption=self.summary(), title_justify="left", caption_justify="left")
        for heading in ("trial", "state", "phase"):
            table.add_column(heading, no_wrap=True)
        for heading in ("done", "loss", "score", "time left"):
            table.add_column(heading, justify="right", no_wrap=True)
        now = time.monotonic()
        for line in shown:
            where = Text(line.error or line.phase, overflow="ellipsis")
            table.add_row(line.name, Text(line.state, STYLE[line.state]), where, *_numbers(line, now))
        return table

    def _say(self, line: BoardLine) -> None:
        if self._live is None:
            parts: list[Any] = [line.name, line.state, line.error or line.phase]
            if line.state == "complete":
                parts += [line.score, "known" if line.seconds is None else f"in {clock(line.seconds)}"]
            told = "  ".join(part for part in parts if part)
            print(f"[{clock(time.monotonic() - self.began)}] {told}", file=self.stream, flush=True)


def _numbers(line: BoardLine, now: float) -> tuple[str, str, str, str]:
    left = line.left(now)
    return (
        f"{100 * line.fraction:.0f} %" if line.state in ("running", "complete") else "",
        f"{line.loss:.3f}" if line.loss is not None else "",
        line.score,
        clock(left) if left is not None else "",
    )


def clock(seconds: float) -> str:
    """``75`` to ``1:15``, ``3700`` to ``1:01:40``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
