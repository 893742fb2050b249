"""Control: linear regression from voxels into the concept bank, then the same frozen generator.

The target of a training item is the embedding of its class, so the prediction lives where the UNet's class
conditioning lives. It has no pre-training, no attention and no gradient through the UNet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from cnd.decoders.affine import AffineDecoder
from cnd.decoders.conditioned import ByEmbedding
from cnd.protocols import Fitted, FmriSplit, Lab, TrainingSet
from cnd.settings import Rate


class RidgeDecoder(AffineDecoder):
    """Ridge from voxels into the concept bank, then the same frozen generator."""

    uses_labels: ClassVar[bool] = True
    has_condition: ClassVar[bool] = True
    in_steps: ClassVar[bool] = False
    kind: Literal["ridge"] = "ridge"
    alphas: tuple[Rate, ...] = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
    n_splits: Annotated[int, Field(ge=2)] = 5  # cross-validation over training categories

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Regress the embedding of each training item's class on its fMRI."""
        embeddings = lab.generator.concept_bank.cpu().numpy()[lab.classes]
        predict, alpha = fit(self, train.items, embeddings)
        return ByEmbedding(predict, lab, {"ridge_alpha": alpha, "parameters": parameters(train.items, embeddings)})


def parameters(train: FmriSplit, targets: np.ndarray) -> int:
    """How many an affine map from voxels to targets [n_train, n_targets] has."""
    return (train.fmri.shape[1] + 1) * targets.shape[1]


def fit(
    config: RidgeDecoder, train: FmriSplit, targets: np.ndarray
) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """A function from fMRI to predicted class embeddings, and the chosen penalty.

    The penalty maximises the mean correlation of out-of-fold predictions with the target, folds made of whole training
    categories (of items where there are fewer categories than folds). A ridge prediction is shrunk towards the
    mean; it is scaled back to the spread of the training targets, by a factor measured on the out-of-fold predictions.

    Args:
        targets: embedding of each training item's class, [n_train, width].

    Returns:
        a function from [n, voxels] to float32 [n, width], and the penalty.
    """
    from cnd.linear.folds import folds_of
    from cnd.linear.ridge import predict_others, predict_out_of_fold

    fold = folds_of(len(targets), config.n_splits, train.category)
    held_out = predict_out_of_fold(train.fmri, targets, config.alphas, fold)
    best = int(np.argmax([mean_correlation(under_penalty, targets) for under_penalty in held_out]))
    mean, spread, shrunk = targets.mean(0), targets.std(0), held_out[best].std(0)
    alpha = float(config.alphas[best])

    def predict(fmri: np.ndarray) -> np.ndarray:
        (predicted,) = predict_others(train.fmri, targets, fmri, [alpha])
        return (mean + (predicted - mean) * spread / np.maximum(shrunk, 1e-6)).astype(np.float32)

    return predict, alpha


def mean_correlation(predicted: np.ndarray, targets: np.ndarray) -> float:
    """Mean over targets of the correlation over items; both [n_items, n_targets]."""
    p, t = predicted - predicted.mean(0), targets - targets.mean(0)
    norm = np.linalg.norm(p, axis=0) * np.linalg.norm(t, axis=0)
    return float(np.mean((p * t).sum(0) / np.maximum(norm, 1e-12)))
