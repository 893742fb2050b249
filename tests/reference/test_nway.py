"""n-way accuracy against enumeration, exact fractions, Algorithm 1 and SciPy."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from scipy.stats import hypergeom

from cnd.errors import UserError
from cnd.metrics.evaluation import EvaluationConfig, judge_all, rank_table
from cnd.metrics.nway import NWay, n_way_accuracy, n_way_accuracy_monte_carlo, n_way_curve, rank_counts
from cnd.protocols import Judgement, Truth


def enumerate_draws(scores: list[float], truth: int, n_way: int, top_k: int) -> Fraction:
    """Every possible draw of the other classes; within a draw every order of the tied ones."""
    others = [s for i, s in enumerate(scores) if i != truth]
    success, draws = Fraction(0), 0
    for drawn in combinations(others, n_way - 1):
        above = sum(s > scores[truth] for s in drawn)
        tied = sum(s == scores[truth] for s in drawn)
        success += Fraction(min(max(top_k - above, 0), tied + 1), tied + 1)
        draws += 1
    return success / draws


def algorithm_1(scores: np.ndarray, truth: int, n_way: int, n_trials: int, rng: np.random.Generator) -> float:
    """The paper's loop, written as printed (arg max for its "arg min")."""
    others = np.delete(np.arange(len(scores)), truth)
    wins = 0
    for _ in range(n_trials):
        chosen = np.append(rng.choice(others, n_way - 1, replace=False), truth)
        wins += chosen[np.argmax(scores[chosen])] == truth
    return wins / n_trials


TIED = st.lists(st.integers(0, 3).map(float), min_size=3, max_size=7)


@given(TIED, st.data())
@settings(max_examples=150, deadline=None)
def test_equals_enumeration_with_ties(scores: list[float], data: st.DataObject) -> None:
    n_way = data.draw(st.integers(2, len(scores)))
    top_k = data.draw(st.integers(1, n_way - 1))
    truth = data.draw(st.integers(0, len(scores) - 1))
    expected = float(enumerate_draws(scores, truth, n_way, top_k))
    assert n_way_accuracy([scores], [truth], n_way, top_k)[0] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(("n_way", "top_k"), [(2, 1), (50, 1), (100, 5), (1000, 1), (1000, 7)])
def test_thousand_classes_equal_exact_fractions(n_way: int, top_k: int) -> None:
    places = np.array([0, 1, 3, 17, 250, 600, 998, 999])
    scores = -np.tile(np.arange(1000.0), (len(places), 1))
    accuracy = n_way_accuracy(scores, places, n_way, top_k)
    total = comb(999, n_way - 1)
    for place, value in zip(places.tolist(), accuracy, strict=True):
        draws = sum(comb(place, g) * comb(999 - place, n_way - 1 - g) for g in range(top_k))
        assert value == float(Fraction(draws, total))
    by_scipy = hypergeom.cdf(top_k - 1, 999, places, n_way - 1)
    np.testing.assert_allclose(accuracy, by_scipy, atol=1e-10)


@pytest.mark.parametrize(("n_classes", "n_way", "top_k"), [(1000, 50, 1), (1000, 100, 5), (200, 50, 1), (10, 10, 3)])
def test_constant_prediction_scores_chance(n_classes: int, n_way: int, top_k: int) -> None:
    accuracy = n_way_accuracy(np.full((3, n_classes), 1 / n_classes), [0, 4, n_classes - 1], n_way, top_k)
    np.testing.assert_allclose(accuracy, top_k / n_way, rtol=1e-15)


def test_all_classes_in_the_trial_is_plain_top_1() -> None:
    scores = np.random.default_rng(0).random((20, 6))
    truth = np.arange(20) % 6
    np.testing.assert_array_equal(n_way_accuracy(scores, truth, 6), scores.argmax(axis=1) == truth)


