"""Held-out R^2 with a permutation null, pooled over folds.

Predictions stay with their items and the true values are permuted among the test items. Items of one category resemble
each other, so whole categories change places, among those with equally many items; where the test set has few
categories, single items do (:func:`cnd.statistics.sampling_units`). Folds are permuted within themselves.

No model is fitted again: the null holds for the fitted decoder, "its predictions have nothing to do with these items".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cnd.statistics import benjamini_hochberg, sampling_units


class Arrangement(NamedTuple):
    """How the test items of a fold may change places.

    Attributes:
        strata: each int [n_blocks, block_size]; rows (categories, or items) are exchangeable.
        permuted: int [n_permutations, n_items], item whose truth each item receives.
    """

    strata: list[np.ndarray]
    permuted: np.ndarray


class Result(NamedTuple):
    """Per target, and for all targets together weighted by their variance.

    Attributes:
        r2: float64 [n_targets], against guessing the training mean.
        p: float64 [n_targets], one-sided.
        q: p after Benjamini and Hochberg over the targets.
        total_r2, total_p: of all targets together.
        null_95: 95th percentile of ``total_r2`` under permutation.
    """

    r2: np.ndarray
    p: np.ndarray
    q: np.ndarray
    total_r2: float
    total_p: float
    null_95: float


def arrange(category: np.ndarray, n_permutations: int, rng: np.random.Generator) -> Arrangement:
    """Random permutations of test items by whole categories, or by items where categories are few."""
    items = np.arange(len(category))
    units = sampling_units(category, items)
    blocks = [np.flatnonzero(units == unit) for unit in np.unique(units)]
    sizes = sorted({len(block) for block in blocks})
    strata = [np.stack([block for block in blocks if len(block) == size]) for size in sizes]
    permuted = np.tile(items, (n_permutations, 1))
    for row in permuted:
        for stratum in strata:
            row[stratum.ravel()] = stratum[rng.permutation(len(stratum))].ravel()
    return Arrangement(strata, permuted)


class HeldOut:
    """Sums over the test items of every fold added so far; one column a target.

    The squared error of a permutation is sum y^2 + sum p^2 - 2 sum y_perm p, so the cross-products say everything.
    """

    def __init__(self) -> None:
        self.sums: np.ndarray | None = None  # [5, targets]: y^2, p^2, y p, and the latter's null mean and variance
        self.null = np.zeros((0, 0), np.float32)  # [n_permutations, targets]

    def add(self, truth: np.ndarray, predicted: np.ndarray, arrangement: Arrangement) -> None:
        """Add a fold. Where folds have unequal numbers of components, only those that all of them have are kept.

        Args:
            truth: float32 [n_items, n_targets], about the training mean; ``predicted`` likewise.
        """
        squares = [np.einsum("nt,nt->t", a, b, dtype=np.float64) for a, b in _pairs(truth, predicted)]
        sums = np.stack([*squares, *_null_moments(truth, predicted, arrangement.strata)])
        null = np.stack([np.einsum("nt,nt->t", truth[rows], predicted) for rows in arrangement.permuted])
        if self.sums is None:
            self.sums, self.null = sums, null
        else:
            shared = min(self.sums.shape[1], sums.shape[1])
            self.sums = self.sums[:, :shared] + sums[:, :shared]
            self.null = self.null[:, :shared] + null[:, :shared]

    def result(self) -> Result:
        """R^2 and p-values; p counts the observed order as one of the permutations.

        A target's cross-product is standardised by its exact mean and standard deviation under permutation, and its p
        is its rank among the standardised values of all permutations of all targets: n_permutations alone could
        not give a p small enough to survive the correction for hundreds of targets.
        """
        assert self.sums is not None  # at least one fold was added
        truth, predicted, cross, mean, variance = self.sums
        error = truth + predicted - 2 * cross
        r2 = np.where(truth > 0, 1 - error / np.where(truth > 0, truth, 1), 0.0)
        spread = np.sqrt(np.where(variance > 0, variance, np.inf))
        observed, null = (cross - mean) / spread, np.sort(((self.null - mean) / spread).ravel())
        p = (1 + len(null) - np.searchsorted(null, observed, side="left")) / (1 + len(null))
        p = np.where(variance > 0, p, 1.0)
        total = truth.sum()
        if total <= 0:
            return Result(r2, p, benjamini_hochberg(p), float("nan"), 1.0, float("nan"))
        totals = 1 - ((truth + predicted).sum() - 2 * self.null.sum(1, dtype=np.float64)) / total
        total_r2 = float(1 - error.sum() / total)
        total_p = (1 + (totals >= total_r2).sum()) / (1 + len(totals))
        return Result(r2, p, benjamini_hochberg(p), total_r2, float(total_p), float(np.quantile(totals, 0.95)))


def _pairs(truth: np.ndarray, predicted: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(truth, truth), (predicted, predicted), (truth, predicted)]


def _null_moments(truth: np.ndarray, predicted: np.ndarray, strata: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Exact mean and variance of sum y_perm p over all permutations, float64 [n_targets] each (Hoeffding 1951).

    With M[c, d] the product of the predictions of block c and the truth of block d, and n blocks: the mean is sum M / n
    and the variance sum M~^2 / (n - 1), M~ being M with its rows and columns centred. M~ is the product of centred
    predictions and truth, so its squares follow from their Gram matrices over the places within a block.
    """
    mean, variance = np.zeros(truth.shape[1]), np.zeros(truth.shape[1])
    for blocks in strata:
        y, p = truth[blocks].astype(np.float64), predicted[blocks].astype(np.float64)
        mean += (y.sum(0) * p.sum(0)).sum(0) / len(blocks)
        if len(blocks) > 1:
            y, p = y - y.mean(0), p - p.mean(0)
            gram_y, gram_p = (np.einsum("cjt,ckt->jkt", a, a) for a in (y, p))
            variance += (gram_y * gram_p).sum((0, 1)) / (len(blocks) - 1)
    return mean, variance
