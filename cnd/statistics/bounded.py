"""Confidence limits of the mean of scores between 0 and 1 that may be strongly skewed, as n-way accuracies near chance.

A t interval fails there: most items score next to nothing, a rare one nearly 1, and a sample without a rare one has a
small mean and a small variance at once. The limits here are quantiles of a mean with random weights (the Bayesian
bootstrap: Rubin 1981, Ann. Stat. 9:130), with two changes:

- Half a pseudo-observation stands beyond either end of the data, for what the sample did not happen to hold. Of scores
  that are 0 or 1 it makes Jeffreys' interval of a proportion (Brown, Cai and DasGupta 2001, Stat. Sci. 16:101). Where
  it stands follows from the tail: the logits of the outermost units are continued by ``REACH`` times their mean excess
  (Hill's estimator, as it is used to extrapolate a tail). For ranks at chance this is close to the bound, for scores
  that scatter little about a middle value close to the outermost score, so that these keep nearly their t interval.
- The weights are gamma variables of a shape below 1, so that the variance of the weighted mean is the squared standard
  error times that of Student's t: with few degrees of freedom the limits widen as a t interval does.

A weighted mean lies below m when a weighted sum of gamma variables lies below 0; that probability is one integral over
its characteristic function (Imhof 1961, Biometrika 48:419), so nothing here is drawn at random.
"""

from __future__ import annotations

import numpy as np
from scipy import optimize, stats
from scipy.special import expit

from cnd.statistics.checks import FloatArray

TAIL = 5  # outermost units on either side from which the tail is continued
REACH = 1.5  # times the mean excess of their logits; with it coverage is nearest to nominal from chance to 90 %
HALF = 0.5  # weight of a pseudo-observation, as of Jeffreys' prior
STEP = 0.15  # of the integral, in log t: halving it moves no limit by 1e-9
NEGLIGIBLE = 1e-10  # integrand


def bounded_limits(
    means: FloatArray, sizes: FloatArray, error: float, freedom: float, level: float
) -> tuple[float, float]:
    """Limits of the mean over items from the means of independent units.

    Args:
        means: [n_units], at least two, between 0 and 1, without rounding errors.
        sizes: [n_units] number of items of each.
        error: standard error of the mean over items.
        freedom: its degrees of freedom.
        level: confidence level.
    """
    center = float(means @ sizes / sizes.sum())
    tail = (1 - level) / 2
    shrink = (stats.norm.ppf(tail) / stats.t.ppf(tail, freedom)) ** 2
    spread = float(np.sqrt((sizes**2 * (means - center) ** 2).sum())) / sizes.sum()  # error if weights were Exp(1)
    # without any spread there is nothing to scale by: the error's usual n / (n - 1) is all that is known
    shape = shrink * ((spread / error) ** 2 if spread > 0 and error > 0 else 1 - 1 / len(means))
    ends = _beyond(means)
    values = np.concatenate([means, ends])
    weights = np.concatenate([sizes, np.full(2, sizes.mean())])
    shapes = np.concatenate([np.full(len(means), shape), np.full(2, HALF)])

    def excess(mean: float, probability: float) -> float:
        return _below_zero(weights * (values - mean), shapes) - probability

    def limit(probability: float, end: float) -> float:
        """The root between the mean and ``end``, approached from the mean: far away the integrand oscillates fast."""
        inner, outer, step = center, center, max(error, abs(end - center) / len(means))
        while outer != end and (excess(outer, probability) < 0) == (end > center):
            inner, outer = outer, float(np.clip(center + np.sign(end - center) * step, *ends))
            step *= 2
        return float(optimize.brentq(excess, *sorted((inner, outer)), args=(probability,), xtol=1e-12, rtol=1e-9))

    # a limit beyond the mean means that the data hold next to nothing on that side: as for 0 of n, it is the bound
    low = limit(tail, ends[0]) if excess(center, tail) > 0 else 0.0
    high = limit(1 - tail, ends[1]) if excess(center, 1 - tail) < 0 else 1.0
    return low, high


def _beyond(means: FloatArray) -> tuple[float, float]:
    """Where the pseudo-observations stand, below and above all means; at the bounds if the means are all the same."""
    ordered = np.sort(means)
    if ordered[0] == ordered[-1]:
        return 0.0, 1.0
    return 1 - _above(1 - ordered[::-1]), _above(ordered)


def _above(ordered: FloatArray) -> float:
    """The upper end of rising means, continued; 1 where a logit is infinite."""
    top = ordered[-min(TAIL, len(ordered) - 1) - 1 :]
    if top[0] <= 0 or top[-1] >= 1:
        return 1.0
    logits = np.log(top) - np.log1p(-top)
    return float(expit(logits[-1] + REACH * (logits[1:] - logits[0]).mean()))


def _below_zero(scales: FloatArray, shapes: FloatArray) -> float:
    """P(sum of scale x gamma(shape) < 0) by Imhof's integral, with the trapezoid rule in log t.

    Args:
        scales: [n], of any sign.
        shapes: [n].
    """
    if (scales >= 0).all() or (scales <= 0).all():
        return float((scales <= 0).all())
    used = scales != 0
    scales, shapes = scales[used], shapes[used]
    first = float(np.log(NEGLIGIBLE / (shapes @ np.abs(scales))))
    coarse = -np.log(np.abs(scales).max() * np.sqrt(shapes.sum())) + 2 * np.arange(100.0)
    small = np.log1p(np.exp(2 * coarse[:, None]) * scales**2) @ shapes / 2 > -np.log(NEGLIGIBLE)
    last = float(coarse[np.argmax(small)] if small.any() else coarse[-1])
    t = np.exp(np.arange(first, last, STEP))[:, None] * scales
    integrand = np.sin(np.arctan(t) @ shapes) * np.exp(-np.log1p(t**2) @ shapes / 2)
    return float(np.clip(0.5 - STEP * integrand.sum() / np.pi, 0, 1))
