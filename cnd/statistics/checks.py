"""What every function here refuses: no numbers, NaN, infinity, and probabilities that are none."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def finite(name: str, values: ArrayLike) -> FloatArray:
    """``values`` as float64, in their shape.

    Raises:
        ValueError: any is NaN or infinite.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite; found NaN or infinity")
    return numbers


def per_item(name: str, values: ArrayLike) -> FloatArray:
    """``values`` as float64 [n_items, ...].

    Raises:
        ValueError: there are none, or any is NaN or infinite.
    """
    numbers = finite(name, values)
    if numbers.ndim == 0 or numbers.size == 0:
        raise ValueError(f"no {name}")
    return numbers


def probability(name: str, value: float) -> float:
    """``value`` itself.

    Raises:
        ValueError: not strictly between 0 and 1.
    """
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, both excluded, not {value}")
    return value
