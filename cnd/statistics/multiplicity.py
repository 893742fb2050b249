"""p-values adjusted for how many there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnd.statistics.checks import FloatArray


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down adjusted p-values (family-wise error), [n] in the order given.

    Raises:
        ValueError: not a list, or a p-value outside 0 to 1, NaN included.
    """
    p, order = _in_order(p_values)
    adjusted = np.maximum.accumulate(p * np.arange(len(p), 0, -1))
    return _as_given(np.minimum(adjusted, 1), order)


def benjamini_hochberg(p_values: ArrayLike) -> FloatArray:
    """Benjamini and Hochberg's step-up adjusted p-values (false discovery rate), [n] in the order given.

    Raises:
        ValueError: not a list, or a p-value outside 0 to 1, NaN included.
    """
    p, order = _in_order(p_values)
    scaled = p * len(p) / np.arange(1, len(p) + 1)
    return _as_given(np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1), order)


def _in_order(p_values: ArrayLike) -> tuple[FloatArray, NDArray[np.int64]]:
    """The p-values from the smallest on, and the place that each was given at."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values must be a list of numbers between 0 and 1")
    order = np.argsort(p, kind="stable")
    return p[order], order


def _as_given(values: FloatArray, order: NDArray[np.int64]) -> FloatArray:
    result = np.empty_like(values)
    result[order] = values
    return result
