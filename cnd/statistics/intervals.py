"""Intervals of a mean score from cluster-robust variance: between finite bounds for skewed scores, else t."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from cnd.statistics.bounded import bounded_limits
from cnd.statistics.checks import FloatArray, per_item, probability
from cnd.statistics.units import by_unit, item_means

ROUNDING = 1e-12  # relative to the bounds: so close to a bound, a score counts as that bound
DIGITS = 12  # of a score scaled to 0 to 1: units that differ by less have the same score


@dataclass(frozen=True)
class Interval:
    """An estimate, its confidence limits and how many independent units stand behind it.

    The limits are NaN where a single unit gives no measure of spread.
    """

    estimate: float
    low: float
    high: float
    n_units: int


def mean_interval(
    scores: ArrayLike, units: ArrayLike, level: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """Interval of a mean score from cluster-robust variance (CR1), within the range that scores can have.

    The estimate is the plain mean over items. Between finite bounds the limits are those of
    :mod:`cnd.statistics.bounded`: they hold for scores as skewed as n-way accuracies at chance and are close to t for
    others. If every score sits at the same bound, nothing but their number is known: the limits are then
    Clopper-Pearson's for that many units, scaled to the bounds. Where a bound is infinite the limits are those of t
    (for units of equal size the textbook ones of the unit means), cut at the other bound.

    Args:
        scores: [n_items] or [n_items, ...] within the bounds; further axes (samples, seeds) are averaged first.
        units: [n_items] label of each item's independent unit.
        level: confidence level.
        bounds: lowest and highest possible score; either may be infinite.

    Raises:
        ValueError: wrong shapes, NaN or infinity, scores outside the bounds, no scores, or no range between the bounds.
    """
    means = _bounded_means(scores, bounds)
    sums, sizes = by_unit(means, units)
    mean, error, _ = clustered_mean(sums, sizes, level)
    low, high = limits(sums, sizes, error, len(sums) - 1, level, bounds)
    return Interval(mean, low, high, len(sums))


def limits(
    sums: FloatArray, sizes: FloatArray, error: float, freedom: float, level: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    """Confidence limits of the mean over items by the rule of :func:`mean_interval`; NaN for a single unit.

    Args:
        sums: [n_units] sum of the scores of each unit, within the bounds.
        sizes: [n_units] number of its items.
        error: standard error of the mean.
        freedom: its degrees of freedom.
        level: confidence level.
        bounds: lowest and highest possible score; either may be infinite.
    """
    lowest, highest = bounds
    if not np.isfinite(bounds).all():
        mean, half = float(sums.sum() / sizes.sum()), float(stats.t.ppf((1 + level) / 2, freedom)) * error
        low, high = mean - half, mean + half
        return (low, high) if np.isnan(half) else (max(low, lowest), min(high, highest))
    means = np.clip((sums / sizes - lowest) / (highest - lowest), 0, 1).round(DIGITS)
    if means[0] in (0, 1) and (means == means[0]).all():
        shares = clopper_pearson(len(sums) if means[0] else 0, len(sums), level)
    elif len(sums) < 2:
        return float("nan"), float("nan")
    else:
        shares = bounded_limits(means, sizes, error / (highest - lowest), freedom, level)
    low, high = (float(lowest * (1 - share) + highest * share) for share in shares)
    return low, high


def _bounded_means(scores: ArrayLike, bounds: tuple[float, float]) -> FloatArray:
    """Mean of each item, [n_items]; at a bound without rounding error."""
    values = per_item("scores", scores)
    slack = within(values, bounds)
    means = item_means(values)
    for bound in bounds:
        means[np.abs(means - bound) <= slack] = bound
    return means


def within(scores: FloatArray, bounds: tuple[float, float]) -> float:
    """How far rounding may carry a score beyond a bound.

    Raises:
        ValueError: a score farther beyond, or no range between the bounds.
    """
    lowest, highest = bounds
    if not lowest < highest:
        raise ValueError(f"bounds must be the lowest and the highest possible score, not {lowest:g} and {highest:g}")
    slack = ROUNDING * max((abs(bound) for bound in bounds if np.isfinite(bound)), default=0.0)
    if (scores < lowest - slack).any() or (scores > highest + slack).any():
        found = f"found {scores.min()} to {scores.max()}"
        raise ValueError(f"scores must lie between {lowest:g} and {highest:g}; {found}")
    return slack


def clustered_mean(sums: FloatArray, sizes: FloatArray, level: float) -> tuple[float, float, float]:
    """Mean over items, its cluster-robust standard error and the half-width of its t interval.

    The error has the G / (G - 1) correction (CR1). It and the half-width are NaN for a single unit.

    Args:
        sums: [n_units] sum of the scores of each unit.
        sizes: [n_units] number of its items.
        level: confidence level.

    Raises:
        ValueError: a level that is no probability.
    """
    probability("level", level)
    n, mean = len(sums), float(sums.sum() / sizes.sum())
    if n < 2:
        return mean, float("nan"), float("nan")
    residuals = sums - sizes * mean
    error = float(np.sqrt(n / (n - 1) * (residuals**2).sum()) / sizes.sum())
    return mean, error, float(stats.t.ppf((1 + level) / 2, n - 1)) * error


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact limits of a proportion from ``successes`` of ``n`` independent yes-or-no outcomes.

    Raises:
        ValueError: not 0 <= successes <= n, no finite n of at least 1, or a level that is no probability.
    """
    if not 0 <= successes <= n < np.inf or n < 1:
        raise ValueError(f"{successes} successes of {n}: expected 0 <= successes <= n and n >= 1")
    tail = (1 - probability("level", level)) / 2
    low = stats.beta.ppf(tail, successes, n - successes + 1) if successes > 0 else 0.0
    high = stats.beta.ppf(1 - tail, successes + 1, n - successes) if successes < n else 1.0
    return float(low), float(high)
