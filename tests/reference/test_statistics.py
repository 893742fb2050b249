"""Intervals of a mean against SciPy, written-out formulas and simulation; what all of the package refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from cnd import statistics as s
from cnd.statistics import bounded


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

INF = float("inf")
ANY = (-INF, INF)  # bounds of scores that may have any value: their limits are those of t


def test_equal_clusters_give_scipys_t_interval_of_category_means(clustered: tuple[np.ndarray, np.ndarray]) -> None:
    scores, units = clustered
    means = scores.reshape(50, 4).mean(axis=1)
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.9)
    interval = s.mean_interval(scores, units, level=0.9, bounds=ANY)
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
    interval = s.mean_interval(scores, units, bounds=ANY)
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
        by_category, by_item = (s.mean_interval(scores, u, bounds=ANY) for u in (units, np.arange(80)))
        clustered += by_category.low <= 0.5 <= by_category.high
        naive += by_item.low <= 0.5 <= by_item.high
    assert 0.92 < clustered / 400 < 0.98
    assert naive / 400 < 0.8


def test_scores_at_the_edge_keep_an_honest_interval() -> None:
    units = np.arange(50).repeat(4)
    assert s.mean_interval(np.ones(200), units).low == pytest.approx(0.025 ** (1 / 50))
    assert s.mean_interval(np.zeros(200), units).high == pytest.approx(1 - 0.025 ** (1 / 50))
    near_zero = s.mean_interval(np.eye(50).repeat(4, axis=1)[0], units)
    assert 0 < near_zero.low < 0.02 < 0.08 < near_zero.high < 0.11  # one category of 50
    for scores in (np.full(50, 0.02), np.append(np.zeros(49), 0.001), np.append(np.ones(49), 0.999), np.full(2, 0.5)):
        found = s.mean_interval(scores, np.arange(len(scores)))  # nearly no spread was seen, but there may be some
        assert found.low <= found.estimate <= found.high and found.high - found.low > 0.04


def test_few_units_of_different_sizes_give_an_interval_around_the_mean_over_items() -> None:
    scores, units = np.array([0.1, 0.2, 0.2, 0.9, 0.4]), np.array([0, 1, 1, 1, 2])
    found = s.mean_interval(scores, units)
    assert found.estimate == pytest.approx(0.36) and 0 < found.low < 0.2 and 0.6 < found.high < 1


@pytest.mark.parametrize(("successes", "n"), [(1, 30), (9, 50), (100, 120)])
def test_outcomes_of_zero_and_one_give_nearly_jeffreys_interval(successes: int, n: int) -> None:
    found = s.mean_interval(np.arange(n) < successes, np.arange(n))
    a, b = successes + 0.5, n - successes + 0.5
    jeffreys = stats.beta.ppf([0.025, 0.975], a, b)
    # wider by what t with n - 1 degrees of freedom adds
    assert found.low < jeffreys[0] and found.high > jeffreys[1]
    assert found.high - found.low == pytest.approx(jeffreys[1] - jeffreys[0], rel=2.5 / n)


def test_weighted_sums_of_gamma_variables_are_scipys_where_scipy_knows_them() -> None:
    for a, b, share in ((3.5, 17.5, 0.2), (0.5, 5.5, 0.01), (40.0, 0.5, 0.98), (0.02, 0.5, 0.6)):
        below = bounded._below_zero(np.array([1 - share, -share]), np.array([a, b]))
        assert below == pytest.approx(stats.beta.cdf(share, a, b), abs=1e-7)


def test_limits_are_quantiles_of_randomly_weighted_means() -> None:
    scores = np.random.default_rng(4).beta(1 / 49, 1, 50)  # 50-way at chance
    rng, n = np.random.default_rng(5), len(scores)
    logits = np.log(scores) - np.log1p(-scores)
    ordered = np.sort(logits)
    above = ordered[-1] + 1.5 * (ordered[-5:].mean() - ordered[-6])
    below = ordered[0] - 1.5 * (ordered[5] - ordered[:5].mean())
    values = np.append(scores, 1 / (1 + np.exp(-np.array([below, above]))))
    shape = (n - 1) / n * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, n - 1)) ** 2
    weights = rng.gamma(np.append(np.full(n, shape), [0.5, 0.5]), size=(100_000, n + 2))
    drawn = np.quantile(weights @ values / weights.sum(1), [0.025, 0.975])
    found = s.mean_interval(scores, np.arange(n))
    assert (found.low, found.high) == pytest.approx(drawn, rel=0.02)


@pytest.mark.parametrize(("n_way", "n_samples"), [(8, 1), (50, 1), (100, 1), (50, 5)])
def test_coverage_at_chance_and_misses_on_both_sides(n_way: int, n_samples: int) -> None:
    rng, units = np.random.default_rng(20), np.arange(50)
    scores = rng.beta(1 / (n_way - 1), 1, (100, 50, n_samples))  # ranks uniform over many classes
    found = [s.mean_interval(one, units) for one in scores]
    below = np.mean([interval.high < 1 / n_way for interval in found])
    above = np.mean([interval.low > 1 / n_way for interval in found])
    assert max(below, above) <= 0.08 and below + above <= 0.11  # of t at 50-way: 24 % below


def test_scores_that_scatter_little_between_the_bounds_keep_nearly_their_t_interval() -> None:
    rng = np.random.default_rng(21)
    for center, spread in ((0.65, 0.05), (0.5, 0.02), (0.6, 0.12)):
        scores = np.clip(rng.normal(center, spread, 50), 0, 1)
        found, t = (s.mean_interval(scores, np.arange(50), bounds=bounds) for bounds in ((0, 1), ANY))
        assert 1 < (found.high - found.low) / (t.high - t.low) < 1.15


def test_one_unit_has_an_estimate_but_no_limits() -> None:
    interval = s.mean_interval([0.2, 0.4], [7, 7])
    assert interval.estimate == pytest.approx(0.3)
    assert np.isnan([interval.low, interval.high]).all()


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 100.0), (-3.0, -0.1)])
@pytest.mark.parametrize("case", ["spread", "near the edge", "all lowest", "all highest"])
def test_bounds_move_and_stretch_the_interval(bounds: tuple[float, float], case: str) -> None:
    rng, units = np.random.default_rng(8), np.arange(20).repeat(3)
    edge = {"near the edge": np.eye(60)[0], "all lowest": np.zeros(60), "all highest": np.ones(60)}
    scores = edge.get(case, rng.random(60))
    low, high = bounds
    # three seeds: the mean of three times -0.1 is not -0.1
    moved = s.mean_interval(np.tile(low * (1 - scores) + high * scores, (3, 1)).T, units, bounds=bounds)
    usual = s.mean_interval(scores, units)
    expected = low + (high - low) * np.array([usual.estimate, usual.low, usual.high])
    np.testing.assert_allclose([moved.estimate, moved.low, moved.high], expected, rtol=1e-9)
    assert low <= moved.low <= moved.estimate <= moved.high <= high and moved.low < moved.high


def test_infinite_bounds_cut_nothing_and_know_no_edge() -> None:
    scores, units, inf = np.random.default_rng(9).normal(0.1, 3, 30), np.arange(30), float("inf")
    expected = stats.ttest_1samp(scores, 0).confidence_interval()
    free = s.mean_interval(scores, units, bounds=(-inf, inf))
    assert (free.low, free.high) == pytest.approx((expected.low, expected.high)) and free.low < 0
    skewed = np.eye(30)[0]
    above = s.mean_interval(skewed, units, bounds=(0, inf))
    assert above.low == 0 and above.high == pytest.approx(stats.ttest_1samp(skewed, 0).confidence_interval().high)
    still = s.mean_interval(np.zeros(30), units, bounds=(0, inf))
    assert (still.low, still.estimate, still.high) == (0, 0, 0)


@pytest.mark.parametrize(("successes", "n"), [(0, 50), (5, 50), (50, 50), (1, 3)])
def test_clopper_pearson_equals_scipy(successes: int, n: int) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(method="exact")
    assert s.clopper_pearson(successes, n) == pytest.approx((expected.low, expected.high))


# ---------------------------------------------------------------- bad input


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="no scores"):
        s.mean_interval([], [])
    with pytest.raises(ValueError, match="no differences"):
        s.sign_flip_p(np.zeros((2, 0)), [0, 1])
    with pytest.raises(ValueError, match=r"between 0 and 1; found 0\.1 to 1\.2"):
        s.mean_interval([[0.1, 0.1], [0.1, 1.2]], [0, 1])
    with pytest.raises(ValueError, match=r"between -1 and inf; found -1\.5"):
        s.mean_interval([-1.5, 7], [0, 1], bounds=(-1, np.inf))
    with pytest.raises(ValueError, match="not 1 and 0"):
        s.mean_interval([0.1, 0.2], [0, 1], bounds=(1, 0))
    with pytest.raises(ValueError, match=r"shape \[2\]"):
        s.bootstrap_interval([0.1, 0.2], [0], np.random.default_rng(0))
    with pytest.raises(ValueError, match="3 items and reference 2"):
        s.paired_difference([1, 2, 3], [1, 2], [0, 1, 2])
    with pytest.raises(ValueError, match="5 successes of 4"):
        s.clopper_pearson(5, 4)
    with pytest.raises(ValueError, match="same shape"):
        s.sampling_units([1, 2], [1])


REFUSED: dict[str, Callable[[float], object]] = {
    "mean_interval: scores": lambda x: s.mean_interval([0.1, x], [0, 1]),
    "mean_interval: unbounded scores": lambda x: s.mean_interval([0.1, x], [0, 1], bounds=(-np.inf, np.inf)),
    "mean_interval: units": lambda x: s.mean_interval([0.1, 0.2], [0.0, x]),
    "mean_interval: level": lambda x: s.mean_interval([0.1, 0.2], [0, 1], level=x),
    "mean_interval: bounds": lambda x: s.mean_interval([0.1, 0.2], [0, 1], bounds=(x, x)),
    "bootstrap_interval: scores": lambda x: s.bootstrap_interval([0.1, x], [0, 1], np.random.default_rng(0)),
    "paired_difference: row": lambda x: s.paired_difference([0.1, x], [0.1, 0.2], [0, 1]),
    "paired_difference: reference": lambda x: s.paired_difference([0.1, 0.2], [[0.1, 0.3], [0.2, x]], [0, 1]),
    "sign_flip_p: differences": lambda x: s.sign_flip_p([[0.1, 0.1], [0.2, x]], [0, 1]),
    "clopper_pearson: n": lambda x: s.clopper_pearson(0, x),  # type: ignore[arg-type]
    "holm: p": lambda x: s.holm([0.1, x]),
    "benjamini_hochberg: p": lambda x: s.benjamini_hochberg([0.1, x]),
    "detectable_effect: error": lambda x: s.detectable_effect(x, 19),
    "detectable_effect: power": lambda x: s.detectable_effect(0.1, 19, power=x),
    "identical_rows_band: error": lambda x: s.identical_rows_band(x, 3),
    "identical_rows_band: level": lambda x: s.identical_rows_band(0.1, 3, level=x),
    "expected_range: deviation": lambda x: s.expected_range(x, 3),
}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", REFUSED)
def test_nan_and_infinity_are_refused(case: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"finite|between|bounds must|successes of"):
        REFUSED[case](value)
