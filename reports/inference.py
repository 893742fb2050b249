"""What the scores of two rows say about the methods behind them: other test items and other trainings included."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnd import statistics
from reports.collect import Records

Runs = set[tuple[str, int]]  # (subject, seed)
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
    if row not in records.per_item.index or column not in records.per_item:
        return None
    own = records.per_item.loc[row]
    return crossed(own[column], own["category"], runs)


def crossed(scores: pd.Series, category: pd.Series, runs: Runs) -> Crossed | None:
    """Scores where every item, seed and subject is there; None where nothing is.

    Runs that were shown no common stimulus are taken together by the place of each in its own test set: nobody knows
    then what a stimulus as such contributes, and it counts as noise of the run.

    Args:
        scores: indexed by subject, seed and item.
        category: of the same index, at least.
    """
    subjects, seeds = _complete_grid(runs)
    if not subjects:
        return None
    places = [(seed, subject) for seed in seeds for subject in subjects]
    wide = scores.unstack(["seed", "subject"]).reindex(columns=places)
    complete = wide.dropna()
    if complete.empty and len(places) > 1:
        alone = [wide[place].dropna() for place in places]
        n = min(map(len, alone))
        complete = pd.concat([own.head(n).set_axis(alone[0].index[:n]) for own in alone], axis=1, keys=places)
    if complete.empty:
        return None
    categories = category.groupby("item").first()[complete.index].to_numpy()
    values = complete.to_numpy().reshape(len(complete), len(seeds), len(subjects))
    items = complete.index.to_numpy()
    return Crossed(values, statistics.sampling_units(categories, items), items, seeds)


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
