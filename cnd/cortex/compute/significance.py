"""Held-out R^2 with a permutation null, pooled over folds.

The null hypothesis is "patterns and stimuli are not paired": training pairs are permuted, penalties kept. A ridge
prediction is linear in the training targets, B Y, so no model is fitted again. (Permuting the test items of one fitted
model would be simpler and wrong. A model fitted to shuffled pairs is a random linear function of patterns that do carry
the stimuli, so its predictions are related to the test items by chance, far more than permuted ones are.)

Items of one category resemble each other, so whole categories change places (:func:`permute_units`); where there are
few categories, single items do (:func:`cnd.statistics.sampling_units`).

In cross-validation every item is a training item of other folds, and products of the same two items meet twice.
There all items are permuted, those of the test folds too, and in every fold alike. They are single items: folds share
their categories, and categories that change places in training and test alike can be decoded as well as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cnd.protocols import FmriSplit
from cnd.statistics import FEWEST_CATEGORIES, benjamini_hochberg, sampling_units


class Result(NamedTuple):
    """Per target, and for all targets together weighted by their variance.

    Attributes:
        r2: float64 [n_targets], against guessing the training mean.
        p: float64 [n_targets], one-sided.
        q: p after Benjamini and Hochberg over the targets.
        total_r2, total_p: of all targets together.
        null_95: 95th percentile of ``total_r2`` under permutation, for predictions as large as the actual ones.
    """

    r2: np.ndarray
    p: np.ndarray
    q: np.ndarray
    total_r2: float
    total_p: float
    null_95: float


class Permutations(NamedTuple):
    """Whose target each item takes, int [n_permutations, n_items] each, counting training items first, then test items.

    Attributes:
        test: None leaves the test items as they are; ``train`` then names training items only.
    """

    train: np.ndarray
    test: np.ndarray | None


def permutations(
    train: FmriSplit, test: FmriSplit, cross_validated: bool, n_permutations: int, seed: int
) -> Permutations:
    """Random permutations by whole training categories, or by items where they are few or shared by several folds.

    Args:
        cross_validated: the fold is one of several over the same items; the same seed then gives every fold the same
            permutations, whatever order it has the items in.
    """
    rng = np.random.default_rng([seed, 17])
    if not cross_validated:
        return Permutations(permute_units(train.category, n_permutations, rng), None)
    order = np.argsort(np.array([*train.stimulus, *test.stimulus]), kind="stable")
    moved = np.empty((n_permutations, len(order)), dtype=int)
    for row in moved:
        row[order] = order[rng.permutation(len(order))]
    return Permutations(moved[:, : len(train)], moved[:, len(train) :])


def permute_units(category: np.ndarray, n_permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Item whose target each item takes, int [n_permutations, n_items].

    Categories change places with those of their size. Where fewer than ten share a size, all such categories change
    places with one another: of a larger one only the first items are taken, a smaller one's are taken again.
    """
    items = np.arange(len(category))
    units = sampling_units(category, items)
    strata = [_Stratum(blocks) for blocks in _by_size([np.flatnonzero(units == unit) for unit in np.unique(units)])]
    permuted = np.tile(items, (n_permutations, 1))
    for row in permuted:
        for stratum in strata:
            row[stratum.items] = stratum.permuted(rng)
    return permuted


