"""Inference over items and seeds: against written-out formulas, SciPy, statsmodels where there is, and simulation."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cnd import statistics as s

CATEGORIES = np.arange(50)
FOUND = (0.0007, 0.0002, 0.0092)  # item, seed, both: of differences of two rows on `simulated`, by category
RETRAINED = (0.0, 0.00022, 0.018)  # of a row and the same row trained with other seeds


def drawn(
    rng: np.random.Generator, n_seeds: int, components: tuple[float, float, float], mean: float = 0.0
) -> np.ndarray:
    item, seed, both = np.sqrt(components)
    n = len(CATEGORIES)
    return (
        mean
        + item * rng.normal(size=(n, 1))
        + seed * rng.normal(size=(1, n_seeds))
        + both * rng.normal(size=(n, n_seeds))
    )


# ---------------------------------------------------------------- components and errors


def test_components_are_those_of_a_two_way_analysis_of_variance_written_out() -> None:
    y = drawn(np.random.default_rng(0), 4, (0.02, 0.01, 0.01))
    n, k = y.shape
    items, seeds = y.mean(axis=1), y.mean(axis=0)
    of_items = k * items.var(ddof=1)
    of_seeds = n * seeds.var(ddof=1)
    rest = ((y - items[:, None] - seeds + y.mean()) ** 2).sum() / (n - 1) / (k - 1)
    found = s.variance_components(y, CATEGORIES)
    assert found.variance[("item",)] == pytest.approx((of_items - rest) / k)
    assert found.variance[("seed",)] == pytest.approx((of_seeds - rest) / n)
    assert found.variance[("item", "seed")] == pytest.approx(rest)
    error = s.crossed_mean(y, CATEGORIES).error
    assert error.standard**2 == pytest.approx((of_items + of_seeds - rest) / n / k)
    expected = stats.t.ppf(0.975, k - 1) ** 2 * of_seeds + stats.t.ppf(0.975, n - 1) ** 2 * (of_items - rest)
    assert error.half_width(0.025) == pytest.approx(np.sqrt(expected / n / k))


def test_components_are_those_of_statsmodels() -> None:
    sm = pytest.importorskip("statsmodels.api")
    y = drawn(np.random.default_rng(3), 5, (0.02, 0.01, 0.01))[:12]  # balanced and positive: REML is the same
    item, seed = (axis.ravel() for axis in np.indices(y.shape))
    groups = {"item": np.eye(12)[item], "seed": np.eye(5)[seed]}
    names = sm.regression.mixed_linear_model.VCSpec(
        list(groups), [[[f"{c}" for c in range(g.shape[1])]] for g in groups.values()], [[g] for g in groups.values()]
    )
    model = sm.MixedLM(y.ravel(), np.ones((60, 1)), np.zeros(60), exog_vc=names)
    fit = model.fit(reml=True)
    found = s.variance_components(y, np.arange(12)).variance
    assert fit.vcomp == pytest.approx([found[("item",)], found[("seed",)]], rel=1e-3)
    assert fit.scale == pytest.approx(found[("item", "seed")], rel=1e-3)
    assert fit.bse[0] == pytest.approx(s.crossed_mean(y, np.arange(12)).error.standard, rel=1e-3)


def test_three_factors_give_back_the_variances_that_made_the_scores() -> None:
    rng, n = np.random.default_rng(1), 6
    shapes = {("item",): (40, 1, 1), ("seed",): (1, n, 1), ("subject",): (1, 1, n), ("item", "seed"): (40, n, 1)}
    shapes |= {("item", "subject"): (40, 1, n), ("seed", "subject"): (1, n, n), ("item", "seed", "subject"): (40, n, n)}
    sums = dict.fromkeys(shapes, 0.0)
    for _ in range(150):
        scores = sum(np.sqrt(i + 1) * rng.normal(size=shape) for i, shape in enumerate(shapes.values()))
        squares = s.crossed._mean_squares(np.asarray(scores), ("item", "seed", "subject"))
        for effect in shapes:
            above = {other: square for other, square in squares.items() if set(effect) <= set(other)}
            signed = sum((-1) ** (len(other) - len(effect)) * square for other, square in above.items())
            sums[effect] += signed * np.prod(shapes[effect]) / (40 * n * n) / 150
    for i, (effect, mean) in enumerate(sums.items()):
        assert mean == pytest.approx(i + 1, rel=0.35), effect


def test_one_seed_gives_the_interval_over_items_and_no_p_value() -> None:
    rng = np.random.default_rng(2)
    scores, units = rng.random((60, 1)), rng.integers(0, 20, 60)  # categories of different sizes
    for bounds in ((0.0, 1.0), (-np.inf, np.inf)):
        found, usual = s.crossed_mean(scores, units, bounds=bounds), s.mean_interval(scores, units, bounds=bounds)
        assert (found.low, found.high) == pytest.approx((usual.low, usual.high))
        assert (found.estimate, found.n_units) == (pytest.approx(usual.estimate), usual.n_units)
    assert found.p_value is None and s.equivalence_p(found, 0.05) is None and s.verdict(found, None, None) is None
    assert found.detectable == pytest.approx(s.detectable_effect(found.error.standard, found.n_units - 1))


def test_items_of_a_category_count_as_one_unit() -> None:
    y = drawn(np.random.default_rng(4), 3, FOUND)
    once, often = s.crossed_mean(y, CATEGORIES), s.crossed_mean(y.repeat(4, axis=0), CATEGORIES.repeat(4))
    assert (often.low, often.high, often.p_value) == pytest.approx((once.low, once.high, once.p_value))


def test_without_differences_between_items_it_is_the_t_test_on_the_means_of_seeds() -> None:
    y = drawn(np.random.default_rng(5), 4, RETRAINED)
    y -= y.mean(axis=1, keepdims=True) - y.mean()  # every item has the same mean
    found, expected = s.crossed_mean(y, CATEGORIES), stats.ttest_1samp(y.mean(axis=0), 0)
    assert found.p_value == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_a_seed_component_that_comes_out_negative_does_not_make_seeds_certain() -> None:
    y = drawn(np.random.default_rng(6), 2, FOUND)
    y -= y.mean(axis=0)  # both seeds have the same mean
    found = s.crossed_mean(y, CATEGORIES)
    assert found.components is not None and found.components.variance[("seed",)] == 0
    planned = found.components.error()
    assert planned.freedom() < 1.5 and planned.standard**2 >= found.error.standard**2


def test_interval_p_value_and_half_width_agree() -> None:
    rng = np.random.default_rng(7)
    for n_seeds in (2, 3, 10):
        found = s.crossed_mean(drawn(rng, n_seeds, FOUND, mean=0.02), CATEGORIES)
        assert found.high - found.estimate == pytest.approx(found.error.half_width(0.025))
        assert (found.low > 0) == (found.p_value is not None and found.p_value < 0.05)
        for tail in (1e-6, 0.01, 0.2):
            assert found.error.tail(found.error.half_width(tail)) == pytest.approx(tail)
            assert found.error.tail(-found.error.half_width(tail)) == pytest.approx(1 - tail)


def test_rows_without_any_difference_have_p_1_and_a_constant_one_is_certain() -> None:
    same, other = (s.crossed_mean(np.full((50, 3), value), CATEGORIES) for value in (0.0, 0.1))
    assert same.p_value == 1 and (same.low, same.high) == (0, 0) and other.p_value == 0


def test_limits_of_a_bounded_row_add_the_parts_of_items_and_seeds() -> None:
    rng = np.random.default_rng(8)
    items, seeds = rng.beta(1, 3, (50, 1)), np.array([0, 0.01, 0.02])
    found, alone = (
        s.crossed_mean(items + seeds, CATEGORIES, bounds=(0, 2)),
        s.mean_interval(items + 0.01, CATEGORIES, bounds=(0, 2)),
    )
    added = stats.t.ppf(0.975, 2) * 0.01 / np.sqrt(3)  # no interaction: the two parts are the whole error
    assert found.low == pytest.approx(found.estimate - np.hypot(alone.estimate - alone.low, added))
    assert found.high == pytest.approx(found.estimate + np.hypot(alone.high - alone.estimate, added))
    certain = s.crossed_mean(np.ones((50, 3)), CATEGORIES, bounds=(0, 1))
    assert (certain.low, certain.high) == s.clopper_pearson(50, 50)


@pytest.mark.parametrize("ability", [0.0, 3.0, 400.0])
def test_limits_of_a_bounded_row_cover_other_items_and_seeds(ability: float) -> None:
    """From chance to a ceiling; scores are the share of classes below the true one to a power, as 8-way accuracy is."""
    rng = np.random.default_rng(15)

    def scores(n_seeds: int) -> np.ndarray:
        ease = rng.gamma(1, 1, (50, 1)) * np.exp(rng.normal(0, 0.3, (1, n_seeds)) + rng.normal(0, 0.5, (50, n_seeds)))
        return (1 - rng.beta(1, 1 + ability * ease)) ** 7

    truth = np.mean([scores(50).mean() for _ in range(400)])
    found = [s.crossed_mean(scores(3), CATEGORIES, bounds=(0, 1)) for _ in range(200)]
    assert np.mean([interval.low <= truth <= interval.high for interval in found]) == pytest.approx(0.95, abs=0.046)


# ---------------------------------------------------------------- simulation with the components of `simulated`


@pytest.mark.parametrize("components", [FOUND, RETRAINED])
@pytest.mark.parametrize("n_seeds", [2, 3, 5, 10])
def test_identical_methods_differ_in_no_more_than_one_of_twenty(
    n_seeds: int, components: tuple[float, float, float]
) -> None:
    rng, n_draws = np.random.default_rng(30), 200
    p = [s.crossed_mean(drawn(rng, n_seeds, components), CATEGORIES).p_value for _ in range(n_draws)]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_draws)


def test_power_is_as_predicted() -> None:
    rng, planned = (
        np.random.default_rng(31),
        s.Components({("item",): FOUND[0], ("seed",): FOUND[1], ("item", "seed"): FOUND[2]}, {"item": 50, "seed": 10}),
    )
    error = planned.error()
    effect = s.detectable_effect(error.standard, error.freedom())
    p = [s.crossed_mean(drawn(rng, 10, FOUND, effect), CATEGORIES).p_value for _ in range(200)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.8, abs=0.085)


def test_the_script_of_the_longer_simulation_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "inference.py"
    benchmark = runpy.run_path(str(script))
    names = benchmark["rows"].__globals__
    small = {"SEEDS": (2,), "N_WAY": (50,), "TARGETS": (None,), "N_ROWS": 3, "DESIGNS": {"9 items": (9, 1, 1)}}
    for name, value in small.items():
        monkeypatch.setitem(names, name, value)
    monkeypatch.setattr(sys, "argv", ["inference.py", "--draws", "2", "--tables", "1"])
    benchmark["main"]()
    told = capsys.readouterr().out
    assert "50-way, chance, 9 items" in told and "one row, retrained" in told


# ---------------------------------------------------------------- verdicts


def test_equivalence_is_two_one_sided_t_tests() -> None:
    y = drawn(np.random.default_rng(9), 5, RETRAINED, 0.01)
    y -= y.mean(axis=1, keepdims=True) - y.mean()
    seeds = y.mean(axis=0)
    expected = [
        stats.ttest_1samp(seeds, 0.05, alternative="less"),
        stats.ttest_1samp(seeds, -0.05, alternative="greater"),
    ]
    found = s.equivalence_p(s.crossed_mean(y, CATEGORIES), 0.05)
    assert found == pytest.approx(max(test.pvalue for test in expected))


def test_verdicts() -> None:
    rng = np.random.default_rng(10)
    up, down = (s.crossed_mean(drawn(rng, 5, FOUND, mean), CATEGORIES) for mean in (0.2, -0.2))
    assert s.verdict(up, 0.01, 0.9) == "better" and s.verdict(down, 0.01, 0.9) == "worse"
    assert s.verdict(up, 0.01, 0.9, higher_is_better=False) == "worse"
    assert s.verdict(up, 0.01, 0.01) == "better"  # shown, though small
    assert s.verdict(up, 0.2, 0.01) == "equivalent" and s.verdict(up, 0.2, 0.2) == "undecided"


def test_what_is_needed_is_the_least_that_is_enough() -> None:
    found = s.variance_components(drawn(np.random.default_rng(11), 10, (0.001, 0.0002, 0.01)), CATEGORIES)

    def detectable(**levels: int) -> float:
        error = found.error(**levels)
        return s.detectable_effect(error.standard, error.freedom())

    need = s.needed(found, 0.03)
    assert need.seeds is not None and need.seeds > 2
    assert detectable(seed=need.seeds) <= 0.03 < detectable(seed=need.seeds - 1)
    assert s.needed(found, 0.001).units is None  # the seeds at hand are too few for any number of items


def test_probability_of_improvement_covers_the_truth_and_needs_two_seeds() -> None:
    rng, truth = np.random.default_rng(12), stats.norm.cdf(1.0)
    found = [s.probability_of_improvement(rng.normal(1, 1, (1, 4))) for _ in range(150)]
    inside = [interval is not None and interval.low <= truth <= interval.high for interval in found]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.055)
    assert s.probability_of_improvement(np.ones((5, 1))) is None
    always, never = (s.probability_of_improvement(np.full((5, 3), value)) for value in (0.1, 0.0))
    assert always is not None and (always.estimate, always.high) == (1, 1)
    assert always.low == pytest.approx(0.025 ** (1 / 3))
    assert never is not None and (never.estimate, never.low, never.high) == (0.5, 0, 1)
    middle = s.probability_of_improvement(np.array([[-0.01, 0.02, 0.01, 0.03]]))
    shift = stats.norm.ppf([middle.low, middle.high]) * 2 if middle else np.zeros(2)
    t = stats.ttest_1samp([-0.01, 0.02, 0.01, 0.03], 0).statistic
    assert stats.nct.cdf(t, 3, shift) == pytest.approx([0.975, 0.025], abs=1e-3)
    far = s.probability_of_improvement(np.array([[5.0, 5.01]]))  # a t of 1,000
    assert far is not None and far.estimate == 1 and 0.9 < far.low <= 1


def test_interquartile_mean_is_scipys_trimmed_mean_and_its_interval_covers_both_sources() -> None:
    rng = np.random.default_rng(13)
    scores = rng.beta(1, 2, (50, 4))  # 200 scores: quartiles fall between scores
    found = s.interquartile_mean(scores, CATEGORIES)
    assert found.estimate == pytest.approx(stats.trim_mean(scores.ravel(), 0.25))
    assert found == s.interquartile_mean(scores, CATEGORIES) and found.low < found.estimate < found.high
    shifted = scores + np.array([0, 0.1, 0.2, 0.3])
    wide = s.interquartile_mean(shifted, CATEGORIES)
    assert wide.high - wide.low > 1.5 * (found.high - found.low)


# ---------------------------------------------------------------- permutation of items


def test_few_units_try_every_order() -> None:
    pairings = np.random.default_rng(14).integers(0, 4, (5, 5)) / 10
    sums = [pairings[np.arange(5), list(order)].sum() for order in permutations(range(5))]
    found = s.permutation_test(pairings, np.arange(5))
    assert found.p_value == np.mean(np.array(sums) >= np.trace(pairings) - 1e-9)
    assert (found.estimate, found.expected) == pytest.approx((np.trace(pairings) / 5, np.mean(sums) / 5))


def test_whole_categories_are_permuted() -> None:
    rng, units = np.random.default_rng(15), np.arange(12).repeat([1, 2, 3] * 4)
    by_category = rng.random((len(units), 12))
    pairings = by_category[:, units]  # n-way scores depend on an item's class only
    blocks = np.stack([by_category[units == c].sum(axis=0) for c in range(12)])
    orders = rng.permuted(np.tile(np.arange(12), (20_000, 1)), axis=1)
    expected = np.mean(blocks[np.arange(12), orders].sum(axis=1) >= np.trace(blocks))
    found = s.permutation_test(pairings, units)
    assert found.p_value == pytest.approx(expected, abs=0.02) and found.n_units == 12
    assert found.estimate == pytest.approx(np.diag(pairings).mean())


def test_permutation_keeps_its_error_rate_where_scores_are_skewed_and_sees_what_is_there() -> None:
    rng, units = np.random.default_rng(16), np.arange(40)
    p = [s.permutation_test(rng.beta(1 / 49, 1, (40, 40)), units, n_permutations=300).p_value for _ in range(200)]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    same_image = np.tile(rng.random(40), (40, 1))
    assert s.permutation_test(same_image, units).p_value == 1
    assert s.permutation_test(rng.random((40, 40)) + np.eye(40), units).p_value == 1 / 10_001


# ---------------------------------------------------------------- bad input

REFUSED: dict[str, Callable[[], object]] = {
    "finite": lambda: s.crossed_mean([[0.1, np.nan], [0.1, 0.2]], [0, 1]),
    "n_items, n_seeds": lambda: s.crossed_mean([0.1, 0.2], [0, 1]),
    "between 0 and 1": lambda: s.crossed_mean([[0.1], [1.2]], [0, 1], bounds=(0, 1)),
    "two or more are needed": lambda: s.variance_components([[0.1, 0.2]], [0]),
    "must be positive": lambda: s.equivalence_p(s.crossed_mean([[0.1, 0.2], [0.1, 0.3]], [0, 1]), 0),
    "one seed": lambda: s.needed(s.variance_components([[0.1], [0.2]], [0, 1]), 0.1),
    "must not be zero": lambda: s.needed(s.variance_components([[0.1, 0.2], [0.1, 0.3]], [0, 1]), 0),
    "differences must be finite": lambda: s.probability_of_improvement([[0.1, np.inf]]),
    r"not \[2\]": lambda: s.probability_of_improvement([0.1, 0.2]),
    "scores must be finite": lambda: s.interquartile_mean([[0.1, np.inf]], [0]),
    "pairings must be finite": lambda: s.permutation_test([[0.1, np.inf], [0.1, 0.2]], [0, 1]),
    r"not \[2, 3\]": lambda: s.permutation_test(np.zeros((2, 3)), [0, 1]),
    "two or more$": lambda: s.permutation_test(np.zeros((2, 2)), [0, 0]),
}


@pytest.mark.parametrize("told", REFUSED)
def test_bad_input_is_named(told: str) -> None:
    with pytest.raises(ValueError, match=told):
        REFUSED[told]()


def test_one_unit_has_an_estimate_but_no_limits() -> None:
    found = s.crossed_mean([[0.2, 0.4]], [7])
    assert found.estimate == pytest.approx(0.3) and np.isnan([found.low, found.high, found.detectable]).all()
    assert found.p_value is None and found.components is None
