"""Linear decoding against scikit-learn, closed forms and full enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from cnd.cortex.compute.areas import areas_of
from cnd.cortex.compute.importance import activation_patterns, importance
from cnd.cortex.compute.significance import FoldTargets, HeldOut, permutations, permute_units
from cnd.linear.ridge import VoxelRidge, folds_of, smoothers
from cnd.protocols import FmriSplit

ALPHAS = 10.0 ** np.arange(0, 6)


def regression(n: int, p: int, n_targets: int = 12, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Targets from nearly noise-free to noise only, so that every penalty is best for some."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p)) @ (np.eye(p) + 0.3 * rng.standard_normal((p, p)) / np.sqrt(p))
    noise = np.geomspace(0.1, 300, n_targets) * rng.standard_normal((n, n_targets))
    return X.astype(dtype), (X @ rng.standard_normal((p, n_targets)) + noise + 3).astype(dtype)


# ---------------------------------------------------------------- estimator


@parametrize_with_checks([VoxelRidge(), VoxelRidge(cv=3)])
def test_keeps_the_conventions_of_scikit_learn(estimator, check):
    """All checks but the array API's apply; that one skips itself unless SCIPY_ARRAY_API is set."""
    check(estimator)


@pytest.mark.parametrize(("n", "p"), [(60, 90), (90, 30)])
def test_leave_one_out_is_that_of_ridge_cv(n: int, p: int):
    X, y = regression(n, p)
    expected = RidgeCV(ALPHAS, alpha_per_target=True).fit(X.astype(float), y.astype(float))
    found = VoxelRidge(ALPHAS).fit(X, y)
    assert len(np.unique(expected.alpha_)) > 2
    np.testing.assert_array_equal(found.alpha_, expected.alpha_)
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-4 * np.abs(expected.coef_).max())
    np.testing.assert_allclose(found.predict(X), expected.predict(X), atol=1e-3)
    assert found.coef_.dtype == np.float32


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(("n", "p"), [(60, 90), (90, 30)])
def test_penalty_by_cross_validation_over_whole_groups(n: int, p: int, backend: str):
    X, y = regression(n, p)
    groups = np.arange(n) // 6
    fold = folds_of(n, 4, groups)
    assert all(len(np.unique(fold[groups == group])) == 1 for group in range(n // 6))
    errors = np.zeros((len(ALPHAS), y.shape[1]))
    for alpha, k in itertools.product(range(len(ALPHAS)), range(4)):
        model = Ridge(alpha=ALPHAS[alpha]).fit(X[fold != k].astype(float), y[fold != k])
        errors[alpha] += np.square(model.predict(X[fold == k]) - y[fold == k]).mean(0)
    expected = Ridge(alpha=ALPHAS[errors.argmin(0)]).fit(X.astype(float), y.astype(float))
    found = VoxelRidge(ALPHAS, cv=4, backend=backend).fit(X, y, groups=groups)
    np.testing.assert_array_equal(found.alpha_, ALPHAS[errors.argmin(0)])
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=1e-3 * np.abs(expected.coef_).max())


def test_items_are_the_folds_where_groups_are_few():
    fold = folds_of(40, 5, np.arange(40) % 2)
    assert np.bincount(fold).tolist() == [8] * 5
    assert len(np.unique(fold[np.arange(40) % 2 == 0])) == 5


def test_every_split_is_decomposed_once_for_all_targets(monkeypatch: pytest.MonkeyPatch):
    from himalaya.backend import numpy as backend

    calls = []
    original = backend.eigh
    monkeypatch.setattr(backend, "eigh", lambda *args, **kw: calls.append(1) or original(*args, **kw))
    X, y = regression(40, 60, 30)
    VoxelRidge(ALPHAS, cv=4).fit(X, y)
    assert 4 <= len(calls) <= 4 + len(ALPHAS)


def test_himalaya_gets_its_global_backend_back():
    from himalaya.backend import get_backend, set_backend

    before = get_backend()
    try:
        set_backend("numpy")
        VoxelRidge(ALPHAS, cv=3, backend="torch").fit(*regression(20, 5))
        assert get_backend().name == "numpy"
    finally:
        set_backend(before.name)


def test_bad_penalties_are_refused():
    with pytest.raises(ValueError, match="alphas must be positive"):
        VoxelRidge((0.0, 1.0)).fit(*regression(20, 5))


def test_smoothers_are_the_predictions_of_ridge():
    X, y = regression(30, 50)
    found = smoothers(X[:20], X[20:], (1.0, 100.0))
    for smoother, alpha in zip(found, (1.0, 100.0), strict=True):
        model = Ridge(alpha=alpha).fit(X[:20].astype(float), y[:20] - y[:20].mean(0))
        expected = model.predict(X[20:])
        np.testing.assert_allclose(smoother @ y[:20], expected, atol=1e-4 * np.abs(expected).max())
    assert np.array_equal(smoothers(X[:20, :0], X[20:, :0], (1.0,)), np.zeros((1, 10, 20)))


# ---------------------------------------------------------------- significance


def split(X: np.ndarray, category: np.ndarray, rows: np.ndarray) -> FmriSplit:
    images = np.zeros((len(rows), 1, 1, 1), np.uint8)
    return FmriSplit(X[rows].astype(np.float32), images, category[rows], [f"item {i:03d}" for i in rows])


def fold_of(X: np.ndarray, Y: np.ndarray, train: np.ndarray, test: np.ndarray, alpha: float = 30.0) -> FoldTargets:
    mean = Y[train].mean(0)
    parts = [(Y[rows] - mean).astype(np.float32) for rows in (train, test)]
    return FoldTargets(*parts, smoothers(X[train], X[test], (alpha,)), np.zeros(Y.shape[1], dtype=int))


def test_whole_categories_change_places_with_others_of_their_size():
    category = np.array([0] * 3 + [1] * 3 + list(np.repeat(np.arange(2, 14), 2)))
    for rows in permute_units(category, 20, np.random.default_rng(0)):
        assert sorted(rows) == list(range(len(category)))
        for value in np.unique(category):
            taken = category[rows[category == value]]
            assert len(set(taken)) == 1 and (taken[0] < 2) == (value < 2)


def test_categories_of_different_sizes_change_places_too():
    """With 20 categories of 20 sizes none would have a partner of its size, and nothing would be permuted."""
    category = np.random.default_rng(0).permutation(np.repeat(np.arange(20), np.arange(3, 23)))
    permuted = permute_units(category, 50, np.random.default_rng(0))
    assert (category[permuted] != category).mean() > 0.9
    for rows in permuted:
        assert all(len(np.unique(category[rows[category == value]])) == 1 for value in range(20))


def test_the_null_holds_for_categories_of_different_sizes():
    """Patterns and targets both depend on the category, but not on each other: p must be uniform even so."""
    rng, p_values = np.random.default_rng(1), []
    for _ in range(40):
        category = np.concatenate(
            [np.repeat(np.arange(20), rng.permutation(np.arange(3, 23))), np.repeat(range(20), 3)]
        )
        train, test = np.arange(250), np.arange(250, 310)
        X, Y = (rng.standard_normal((20, width))[category] + rng.standard_normal((310, width)) for width in (30, 12))
        Y[test] = rng.standard_normal((20, 12))[category[test]] + rng.standard_normal((60, 12))
        held = HeldOut()
        held.add(
            fold_of(X, Y, train, test), permutations(split(X, category, train), split(X, category, test), False, 99, 0)
        )
        p_values.append(held.result().p)
    for level in (0.05, 0.2, 0.5):
        assert (np.array(p_values) <= level).mean() == pytest.approx(level, abs=0.05)


def test_single_items_change_places_where_categories_are_few():
    rows = permute_units(np.array([6, 9] * 20), 50, np.random.default_rng(0))
    assert len(np.unique(rows[:, 0])) > 20


def test_a_permutation_is_a_refit_to_permuted_targets():
    rng = np.random.default_rng(0)
    X, Y, category = rng.standard_normal((30, 8)), rng.standard_normal((30, 5)), np.arange(30)
    train, test = np.arange(20), np.arange(20, 30)
    permuted = permutations(split(X, category, train), split(X, category, test), False, 7, 0)
    found = fold_of(X, Y, train, test).null_products(permuted)
    for rows, products in zip(permuted.train, found, strict=True):
        model = Ridge(alpha=30.0).fit(X[train], Y[train][rows])
        truth = Y[test] - Y[train].mean(0)
        np.testing.assert_allclose(products, (truth * (model.predict(X[test]) - Y[train].mean(0))).sum(0), rtol=1e-3)


def test_in_cross_validation_every_fold_sees_the_same_permutation():
    rng = np.random.default_rng(0)
    X, Y, category = rng.standard_normal((30, 8)), rng.standard_normal((30, 5)), np.arange(30)
    items = rng.permutation(30)  # the folds list their items in no particular order
    moved = np.full((2, 4, 30), -1)
    for index, (train, test) in enumerate([(items[:20], items[20:]), (items[10:], items[:10])]):
        permuted = permutations(split(X, category, train), split(X, category, test), True, 4, 0)
        everyone = np.concatenate([train, test])
        moved[index][:, train], moved[index][:, test] = everyone[permuted.train], everyone[permuted.test]
        found = fold_of(X, Y, train, test).null_products(permuted)
        for row, products in zip(moved[index], found, strict=True):
            shuffled = Y[row]
            model = Ridge(alpha=30.0).fit(X[train], shuffled[train])
            truth, predicted = (
                shuffled[test] - shuffled[train].mean(0),
                model.predict(X[test]) - shuffled[train].mean(0),
            )
            np.testing.assert_allclose(products, (truth * predicted).sum(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(moved[0], moved[1])
    assert sorted(moved[0][0]) == list(range(30))


def test_held_out_r2_pools_folds():
    rng = np.random.default_rng(0)
    X, category = rng.standard_normal((40, 6)), np.zeros(40)
    Y = X @ rng.standard_normal((6, 3)) + rng.standard_normal((40, 3))
    held, truth, predicted = HeldOut(), [], []
    for k in range(4):
        test = np.arange(k, 40, 4)
        train = np.setdiff1d(np.arange(40), test)
        permuted = permutations(split(X, category, train), split(X, category, test), True, 99, 0)
        held.add(fold_of(X, Y, train, test, 1.0), permuted)
        model = Ridge(alpha=1.0).fit(X[train], Y[train])
        truth.append(Y[test] - Y[train].mean(0))
        predicted.append(model.predict(X[test]) - Y[train].mean(0))
    result = held.result()
    error = np.square(np.concatenate(truth) - np.concatenate(predicted)).sum(0)
    squares = np.square(np.concatenate(truth)).sum(0)
    np.testing.assert_allclose(result.r2, 1 - error / squares, rtol=1e-4)
    assert result.total_r2 == pytest.approx(1 - error.sum() / squares.sum(), rel=1e-4)
    assert result.total_p == 1 / 100 and result.null_95 < 0 and (result.q < 0.05).all()


def test_folds_with_fewer_components_shorten_the_rest():
    rng, held, items = np.random.default_rng(0), HeldOut(), np.arange(12)
    X, Y = rng.standard_normal((12, 3)), rng.standard_normal((12, 4))
    permuted = permutations(split(X, items, items[:9]), split(X, items, items[9:]), True, 19, 0)
    for n in (4, 3, 4):
        held.add(fold_of(X, Y[:, :n], items[:9], items[9:]), permuted)
    assert held.result().r2.shape == (3,)


@pytest.mark.parametrize("cross_validated", [False, True])
def test_shuffled_pairs_are_not_significant_and_true_ones_are(cross_validated: bool):
    """Patterns and targets both follow a few shared factors, as fMRI and hidden states both follow the stimulus.

    Without pairs p must be uniform even so; permuting the test items of one decoder would call a third of them small.
    """
    rng = np.random.default_rng(0)
    p_values, share = [], []
    for shuffled in [True] * 30 + [False]:
        factors = rng.standard_normal((60, 4)) * [3, 2, 1, 1]
        X = factors @ rng.standard_normal((4, 20)) + rng.standard_normal((60, 20))
        Y = factors @ rng.standard_normal((4, 10)) + rng.standard_normal((60, 10))
        category, test_sets = np.zeros(60), [np.arange(40, 60)]
        if cross_validated:
            test_sets = [np.arange(k, 60, 6) for k in range(6)]
        order = rng.permutation(60 if cross_validated else 40) if shuffled else np.arange(60)
        Y[: len(order)] = Y[: len(order)][order]
        held = HeldOut()
        for test in test_sets:
            train = np.setdiff1d(np.arange(60), test)
            permuted = permutations(split(X, category, train), split(X, category, test), cross_validated, 99, 1)
            held.add(fold_of(X, Y, train, test), permuted)
        result = held.result()
        if shuffled:
            p_values.append(result.p)
            share.append((result.q <= 0.05).mean())
    for level in (0.05, 0.2, 0.5):
        assert (np.array(p_values) <= level).mean() == pytest.approx(level, abs=0.1)
    assert np.mean(share) <= 0.05
    assert (result.q <= 0.05).all()


def test_targets_that_do_not_vary_are_not_significant():
    rng, held, items = np.random.default_rng(0), HeldOut(), np.arange(30)
    X = rng.standard_normal((30, 3))
    Y = np.stack([np.ones(30), X[:, 0]], axis=1)
    permuted = permutations(split(X, items, items[:20]), split(X, items, items[20:]), False, 99, 0)
    held.add(fold_of(X, Y, items[:20], items[20:], 1.0), permuted)
    result = held.result()
    assert result.p[0] == 1 and result.r2[0] == 0 and result.p[1] < 0.05 and result.r2[1] > 0.5


# ---------------------------------------------------------------- importance


def test_a_pattern_ignores_a_voxel_that_only_cancels_noise():
    """Haufe et al. (2014), their first example: voxel 0 is signal plus noise, voxel 1 the noise alone."""
    rng = np.random.default_rng(0)
    signal, noise = rng.standard_normal((2, 4000))
    fmri = np.stack([signal + noise, noise], axis=1)
    found = importance(fmri, np.array([[1.0, -1.0]]))
    np.testing.assert_allclose(found.weight, [1, 1])
    np.testing.assert_allclose(found.weight_signed, [1, -1])
    np.testing.assert_allclose(found.pattern, [1, 0], atol=0.06)


def test_patterns_are_covariances_with_the_decoded_components():
    rng = np.random.default_rng(0)
    fmri, coef = rng.standard_normal((30, 5)) + 2, rng.standard_normal((3, 5))
    expected = np.cov(fmri.T, bias=True) @ coef.T
    np.testing.assert_allclose(activation_patterns(fmri, coef), expected.T)
    found = importance(fmri, coef)
    np.testing.assert_allclose(found.pattern, np.abs(expected).mean(1))
    np.testing.assert_allclose(found.pattern_signed, expected.mean(1))
    assert np.array_equal(np.stack(importance(fmri, coef[:0])), np.zeros((4, 5)))


def test_areas_join_the_hemispheres_and_leave_small_ones_out():
    found = areas_of(["L_V1"] * 15 + ["R_V1"] * 10 + ["LOC"] * 20 + ["L_V2"] * 19)
    assert {name: len(rows) for name, rows in found.items()} == {"LOC": 20, "V1": 25}
    assert found["V1"].tolist() == list(range(25))
