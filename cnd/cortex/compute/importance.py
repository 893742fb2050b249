"""What a linear decoder says about single voxels: its weights, which can mislead, and its patterns (sec. 3.4)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Importance(NamedTuple):
    """Means over components, float64 [n_voxels] each.

    The signed ones depend on the signs of the components, which are a convention: they tell voxels apart, not more
    from less.
    """

    weight: np.ndarray
    weight_signed: np.ndarray
    pattern: np.ndarray
    pattern_signed: np.ndarray


def importance(fmri: np.ndarray, coef: np.ndarray) -> Importance:
    """Absolute and signed means of weights and patterns.

    Args:
        fmri: training patterns [n_items, n_voxels].
        coef: [n_components, n_voxels].
    """
    if not len(coef):
        return Importance(*np.zeros((4, fmri.shape[1])))
    patterns = activation_patterns(fmri, coef)
    maps = (np.abs(coef).mean(0), coef.mean(0), np.abs(patterns).mean(0), patterns.mean(0))
    return Importance(*(part.astype(np.float64) for part in maps))


def activation_patterns(fmri: np.ndarray, coef: np.ndarray) -> np.ndarray:
    """cov(x, s) = cov(X) W: how each voxel varies with the decoded components s = X W, [n_components, n_voxels].

    A weight tells how a voxel is used, be it only to subtract noise that it shares with others; a pattern tells what
    the voxel carries: A = cov(X) W cov(s)^-1 (Haufe et al. 2014). The last factor is left out. Components of a PCA are
    uncorrelated, so it would only scale each pattern; but there are hundreds of them, ridge shrinks most to almost
    nothing, and its inverse blows up just those. On simulated data, where the truth is known, patterns with it rank
    voxels worse than raw weights do, and patterns without it better (``tests/reference/test_analysis_truth.py``).
    """
    centred = fmri - fmri.mean(0)
    return (centred @ coef.T).T @ centred / len(fmri)
