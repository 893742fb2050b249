"""The one ridge regression of the project, for many targets that share their predictors.

One decomposition of the predictors for each split serves all targets and penalties. :class:`VoxelRidge` chooses a
penalty for every target (sec. 3.4: the hidden states of all layers, steps and sides are the columns of one ``y``);
the functions ``predict_*`` leave the choice to its caller.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import PredefinedSplit
from sklearn.utils.validation import check_is_fitted, validate_data

from cnd.linear.folds import folds_of

Backend = Literal["numpy", "torch", "torch_cuda"]
TARGETS_BATCH = 4096  # targets predicted at once, for memory
CACHED_TARGETS = 512  # targets whose residuals stay in the processor's cache


class VoxelRidge(MultiOutputMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Linear regression with an L2 penalty chosen for every target by cross-validation; the intercept is free of it.

    Args:
        alphas: candidate penalties, on the sum of squared errors.
        cv: None: leave-one-out in closed form, as ``sklearn.linear_model.RidgeCV``; an integer: that many folds, of
            whole groups if ``fit`` is given at least that many groups, else of shuffled items (by himalaya).
        backend: of himalaya, e.g. "numpy", "torch" or "torch_cuda"; leave-one-out always uses NumPy.

    Attributes:
        coef_: [n_targets, n_features], or [n_features] for a 1-D ``y``.
        intercept_: [n_targets], or a number.
        alpha_: chosen penalties [n_targets], or a number.
    """

    def __init__(
        self,
        alphas: Sequence[float] = (0.1, 1.0, 10.0),
        cv: int | None = None,
        backend: Backend = "numpy",
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.backend = backend

    def fit(self, X: Any, y: Any, groups: Any = None) -> VoxelRidge:
        """Fit all targets.

        Args:
            X: float32 or float64 [n_items, n_features].
            y: [n_items, n_targets] or [n_items].
            groups: [n_items], e.g. categories; not used for leave-one-out.

        Raises:
            ValueError: wrong shapes, values that are not finite, a single item, or penalties that are not positive.
        """
        X, y = validate_data(
            self, X, y, multi_output=True, y_numeric=True, dtype=(np.float64, np.float32), ensure_min_samples=2
        )
        alphas = np.asarray(self.alphas, dtype=np.float64).ravel()
        if not len(alphas) or not (alphas > 0).all():
            raise ValueError(f"alphas must be positive numbers, found {self.alphas}")
        targets = y.reshape(len(y), -1).astype(X.dtype)
        x_mean, y_mean = X.mean(0), targets.mean(0)
        X, targets = X - x_mean, targets - y_mean
        if self.cv is None:
            coef, alpha = solve_leave_one_out(X, targets, alphas)
        else:
            coef, alpha = solve_folds(X, targets, alphas, folds_of(len(X), self.cv, groups), self.backend)
        intercept = y_mean - x_mean @ coef
        one = y.ndim == 1
        self.coef_ = coef[:, 0] if one else coef.T
        self.intercept_ = intercept[0] if one else intercept
        self.alpha_ = alpha[0] if one else alpha
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predicted targets [n_items, n_targets] or [n_items]."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        return X @ self.coef_.T + self.intercept_


# ---------------------------------------------------------------- solvers, for centred X and Y


def solve_leave_one_out(X: np.ndarray, Y: np.ndarray, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Penalty of least leave-one-out error (Allen's PRESS), and the coefficients.

    With X = U S V^T the hat matrix is H = 1/n + U diag(s^2 / (s^2 + a)) U^T, and the error on a left-out item is its
    residual over 1 - H_ii. Both are written with a / (s^2 + a), which loses no digits where the fit is nearly perfect.

    Args:
        X: [n, features], centred. Y: [n, targets], centred.

    Returns:
        Coefficients [features, targets] and penalties [targets].
    """
    squares, left = _left_vectors(X)
    rotated = left.T @ Y
    leverage_left = 1 - 1 / len(X) - np.square(left).sum(1)
    chosen = np.empty(Y.shape[1], dtype=int)
    for start in range(0, Y.shape[1], CACHED_TARGETS):
        part = slice(start, start + CACHED_TARGETS)
        outside = Y[:, part] - left @ rotated[:, part]  # what no linear function of X reaches
        scores = []
        for alpha in alphas:
            shrunk = (alpha / (squares + alpha)).astype(X.dtype)
            residual = left @ (shrunk[:, None] * rotated[:, part])
            residual += outside
            scores.append((leverage_left + np.square(left) @ shrunk) ** -2 @ np.square(residual, out=residual))
        chosen[part] = np.argmin(scores, axis=0)
    weights = rotated / (squares[:, None] + alphas[chosen]).astype(X.dtype)
    return X.T @ (left @ weights), alphas[chosen]


def _left_vectors(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values [r] and left singular vectors [n, r] from the smaller Gram matrix, in float64."""
    n, p = X.shape
    wide = X.astype(np.float64)
    values, vectors = eigh(wide @ wide.T if n <= p else wide.T @ wide)
    keep = values > values.max(initial=0) * max(n, p) * np.finfo(np.float64).eps
    values, vectors = values[keep], vectors[:, keep]
    left = vectors if n <= p else wide @ vectors / np.sqrt(values)
    return values.astype(X.dtype), left.astype(X.dtype)


def smoothers(X: np.ndarray, others: np.ndarray, alphas: Sequence[float]) -> np.ndarray:
    """Matrices B of ridge predictions B Y for other items, float64 [n_alphas, n_others, n_items].

    B = X_others (X^T X + a)^-1 X^T, from one decomposition of X; its rows sum to zero, so Y need not be centred.
    Products of X with itself are taken in its own precision, all that follows in float64.
    """
    mean = X.mean(0)
    squares, left = _left_vectors((X - mean).astype(np.float64))
    reach = ((others - mean) @ (X - mean).T) @ left
    return np.stack([(reach / (squares + alpha)) @ left.T for alpha in alphas])


def predict_others(X: np.ndarray, Y: np.ndarray, others: np.ndarray, alphas: Sequence[float]) -> np.ndarray:
    """Ridge predictions with intercept for other items under every penalty, float64 [n_alphas, n_others, n_targets].

    Args:
        X: [n_items, n_features]. Y: [n_items, n_targets]. others: [n_others, n_features].
    """
    X, Y, others = (np.asarray(part, dtype=np.float64) for part in (X, Y, others))
    mean = Y.mean(0)
    return mean + smoothers(X, others, alphas) @ (Y - mean)


def predict_out_of_fold(X: np.ndarray, Y: np.ndarray, alphas: Sequence[float], fold: np.ndarray) -> np.ndarray:
    """As :func:`predict_others`, of each item from the items of the other folds, [n_alphas, n_items, n_targets].

    Args:
        fold: of each item, [n_items]; see :func:`cnd.linear.folds.folds_of`.
    """
    held_out = np.empty((len(alphas), *Y.shape))
    for index in np.unique(fold):
        held = fold == index
        held_out[:, held] = predict_others(X[~held], Y[~held], X[held], alphas)
    return held_out


def solve_folds(
    X: np.ndarray, Y: np.ndarray, alphas: np.ndarray, fold: np.ndarray, backend: str
) -> tuple[np.ndarray, np.ndarray]:
    """Penalty of least squared error on held-out folds, and the coefficients on all items, by himalaya.

    It solves in the space of items or of features, whichever is smaller.

    Returns:
        Coefficients [features, targets] and penalties [targets].
    """
    from himalaya.kernel_ridge import solve_kernel_ridge_cv_eigenvalues
    from himalaya.ridge import solve_ridge_cv_svd

    options = dict(cv=PredefinedSplit(fold), fit_intercept=True, n_targets_batch=TARGETS_BATCH)
    with _himalaya(backend) as module, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        x, y, a = (module.asarray(part) for part in (X, Y, alphas.astype(X.dtype)))
        if X.shape[0] <= X.shape[1]:
            found, dual, *_ = solve_kernel_ridge_cv_eigenvalues(x @ x.T, y, a, **options)
            coef = X.T @ module.to_numpy(dual)
        else:
            found, primal, *_ = solve_ridge_cv_svd(x, y, a, warn=False, **options)
            coef = module.to_numpy(primal)
        found = module.to_numpy(found)
    # himalaya hands back exp(log(alpha)): return the very candidate
    nearest = np.abs(np.log(found)[:, None] - np.log(alphas)).argmin(1)
    return coef, alphas[nearest]


@contextmanager
def _himalaya(name: str) -> Iterator[Any]:
    """himalaya's backend, which is global to the process, for the length of a call."""
    from himalaya.backend import get_backend, set_backend

    before = get_backend()
    try:
        yield set_backend(name)
    finally:
        set_backend(before.name)
