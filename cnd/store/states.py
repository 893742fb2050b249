"""What a trial's file, the cache and MLflow say of the same trial, in each of its states."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

NO_RUN = ""


class State(NamedTuple):
    """What belongs to a state.

    Attributes:
        record: whether the result is in the cache.
        runs: statuses that its run in MLflow may have; the last one is what it is mended to.
    """

    record: bool
    runs: tuple[str, ...]


STATES = {
    "pending": State(False, (NO_RUN, "FAILED", "KILLED")),
    "interrupted": State(False, (NO_RUN, "KILLED")),
    "failed": State(False, (NO_RUN, "FAILED")),
    "pruned": State(False, (NO_RUN, "KILLED")),
    "complete": State(True, ("FINISHED",)),
}
"""Of a sweep that no command runs; where one does, its trials may also be ``running``."""


def of_sweep(states: Collection[str]) -> str:
    """Status of the sweep's own run in MLflow, by the states of its trials, when no command runs it."""
    if "failed" in states:
        return "FAILED"
    return "FINISHED" if set(states) <= {"complete", "pruned"} else "KILLED"
