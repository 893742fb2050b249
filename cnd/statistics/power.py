"""What a design can show: the smallest difference it finds, and how far equal rows lie apart by noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import integrate, optimize, special, stats

from cnd.statistics.checks import FloatArray, finite, probability

QUANTILES = 4_000  # of an estimated standard deviation, that power is averaged over


def detectable_effect(standard_error: float, freedom: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """True mean that a two-sided t test of zero finds with probability ``power``; same unit as the error.

    Args:
        standard_error: of the mean.
        freedom: degrees of freedom of the error, not necessarily whole.

    Raises:
        ValueError: an error that is NaN or infinite, or power or alpha that are no probabilities.
    """
    finite("standard error", standard_error)
    critical = stats.t.ppf(1 - probability("alpha", alpha) / 2, freedom)

    scale = chi_quantiles(freedom)

    def missing_power(shift: float) -> float:
        return float(special.ndtr(shift - critical * scale).mean()) - power

    highest = (critical + 1) * scale[-1] + stats.norm.ppf(probability("power", power)) + 9
    return standard_error * float(optimize.brentq(missing_power, 0, highest))


@lru_cache(maxsize=64)
def chi_quantiles(freedom: float) -> FloatArray:
    """Equally likely values of an estimated over the true standard deviation, from the least on, [QUANTILES].

    A noncentral t variable is (normal + shift) over such a value: averaging over them gives its distribution, for
    which SciPy returns NaN at some arguments.
    """
    below = (np.arange(QUANTILES) + 0.5) / QUANTILES
    found: FloatArray = np.sqrt(special.gammaincinv(freedom / 2, below) / (freedom / 2))
    found.flags.writeable = False
    return found


def identical_rows_band(standard_error: float, n_rows: int, level: float = 0.95) -> float:
    """Half-width that holds all of ``n_rows`` differences from one reference, if all models were equally good.

    Dunnett's two-sided many-to-one bound for normal scores: the reference's own error is shared by all differences.

    Args:
        standard_error: typical standard error of one paired difference.
        n_rows: rows compared with the reference.

    Raises:
        ValueError: an error that is NaN or infinite, or a level that is no probability.
    """
    finite("standard error", standard_error)
    probability("level", level)
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()

    def missing_coverage(bound: float) -> float:
        root = bound * np.sqrt(2)
        inside = stats.norm.cdf(nodes + root) - stats.norm.cdf(nodes - root)
        return float(weights @ inside**n_rows) - level

    return standard_error * float(optimize.brentq(missing_coverage, 0, 20))


def expected_range(standard_deviation: float, n_rows: int) -> float:
    """Expected best-minus-worst of ``n_rows`` independent normal scores that differ by noise only.

    Raises:
        ValueError: a deviation that is NaN or infinite.
    """
    finite("standard deviation", standard_deviation)

    def exceed(x: float) -> float:
        below = stats.norm.cdf(x)
        return float(1 - below**n_rows - (1 - below) ** n_rows)

    return standard_deviation * float(integrate.quad(exceed, -12, 12)[0])
