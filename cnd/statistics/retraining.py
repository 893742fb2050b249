"""What a retrained pair would show, and the interquartile mean over seeds and items."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from cnd.statistics.checks import FloatArray, per_item, probability
from cnd.statistics.intervals import Interval, clopper_pearson
from cnd.statistics.power import chi_quantiles
from cnd.statistics.units import by_unit

DRAWS = 2_000  # of the bootstrap


def probability_of_improvement(differences: ArrayLike, level: float = 0.95) -> Interval | None:
    """P(the row beats the reference on this test set when both are trained once more); None with one seed.

    Mean differences of the seeds are taken as normal. The limits are those of mean over standard deviation from the
    noncentral t distribution. Where every seed gives the same difference they are Clopper-Pearson's of that many.

    Args:
        differences: [n_items, n_seeds] row minus reference, positive where the row is better.
        level: confidence level.

    Returns:
        ``n_units`` counts seeds.

    Raises:
        ValueError: wrong shape, NaN or infinity, no differences, or a level that is no probability.
    """
    values = per_item("differences", differences)
    if values.ndim != 2:
        raise ValueError(f"differences must have the shape [n_items, n_seeds], not {list(values.shape)}")
    tail, n = (1 - probability("level", level)) / 2, values.shape[1]
    if n < 2:
        return None
    means = values.mean(axis=0)
    mean, spread = float(means.mean()), float(means.std(ddof=1))
    if spread <= 1e-12 * np.abs(values).max():
        if abs(mean) <= 1e-12 * np.abs(values).max():
            return Interval(0.5, 0.0, 1.0, n)
        won = n if mean > 0 else 0
        return Interval(float(won == n), *clopper_pearson(won, n, level), n)
    low, high = (_noncentrality(mean / spread * np.sqrt(n), n - 1, 1 - p) for p in (tail, 1 - tail))
    estimate, low, high = (float(p) for p in stats.norm.cdf([mean / spread, low / np.sqrt(n), high / np.sqrt(n)]))
    return Interval(estimate, low, high, n)


def _noncentrality(t: float, freedom: float, probability_below: float) -> float:
    """The noncentrality with which a t variable lies below ``t`` with the given probability."""
    limit = t * chi_quantiles(freedom)

    def missing(shift: float) -> float:
        return float(special.ndtr(limit - shift).mean()) - probability_below

    return float(optimize.brentq(missing, limit.min() - 9, limit.max() + 9))


def interquartile_mean(scores: ArrayLike, units: ArrayLike, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of the middle half of all scores over seeds and items (IQM), with a percentile bootstrap interval.

    As Agarwal et al. 2021 (Deep Reinforcement Learning at the Edge of the Statistical Precipice), but whole seeds and
    whole units are drawn, since a seed moves all its items together and items are a sample. With few seeds the
    interval is too narrow: it describes, and no test rests on it.

    Args:
        scores: [n_items, n_seeds].
        units: [n_items] label of each item's independent unit.
        level: confidence level.
        seed: of the draws.

    Raises:
        ValueError: wrong shapes, NaN or infinity, or no scores.
    """
    values = per_item("scores", scores)
    if values.ndim != 2:
        raise ValueError(f"scores must have the shape [n_items, n_seeds], not {list(values.shape)}")
    tail = (1 - probability("level", level)) / 2
    _, sizes = by_unit(values, units)
    index = np.unique(np.asarray(units), return_inverse=True)[1]
    rng, n_seeds = np.random.default_rng(seed), values.shape[1]
    of_unit = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), DRAWS)
    of_seed = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), DRAWS)
    order = np.argsort(values, axis=None, kind="stable")
    ordered, item, own = values.ravel()[order], index[order // n_seeds], order % n_seeds
    drawn = [_middle_mean(ordered, u[item] * s[own]) for u, s in zip(of_unit, of_seed, strict=True)]
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(_middle_mean(ordered, np.ones(len(ordered))), float(low), float(high), len(sizes))


def _middle_mean(ordered: FloatArray, counts: FloatArray) -> float:
    """Mean of the scores between the quartiles, each score counted so often; parts of a score count in part."""
    reached = np.cumsum(counts)
    inside = np.diff(np.clip(reached, 0.25 * reached[-1], 0.75 * reached[-1]), prepend=0.25 * reached[-1])
    return float(inside @ ordered / inside.sum())
