"""How far a run in this process is, on stderr: a bar with the time left in a terminal or a notebook, else lines."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from cnd.workflow.progress import Listener, Progress, ignore

STEP = 0.25  # of the run, after which a line is due within a phase


@contextlib.contextmanager
def watching(name: str, quiet: bool = False) -> Iterator[Listener]:
    """Who is to be told of a run's progress.

    Args:
        name: of the experiment.
        quiet: show nothing.
    """
    if quiet:
        yield ignore
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield _Lines(name)
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda told: bar.update(task, completed=told.fraction, description=f"{name}: {told.phase}")


class _Lines:
    """A line where a phase begins, and now and then within one."""

    def __init__(self, name: str) -> None:
        self.name, self.began, self.phase, self.next = name, time.monotonic(), "", 0.0

    def __call__(self, told: Progress) -> None:
        if told.phase == self.phase and told.fraction < self.next:
            return
        self.phase, self.next = told.phase, told.fraction + STEP
        passed = time.monotonic() - self.began
        left = f", about {passed / told.fraction - passed:.0f} s left" if 0.05 < told.fraction < 1 else ""
        print(f"{self.name}: {told.phase}  {100 * told.fraction:.0f} %{left}", file=sys.stderr, flush=True)
