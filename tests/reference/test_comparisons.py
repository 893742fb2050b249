"""Rows compared: sign flips, adjusted p-values and power against SciPy, enumeration, tables and simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cnd import statistics as s
from cnd.statistics import resampling

# ---------------------------------------------------------------- paired tests


def test_paired_interval_is_scipys_on_category_means() -> None:
    rng, units = np.random.default_rng(3), np.arange(50).repeat(4)
    scores = rng.beta(1, 2, 50).repeat(4) + rng.normal(0, 0.05, 200)
    other = scores + rng.normal(0.02, 0.1, 200)
    means, other_means = scores.reshape(50, 4).mean(axis=1), other.reshape(50, 4).mean(axis=1)
    test = stats.ttest_rel(other_means, means)
    difference, expected = s.paired_difference(other, scores, units), test.confidence_interval()
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert difference.p_value == pytest.approx(test.pvalue, abs=0.02)


@pytest.mark.parametrize("n_units", [1, 2, 6, 14])
def test_few_units_try_every_sign(n_units: int) -> None:
    sums = np.random.default_rng(10).integers(-3, 4, (n_units, 3)) / 10  # in tenths: ties but for rounding
    signs = np.array(list(product([-1, 1], repeat=n_units)))
    expected = (np.abs(signs @ sums) >= np.abs(sums.sum(0)) - 1e-9).mean(axis=0)
    items = np.concatenate([sums - 0.7, np.full_like(sums, 0.7)])  # two items a unit
    assert s.sign_flip_p(items, np.tile(np.arange(n_units), 2)).tolist() == expected.tolist()


def test_exact_sign_flips_are_scipys() -> None:
    differences = np.random.default_rng(11).normal(0.3, 1, 9)
    scipys = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert s.sign_flip_p(differences, np.arange(9)) == pytest.approx(scipys.pvalue)


@pytest.mark.parametrize("n_units", [14, 15])
def test_columns_are_tested_as_if_alone(n_units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(12).normal(0.3, 1, (2 * n_units, 3, 2))
    units = np.arange(n_units).repeat(2)
    found = s.sign_flip_p(differences, units, n_flips=500, seed=3)
    pairs = [s.paired_difference(c, 0 * c, units, n_flips=500, seed=3) for c in differences.reshape(-1, 6).T]
    assert found.ravel().tolist() == [pair.p_value for pair in pairs] and found.shape == (3, 2)
    monkeypatch.setattr(resampling, "BLOCK", 6 * 7)  # seven patterns at a time
    assert s.sign_flip_p(differences, units, n_flips=500, seed=3).tolist() == found.tolist()


def test_many_units_draw_signs_with_a_seed() -> None:
    row = np.random.default_rng(4).normal(0.1, 0.3, 60)
    first, again, other = (s.paired_difference(row, np.zeros(60), np.arange(60), seed=seed) for seed in (5, 5, 6))
    assert first == again and first.p_value != other.p_value
    assert first.p_value == pytest.approx(stats.ttest_1samp(row, 0).pvalue, abs=0.01)
    assert s.paired_difference(np.ones(60), np.zeros(60), np.arange(60), n_flips=99).p_value == 1 / 100


def test_identical_rows_do_not_differ() -> None:
    difference = s.paired_difference(np.full(30, 0.4), np.full(30, 0.4), np.arange(30))
    assert (difference.estimate, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)


def test_sign_flip_keeps_its_error_rate() -> None:
    rng = np.random.default_rng(6)
    p = [s.paired_difference(rng.normal(0, 1, 12), rng.normal(0, 1, 12), np.arange(12)).p_value for _ in range(300)]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09


# ---------------------------------------------------------------- multiple comparisons

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(P_VALUES)
@settings(deadline=None)
def test_benjamini_hochberg_equals_scipy(p_values: list[float]) -> None:
    np.testing.assert_allclose(s.benjamini_hochberg(p_values), stats.false_discovery_control(p_values))


@given(P_VALUES, st.floats(0.001, 0.5))
@settings(deadline=None)
def test_holm_rejects_what_the_step_down_rule_rejects(p_values: list[float], alpha: float) -> None:
    rejected = np.zeros(len(p_values), dtype=bool)
    for step, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] * (len(p_values) - step) > alpha:
            break
        rejected[index] = True
    assert (s.holm(p_values) <= alpha).tolist() == rejected.tolist()


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(s.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert s.holm([]).size == 0


# ---------------------------------------------------------------- power


def test_detectable_difference_is_found_in_four_of_five_simulated_experiments() -> None:
    difference = s.detectable_effect(1 / np.sqrt(20), 19)
    data = np.random.default_rng(7).normal(difference, 1, (20_000, 20))
    assert np.mean(stats.ttest_1samp(data, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("n_units", "power"), [(2, 0.8), (3, 0.95), (50, 0.8), (50, 0.99), (400, 0.5)])
def test_detectable_difference_grows_with_power_and_is_finite(n_units: int, power: float) -> None:
    difference = s.detectable_effect(0.04, n_units - 1, power)
    assert 0.04 < difference < np.inf
    assert difference < s.detectable_effect(0.04, n_units - 1, power + 0.005)


@pytest.mark.parametrize("freedom", [1, 2.3, 9, 49])
def test_power_at_the_detectable_effect_is_that_of_scipys_noncentral_t(freedom: float) -> None:
    for power, alpha in ((0.8, 0.05), (0.95, 0.01)):
        effect = s.detectable_effect(1.0, freedom, power, alpha)
        found = stats.nct.sf(stats.t.isf(alpha / 2, freedom), freedom, effect)
        assert found == pytest.approx(power, abs=5e-4)
    strict = s.detectable_effect(1.0, freedom, alpha=0.05 / 15)  # where SciPy gives NaN on the way
    assert s.detectable_effect(1.0, freedom) < strict < np.inf


@pytest.mark.parametrize(("n_rows", "dunnett"), [(1, 1.96), (2, 2.21), (3, 2.35), (5, 2.51), (9, 2.69)])
def test_band_of_identical_rows_is_dunnetts_table(n_rows: int, dunnett: float) -> None:
    assert s.identical_rows_band(2.0, n_rows) == pytest.approx(2 * dunnett, abs=0.02)


@pytest.mark.parametrize(("n_rows", "d2"), [(2, 1.128), (5, 2.326), (16, 3.532)])
def test_expected_range_is_the_control_chart_constant(n_rows: int, d2: float) -> None:
    assert s.expected_range(0.1, n_rows) == pytest.approx(0.1 * d2, rel=1e-3)