def test_agrees_with_algorithm_1() -> None:
    rng = np.random.default_rng(1)
    scores, n_trials = rng.random((6, 30)), 2000
    truth = np.array([0, 5, 9, 14, 20, 29])
    scores[np.arange(6), truth] = [0.999, 0.95, 0.9, 0.8, 0.5, 0.01]
    exact = n_way_accuracy(scores, truth, 5)
    error = np.sqrt(exact * (1 - exact) / n_trials) + 1e-9
    loop = [algorithm_1(s, t, 5, n_trials, rng) for s, t in zip(scores, truth.tolist(), strict=True)]
    assert (np.abs(np.array(loop) - exact) < 4.5 * error).all()


@pytest.mark.parametrize("top_k", [1, 3])
def test_monte_carlo_agrees_within_its_error(top_k: int) -> None:
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 6, (40, 25)).astype(float)  # many ties
    truth, n_trials = rng.integers(0, 25, 40), 20_000
    exact = n_way_accuracy(scores, truth, 8, top_k)
    drawn = n_way_accuracy_monte_carlo(scores, truth, 8, n_trials, rng, top_k)
    assert (np.abs(drawn - exact) <= 4.5 * np.sqrt(exact * (1 - exact) / n_trials) + 1e-12).all()
    assert 0.1 < exact.mean() < 0.9


SCORES = hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(4, 9)), elements=st.integers(-5, 5))


@given(SCORES, st.integers(0, 3), st.integers(1, 2))
@settings(deadline=None)
def test_more_classes_never_help(scores: np.ndarray, truth: int, top_k: int) -> None:
    target = np.full(len(scores), truth)
    by_n = [n_way_accuracy(scores, target, n, top_k) for n in range(top_k + 1, scores.shape[1] + 1)]
    assert (np.diff(by_n, axis=0) <= 1e-15).all()


@given(SCORES, st.integers(0, 3))
@settings(deadline=None)
def test_only_the_order_counts(scores: np.ndarray, truth: int) -> None:
    target = np.full(len(scores), truth)
    expected = n_way_accuracy(scores, target, 3)
    np.testing.assert_array_equal(n_way_accuracy(np.exp(scores), target, 3), expected)
    np.testing.assert_array_equal(n_way_accuracy(scores**3 + 2 * scores - 7, target, 3), expected)


