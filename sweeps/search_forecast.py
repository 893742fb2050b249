"""What a search will cost: which steps its trials can share, and minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cnd.experiment import Experiment, override
from reports.scale import titles
from sweeps.forecast import per_trial
from sweeps.search_request import SearchRequest
from sweeps.space import Search


def n_done(request: SearchRequest) -> int:
    """Trials that have ended, without loading Optuna where there is nothing to read."""
    if not request.folder.exists():
        return 0
    return sum(outcome.state != "open" for outcome in request.known())


def expected_seconds(request: SearchRequest) -> float:
    """Of a trial (:func:`sweeps.forecast.per_trial`)."""
    return per_trial(request.folder, request.base).seconds


def trial_minutes(request: SearchRequest, done: int) -> float:
    """Until the trials that are left have run, without the final comparison."""
    left = max(0, request.search.trials - done) * request.search.seeds
    return left * expected_seconds(request) / 60 / request.concurrency()


def final_minutes(request: SearchRequest) -> float:
    """Of the final comparison."""
    final = request.search.final
    return (final.best + 1) * final.seeds * expected_seconds(request) / 60 / request.concurrency()


def moved_by(search: Search, base: Experiment, steps: Callable[..., Iterable[Any]]) -> dict[str, list[str]]:
    """Settings of the space that each kept step depends on, by its name: trials that agree in them share it.

    Args:
        base: of the trials, on validation data.
        steps: of an experiment, such as :func:`cnd.workflow.run.steps`.
    """
    found: dict[str, list[str]] = {}
    for key in search.space:
        one, other = (_keys(steps, override(base, edits, search.where(key))) for edits in search.ends(key)[:2])
        for name in dict.fromkeys([*one, *other]):
            found.setdefault(name, []).extend([key] if one.get(name) != other.get(name) else [])
    return found


def _keys(steps: Callable[..., Iterable[Any]], experiment: Experiment) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for step in steps(experiment, False, False):
        found[step.name] = (*found.get(step.name, ()), step.key)
    return found


def sharing(search: Search, moved: dict[str, list[str]]) -> list[str]:
    """The same in words, a line for each group of steps."""
    named, groups = titles(search.space), dict[tuple[str, ...], list[str]]()
    for step, settings in moved.items():
        groups.setdefault(tuple(settings), []).append(step)
    lines = []
    for agreed, found in groups.items():
        if not agreed:
            means = "once for all trials"
        elif len(agreed) == len(search.space):
            means = "each trial's own"
        else:
            means = f"shared by trials that agree in {', '.join(named[setting] for setting in agreed)}"
        lines.append(f"{', '.join(found)}: {means}")
    return lines
