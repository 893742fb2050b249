"""What the scores of two rows say about the methods behind them: other test items and other trainings included."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnd import statistics
from reports.collect import Records

Runs = set[tuple[str, int]]  # (subject, seed)
Scored = tuple[NDArray[np.int64], NDArray[np.float64]]  # numbers of items, rising, and a score of each
Labels = tuple[NDArray[np.int64], NDArray[Any]]  # the same with the category of each
NAN = float("nan")


class Crossed(NamedTuple):
    """Scores at complete items, seeds and subjects.

    Attributes:
        values: [n_items, n_seeds, n_subjects], means over samples.
        units: [n_items] the independent unit of each.
        items: [n_items] number of each stimulus, see :attr:`reports.collect.Records.numbered`.
        seeds: [n_seeds].
    """

    values: NDArray[np.float64]
    units: NDArray[Any]
    items: NDArray[np.int64]
    seeds: list[int]


def finished_runs(records: Records, row: str) -> Runs:
    """Subjects and seeds that a row has finished."""
    return {(trial.subject or "", trial.seed) for trial in records.of(row) if trial.folder is not None}


def crossed_scores(records: Records, row: str, column: str, runs: Runs | None = None) -> Crossed | None:
    """The scores of one row where every item, seed and subject is there; None where nothing is.

    Args:
        column: of ``records.per_item``: a metric, or the best of its samples.
        runs: take these only; None takes all that are finished.
    """
    runs = finished_runs(records, row) if runs is None else runs
    if row not in records.runs_of or column not in records.per_item:
        return None
    return crossed(by_run(records, row, column), categories(records, row), runs)


def by_run(records: Records, row: str, column: str) -> dict[tuple[str, int], Scored]:
    """A column of ``records.per_item`` for each run of a row, NaN where nothing is known."""
    items, values = records.items_by_line, records.per_item[column].to_numpy(dtype=np.float64)
    return {run: (items[lines], values[lines]) for run, lines in records.runs_of[row].items()}


def categories(records: Records, row: str) -> Labels:
    """The items of a row, rising, and the category of each: that of the first run which has it."""
    items, labels, runs = records.items_by_line, records.per_item["category"].to_numpy(), records.runs_of[row].values()
    found, first = np.unique(np.concatenate([items[lines] for lines in runs]), return_index=True)
    return found, np.concatenate([labels[lines] for lines in runs])[first]


def crossed(scores: Mapping[tuple[str, int], Scored], category: Labels, runs: Runs) -> Crossed | None:
    """Scores where every item, seed and subject is there; None where nothing is.

    Runs that were shown no common stimulus are taken together by the place of each in its own test set: nobody knows
    then what a stimulus as such contributes, and it counts as noise of the run.

    Args:
        scores: of each (subject, seed).
        category: of all items.
    """
    subjects, seeds = _complete_grid(runs)
    if not subjects:
        return None
    none: Scored = (np.zeros(0, dtype=np.int64), np.zeros(0))
    known = [_defined(*scores.get((subject, seed), none)) for seed in seeds for subject in subjects]
    items, together = known[0][0], True
    if not all(np.array_equal(items, own) for own, _ in known[1:]):
        items = reduce(np.intersect1d, (own for own, _ in known))
        if not len(items):
            n = min(len(own) for own, _ in known)
            items, known = known[0][0][:n], [(known[0][0][:n], values[:n]) for _, values in known]
            together = False
    if not len(items):
        return None
    whole = np.stack([values[np.searchsorted(own, items)] for own, values in known], axis=1)  # [item, run]
    if not together:  # a layout by which sums are to the last digit what they always were
        whole = np.asfortranarray(whole)
    values = whole.reshape(len(items), len(seeds), len(subjects))
    labels = category[1][np.searchsorted(category[0], items)]
    return Crossed(values, statistics.sampling_units(labels, items), items, seeds)


def _defined(items: NDArray[np.int64], values: NDArray[np.float64]) -> Scored:
    there = ~np.isnan(values)
    return (items, values) if there.all() else (items[there], values[there])


def _complete_grid(runs: Runs) -> tuple[list[str], list[int]]:
    """The largest set of subjects that share seeds, with these; among equal ones that with the most seeds."""
    seeds_of = {subject: {seed for s, seed in runs if s == subject} for subject, _ in runs}
    best: tuple[list[str], list[int]] = [], []
    for fewest in sorted({len(seeds) for seeds in seeds_of.values()}):
        subjects = sorted(subject for subject, seeds in seeds_of.items() if len(seeds) >= fewest)
        shared = sorted(set.intersection(*(seeds_of[subject] for subject in subjects)))
        if shared and len(subjects) * len(shared) >= len(best[0]) * len(best[1]):
            best = subjects, shared
    return best


def difference_line(found: Crossed, bounds: tuple[float, float], better: int, margin: float) -> dict[str, Any]:
    """Everything about one row's difference from the reference but what depends on the other rows.

    Args:
        bounds: of the metric.
        better: 1 where a higher score is better, else -1.
        margin: within which two rows count as equivalent.
    """
    d = statistics.crossed_mean(found.values, found.units)
    widest = bounds[1] - bounds[0]
    line: dict[str, Any] = {
        "difference": d.estimate,
        "low": max(d.low, -widest),
        "high": min(d.high, widest),
    }  # NaN stays
    line |= {"error": d.error.standard, "freedom": d.error.freedom() if d.n_units > 1 else NAN, "n_units": d.n_units}
    line |= {"n_seeds": d.n_seeds, "detectable": d.detectable, "crossed": d}
    equivalent = statistics.equivalence_p(d, margin)
    line |= {"p": NAN if d.p_value is None else d.p_value, "p_equivalent": NAN if equivalent is None else equivalent}
    improved = statistics.probability_of_improvement(better * found.values.mean(axis=2))
    names = ("improved", "improved_low", "improved_high")
    limits = (improved.estimate, improved.low, improved.high) if improved else (NAN,) * 3
    return line | dict(zip(names, limits, strict=True))
