"""Control: linear regression from voxels into the concept bank, then the same frozen generator.

The target of a training item is the embedding of its class, so the prediction lives where the UNet's class
conditioning lives. It has no pre-training, no attention and no gradient through the UNet.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold, cross_val_predict

from cnd.config import RidgeDecoder
from cnd.protocols import FmriSplit


def fit_predict(
    config: RidgeDecoder, train: FmriSplit, test_fmri: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, float]:
    """Predicted class embeddings of test items, and the chosen penalty.

    The penalty maximises the mean correlation of out-of-fold predictions with the target, folds made of whole training
    categories (of items where there are fewer categories than folds). A ridge prediction is shrunk towards the
    mean; it is scaled back to the spread of the training targets, by a factor measured on the out-of-fold predictions.

    Args:
        targets: embedding of each training item's class, [n_train, width].

    Returns:
        float32 [n_test, width] and the penalty.
    """
    by_category = len(np.unique(train.category)) >= config.n_splits
    folds = GroupKFold(config.n_splits) if by_category else KFold(config.n_splits, shuffle=True, random_state=0)
    best: tuple[float, float, np.ndarray] | None = None
    for alpha in config.alphas:
        held_out = cross_val_predict(Ridge(alpha=alpha), train.fmri, targets, cv=folds, groups=train.category)
        score = _mean_correlation(held_out, targets)
        if best is None or score > best[0]:
            best = (score, alpha, held_out)
    assert best is not None  # the configuration has at least one penalty
    _, alpha, held_out = best
    mean, spread, shrunk = targets.mean(0), targets.std(0), held_out.std(0)
    predicted = Ridge(alpha=alpha).fit(train.fmri, targets).predict(test_fmri)
    return (mean + (predicted - mean) * spread / np.maximum(shrunk, 1e-6)).astype(np.float32), float(alpha)


def _mean_correlation(predicted: np.ndarray, targets: np.ndarray) -> float:
    p, t = predicted - predicted.mean(0), targets - targets.mean(0)
    norm = np.linalg.norm(p, axis=0) * np.linalg.norm(t, axis=0)
    return float(np.mean((p * t).sum(0) / np.maximum(norm, 1e-12)))
