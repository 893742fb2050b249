"""InfoNCE on a linear map against PyTorch's cross entropy and scikit-learn's logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from cnd.decoders.linear_contrastive import (
    LinearContrastiveDecoder,
    contrastive_maps,
    fit,
    info_nce,
    unit_embeddings,
)
from cnd.errors import UserError
from cnd.protocols import FmriSplit

CONFIG = LinearContrastiveDecoder(alphas=(0.1, 100.0, 3.0), n_splits=4)
WIDTH = 5


def problem(n_voxels: int = 30) -> tuple[FmriSplit, np.ndarray, np.ndarray]:
    """Items of every second class of a bank, their classes, and the bank."""
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((24, WIDTH)).astype(np.float32) + 2
    classes = 2 * (np.arange(60) % 12)
    fmri = bank[classes] @ rng.standard_normal((WIDTH, n_voxels)) + 4 * rng.standard_normal((60, n_voxels))
    images = np.zeros((60, 0, 0, 0), dtype=np.uint8)
    return FmriSplit((fmri - 1).astype(np.float32), images, classes, list(map(str, classes))), classes, bank


def test_units_are_those_of_the_classes_that_occur() -> None:
    _, classes, bank = problem()
    units, position = unit_embeddings(bank, classes)
    occurring = bank[::2] - bank[::2].mean(0)
    np.testing.assert_allclose(units, occurring / np.linalg.norm(occurring, axis=1)[:, None], rtol=1e-5)
    np.testing.assert_array_equal(2 * position, classes)


def test_loss_and_gradient_are_those_of_cross_entropy() -> None:
    rng = np.random.default_rng(1)
    predicted, units, position = rng.standard_normal((9, 4)) * 30, rng.standard_normal((6, 4)), rng.integers(0, 6, 9)
    leaf = torch.from_numpy(predicted).requires_grad_()
    logits = leaf @ torch.from_numpy(units).T
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(position), reduction="sum")
    (gradient,) = torch.autograd.grad(expected, leaf)
    loss, found = info_nce(predicted, units, position)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(found, gradient.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n_voxels", [10, 90])
def test_with_one_hot_embeddings_it_is_logistic_regression(n_voxels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Centring them moves all logits of an item alike, and their length of one is a factor."""
    monkeypatch.setattr("cnd.decoders.linear_contrastive.GRADIENT", 1e-6)
    split, classes, _ = problem(n_voxels)
    X, classes = (split.fmri - split.fmri.mean(0)).astype(float), classes // 2
    factor = np.sqrt(1 - 1 / 12)  # length of a centred one-hot vector of twelve
    alphas = (100.0, 1.0)
    for alpha, found in zip(alphas, contrastive_maps(X, classes, np.eye(12), alphas), strict=True):
        model = LogisticRegression(C=factor**-2 / alpha, fit_intercept=False, tol=1e-8, max_iter=10_000)
        expected = model.fit(X, classes).coef_.T
        np.testing.assert_allclose(found / factor, expected, atol=1e-4 * np.abs(expected).max())


def test_the_norm_of_the_map_grows_as_the_penalty_falls() -> None:
    split, classes, bank = problem()
    X = (split.fmri - split.fmri.mean(0)).astype(float)
    norms = [np.linalg.norm(found) for found in contrastive_maps(X, classes, bank, [100.0, 10.0, 1.0])]
    assert norms[0] < norms[1] < norms[2]
    (alone,) = contrastive_maps(X, classes, bank, [1.0])
    assert np.linalg.norm(alone) == pytest.approx(norms[2], rel=1e-4)  # convex: whatever the start


def test_the_penalty_by_held_out_categories_and_the_spread_of_the_targets() -> None:
    split, classes, bank = problem()
    targets = bank[classes].astype(float)
    held_out = {alpha: np.empty_like(targets) for alpha in CONFIG.alphas}
    for rest, held in GroupKFold(4).split(targets, groups=classes):
        centre = split.fmri[rest].astype(float).mean(0)
        for alpha in CONFIG.alphas:
            (found,) = contrastive_maps(split.fmri[rest] - centre, classes[rest], bank, [alpha])
            held_out[alpha][held] = (split.fmri[held] - centre) @ found
    agreement = {
        alpha: np.mean([np.corrcoef(p, t)[0, 1] for p, t in zip(predicted.T, targets.T, strict=True)])
        for alpha, predicted in held_out.items()
    }
    best = max(agreement, key=agreement.__getitem__)
    centre = split.fmri.astype(float).mean(0)
    (found,) = contrastive_maps(split.fmri - centre, classes, bank, [best])
    others = np.random.default_rng(2).standard_normal((7, split.fmri.shape[1])).astype(np.float32)
    expected = targets.mean(0) + (others - centre) @ found * targets.std(0) / held_out[best].std(0)
    predict, facts = fit(CONFIG, split, classes, bank)
    predicted = predict(others)
    assert facts["contrastive_alpha"] == best and predicted.dtype == np.float32
    assert facts["map_norm"] == pytest.approx(np.linalg.norm(found), rel=1e-3)
    np.testing.assert_allclose(predicted, expected, atol=5e-3 * np.abs(expected - targets.mean(0)).max())


def test_classes_that_do_not_occur_are_no_negatives() -> None:
    split, classes, bank = problem()
    other = bank.copy()
    other[1::2] = 7
    predicted, same = (fit(CONFIG, split, classes, b)[0](split.fmri) for b in (bank, other))
    np.testing.assert_array_equal(predicted, same)


def test_one_class_alone_is_told() -> None:
    split, classes, bank = problem()
    with pytest.raises(UserError, match=r"linear_contrastive: .*all training items are of one"):
        fit(CONFIG, split, np.zeros_like(classes), bank)
