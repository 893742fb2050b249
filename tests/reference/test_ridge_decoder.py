"""The ridge control against scikit-learn's ridge and cross-validation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold, cross_val_predict

from cnd.decoders.ridge import RidgeDecoder, fit
from cnd.linear.folds import folds_of
from cnd.linear.ridge import predict_others, predict_out_of_fold
from cnd.protocols import FmriSplit

CONFIG = RidgeDecoder(alphas=(1.0, 100.0, 1e4), n_splits=5)
MANY, TWO = np.arange(60) // 4, np.arange(60) // 30  # categories of the items


def problem(category: np.ndarray, n_voxels: int, noise: float) -> tuple[FmriSplit, np.ndarray, np.ndarray]:
    """Training items, test patterns, and targets that are the same for all items of a category."""
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((category.max() + 1, 7))[category] + 3
    fmri = targets @ rng.standard_normal((7, n_voxels)) + noise * rng.standard_normal((len(category), n_voxels))
    images = np.zeros((len(category), 0, 0, 0), dtype=np.uint8)
    split = FmriSplit(fmri.astype(np.float32), images, category, list(map(str, category)))
    return split, rng.standard_normal((9, n_voxels)).astype(np.float32), targets.astype(np.float32)


def scikit(split: FmriSplit, targets: np.ndarray, alpha: float) -> tuple[np.ndarray, Ridge]:
    """Out-of-fold predictions, and the model of all items."""
    many = len(np.unique(split.category)) >= CONFIG.n_splits
    cv = GroupKFold(CONFIG.n_splits) if many else KFold(CONFIG.n_splits, shuffle=True, random_state=0)
    fmri, groups = split.fmri.astype(float), split.category if many else None
    held_out = cross_val_predict(Ridge(alpha=alpha), fmri, targets, cv=cv, groups=groups)
    return held_out, Ridge(alpha=alpha).fit(fmri, targets)


def mean_correlation(predicted: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean([np.corrcoef(p, t)[0, 1] for p, t in zip(predicted.T, targets.T, strict=True)]))


@pytest.mark.parametrize("category", [MANY, TWO], ids=["by category", "by item"])
@pytest.mark.parametrize("n_voxels", [20, 90])
def test_predictions_under_every_penalty(category: np.ndarray, n_voxels: int) -> None:
    split, others, targets = problem(category, n_voxels, noise=10.0)
    fold = folds_of(len(category), CONFIG.n_splits, category)
    held_out = predict_out_of_fold(split.fmri, targets, CONFIG.alphas, fold)
    predicted = predict_others(split.fmri, targets, others, CONFIG.alphas)
    for index, alpha in enumerate(CONFIG.alphas):
        expected, model = scikit(split, targets.astype(float), alpha)
        np.testing.assert_allclose(held_out[index], expected, rtol=1e-9)
        np.testing.assert_allclose(predicted[index], model.predict(others.astype(float)), rtol=1e-9)


@pytest.mark.parametrize(
    ("category", "n_voxels", "noise", "alpha"), [(MANY, 20, 0.5, 1.0), (MANY, 90, 3.0, 100.0), (TWO, 20, 3.0, 1e4)]
)
def test_one_penalty_for_all_targets_and_the_spread_of_the_training_targets(
    category: np.ndarray, n_voxels: int, noise: float, alpha: float
) -> None:
    split, others, targets = problem(category, n_voxels, noise)
    found = {a: scikit(split, targets.astype(float), a) for a in CONFIG.alphas}
    agreement = {a: mean_correlation(held_out, targets) for a, (held_out, _) in found.items()}
    assert alpha == max(agreement, key=agreement.__getitem__)
    held_out, model = found[alpha]
    mean, spread = targets.mean(0), targets.std(0)
    expected = mean + (model.predict(others.astype(float)) - mean) * spread / held_out.std(0)
    predict, chosen = fit(CONFIG, split, targets)
    predicted = predict(others)
    assert chosen == alpha and predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-5)
