"""Which trial begins next: one that would only wait for a training under way holds no slot meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cnd.workflow.cache import StageCache
from sweeps.trials import Trial

SHARED = ("pretrain", "phase1")
"""Stages that several trials share and that take long; of each, the first must be there for a trial to get on."""


class Turns:
    """Groups of trials in running order, which let others go first while their first training is made by a trial.

    Of cross-validated data only the first fold counts: for the others, trials take turns in building and waiting.
    """

    def __init__(self, groups: Sequence[Sequence[Trial]], cache: StageCache) -> None:
        self._left = [list(group) for group in groups]
        self._under_way: dict[str, Trial] = {}
        self._cache = cache

    def next(self) -> list[Trial] | None:
        """The first group that need not wait; None: none is left, or each waits for a trial that is under way."""
        busy = {stage for stage in first_shared(self._under_way.values()) if not self._cache.has(*stage)}
        for place, group in enumerate(self._left):
            if busy.isdisjoint(first_shared(group)):
                del self._left[place]
                self._under_way |= {trial.name: trial for trial in group}
                return group
        return None

    def ended(self, name: str) -> None:
        """A trial is no longer under way, however it ended."""
        self._under_way.pop(name, None)


def first_shared(trials: Iterable[Trial]) -> set[tuple[str, str]]:
    """Name and key of the first of each of these stages."""
    return {(stage, key) for trial in trials for stage in SHARED for key in trial.keys(stage)[:1]}
