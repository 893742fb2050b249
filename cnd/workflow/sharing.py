"""A workbench of a run that shares the frozen generator with other runs of its process (``--fuse``)."""

from __future__ import annotations

from pathlib import Path

from cnd.generators.shared import Seat
from cnd.json_files import read_json, write_json
from cnd.protocols import Generator, GeneratorChoice
from cnd.steps import Step
from cnd.workflow.bench import Workbench
from cnd.workflow.cache import StageCache
from cnd.workflow.progress import Clock, Listener

INFO = "info.json"


class SharingBench(Workbench):
    """A workbench whose generators are shared with the others of a meeting.

    Args:
        loaded: generators by their settings, one mapping for all.
        own: names and keys of the steps that no other run has. Only while it makes one of these does this run wait for
            the others: they may need any other step, which is locked as long as it is made.
    """

    def __init__(
        self,
        cache: StageCache,
        listener: Listener,
        clock: Clock,
        seat: Seat,
        loaded: dict[GeneratorChoice, Generator],
        own: frozenset[tuple[str, str]],
    ) -> None:
        super().__init__(cache, listener, clock)
        self.seat, self.loaded, self.own = seat, loaded, own

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
        seat = self.seat
        outer, seat.meets = seat.meets, (step.name, step.key) in self.own
        before = seat.most_together
        seat.most_together = 1
        try:
            super().make(step, folder)
        finally:
            seat.meets = outer
        if seat.most_together > 1 and (folder / INFO).is_file():
            write_json(folder / INFO, read_json(folder / INFO) | {"fused": seat.most_together})
        seat.most_together = max(before, seat.most_together)
