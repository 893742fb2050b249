"""Several runs at once in one process, with one frozen generator between them (:mod:`cnd.generators.shared`)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnd.experiment import Experiment
from cnd.generators.shared import Meeting, Seat
from cnd.json_files import read_json, write_json
from cnd.protocols import Generator, GeneratorChoice
from cnd.steps import Step
from cnd.workflow.bench import Workbench
from cnd.workflow.cache import StageCache
from cnd.workflow.progress import Clock, Listener, Progress
from cnd.workflow.run import run_on

INFO = "info.json"


class SharingBench(Workbench):
    """A workbench whose generators are shared with the others of a meeting.

    Args:
        loaded: generators by their settings, one mapping for all.
    """

    def __init__(
        self,
        cache: StageCache,
        listener: Listener,
        clock: Clock,
        seat: Seat,
        n_together: int,
        loaded: dict[GeneratorChoice, Generator],
    ) -> None:
        super().__init__(cache, listener, clock)
        self.seat, self.n_together, self.loaded = seat, n_together, loaded

    def generator(self, choice: GeneratorChoice) -> Generator:
        """The frozen generator, loaded once for all, with this run's own way into it."""
        if choice not in self._parts:
            if choice not in self.loaded:
                self.loaded[choice] = choice.load()
            self._parts[choice] = self.seat.share(self.loaded[choice])
        shared: Generator = self._parts[choice]
        return shared

    def make(self, step: Step, folder: Path) -> None:
        """As always; where the UNet ran for several, which moves last digits, the step's facts say so."""
        before = self.seat.runs
        super().make(step, folder)
        if self.seat.runs > before and (folder / INFO).is_file():
            write_json(folder / INFO, read_json(folder / INFO) | {"fused": self.n_together})


def run_together(
    experiments: Mapping[str, Experiment], cache: StageCache
) -> Iterator[tuple[str, Progress | Path | Exception]]:
    """Do what is missing of several experiments, whose steps of Phase 2 and later must be different ones.

    Yields:
        name of an experiment with its progress, and last with its record folder or what went wrong; an error of one
        stops no other.
    """
    told: queue.SimpleQueue[tuple[str, Progress | Path | Exception]] = queue.SimpleQueue()
    meeting, loaded = Meeting(present=len(experiments)), dict[GeneratorChoice, Generator]()

    def work(name: str, experiment: Experiment, number: int) -> None:
        with meeting.attend():
            try:
                clock = Clock(experiment.decoder.shares, len(list(experiment.data.folds())))
                listener: Listener = lambda progress: told.put((name, progress))  # noqa: E731
                bench = SharingBench(cache, listener, clock, Seat(meeting, number), len(experiments), loaded)
                told.put((name, run_on(bench, experiment)))
            except Exception as error:
                told.put((name, error))

    for number, (name, experiment) in enumerate(experiments.items()):
        threading.Thread(target=work, args=(name, experiment, number), name=name, daemon=True).start()
    running = len(experiments)
    while running:
        name, event = told.get()
        running -= not isinstance(event, Progress)
        yield name, event


def together(experiment: Experiment) -> Any | None:
    """What experiments must have in common to run together; None: this one runs alone."""
    common = experiment.decoder.fused_with() if experiment.decoder.uses_generator else None
    return None if common is None else (experiment.generator, common)
