"""How long trials will take, what that is judged by, and how wrong it was."""

from __future__ import annotations

from typing import NamedTuple

from cnd.experiment import Experiment
from cnd.store.folder import SweepFolder


class PerTrial(NamedTuple):
    """What a trial takes, in seconds, and where that is known from."""

    seconds: float
    source: str


def per_trial(folder: SweepFolder, base: Experiment) -> PerTrial:
    """The mean of the trials that this sweep ran here; else of those of other sweeps of the same experiment in the
    output folder; else the experiment's own figure, ``minutes_per_trial``.
    """
    if own := folder.durations():
        return PerTrial(sum(own) / len(own), f"{_trials(own)} of this sweep")
    siblings = [SweepFolder(folder.output, path.name) for path in sorted(folder.path.parent.glob("*/"))]
    others = [s for other in siblings if other.experiment() == base.name for s in other.durations()]
    if others:
        return PerTrial(sum(others) / len(others), f"{_trials(others)} of other sweeps of {base.name} in this folder")
    return PerTrial(60 * base.minutes_per_trial, "minutes_per_trial of the experiment, no trial having run here")


def told(took: float, expected: float) -> str:
    """What became of a forecast, both in minutes."""
    off = f", {100 * (expected / took - 1):+.0f} %" if took > 0 else ""
    return f"it took {took:.1f} minutes; the forecast was {expected:.1f}{off}"


def _trials(seconds: list[float]) -> str:
    return f"{len(seconds)} trial{'' if len(seconds) == 1 else 's'}"
