"""A mean over items and training seeds, both drawn at random: what it would be with other items and other seeds.

A score is the sum of a mean and of random effects of the item, of the seed, of their combination and, where there are
several subjects, of these (crossed random effects). The variance of the mean over n items and s seeds is then

    item / n + seed / s + (item x seed) / (n s)

and likewise with subjects. The components are found by the method of moments: the mean squares of an analysis of
variance equal sums of components in expectation (Searle, Casella and McCulloch 1992, Variance Components, ch. 4). The
same holds for paired differences of two rows with equal seeds, whose seed component is what remains of the seeds.

What may not happen is that two or three seeds pass for proof that seeds do not matter. Satterthwaite's degrees of
freedom do that when the seeds' component comes out near 0 (8 % false positives for two seeds with the components found
on simulated data), and floored at the interaction's mean square they are far too careful (0.1 %). The limits here add
squared half-widths instead, each with its own degrees of freedom (Howe 1974, J. Am. Stat. Assoc. 69:789): the factor
with the fewest levels takes its whole mean square, the others what that does not hold yet. Where items do not differ,
this is the t test on the seeds' means, which is exact. A component that comes out negative counts as 0 there, which
only widens; the mean square of the first factor is not cut.

Items nested in categories are the units: a category's contribution is the sum over its items. An item that is missing
for one seed must be left out for all: only complete ones can be used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from cnd.statistics.checks import FloatArray, per_item, probability
from cnd.statistics.intervals import Interval, clustered_mean, limits, within
from cnd.statistics.power import detectable_effect
from cnd.statistics.units import by_unit

FACTORS = ("item", "seed", "subject")
Effect = tuple[str, ...]  # the factors that make it, in the order of FACTORS: ("item",), ("item", "seed")


@dataclass(frozen=True)
class Error:
    """The error of a mean as a sum of independent parts.

    Attributes:
        variances: of the parts.
        freedoms: degrees of freedom of each.
    """

    variances: tuple[float, ...]
    freedoms: tuple[float, ...]

    @property
    def standard(self) -> float:
        """Standard error."""
        return float(np.sqrt(sum(self.variances)))

    def half_width(self, tail: float) -> float:
        """What the mean exceeds with the one-sided probability ``tail``, below 0.5, by error alone."""
        parts = zip(self.variances, self.freedoms, strict=True)
        return float(np.sqrt(sum(v * special.stdtrit(f, tail) ** 2 for v, f in parts)))  # the quantiles of t

    def tail(self, deviation: float) -> float:
        """One-sided p-value of a deviation: the inverse of :meth:`half_width`."""
        if deviation == 0:
            return 0.5
        if deviation < 0:
            return 1 - self.tail(-deviation)
        if self.standard == 0:
            return 0.0
        least = 1e-100
        if self.half_width(least) <= deviation:
            return least
        log_tail = optimize.brentq(lambda x: self.half_width(np.exp(x)) - deviation, np.log(least), np.log(0.5))
        return float(np.exp(log_tail))

    def freedom(self, tail: float = 0.025) -> float:
        """Degrees of freedom of the t quantile that gives the same half-width; the fewest where there is no error."""
        fewest, most = min(self.freedoms), max(self.freedoms)
        if self.standard == 0 or fewest == most:
            return fewest
        ratio = self.half_width(tail) / self.standard
        return float(
            optimize.brentq(lambda f: -special.stdtrit(f, tail) - ratio, fewest * (1 - 1e-6), most * (1 + 1e-6))
        )


@dataclass(frozen=True)
class Components:
    """Variance components of single scores, and how many levels of each factor there are.

    Attributes:
        variance: of each effect, 0 where the estimate is negative.
        levels: of each factor with two or more; "item" counts units.
    """

    variance: Mapping[Effect, float]
    levels: Mapping[str, int]

    @property
    def ordered(self) -> list[str]:
        """The factors from the fewest levels on."""
        return sorted(self.levels, key=lambda name: self.levels[name])

    def error(self, **levels: int) -> Error:
        """Error of the mean that the components predict.

        Args:
            levels: of some factors, in place of those at hand: what more seeds or items would bring.
        """
        n = dict(self.levels) | levels
        left = dict(self.variance)
        parts = []
        for factor in Components(self.variance, n).ordered:
            own = [effect for effect in left if factor in effect]
            parts.append((sum(left.pop(effect) / _product(n, effect) for effect in own), float(n[factor] - 1)))
        variances, freedoms = zip(*parts, strict=True)
        return Error(variances, freedoms)


@dataclass(frozen=True)
class CrossedMean(Interval):
    """A mean over items and seeds with what it would take to tell it from zero.

    Attributes:
        n_seeds: seeds behind it.
        error: of the mean, over items, and seeds and subjects where there are several.
        p_value: two-sided, of a mean of zero (for paired differences); None with one seed, of which no claim about
            other trainings can be made: the limits then hold for these trained models only.
        components: None with a single unit.
    """

    n_seeds: int
    error: Error
    p_value: float | None
    components: Components | None

    @cached_property
    def detectable(self) -> float:
        """True difference from zero that such a test finds with 80 % power; NaN with a single unit."""
        known = np.isfinite(self.error.standard)
        return detectable_effect(self.error.standard, self.error.freedom()) if known else float("nan")


def crossed_mean(
    scores: ArrayLike,
    units: ArrayLike,
    level: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> CrossedMean:
    """Mean over items and seeds with an interval that generalises over both.

    With one seed and one subject this is :func:`cnd.statistics.mean_interval`. Subjects, where there are several, are
    one more random factor: the interval holds for other subjects too.

    Args:
        scores: [n_items, n_seeds] or [n_items, n_seeds, n_subjects], of one row, or differences of two rows at
            equal items and seeds; samples averaged before; complete.
        units: [n_items] label of each item's independent unit.
        level: confidence level.
        bounds: lowest and highest possible score; of differences the default, which gives the limits of t.

    Raises:
        ValueError: wrong shapes, NaN or infinity, no scores, or scores outside the bounds.
    """
    values = per_item("scores", scores)
    if values.ndim not in (2, 3):
        raise ValueError(f"scores must have the shape [n_items, n_seeds] or with subjects, not {list(values.shape)}")
    within(values, bounds)
    probability("level", level)
    sums, sizes = by_unit(values, units)
    by_item = sums.reshape(len(sums), -1).mean(axis=1)
    mean, n_seeds = float(by_item.sum() / sizes.sum()), values.shape[1]
    if len(sums) < 2:
        nan = float("nan")
        return CrossedMean(mean, nan, nan, len(sums), n_seeds, Error((nan,), (nan,)), None, None)
    components, error = _analysed(values, units)
    low, high = _limits(by_item, sizes, components, error, level, bounds)
    p = 2 * error.tail(abs(mean)) if n_seeds > 1 else None
    return CrossedMean(mean, low, high, len(sums), n_seeds, error, p, components)


def _limits(
    by_item: FloatArray,
    sizes: FloatArray,
    components: Components,
    error: Error,
    level: float,
    bounds: tuple[float, float],
) -> tuple[float, float]:
    """Limits of the mean from those of its parts: half-widths add in squares, on either side for itself.

    (Zou and Donner 2008, Stat. Med. 27:1693.) The items' part is as skewed as their scores are, so it has the limits of
    :func:`~cnd.statistics.mean_interval`, shrunk to its share of the items' variance; what seeds and subjects add are
    means over many items, and have those of t.

    Args:
        by_item: [n_units] sum over the items of each unit, seeds and subjects averaged.
        sizes: [n_units] number of its items.
    """
    mean, alone, _ = clustered_mean(by_item, sizes, level)
    low, high = limits(by_item, sizes, alone, len(sizes) - 1, level, bounds)
    if len(components.levels) == 1:
        return low, high
    parts = dict(zip(components.ordered, zip(error.variances, error.freedoms, strict=True), strict=True))
    own, _ = parts.pop("item")
    share = own / alone**2 if alone > 0 else 1.0
    added = Error(*zip(*parts.values(), strict=True)).half_width((1 - level) / 2)
    below, above = (float(np.hypot(np.sqrt(share) * side, added)) for side in (mean - low, high - mean))
    return max(mean - below, bounds[0]), min(mean + above, bounds[1])


def variance_components(scores: ArrayLike, units: ArrayLike) -> Components:
    """Components of crossed random effects by the method of moments, negative ones cut at 0.

    Units of different size weigh by their number of items, as in the mean over items; with one seed the variance of
    the mean is the cluster-robust one (CR1).

    Args:
        scores: [n_items, n_seeds] or [n_items, n_seeds, n_subjects], complete.
        units: [n_items] label of each item's independent unit; two or more units.

    Raises:
        ValueError: wrong shapes, NaN or infinity, no scores, or a single unit.
    """
    return _analysed(per_item("scores", scores), units)[0]


def _analysed(values: FloatArray, units: ArrayLike) -> tuple[Components, Error]:
    """The components, and the error of the mean in which the first factor's mean square is not cut."""
    sums, sizes = by_unit(values, units)
    if len(sums) < 2:
        raise ValueError("one unit shows no variance between items: two or more are needed")
    # contributions whose plain mean over units is the mean over items
    center = values.mean()
    table = (sums - center * sizes.reshape(-1, *[1] * (sums.ndim - 1))) * len(sums) / sizes.sum()
    named = [(name, n) for name, n in zip(FACTORS, table.shape, strict=False) if n > 1]
    levels = dict(named)
    squares = _mean_squares(np.squeeze(table, tuple(i for i, n in enumerate(table.shape) if n == 1)), tuple(levels))
    variance = {}
    for effect in squares:
        above = {other: square for other, square in squares.items() if {*effect} <= {*other}}
        signed = sum((-1) ** (len(other) - len(effect)) * square for other, square in above.items())
        variance[effect] = max(0.0, signed * _product(levels, effect) / table.size)
    components = Components(variance, levels)
    predicted = components.error()
    first = components.ordered[0]
    return components, Error((squares[(first,)] / table.size, *predicted.variances[1:]), predicted.freedoms)


def _mean_squares(table: FloatArray, factors: tuple[str, ...]) -> dict[Effect, float]:
    """Mean square of every effect of a complete table with one axis a factor."""
    found: dict[Effect, float] = {}
    deviations: dict[tuple[int, ...], FloatArray] = {(): table.mean(keepdims=True)}
    for size in range(1, len(factors) + 1):
        for axes in combinations(range(len(factors)), size):
            others = tuple(axis for axis in range(len(factors)) if axis not in axes)
            below = [part for key, part in deviations.items() if {*key} < {*axes}]
            deviations[axes] = table.mean(axis=others, keepdims=True) - sum(below)
            freedom = np.prod([table.shape[axis] - 1 for axis in axes])
            repeats = table.size / deviations[axes].size
            found[tuple(factors[axis] for axis in axes)] = float(repeats * (deviations[axes] ** 2).sum() / freedom)
    return found


def _product(levels: Mapping[str, int], factors: tuple[str, ...]) -> int:
    return int(np.prod([levels[factor] for factor in factors]))
