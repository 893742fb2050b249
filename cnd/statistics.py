"""Intervals and tests for per-item scores, with the right sampling unit.

The images of one category, and the samples of one image, are not independent: with 50 test categories of 4 images
the sample size is 50. The unit is therefore the category; a data set with few categories (two kinds of digit) is
a sample of items, and there the unit is the item (:func:`sampling_units`).

Training seeds are a second source of variance. Scores of several seeds are averaged per item first, so an interval
answers "would other categories give the same?" for these trained models. It shrinks the noise of the seeds but
does not generalise over them; report the spread between seeds beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, optimize, stats

FloatArray = NDArray[np.float64]

FEWEST_CATEGORIES = 10  # below this, categories are too few to be the sampling unit
EXACT_UNITS = 14  # up to this many units every one of the 2^units sign flips is tried


@dataclass(frozen=True)
class Interval:
    """An estimate, its confidence limits and how many independent units stand behind it.

    The limits are NaN where a single unit gives no measure of spread.
    """

    estimate: float
    low: float
    high: float
    n_units: int


@dataclass(frozen=True)
class Difference(Interval):
    """Mean paired difference with its standard error and two-sided p-value."""

    standard_error: float
    p_value: float


def sampling_units(category: ArrayLike, item: ArrayLike) -> NDArray[Any]:
    """The label of each score's independent unit: its category if there are at least 10 of them, else its item."""
    category, item = np.asarray(category), np.asarray(item)
    if category.shape != item.shape:
        raise ValueError(f"category {category.shape} and item {item.shape} must have the same shape")
    return category if len(np.unique(category)) >= FEWEST_CATEGORIES else item


# ---------------------------------------------------------------- intervals of a mean


def mean_interval(scores: ArrayLike, units: ArrayLike, level: float = 0.95) -> Interval:
    """t interval of a mean accuracy from cluster-robust variance (CR1), cut to the range 0 to 1.

    The estimate is the plain mean over items. Units of equal size give the textbook t interval of the unit means.
    If every score is 0, or every score is 1, the data show no spread at all: the limits are then Clopper-Pearson's
    for that many units.

    Args:
        scores: [n_items] or [n_items, ...] from 0 to 1; further axes (samples, seeds) are averaged first.
        units: [n_items] label of each item's independent unit.
        level: confidence level.

    Raises:
        ValueError: wrong shapes, NaN, scores outside 0 to 1, or no scores.
    """
    sums, sizes = _by_unit(scores, units)
    if (sums < 0).any() or (sums > sizes * (1 + 1e-12)).any():
        raise ValueError("scores must lie between 0 and 1")
    mean, error, n = float(sums.sum() / sizes.sum()), _standard_error(sums, sizes), len(sums)
    if mean in (0.0, 1.0):
        low, high = clopper_pearson(round(mean * n), n, level)
    else:
        half = _t_quantile(level, n) * error
        low, high = float(np.maximum(mean - half, 0)), float(np.minimum(mean + half, 1))
    return Interval(mean, low, high, n)


def bootstrap_interval(
    scores: ArrayLike, units: ArrayLike, rng: np.random.Generator, level: float = 0.95, n_resamples: int = 10_000
) -> Interval:
    """Percentile interval of the mean over items when whole units are drawn with replacement.

    Args and errors as :func:`mean_interval`, but scores may have any range.
    """
    sums, sizes = _by_unit(scores, units)
    draws = rng.integers(0, len(sums), (n_resamples, len(sums)))
    means = sums[draws].sum(axis=1) / sizes[draws].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sums.sum() / sizes.sum()), float(low), float(high), len(sums))


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact limits of a proportion from ``successes`` of ``n`` independent yes-or-no outcomes.

    Raises:
        ValueError: not 0 <= successes <= n, or n = 0.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n}: expected 0 <= successes <= n and n >= 1")
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, successes, n - successes + 1) if successes > 0 else 0.0
    high = stats.beta.ppf(1 - tail, successes + 1, n - successes) if successes < n else 1.0
    return float(low), float(high)


# ---------------------------------------------------------------- comparing two rows


def paired_difference(
    row: ArrayLike,
    reference: ArrayLike,
    units: ArrayLike,
    level: float = 0.95,
    n_flips: int = 20_000,
    seed: int = 0,
) -> Difference:
    """Mean of ``row - reference`` on the same items, with t interval and sign-flip permutation p-value.

    If the two rows were equally good, each unit's difference would be as likely with either sign. All sign
    patterns are tried up to 14 units, ``n_flips`` seeded random ones beyond that.

    Args:
        row: [n_items] or [n_items, ...]; further axes (samples, seeds) are averaged first.
        reference: the same items in the same order; further axes may differ.
        units: [n_items] label of each item's independent unit.

    Raises:
        ValueError: wrong shapes, NaN, or no scores.
    """
    first, second = _item_means(row), _item_means(reference)
    if first.shape != second.shape:
        raise ValueError(f"row has {len(first)} items and reference {len(second)}: they must be the same ones")
    sums, sizes = _by_unit(first - second, units)
    mean, error, n = float(sums.sum() / sizes.sum()), _standard_error(sums, sizes), len(sums)
    half = _t_quantile(level, n) * error
    return Difference(mean, mean - half, mean + half, n, error, _sign_flip_p_value(sums, n_flips, seed))


