"""Where steps are made: results are looked up in the cache, made where they are missing, and loaded once."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.errors import UserError
from cnd.protocols import Generator, GeneratorChoice, Judge, JudgeChoice
from cnd.steps import Step
from cnd.workflow.cache import StageCache
from cnd.workflow.made import Watch, write_made
from cnd.workflow.progress import Clock, Listener, Progress, ignore

if TYPE_CHECKING:
    import torch

IN_MEMORY = 6  # results of steps held at a time: those of one fold


class Workbench:
    """Makes steps over one cache (:class:`cnd.protocols.Bench`).

    Args:
        recorded: keys of earlier results that stand for today's, by (name, today's key).
        fixed: names of steps that must not be made anew.
    """

    scratch: Path

    def __init__(
        self,
        cache: StageCache,
        listener: Listener = ignore,
        clock: Clock | None = None,
        recorded: dict[tuple[str, str], str] | None = None,
        fixed: frozenset[str] = frozenset(),
    ) -> None:
        self.cache, self.listener, self.clock = cache, listener, clock or Clock({}, 1)
        self.recorded, self.fixed = recorded or {}, fixed
        self._values: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._parts: dict[Any, Any] = {}
        self._watch = Watch()

    @property
    def device(self) -> torch.device:
        """A GPU where there is one."""
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def generator(self, choice: GeneratorChoice) -> Generator:
        """The frozen generator, loaded once."""
        loaded: Generator = self._part(choice)
        return loaded

    def judge(self, choice: JudgeChoice) -> Judge:
        """The classifier, loaded once."""
        loaded: Judge = self._part(choice)
        return loaded

    def _part(self, choice: Any) -> Any:
        if choice not in self._parts:
            self._parts[choice] = choice.load()
        return self._parts[choice]

    def report(
        self, phase: str, fraction: float, samples_seen: int = 0, metrics: dict[str, float] | None = None
    ) -> None:
        """Tell the listener how far the whole run is."""
        whole = self.clock.whole(phase, fraction)
        self.listener(Progress(phase, whole, samples_seen, metrics or {}))

    def value(self, step: Step) -> Any:
        """The result of a step, made if it is missing."""
        at = (step.name, step.key)
        if at in self._values:
            self._values.move_to_end(at)
            return self._values[at]
        if not step.kept:
            value = step.make(self, **step.arguments)
        elif step.load is None:
            return self.folder(step)
        else:
            value = step.load(self, self.folder(step), **step.arguments)
        self._values[at] = value
        while len(self._values) > IN_MEMORY:
            self._values.popitem(last=False)
        return value

    def folder(self, step: Step) -> Path:
        """The folder of a step's result, made if it is missing.

        Raises:
            UserError: it is gone, and must not be made anew.
        """
        key = self.recorded.get((step.name, step.key), step.key)
        if step.name in self.fixed or key != step.key:
            if (found := self.cache.find(step.name, key)) is None:
                path = self.cache.path(step.name, key)
                raise UserError(f"{path}: the result of an earlier step is gone; run the sweep again")
            return found

        def make(folder: Path) -> None:
            at = copy.copy(self)
            at.scratch = self.cache.scratch(step.name, key)
            begun = self._watch.begin()
            at.make(step, folder)
            write_made(folder, self.cache.root, *self._watch.own(begun))

        with self._watch.away():
            return self.cache.build(step.name, key, step.inputs, make)

    def make(self, step: Step, folder: Path) -> None:
        """Compute a step into an empty folder."""
        step.make(self, folder, **step.arguments)
