"""Whether rows stand in the order that others published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cnd.statistics.checks import FloatArray, finite, probability
from cnd.statistics.intervals import Interval
from cnd.statistics.units import by_unit

DRAWS = 2_000  # of the bootstrap


@dataclass(frozen=True)
class RankAgreement(Interval):
    """Kendall's tau-b with a percentile bootstrap interval.

    Attributes:
        n_rows: that have a published score.
        n_seeds: behind our scores.
    """

    n_rows: int
    n_seeds: int


def rank_agreement(
    scores: ArrayLike, published: ArrayLike, units: ArrayLike, level: float = 0.95, seed: int = 0
) -> RankAgreement:
    """Kendall's tau-b between the rows' mean scores and published ones; 1: the same order, -1: the reverse.

    The interval is a bootstrap: whole units and whole seeds are drawn with replacement, the same for all rows, and tau
    is computed of each draw. The published scores are taken as they are. Noise breaks up orders more often than it
    makes them, so that the draws lie nearer 0 than tau: with rows that hardly differ the interval describes, no more.

    Args:
        scores: [n_rows, n_items, n_seeds] or [n_rows, n_items, n_seeds, n_subjects], complete.
        published: [n_rows].
        units: [n_items] label of each item's independent unit.
        level: confidence level.
        seed: of the draws.

    Returns:
        The estimate is 0 where all our rows score the same; the limits are NaN for a single unit.

    Raises:
        ValueError: wrong shapes, NaN or infinity, fewer than two rows, or published scores that are all the same.
    """
    values, others = finite("scores", scores), finite("published scores", published)
    if values.ndim not in (3, 4) or values.size == 0:
        raise ValueError(f"scores must have the shape [n_rows, n_items, n_seeds], not {list(values.shape)}")
    if others.shape != values.shape[:1] or len(others) < 2 or (others == others[0]).all():
        raise ValueError("published scores must be one a row, of two rows or more, and not all the same")
    tail = (1 - probability("level", level)) / 2
    by_seed = values.reshape(*values.shape[:3], -1).mean(axis=3)  # subjects are not drawn
    sums, sizes = by_unit(np.moveaxis(by_seed, 1, 0), units)  # [n_units, n_rows, n_seeds]
    n_units, _, n_seeds = sums.shape
    estimate = float(_tau_b(by_seed.mean(axis=(1, 2))[None], others)[0])
    if n_units < 2:
        nan = float("nan")
        return RankAgreement(estimate, nan, nan, n_units, len(others), n_seeds)
    rng = np.random.default_rng(seed)
    of_unit = rng.multinomial(n_units, np.full(n_units, 1 / n_units), DRAWS)
    of_seed = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), DRAWS)
    drawn = np.einsum("du,urs,ds->dr", of_unit, sums, of_seed, optimize=True) / (of_unit @ sizes)[:, None] / n_seeds
    low, high = np.quantile(_tau_b(drawn, others), [tail, 1 - tail])
    return RankAgreement(estimate, float(low), float(high), n_units, len(others), n_seeds)


def _tau_b(scores: FloatArray, others: FloatArray) -> FloatArray:
    """Kendall 1945, Biometrika 33:239, of each line: [n, n_rows] against [n_rows]; 0 where a line has no order."""
    first, second = np.triu_indices(len(others), 1)
    ours = np.sign((scores[:, first] - scores[:, second]).round(12))  # a rounding error is no order
    theirs = np.sign(others[first] - others[second])
    untied = np.sqrt((ours**2).sum(axis=1) * (theirs**2).sum())
    return np.divide(ours @ theirs, untied, out=np.zeros(len(scores)), where=untied > 0)
