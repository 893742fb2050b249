"""Intervals, tests and power against SciPy, written-out formulas, published tables and simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cnd import statistics as s


@pytest.fixture
def clustered() -> tuple[np.ndarray, np.ndarray]:
    """Scores of 50 categories x 4 images with a strong category effect, and the category labels."""
    rng = np.random.default_rng(0)
    effect = rng.beta(1, 2, 50)
    return np.clip(effect.repeat(4) + rng.normal(0, 0.05, 200), 0, 1), np.arange(50).repeat(4)


# ---------------------------------------------------------------- units


def test_unit_is_the_category_only_if_there_are_ten() -> None:
    item = np.arange(40)
    assert s.sampling_units(item % 10, item).tolist() == (item % 10).tolist()
    assert s.sampling_units(item % 9, item).tolist() == item.tolist()


# ---------------------------------------------------------------- intervals


def test_equal_clusters_give_scipys_t_interval_of_category_means(clustered: tuple[np.ndarray, np.ndarray]) -> None:
    scores, units = clustered
    means = scores.reshape(50, 4).mean(axis=1)
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.9)
    interval = s.mean_interval(scores, units, level=0.9)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert interval.estimate == pytest.approx(scores.mean())
    assert interval.n_units == 50


def test_unequal_clusters_give_the_cluster_robust_regression_error() -> None:
    rng = np.random.default_rng(1)
    units = rng.integers(0, 12, 90)
    scores = np.clip(0.4 + 0.02 * units + rng.normal(0, 0.1, 90), 0, 1)
    ones = np.ones((90, 1))
    bread = np.linalg.inv(ones.T @ ones)
    residual = scores - scores.mean()
    groups = [ones[units == g].T @ residual[units == g] for g in range(12)]
    sandwich = bread @ sum(np.outer(g, g) for g in groups) @ bread * 12 / 11
    half = stats.t.ppf(0.975, 11) * np.sqrt(sandwich[0, 0])
    interval = s.mean_interval(scores, units)
    assert (interval.low, interval.high) == pytest.approx((scores.mean() - half, scores.mean() + half))


def test_repeating_images_of_a_category_adds_no_certainty(clustered: tuple[np.ndarray, np.ndarray]) -> None:
    scores, units = clustered
    once, often = s.mean_interval(scores, units), s.mean_interval(np.tile(scores, 9), np.tile(units, 9))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_samples_and_seeds_are_averaged_per_item_first(clustered: tuple[np.ndarray, np.ndarray]) -> None:
    scores, units = clustered
    spread = np.stack([scores * 0.8, scores * 0.9, scores], axis=1)[:, :, None]
    assert s.mean_interval(spread, units) == s.mean_interval(spread.mean(axis=(1, 2)), units)


def test_bootstrap_agrees_with_the_t_interval(clustered: tuple[np.ndarray, np.ndarray]) -> None:
    scores, units = clustered
    interval, resampled = s.mean_interval(scores, units), s.bootstrap_interval(scores, units, np.random.default_rng(0))
    width = interval.high - interval.low
    assert resampled.low == pytest.approx(interval.low, abs=0.08 * width)
    assert resampled.high == pytest.approx(interval.high, abs=0.08 * width)


def test_coverage_holds_for_clusters_and_fails_if_they_are_ignored() -> None:
    rng, units = np.random.default_rng(2), np.arange(20).repeat(4)
    clustered, naive = 0, 0
    for _ in range(400):
        scores = np.clip(0.5 + rng.normal(0, 0.1, 20).repeat(4) + rng.normal(0, 0.05, 80), 0, 1)
        by_category, by_item = s.mean_interval(scores, units), s.mean_interval(scores, np.arange(80))
        clustered += by_category.low <= 0.5 <= by_category.high
        naive += by_item.low <= 0.5 <= by_item.high
    assert 0.92 < clustered / 400 < 0.98
    assert naive / 400 < 0.8


def test_scores_at_the_edge_keep_an_honest_interval() -> None:
    units = np.arange(50).repeat(4)
    assert s.mean_interval(np.ones(200), units).low == pytest.approx(0.025 ** (1 / 50))
    assert s.mean_interval(np.zeros(200), units).high == pytest.approx(1 - 0.025 ** (1 / 50))
    near_zero = s.mean_interval(np.eye(50).repeat(4, axis=1)[0], units)
    assert near_zero.low == 0 < near_zero.estimate < near_zero.high


def test_one_unit_has_an_estimate_but_no_limits() -> None:
    interval = s.mean_interval([0.2, 0.4], [7, 7])
    assert interval.estimate == pytest.approx(0.3)
    assert np.isnan([interval.low, interval.high]).all()


@pytest.mark.parametrize(("successes", "n"), [(0, 50), (5, 50), (50, 50), (1, 3)])
def test_clopper_pearson_equals_scipy(successes: int, n: int) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(method="exact")
    assert s.clopper_pearson(successes, n) == pytest.approx((expected.low, expected.high))


# ---------------------------------------------------------------- paired tests


def test_paired_interval_is_scipys_on_category_means(clustered: tuple[np.ndarray, np.ndarray]) -> None:
    scores, units = clustered
    other = np.clip(scores + np.random.default_rng(3).normal(0.02, 0.1, 200), 0, 1)
    means, other_means = scores.reshape(50, 4).mean(axis=1), other.reshape(50, 4).mean(axis=1)
    test = stats.ttest_rel(other_means, means)
    difference, expected = s.paired_difference(other, scores, units), test.confidence_interval()
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert difference.p_value == pytest.approx(test.pvalue, abs=0.02)


def test_few_units_try_every_sign() -> None:
    differences = np.array([0.3, 0.1, 0.25, -0.05, 0.2, 0.0])
    observed = abs(differences.sum())
    totals = [abs(np.dot(signs, differences)) for signs in product([-1, 1], repeat=6)]
    expected = np.mean([total >= observed - 1e-12 for total in totals])
    assert s.paired_difference(differences, np.zeros(6), np.arange(6)).p_value == expected
    scipys = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert scipys.pvalue == pytest.approx(expected)


def test_many_units_draw_signs_with_a_seed() -> None:
    row = np.random.default_rng(4).normal(0.1, 0.3, 60)
    first, again = (s.paired_difference(row, np.zeros(60), np.arange(60), seed=5) for _ in range(2))
    assert first == again
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
    difference = s.smallest_detectable_difference(1 / np.sqrt(20), 20)
    data = np.random.default_rng(7).normal(difference, 1, (20_000, 20))
    assert np.mean(stats.ttest_1samp(data, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("n_units", "power"), [(2, 0.8), (3, 0.95), (50, 0.8), (50, 0.99), (400, 0.5)])
def test_detectable_difference_grows_with_power_and_is_finite(n_units: int, power: float) -> None:
    difference = s.smallest_detectable_difference(0.04, n_units, power)
    assert 0.04 < difference < np.inf
    assert difference < s.smallest_detectable_difference(0.04, n_units, power + 0.005)


def test_one_unit_detects_nothing() -> None:
    assert np.isnan(s.smallest_detectable_difference(0.1, 1))


@pytest.mark.parametrize(("n_rows", "dunnett"), [(1, 1.96), (2, 2.21), (3, 2.35), (5, 2.51), (9, 2.69)])
def test_band_of_identical_rows_is_dunnetts_table(n_rows: int, dunnett: float) -> None:
    assert s.identical_rows_band(2.0, n_rows) == pytest.approx(2 * dunnett, abs=0.02)


@pytest.mark.parametrize(("n_rows", "d2"), [(2, 1.128), (5, 2.326), (16, 3.532)])
def test_expected_range_is_the_control_chart_constant(n_rows: int, d2: float) -> None:
    assert s.expected_range(0.1, n_rows) == pytest.approx(0.1 * d2, rel=1e-3)


# ---------------------------------------------------------------- bad input


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="no scores"):
        s.mean_interval([], [])
    with pytest.raises(ValueError, match="NaN"):
        s.mean_interval([0.1, np.nan], [0, 1])
    with pytest.raises(ValueError, match="between 0 and 1"):
        s.mean_interval([0.1, 1.2], [0, 1])
    with pytest.raises(ValueError, match=r"shape \[2\]"):
        s.bootstrap_interval([0.1, 0.2], [0], np.random.default_rng(0))
    with pytest.raises(ValueError, match="3 items and reference 2"):
        s.paired_difference([1, 2, 3], [1, 2], [0, 1, 2])
    with pytest.raises(ValueError, match="between 0 and 1"):
        s.holm([0.2, np.nan])
    with pytest.raises(ValueError, match="5 successes of 4"):
        s.clopper_pearson(5, 4)
    with pytest.raises(ValueError, match="same shape"):
        s.sampling_units([1, 2], [1])
