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
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cnd.statistics.checks import per_item
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
    pairs = list(combinations(range(len(first)), 2))
    found = np.zeros(len(first), dtype=bool)
    if not pairs:
        return found
    p = holm([_p_of_change(first[i] - first[j], second[i] - second[j], units) for i, j in pairs])
    for (i, j), value in zip(pairs, p, strict=True):
        was, now = (first[i] - first[j]).mean(), (second[i] - second[j]).mean()
        if was * now < 0 and abs(now - was) > tolerance and value <= 1 - LEVEL:
            found[[i, j]] = True
    return found


def _p_of_change(was: NDArray[np.float64], now: NDArray[np.float64], units: ArrayLike) -> float:
    """Two-sided p of a t test on the changes of a difference, cluster-robust; 1 where nothing is known."""
    sums, sizes = by_unit(now - was, units)
    mean, error, _ = clustered_mean(sums, sizes, LEVEL)
    if not np.isfinite(error):
        return 1.0
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / error, len(sums) - 1))