@given(SCORES, st.integers(0, 3), st.integers(0, 99))
@settings(deadline=None)
def test_order_of_items_and_classes_is_irrelevant(scores: np.ndarray, truth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = np.full(len(scores), truth)
    expected = n_way_accuracy(scores, target, 4, 2)
    items, classes = rng.permutation(len(scores)), rng.permutation(scores.shape[1])
    moved = np.argsort(classes)[target]
    np.testing.assert_array_equal(n_way_accuracy(scores[:, classes], moved, 4, 2), expected)
    np.testing.assert_array_equal(n_way_accuracy(scores[items], target[items], 4, 2), expected[items])


GOOD = np.eye(3)


@pytest.mark.parametrize(
    ("probabilities", "target", "n_way", "top_k", "message"),
    [
        (GOOD, [0, 1, 2], 4, 1, "n_way = 4 exceeds the 3 classes"),
        (GOOD, [0, 1, 2], 1, 1, "at least 2 classes"),
        (GOOD, [0, 1, 2], 2, 2, "top_k = 2 must be"),
        (GOOD, [0, 1, 2], 2, 0, "top_k = 0 must be"),
        (GOOD, [0, 1, 3], 2, 1, "outside 0 to 2"),
        (GOOD, [0, 1, -1], 2, 1, "outside 0 to 2"),
        (GOOD, [0, 1], 2, 1, r"shape \[3\]"),
        (GOOD, [0.0, 1.0, 2.0], 2, 1, "class indices"),
        (GOOD[0], [0], 2, 1, r"\[n_items, n_classes\]"),
        (np.where(GOOD == 1, np.nan, GOOD), [0, 1, 2], 2, 1, "NaN"),
    ],
)
def test_bad_input_is_named(probabilities: object, target: object, n_way: int, top_k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        n_way_accuracy(probabilities, target, n_way, top_k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        n_way_accuracy_monte_carlo(probabilities, target, n_way, 5, np.random.default_rng(0), top_k)  # type: ignore[arg-type]


def test_no_items_give_no_scores() -> None:
    assert n_way_accuracy(np.empty((0, 4)), [], 2).shape == (0,)


def test_no_trials_is_an_error() -> None:
    with pytest.raises(ValueError, match="n_trials = 0"):
        n_way_accuracy_monte_carlo(GOOD, [0, 1, 2], 2, 0, np.random.default_rng(0))


@pytest.mark.parametrize(("n_way", "top_k"), [(2, 1), (3, 2)])
def test_among_some_classes_only_these_are_drawn(n_way: int, top_k: int) -> None:
    """Every draw among them, counted; an item of another class has no score."""
    rng, among = np.random.default_rng(0), (6, 9, 2, 4)
    probabilities = rng.integers(0, 5, (30, 2, 10)) / 5  # with ties
    truth = rng.integers(0, 10, 30)
    told = Truth([""] * 30, truth, [], {"judge": Judgement(probabilities, truth)})
    found = NWay(n=n_way, top_k=top_k, classes=among).score(probabilities[:, 0], probabilities, told)
    for item, sample in np.ndindex(30, 2):
        if truth[item] not in among:
            assert np.isnan(found[item, sample])
            continue
        scores = probabilities[item, sample][list(among)].tolist()
        expected = enumerate_draws(scores, among.index(truth[item]), n_way, top_k)
        assert found[item, sample] == pytest.approx(float(expected))


@pytest.mark.parametrize("settings", [{"n": 3, "classes": (6, 9)}, {"n": 2, "classes": (6, 6)}, {"classes": (-1, 2)}])
def test_classes_that_do_not_fit_are_refused(settings: dict) -> None:
    with pytest.raises(ValidationError, match="classes"):
        NWay(**settings)


@pytest.mark.parametrize("truth", ["label", "classifier"])
def test_among_the_datas_own_classes_only_these_are_drawn(truth: str) -> None:
    """Every draw, counted; the classifier's true class is what it sees in the stimulus among these."""
    rng, own = np.random.default_rng(0), np.array([2, 4, 6, 9])
    stimuli, images = rng.random((30, 10)), rng.integers(0, 5, (30, 2, 10)) / 5
    labels = own[rng.integers(0, 4, 30)]
    said = {30: stimuli, 60: images.reshape(60, 10)}
    judge = SimpleNamespace(probabilities=lambda asked: said[len(asked)])
    config = EvaluationConfig(n_way=(2, 4), truth=truth, candidates="dataset")
    pictures = np.zeros((30, 2, 1, 1, 1), np.uint8)
    judgements = judge_all(config, {"judge": judge}, pictures[:, 0], pictures, labels, own)
    told = Truth([""] * 30, labels, [], judgements)
    expected = labels if truth == "label" else [own[max(range(4), key=lambda i: row[own][i])] for row in stimuli]
    np.testing.assert_array_equal(judgements["judge"].own_truth, expected)
    metrics = {metric.name: metric for metric in config.all_metrics()}
    assert ("accuracy" in metrics) is (truth == "label")  # plain accuracy beside n-way where labels are the truth
    for n_way in (2, 4):
        metric = metrics[f"nway{n_way}_top1_of_dataset"]
        found = metric.score(pictures[:, 0], pictures, told)
        for item, sample in np.ndindex(30, 2):
            target = own.tolist().index(expected[item])
            counted = enumerate_draws(images[item, sample][own].tolist(), target, n_way, 1)
            assert found[item, sample] == pytest.approx(float(counted))
        assert metric.among(told) == "the 4 classes of the data set"
        if n_way == 4 and truth == "label":
            np.testing.assert_array_equal(metrics["accuracy"].score(pictures[:, 0], pictures, told), found)
    with pytest.raises(UserError, match=r"n_way = 5 exceeds the 4 classes of the data set .* choose at most 4"):
        NWay(n=5, candidates="dataset").score(pictures[:, 0], pictures, told)
    table = rank_table(judgements, "dataset")
    assert set(table["n_classes"]) == {4}
    curve = n_way_curve(table["above"].to_numpy(), table["tied"].to_numpy(), 4, (4,))
    np.testing.assert_allclose(curve.reshape(30, 2), found)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"metrics": [{"kind": "accuracy"}]}, "'accuracy' compares with labels; set truth to 'label'"),
        ({"candidates": "dataset", "truth": "label", "n_way": [], "classifiers": []}, "because 'accuracy' asks it"),
        ({"metrics": [{"kind": "nway", "n": 2, "classes": [6, 9], "candidates": "dataset"}]}, "leave one of the two"),
    ],
)
def test_scores_by_label_and_by_class_need_these(settings: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        EvaluationConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"n_way": (8, 50)}, "nway8_top1"),
        ({"n_way": (8, 50), "headline": "nway50_top1"}, "nway50_top1"),
        ({"n_way": (8, 50), "metrics": (NWay(n=2, classes=(6, 9)),), "headline": "nway2_top1_of_6_9"}, None),
        ({"n_way": (8, 50), "candidates": "dataset", "truth": "label", "headline": "accuracy"}, "accuracy"),
        ({"n_way": (), "candidates": "dataset", "truth": "label"}, "accuracy"),
        ({"n_way": (8,), "top_k": 2, "candidates": "dataset"}, "nway8_top2_of_dataset"),
    ],
)
def test_what_trainings_are_scored_by_is_the_tables_score(settings: dict, name: str | None) -> None:
    config = EvaluationConfig(**settings)
    leading = config.all_metrics()[0]
    assert leading.name == (name or config.headline)
    assert config.first().all_metrics()[0] == leading
    assert config.first().first() == config.first()


