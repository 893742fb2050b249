"""Whether a training was long enough, by a curve of scores of the same items at several checkpoints.

The rule. A curve is taken at its end and at the last checkpoint at or before three quarters of its samples, to one
hundredth: the last batch of an epoch may be smaller, so that three quarters of the steps are not quite those of the
samples.

- It **still rises** when the mean score rose by more than ``TOLERANCE`` in between *and* by more than its noise: above
  the one-sided 5 % limit of a t test on the paired differences of the items, with categories as the sampling unit.
  A flat curve, however noisy, is therefore called rising in at most 5 % of cases; a rise smaller than the noise goes
  unseen, so the standard error stands beside every verdict.
- Two rows **still change places** when their order at the end is the opposite of that at three quarters *and* their
  difference changed by more than ``TOLERANCE`` and by more than its noise: two-sided t test on the paired changes of
  the items, Holm's correction over all pairs of rows. Rows that score alike swap by chance; such swaps do not count.

A row has converged when it neither rises nor changes places, and what it learned shows: a curve that is flat at chance
(its end not above chance by a one-sided t test at 5 %) tells nothing. Scores of several seeds are pooled before: each
of their items is an item, a category is one unit whichever seed held it out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cnd.statistics.checks import FloatArray, per_item
from cnd.statistics.intervals import clustered_mean
from cnd.statistics.multiplicity import holm
from cnd.statistics.units import by_unit

TOLERANCE = 0.02
"""Rise of the score over the last quarter of a training that counts as none: 2 points of accuracy."""

LEVEL = 0.95
SLACK = 0.01  # of a training, by which a checkpoint may lie after its three quarters


@dataclass(frozen=True)
class Rise:
    """Change of the mean score over the last quarter of a training; the error is NaN for a single unit."""

    estimate: float
    standard_error: float
    n_units: int
    still_rising: bool


def last_quarter(samples_seen: Iterable[int]) -> tuple[int, int] | None:
    """The checkpoint at or before three quarters of a training, and its end; None where there are not both."""
    seen = sorted(set(samples_seen))
    before = [at for at in seen if at <= (0.75 + SLACK) * seen[-1]]
    return (before[-1], seen[-1]) if before else None


def rise(before: ArrayLike, after: ArrayLike, units: ArrayLike, tolerance: float = TOLERANCE) -> Rise:
    """Change from ``before`` to ``after``, and whether it is a rise by the rule above.

    Args:
        before: [n_items], scores at three quarters of the training; higher is better.
        after: the same items at its end.
        units: [n_items] label of each item's independent unit.

    Raises:
        ValueError: wrong shapes, NaN or infinity, or no scores.
    """
    first, second = per_item("scores before", before), per_item("scores after", after)
    if first.shape != second.shape:
        raise ValueError(f"before has the shape {first.shape} and after {second.shape}: they must be the same items")
    mean, error, half = clustered_mean(*by_unit(second - first, units), 2 * LEVEL - 1)  # one-sided
    n_units = len(np.unique(np.asarray(units)))
    return Rise(mean, error, n_units, mean > tolerance and not mean <= half)


def above(scores: ArrayLike, units: ArrayLike, level: float) -> bool:
    """Whether the mean of the scores [n_items] lies above ``level``: one-sided t test at 5 %, by units."""
    mean, _, half = clustered_mean(*by_unit(per_item("scores", scores) - level, units), 2 * LEVEL - 1)
    return mean > 0 and not mean <= half


def changing_places(
    before: ArrayLike, after: ArrayLike, units: ArrayLike, tolerance: float = TOLERANCE
) -> NDArray[np.bool_]:
    """Which rows still change places with another, by the rule above, [n_rows].

    Args:
        before: [n_rows, n_items], scores at three quarters of each row's training.
        after: the same at its end.
        units: [n_items] label of each item's independent unit.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    n_rows = len(first)
    found = np.zeros(n_rows, dtype=bool)
    if n_rows < 2:
        return found
    swapped, p = [], []
    for row in range(n_rows - 1):  # against all rows after it
        was, now = first[row] - first[row + 1 :], second[row] - second[row + 1 :]
        means = was.mean(axis=1), now.mean(axis=1)
        swapped.append((means[0] * means[1] < 0) & (np.abs(means[1] - means[0]) > tolerance))
        p.append(_p_of_changes(now - was, units))
    change = np.concatenate(swapped) & (holm(np.concatenate(p)) <= 1 - LEVEL)
    one, other = np.triu_indices(n_rows, 1)
    found[one[change]] = found[other[change]] = True
    return found


def _p_of_changes(changes: FloatArray, units: ArrayLike) -> FloatArray:
    """Two-sided p of t tests on the changes of differences, [n_pairs]; 1 where nothing is known.

    Mean and error are those of :func:`clustered_mean`, of all pairs at once.

    Args:
        changes: [n_pairs, n_items].
        units: [n_items] label of each item's unit.
    """
    sums, sizes = by_unit(changes.T, units)
    n_units, by_pair = len(sums), np.ascontiguousarray(sums.T)
    if n_units < 2:
        return np.ones(len(changes))
    mean = by_pair.sum(axis=1) / sizes.sum()
    residuals = by_pair - sizes * mean[:, None]
    error = np.sqrt(n_units / (n_units - 1) * (residuals**2).sum(axis=1)) / sizes.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        p: FloatArray = 2 * stats.t.sf(np.abs(mean) / error, n_units - 1)
    return np.where(error == 0, np.where(mean == 0, 1.0, 0.0), p)