def _by_size(blocks: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Blocks that change places with each other."""
    sizes = np.array([len(block) for block in blocks])
    groups = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    groups = [group for group in groups if len(group) >= FEWEST_CATEGORIES]
    rest = np.setdiff1d(np.arange(len(blocks)), np.concatenate([[], *groups]))
    return [[blocks[index] for index in group] for group in (*groups, rest) if len(group)]


class _Stratum:
    """Blocks of items that change places, each repeated to the length of the longest."""

    def __init__(self, blocks: list[np.ndarray]):
        sizes = np.array([len(block) for block in blocks])
        self.blocks = np.stack([np.resize(block, sizes.max()) for block in blocks])
        self.used = np.arange(sizes.max()) < sizes[:, None]
        self.items = self.blocks[self.used]

    def permuted(self, rng: np.random.Generator) -> np.ndarray:
        """The items that :attr:`items` take, in their order."""
        return self.blocks[rng.permutation(len(self.blocks))][self.used]


class FoldTargets(NamedTuple):
    """Targets of one fold, float32 about the training mean, and how ridge predicts them.

    Attributes:
        train: [n_train, n_targets]; ``test`` likewise.
        smoothers: B of each candidate penalty [n_alphas, n_test, n_train]: the prediction is B Y.
        chosen: index of each target's penalty [n_targets].
    """

    train: np.ndarray
    test: np.ndarray
    smoothers: np.ndarray
    chosen: np.ndarray

    def predicted(self) -> np.ndarray:
        """[n_test, n_targets]."""
        return self._by_penalty(lambda smoother, part: smoother @ self.train[:, part], len(self.test))

    def null_products(self, permuted: Permutations) -> np.ndarray:
        """sum over test items of truth times prediction after each permutation, [n_permutations, n_targets]."""
        if permuted.test is None:
            weights = self._by_penalty(lambda smoother, part: smoother.T @ self.test[:, part], len(self.train))
            return np.stack([np.einsum("nt,nt->t", weights, self.train[rows]) for rows in permuted.train])
        everyone = np.concatenate([self.train, self.test])
        products = []
        for train_rows, test_rows in zip(permuted.train, permuted.test, strict=True):
            moved = FoldTargets(everyone[train_rows], everyone[test_rows], self.smoothers, self.chosen)
            truth = moved.test - moved.train.mean(0)
            products.append(np.einsum("nt,nt->t", truth, moved.predicted()))
        return np.stack(products)

    def _by_penalty(self, product: Callable[[np.ndarray, np.ndarray], np.ndarray], n_rows: int) -> np.ndarray:
        result = np.empty((n_rows, len(self.chosen)), np.float32)
        for index in np.unique(self.chosen):
            part = np.flatnonzero(self.chosen == index)
            result[:, part] = product(self.smoothers[index], part)
        return result


class HeldOut:
    """Sums over the test items of every fold added so far; one column a target.

    The squared error is sum y^2 + sum p^2 - 2 sum y p, so the products of truth and prediction say what a permutation
    changes.
    """

    def __init__(self) -> None:
        self.sums: np.ndarray | None = None  # [3, targets]: y^2, p^2, y p
        self.null = np.zeros((0, 0), np.float32)  # y p after each permutation, [n_permutations, targets]

    def add(self, fold: FoldTargets, permuted: Permutations) -> None:
        """Add a fold. Where folds have unequal numbers of components, only those that all of them have are kept."""
        truth, predicted = fold.test, fold.predicted()
        pairs = ((truth, truth), (predicted, predicted), (truth, predicted))
        sums = np.stack([np.einsum("nt,nt->t", a, b, dtype=np.float64) for a, b in pairs])
        null = fold.null_products(permuted)
        if self.sums is None:
            self.sums, self.null = sums, null
        else:
            shared = min(self.sums.shape[1], sums.shape[1])
            self.sums = self.sums[:, :shared] + sums[:, :shared]
            self.null = self.null[:, :shared] + null[:, :shared]

    def result(self) -> Result:
        """R^2 and p-values; p counts the observed order as one of the permutations.

        A target's product is standardised by its mean and standard deviation under permutation, and its p is its rank
        among the standardised products of all permutations of all targets: n_permutations alone could not give a p
        small enough to survive the correction for hundreds of targets.
        """
        assert self.sums is not None  # at least one fold was added
        truth, predicted, product = self.sums
        error = truth + predicted - 2 * product
        r2 = np.where(truth > 0, 1 - error / np.where(truth > 0, truth, 1), 0.0)
        p = _pooled_p(product, self.null.astype(np.float64))
        total = truth.sum()
        if total <= 0:
            return Result(r2, p, benjamini_hochberg(p), float("nan"), 1.0, float("nan"))
        totals = 1 - ((truth + predicted).sum() - 2 * self.null.sum(1, dtype=np.float64)) / total
        total_r2 = float(1 - error.sum() / total)
        total_p = (1 + (totals >= total_r2).sum()) / (1 + len(totals))
        return Result(r2, p, benjamini_hochberg(p), total_r2, float(total_p), float(np.quantile(totals, 0.95)))


def _pooled_p(product: np.ndarray, null: np.ndarray) -> np.ndarray:
    """One-sided p-values [n_targets]; 1 for a target whose predictions do not vary."""
    mean, spread = null.mean(0), null.std(0, ddof=1)
    varies = spread > 1e-12 * (np.abs(product) + np.abs(mean))
    scale = np.where(varies, spread, np.inf)
    pooled = np.sort(((null - mean) / scale)[:, varies].ravel())
    reached = len(pooled) - np.searchsorted(pooled, (product - mean) / scale, side="left")
    return np.where(varies, (1 + reached) / (1 + len(pooled)), 1.0)