def test_what_stands_beside_the_headline_makes_no_training_anew() -> None:
    one, other = (EvaluationConfig(n_way=n, headline="nway50_top1").first() for n in ((8, 50), (50, 100)))
    assert one == other == EvaluationConfig(n_way=(50,))


def test_the_headline_leads_and_must_be_measured() -> None:
    two = NWay(n=2, classes=(6, 9))
    assert two.name == "nway2_top1_of_6_9" and two.chance() == 0.5
    config = EvaluationConfig(n_way=(2, 5), metrics=(two,), headline=two.name)
    assert [metric.name for metric in config.all_metrics()] == [two.name, "nway2_top1", "nway5_top1"]
    with pytest.raises(ValidationError, match="headline: 'nway9_top1' is not measured"):
        EvaluationConfig(n_way=(2, 5), headline="nway9_top1")


def test_the_curve_of_ranks_has_every_number_of_candidates() -> None:
    rng = np.random.default_rng(0)
    probabilities, truth = rng.integers(0, 9, (6, 2, 12)) / 9, rng.integers(0, 12, 6)  # with ties
    table = rank_table({"judge": Judgement(probabilities, truth)})
    assert list(table["item"][:4]) == [0, 0, 1, 1] and set(table["n_classes"]) == {12}
    curve = n_way_curve(table["above"].to_numpy(), table["tied"].to_numpy(), 12)
    assert curve.shape == (12, 11)
    for n in range(2, 13):
        expected = n_way_accuracy(probabilities.reshape(12, 12), np.repeat(truth, 2), n)
        np.testing.assert_array_equal(curve[:, n - 2], expected)
    above, tied = rank_counts(probabilities, truth)
    for item, sample in np.ndindex(6, 2):
        scores = probabilities[item, sample]
        assert above[item, sample] == sum(s > scores[truth[item]] for s in scores)
        assert tied[item, sample] == sum(s == scores[truth[item]] for s in scores) - 1
    perfect = n_way_curve(np.zeros(1, int), np.zeros(1, int), 1000, candidates=(2, 18, 50, 1000))
    np.testing.assert_array_equal(perfect, [[1, 1, 1, 1]])
