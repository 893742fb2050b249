"""Where trials come from: a table that is known beforehand, or a search that decides by earlier scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sweeps.trials import Trial


class Proposer(Protocol):
    """Gives trials one after the other, and is told how each ended."""

    def planned(self) -> Sequence[Trial]:
        """The trials that are known beforehand, in running order."""
        ...

    def ask(self) -> Trial | None:
        """The next trial; None: none now. It is asked again when a trial has ended."""
        ...

    def tell(self, trial: Trial, scores: tuple[float, ...] | None) -> None:
        """A trial ended.

        Args:
            scores: its validation scores, one an objective; None: it failed, or was stopped.
        """
        ...

    def stops(self, trial: Trial, percent: int, score: float) -> bool:
        """Whether a running trial is to be stopped.

        Args:
            percent: done of its training.
            score: of held-out training items there.
        """
        ...


class Table:
    """Trials known beforehand."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = list(trials)
        self._left = iter(self.trials)

    def planned(self) -> Sequence[Trial]:
        return self.trials

    def ask(self) -> Trial | None:
        return next(self._left, None)

    def tell(self, trial: Trial, scores: tuple[float, ...] | None) -> None:
        """A table asks for all of its trials, whatever they score."""

    def stops(self, trial: Trial, percent: int, score: float) -> bool:
        return False
