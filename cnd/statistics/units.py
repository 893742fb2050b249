"""The independent units behind per-item scores, and sums over them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnd.statistics.checks import FloatArray, finite

FEWEST_CATEGORIES = 10  # below this, categories are too few to be the sampling unit


def sampling_units(category: ArrayLike, item: ArrayLike) -> NDArray[Any]:
    """The label of each score's independent unit: its category if there are at least 10 of them, else its item.

    Args:
        category: [n_items].
        item: [n_items].

    Raises:
        ValueError: the shapes differ.
    """
    category, item = np.asarray(category), np.asarray(item)
    if category.shape != item.shape:
        raise ValueError(f"category {category.shape} and item {item.shape} must have the same shape")
    return category if len(np.unique(category)) >= FEWEST_CATEGORIES else item


def item_means(scores: FloatArray) -> FloatArray:
    """Means over samples and seeds: [n_items, ...] to [n_items]."""
    means: FloatArray = scores.reshape(len(scores), -1).mean(axis=1)
    return means


def by_unit(values: FloatArray, units: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Sum of the values, [n_units, ...], and number of items, [n_units], in each unit.

    Args:
        values: [n_items, ...].
        units: [n_items] label of each item's independent unit.

    Raises:
        ValueError: another number of labels than of items, or labels that are NaN or infinite.
    """
    labels = np.asarray(units)
    if labels.shape != (len(values),):
        raise ValueError(f"units must have the shape [{len(values)}], not {list(labels.shape)}")
    if labels.dtype.kind == "f":
        finite("units", labels)
    names, index = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, index, values)
    return sums, np.bincount(index).astype(np.float64)
