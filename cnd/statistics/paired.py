"""Two rows compared on the same items."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from cnd.statistics.checks import per_item
from cnd.statistics.intervals import Interval, clustered_mean
from cnd.statistics.resampling import sign_flip_p
from cnd.statistics.units import by_unit, item_means


@dataclass(frozen=True)
class Difference(Interval):
    """Mean paired difference with its standard error and two-sided p-value."""

    standard_error: float
    p_value: float


def paired_difference(
    row: ArrayLike,
    reference: ArrayLike,
    units: ArrayLike,
    level: float = 0.95,
    n_flips: int = 20_000,
    seed: int = 0,
) -> Difference:
    """Mean of ``row - reference`` on the same items, with t interval and :func:`~cnd.statistics.sign_flip_p`.

    Args:
        row: [n_items] or [n_items, ...]; further axes (samples, seeds) are averaged first.
        reference: the same items in the same order; further axes may differ.
        units: [n_items] label of each item's independent unit.
        level: confidence level.

    Raises:
        ValueError: wrong shapes, NaN or infinity, or no scores.
    """
    first, second = item_means(per_item("scores", row)), item_means(per_item("scores of the reference", reference))
    if first.shape != second.shape:
        raise ValueError(f"row has {len(first)} items and reference {len(second)}: they must be the same ones")
    sums, sizes = by_unit(first - second, units)
    mean, error, half = clustered_mean(sums, sizes, level)
    p = float(sign_flip_p(first - second, units, n_flips, seed))
    return Difference(mean, mean - half, mean + half, len(sums), error, p)
