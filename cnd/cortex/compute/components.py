"""Principal components of hidden states, from the items' Gram matrix: the loadings are never formed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

RANK_TOLERANCE = 1e-6  # of the largest eigenvalue: below it float32 products hold only rounding
CONSTANT = 1e-10  # variance over mean square of a state that does not vary between items


class Components(NamedTuple):
    """Scores of a state's leading components, scaled by one factor to a mean variance of 1 over training items.

    Attributes:
        train: float32 [n_train, n_components], centred, orthogonal columns in order of variance.
        test: float32 [n_test, n_components], projected on the components of the training items.
        explained_variance: share of the training variance that the components hold.
    """

    train: np.ndarray
    test: np.ndarray
    explained_variance: float


def principal_components(
    blocks: Iterable[np.ndarray], n_train: int, n_components: int, mean_square: float
) -> Components:
    """PCA fitted on the first ``n_train`` items.

    With X the centred training states, X X^T = U L U^T; scores are X V = U sqrt(L), and those of other items
    X_test X^T U / sqrt(L). A component's sign is that of its largest training score. A state that does not vary between
    items has no components.

    Args:
        blocks: float32 [n_items, some features] each; the training items come first.
        n_components: at most; fewer where the training items span fewer dimensions.
        mean_square: of the states before centring.
    """
    gram, n_features = _gram(blocks, n_train)
    total = float(np.trace(gram[:n_train]))
    n_components = min(n_components, n_train - 1)
    if n_components < 1 or total <= CONSTANT * mean_square * n_train * n_features:
        return Components(gram[:n_train, :0].astype(np.float32), gram[n_train:, :0].astype(np.float32), 0.0)
    values, vectors = eigh(gram[:n_train], subset_by_index=(n_train - n_components, n_train - 1), driver="evr")
    values, vectors = values[::-1], vectors[:, ::-1]
    keep = values > RANK_TOLERANCE * values[0]
    values, vectors = values[keep], vectors[:, keep]
    peak = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[peak, np.arange(len(values))])
    scores = gram @ (vectors / np.sqrt(values)) / np.sqrt(values.mean() / n_train)
    scores = scores.astype(np.float32)
    return Components(scores[:n_train], scores[n_train:], float(values.sum()) / total)


def _gram(blocks: Iterable[np.ndarray], n_train: int) -> tuple[np.ndarray, int]:
    """Products of all items with the training items, float64 [n_items, n_train], about the training mean."""
    gram, n_features = np.zeros((1, 1)), 0
    for block in blocks:
        block = block - block[:n_train].mean(0)
        gram = gram + (block @ block[:n_train].T).astype(np.float64)
        n_features += block.shape[1]
    square = gram[:n_train]
    gram[:n_train] = (square + square.T) / 2
    return gram, n_features
