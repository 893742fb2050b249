"""Whether reconstructions say which item they belong to: a test by permutation, not by a known level of chance."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnd.statistics.checks import finite
from cnd.statistics.units import by_unit

EXACT = 7  # up to so many units all orders are tried: 5,040
TIE = 1e-12  # relative: sums that differ by rounding are equally extreme


@dataclass(frozen=True)
class PermutationTest:
    """Mean score of reconstructions against their own items, what it is against permuted ones, one-sided p-value."""

    estimate: float
    expected: float
    p_value: float
    n_units: int


def permutation_test(
    pairings: ArrayLike, units: ArrayLike, n_permutations: int = 10_000, seed: int = 0
) -> PermutationTest:
    """Test of the null hypothesis that it does not matter which item a reconstruction belongs to.

    Whole units are permuted: the reconstructions of one category are judged against the items of another. Items of
    one category, whose true class is the same, are therefore never exchanged with each other; a score against a
    category is the mean over its items. All orders are tried up to 7 units, ``n_permutations`` seeded random ones
    beyond that; the observed order counts as one, so p is never 0. A decoder that always shows the same image,
    however well that image scores against some items, has the same mean in every order and p = 1.

    Args:
        pairings: [n_items, n_items, ...] score of reconstruction i judged against item j (for n-way accuracy: with
            item j's true class), higher is better; further axes (samples, seeds) are averaged first.
        units: [n_items] label of each item's independent unit.
        n_permutations: random orders, where not all are tried.
        seed: of the random orders.

    Raises:
        ValueError: wrong shapes, NaN or infinity, or a single unit, which cannot be exchanged with any.
    """
    scores = finite("pairings", pairings)
    if scores.ndim < 2 or scores.shape[0] != scores.shape[1] or scores.size == 0:
        raise ValueError(f"pairings must have the shape [n_items, n_items, ...], not {list(scores.shape)}")
    sums, sizes = by_unit(scores.reshape(*scores.shape[:2], -1).mean(axis=2), units)
    blocks = by_unit(sums.T, units)[0].T / sizes  # [reconstructions' unit, items' unit]: sum over the former
    n = len(sizes)
    if n < 2:
        raise ValueError("one unit cannot be exchanged with any other: a permutation test needs two or more")
    orders = np.array(list(permutations(range(n)))) if n <= EXACT else _random_orders(n, n_permutations, seed)
    permuted = blocks[np.arange(n), orders].sum(axis=1)
    observed = float(np.trace(blocks))
    as_extreme = int((permuted >= observed - TIE * np.abs(blocks).sum()).sum())
    p = as_extreme / len(orders) if n <= EXACT else (as_extreme + 1) / (len(orders) + 1)
    return PermutationTest(observed / len(scores), float(blocks.sum() / n / len(scores)), p, n)


def _random_orders(n: int, n_permutations: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n), (n_permutations, 1)), axis=1)
