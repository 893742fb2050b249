"""Control: linear regression from voxels into the concept bank, then the same frozen generator.

The target of a training item is the embedding of its class, so the prediction lives where the UNet's class
conditioning lives. It has no pre-training, no attention and no gradient through the UNet.
"""

from __future__ import annotations

import numpy as np

from cnd.config import RidgeDecoder
from cnd.linear.folds import folds_of
from cnd.linear.ridge import predictions_by_penalty
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
    fold = folds_of(len(targets), config.n_splits, train.category)
    held_out, predicted = predictions_by_penalty(train.fmri, targets, test_fmri, config.alphas, fold)
    best = int(np.argmax([_mean_correlation(under_penalty, targets) for under_penalty in held_out]))
    mean, spread, shrunk = targets.mean(0), targets.std(0), held_out[best].std(0)
    rescaled = mean + (predicted[best] - mean) * spread / np.maximum(shrunk, 1e-6)
    return rescaled.astype(np.float32), float(config.alphas[best])


def _mean_correlation(predicted: np.ndarray, targets: np.ndarray) -> float:
    p, t = predicted - predicted.mean(0), targets - targets.mean(0)
    norm = np.linalg.norm(p, axis=0) * np.linalg.norm(t, axis=0)
    return float(np.mean((p * t).sum(0) / np.maximum(norm, 1e-12)))