def _sign_flip_p_value(sums: FloatArray, n_flips: int, seed: int) -> float:
    """Two-sided; the observed pattern counts as one of the random ones, so p is never 0."""
    n = len(sums)
    exact = n <= EXACT_UNITS
    if exact:
        bits = np.arange(2**n)[:, None] >> np.arange(n) & 1
    else:
        bits = np.random.default_rng(seed).integers(0, 2, (n_flips, n), dtype=np.int8)
    flipped = np.abs((2.0 * bits - 1) @ sums)
    observed = abs(sums.sum())
    as_extreme = int((flipped >= observed - 1e-12 * np.abs(sums).sum()).sum())
    return as_extreme / len(bits) if exact else (as_extreme + 1) / (len(bits) + 1)


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down adjusted p-values (family-wise error), in the order given."""
    p, order = _sorted_p_values(p_values)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return _unsort(np.minimum(adjusted, 1), order)


def benjamini_hochberg(p_values: ArrayLike) -> FloatArray:
    """Benjamini and Hochberg's step-up adjusted p-values (false discovery rate), in the order given."""
    p, order = _sorted_p_values(p_values)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    return _unsort(np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1), order)


# ---------------------------------------------------------------- what a design can show


def smallest_detectable_difference(
    standard_error: float, n_units: int, power: float = 0.8, alpha: float = 0.05
) -> float:
    """True difference that a two-sided paired t-test finds with probability ``power``; same unit as the error.

    Args:
        standard_error: of the paired difference.
        n_units: independent units; at least 2, else the result is NaN.
    """
    if n_units < 2:
        return float("nan")
    freedom = n_units - 1
    critical = stats.t.ppf(1 - alpha / 2, freedom)

    def missing_power(shift: float) -> float:
        return float(stats.nct.sf(critical, freedom, shift)) - power

    highest = 2 * (critical + stats.t.ppf(power, freedom) + 1)
    return standard_error * float(optimize.brentq(missing_power, 0, highest))


def identical_rows_band(standard_error: float, n_rows: int, level: float = 0.95) -> float:
    """Half-width that holds all of ``n_rows`` differences from one reference, if all models were equally good.

    Dunnett's two-sided many-to-one bound for normal scores: the reference's own error is shared by all differences.

    Args:
        standard_error: typical standard error of one paired difference.
        n_rows: rows compared with the reference.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()

    def missing_coverage(bound: float) -> float:
        root = bound * np.sqrt(2)
        inside = stats.norm.cdf(nodes + root) - stats.norm.cdf(nodes - root)
        return float(weights @ inside**n_rows) - level

    return standard_error * float(optimize.brentq(missing_coverage, 0, 20))


def expected_range(standard_deviation: float, n_rows: int) -> float:
    """Expected best-minus-worst of ``n_rows`` independent normal scores that differ by noise only."""

    def exceed(x: float) -> float:
        below = stats.norm.cdf(x)
        return float(1 - below**n_rows - (1 - below) ** n_rows)

    return standard_deviation * float(integrate.quad(exceed, -12, 12)[0])


# ---------------------------------------------------------------- shared parts


def _item_means(scores: ArrayLike) -> FloatArray:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim == 0 or values.size == 0:
        raise ValueError("no scores")
    if np.isnan(values).any():
        raise ValueError("scores contain NaN")
    means: FloatArray = values.reshape(len(values), -1).mean(axis=1)
    return means


def _by_unit(scores: ArrayLike, units: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Sum of scores and number of items in each unit."""
    values, labels = _item_means(scores), np.asarray(units)
    if labels.shape != values.shape:
        raise ValueError(f"units must have the shape [{len(values)}], not {list(labels.shape)}")
    _, index = np.unique(labels, return_inverse=True)
    return np.bincount(index, values).astype(np.float64), np.bincount(index).astype(np.float64)


def _standard_error(sums: FloatArray, sizes: FloatArray) -> float:
    """Cluster-robust standard error of the mean over items, with the G / (G - 1) correction."""
    n = len(sums)
    if n < 2:
        return float("nan")
    residuals = sums - sizes * (sums.sum() / sizes.sum())
    return float(np.sqrt(n / (n - 1) * (residuals**2).sum()) / sizes.sum())


def _t_quantile(level: float, n_units: int) -> float:
    return float(stats.t.ppf((1 + level) / 2, n_units - 1)) if n_units > 1 else float("nan")


def _sorted_p_values(p_values: ArrayLike) -> tuple[FloatArray, NDArray[np.int64]]:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values must be a list of numbers between 0 and 1")
    return p, np.argsort(p, kind="stable")


def _unsort(values: FloatArray, order: NDArray[np.int64]) -> FloatArray:
    result = np.empty_like(values)
    result[order] = values
    return result
