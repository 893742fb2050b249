"""Tests and intervals that flip the signs of whole units, or draw whole units again."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnd.statistics.checks import FloatArray, per_item, probability
from cnd.statistics.intervals import Interval
from cnd.statistics.units import by_unit, item_means

EXACT_UNITS = 14  # up to this many units every one of the 2^units sign flips is tried
BLOCK = 2**20  # sums held at a time, 8 MB: the patterns of many columns would fill the memory
TIE = 1e-12  # relative: sums that differ by rounding are equally extreme


def sign_flip_p(differences: ArrayLike, units: ArrayLike, n_flips: int = 20_000, seed: int = 0) -> FloatArray:
    """Two-sided p-value of each column's mean being zero, by flipping the signs of whole units.

    If two rows were equally good, each unit's difference would be as likely with either sign. All sign patterns are
    tried up to 14 units, ``n_flips`` seeded random ones beyond that; the observed pattern counts as one of these, so
    p is never 0. All columns see the same patterns: a column's p does not depend on its neighbours.

    Args:
        differences: [n_items, ...], one column an index of the further axes.
        units: [n_items] label of each item's independent unit.

    Returns:
        [...], a single number for [n_items].

    Raises:
        ValueError: wrong shapes, NaN or infinity, or no differences.
    """
    values = per_item("differences", differences)
    sums, _ = by_unit(values, units)
    exact = len(sums) <= EXACT_UNITS
    signs = _all_signs(len(sums)) if exact else _random_signs(n_flips, len(sums), seed)
    as_extreme = _count_as_extreme(signs, sums.reshape(len(sums), -1))
    p: FloatArray = as_extreme / len(signs) if exact else (as_extreme + 1) / (len(signs) + 1)
    return p.reshape(values.shape[1:])


def _all_signs(n_units: int) -> NDArray[np.int8]:
    """[2^(n_units - 1), n_units]: the last sign is always +, as a pattern is as extreme as its mirror image."""
    bits = np.arange(2 ** (n_units - 1))[:, None] >> np.arange(n_units) & 1
    return (1 - 2 * bits).astype(np.int8)


def _random_signs(n_flips: int, n_units: int, seed: int) -> NDArray[np.int8]:
    return 2 * np.random.default_rng(seed).integers(0, 2, (n_flips, n_units), dtype=np.int8) - 1


def _count_as_extreme(signs: NDArray[np.int8], sums: FloatArray) -> FloatArray:
    """How many patterns [n_patterns, n_units] move a column of [n_units, n_columns] as far from 0 as it is."""
    observed = np.abs(sums.sum(axis=0)) - TIE * np.abs(sums).sum(axis=0)
    rows = max(1, BLOCK // sums.shape[1])
    count = np.zeros(sums.shape[1])
    for start in range(0, len(signs), rows):
        flipped = signs[start : start + rows].astype(np.float64) @ sums
        count += (np.abs(flipped) >= observed).sum(axis=0)
    return count


def bootstrap_interval(
    scores: ArrayLike, units: ArrayLike, rng: np.random.Generator, level: float = 0.95, n_resamples: int = 10_000
) -> Interval:
    """Percentile interval of the mean over items when whole units are drawn with replacement.

    Args and errors as :func:`cnd.statistics.mean_interval`, but scores may have any range.
    """
    probability("level", level)
    sums, sizes = by_unit(item_means(per_item("scores", scores)), units)
    draws = rng.integers(0, len(sums), (n_resamples, len(sums)))
    means = sums[draws].sum(axis=1) / sizes[draws].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sums.sum() / sizes.sum()), float(low), float(high), len(sums))
