"""What may be said of a difference between two methods, and what it would take to say more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cnd.statistics.checks import finite, probability
from cnd.statistics.crossed import Components, CrossedMean
from cnd.statistics.power import detectable_effect

Verdict = Literal["better", "worse", "equivalent", "undecided"]
MOST = 10_000  # seeds or units beyond which no need is told


def equivalence_p(difference: CrossedMean, margin: float) -> float | None:
    """p-value of two one-sided tests (TOST; Schuirmann 1987): that the true difference lies within the margin.

    None where the difference has no p-value: with one seed.

    Raises:
        ValueError: a margin that is not positive and finite.
    """
    if finite("margin", margin) <= 0:
        raise ValueError(f"margin must be positive, not {margin:g}")
    if difference.p_value is None:
        return None
    return max(difference.error.tail(margin - difference.estimate), difference.error.tail(margin + difference.estimate))


def verdict(
    difference: CrossedMean,
    p_value: float | None,
    p_equivalence: float | None,
    higher_is_better: bool = True,
    alpha: float = 0.05,
) -> Verdict | None:
    """What a difference from the reference shows; None with one seed, which shows nothing about a method.

    A difference that is both shown and within the margin is told by its direction.

    Args:
        difference: of row minus reference.
        p_value: of no difference, adjusted for the table's comparisons.
        p_equivalence: of :func:`equivalence_p`, adjusted likewise.
        higher_is_better: of the metric.
        alpha: level of both tests.
    """
    if p_value is None or p_equivalence is None:
        return None
    if p_value <= probability("alpha", alpha):
        return "better" if (difference.estimate > 0) == higher_is_better else "worse"
    return "equivalent" if p_equivalence <= alpha else "undecided"


@dataclass(frozen=True)
class Needed:
    """Seeds, with the units at hand, or units, with the seeds at hand, in all; None where no number is enough."""

    seeds: int | None
    units: int | None


def needed(components: Components, effect: float, power: float = 0.8, alpha: float = 0.05) -> Needed:
    """How many seeds or units a test of zero needs to find ``effect`` with probability ``power``.

    The components are taken as known, so this is a plan, not a promise.

    Args:
        components: of the difference, with two or more seeds.
        effect: true difference; for equivalence the distance from the margin, with ``alpha`` doubled as TOST is
            one-sided.

    Raises:
        ValueError: components of one seed, which do not say what seeds would bring, or an effect of zero.
    """
    if "seed" not in components.levels:
        raise ValueError("the components come from one seed: they do not say what more seeds would bring")
    if not np.abs(finite("effect", effect)) > 0:
        raise ValueError("effect must not be zero: no number of seeds finds that")
    return Needed(*(_needed(components, factor, abs(effect), power, alpha) for factor in ("seed", "item")))


def _needed(components: Components, factor: str, effect: float, power: float, alpha: float) -> int | None:
    def enough(n: int) -> bool:
        error = components.error(**{factor: n})
        return detectable_effect(error.standard, error.freedom(alpha / 2), power, alpha) <= effect

    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
