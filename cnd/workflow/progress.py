"""What a running trial tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

TIMES = {"run": 1.0, "intervene": 0.15, "analyse": 1.5}
"""Expected times of what a trial consists of, relative to the first."""
CHECKPOINT, PERCENT = "validation_score", "validation_score_at"
"""Metrics told at a checkpoint of a training: the score of held-out training items, and the percent of it done."""


@dataclass(frozen=True)
class Progress:
    """Where a trial stands.

    Attributes:
        phase: ``data``, a phase of the decoder's, ``sample``, ``evaluate``, ``analysis`` or ``done``.
        fraction: done of the whole trial, 0..1.
    """

    phase: str
    fraction: float
    samples_seen: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


Listener = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """The listener of a run that nobody watches."""


@dataclass
class Clock:
    """Turns the progress of phases into that of a run.

    Attributes:
        shares: expected share of a fold's time by phase, in their order; sampling has the rest.
        done: folds that are finished.
    """

    shares: Mapping[str, float]
    n_folds: int
    done: int = 0

    def whole(self, phase: str, fraction: float) -> float:
        """Done of the whole run, when a phase of the current fold is done by ``fraction``."""
        begin = 0.0
        for name, share in [*self.shares.items(), ("sample", 1 - sum(self.shares.values()))]:
            if name == phase:
                return (self.done + begin + share * fraction) / self.n_folds
            begin += share
        return self.done / self.n_folds
