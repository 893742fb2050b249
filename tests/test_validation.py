"""Which training items are scored in place of the test set, by data that know categories, runs and stimuli."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnd.data import validation
from cnd.data.simulated import SimulatedData
from cnd.data.simulation import simulate
from cnd.data.simulation.names import category_split
from cnd.data.splits import SplitConfig
from cnd.errors import UserError
from cnd.experiment import Experiment, override, parse_experiment
from cnd.keys import closure
from cnd.protocols import FmriDataset, FmriSplit
from cnd.workflow.plan import steps

VOXELS = 6


def items(category: np.ndarray, first: int = 0, **more: Any) -> FmriSplit:
    """Items whose images tell which they are, from the ``first`` on; patterns of mean 3 and spread 2."""
    n = len(category)
    number = first + np.arange(n)
    images = np.stack([number // 256, number % 256], axis=1).astype(np.uint8)[:, :, None, None]
    fmri = (3 + 2 * np.random.default_rng(first).standard_normal((n, VOXELS))).astype(np.float32)
    return FmriSplit(fmri, images, category.astype(np.int64), [f"item {i}" for i in number], **more)


def dataset(train: FmriSplit, test_category: list[int]) -> FmriDataset:
    test = items(np.array(test_category), 10_000)
    return FmriDataset(train, test, (), [f"c{i}" for i in range(99)], "made", False, facts={"test_repetitions": 35.0})


def numbers(part: FmriSplit) -> list[int]:
    return [int(name.removeprefix("item ")) for name in part.stimulus]


def test_whole_categories_where_the_test_set_has_others() -> None:
    whole = dataset(items(np.repeat(np.arange(40), 3)), [90, 91])
    made = validation.hold_out(whole, 0.1, 0)
    held, trained = set(made.test.category), set(made.train.category)
    assert len(held) == 4 and len(trained) == 36 and not held & trained and len(made.test) == 12
    assert "4 of 40 training categories" in made.description and made.facts == {}
    assert len(set(validation.hold_out(whole, 0.25, 0).test.category)) == 10


def test_a_category_that_has_much_of_the_data_stays() -> None:
    category = np.concatenate([np.zeros(50), np.repeat(np.arange(1, 26), 2)])
    for fold in range(10):
        made = validation.hold_out(dataset(items(category), [90]), 0.1, fold)
        assert 0 in made.train.category and len(made.test) == 4 and "2 of 26 training" in made.description


def test_patterns_are_scaled_by_what_is_still_trained_on() -> None:
    train = items(np.repeat(np.arange(20), 3))
    made = validation.hold_out(dataset(train, [90]), 0.1, 0)
    fitted = train.fmri[numbers(made.train)].astype(np.float64)
    expected = (train.fmri[numbers(made.test)] - fitted.mean(0)) / fitted.std(0)
    np.testing.assert_allclose(made.test.fmri, expected, rtol=1e-5, atol=1e-5)
    repeated = items(train.category, 500).fmri
    again = validation.hold_out(dataset(items(train.category, repeated=repeated), [90]), 0.1, 0)
    expected = (repeated[numbers(again.test)] - fitted.mean(0)) / fitted.std(0)
    np.testing.assert_allclose(again.test.fmri, expected, rtol=1e-5, atol=1e-5)  # measured as test items are
    np.testing.assert_array_equal(again.train.fmri, made.train.fmri)
    assert again.test.repeated is None and again.train.repeated.shape == again.train.fmri.shape


@pytest.mark.parametrize(("n_categories", "test"), [(3, [0, 1]), (3, [90]), (12, [0, 1])])
def test_stimuli_of_each_category_where_those_are_few_or_all_there_are(n_categories: int, test: list[int]) -> None:
    made = validation.hold_out(dataset(items(np.arange(120) % n_categories), test), 0.1, 0)
    assert len(made.test) == 12 and len(made.train) == 108
    assert np.bincount(made.test.category, minlength=n_categories).tolist() == [12 // n_categories] * n_categories
    assert "12 of 120 training stimuli" in made.description


def test_folds_hold_out_different_items_and_the_choice_is_always_the_same() -> None:
    whole = dataset(items(np.arange(100) % 2), [0, 1])
    chosen = [numbers(validation.hold_out(whole, 0.1, fold).test) for fold in range(10)]
    assert sorted(np.concatenate(chosen)) == list(range(100))  # of ten folds that share all items, each once
    assert chosen[3] == numbers(validation.hold_out(whole, 0.1, 3).test)


def test_a_stimulus_is_never_on_both_sides() -> None:
    """Trials of one stimulus share their name, or only their pixels."""
    train = items(np.arange(60) % 2)
    names = [f"picture {i // 4}" for i in range(60)]
    images = train.images[np.arange(60) // 4 * 4]
    category = np.arange(60) // 4 % 2
    for part in (
        FmriSplit(train.fmri, train.images, category, names),
        FmriSplit(train.fmri, images, category, train.stimulus),
        FmriSplit(train.fmri, np.zeros((60, 0, 0, 0), np.uint8), category, names),
    ):
        made = validation.hold_out(dataset(part, [0]), 0.1, 0)
        assert len(made.test) == 8  # a stimulus of each category, four trials each
        assert not set(made.test.stimulus) & set(made.train.stimulus)
        known = {image.tobytes() for image in made.train.images if image.size}
        assert not any(image.tobytes() in known for image in made.test.images)


def test_items_where_each_category_is_one_stimulus() -> None:
    train = items(np.arange(60) % 3)
    repeated = FmriSplit(
        train.fmri, np.zeros((60, 0, 0, 0), np.uint8), train.category, [f"p{i % 3}" for i in range(60)]
    )
    made = validation.hold_out(dataset(repeated, [0, 1]), 0.1, 0)
    assert np.bincount(made.test.category).tolist() == [2, 2, 2] and len(made.train) == 54
    assert "6 of 60 training items, whose stimuli are trained on too" in made.description


def test_whole_runs_where_they_are_known_and_no_category_is_lost() -> None:
    category, run = np.arange(60) % 2, np.arange(60) // 10
    made = validation.hold_out(dataset(items(category, run=run), [0]), 0.1, 0)
    assert len(set(made.test.run)) == 1 and not set(made.test.run) & set(made.train.run) and len(made.test) == 10
    assert "1 of 6 runs" in made.description
    for other_run, other in ((np.arange(60) // 20, category), (run, run)):  # three runs; a category a run
        assert "training stimuli" in validation.hold_out(dataset(items(other, run=other_run), [0]), 0.1, 0).description
    shared = items(category, run=run)
    repeated = FmriSplit(shared.fmri, shared.images, category, [f"p{i % 10}" for i in range(60)], run=run)
    again = FmriSplit(shared.fmri, np.zeros((60, 0, 0, 0), np.uint8), category, repeated.stimulus, run=run)
    assert "2 of 10 training stimuli" in validation.hold_out(dataset(again, [0]), 0.1, 0).description


@pytest.mark.parametrize("category", [np.zeros(0), np.arange(3), np.zeros(2)])
def test_too_little_data_is_told_in_one_line(category: np.ndarray) -> None:
    with pytest.raises(UserError, match="none can be held out so that two are left to learn from; add") as error:
        validation.hold_out(dataset(items(category), [0]), 0.1, 0)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- the simulated cortex, which shows categories anew


def test_the_simulated_split_is_the_one_that_searches_always_had() -> None:
    train, _ = category_split()
    np.testing.assert_array_equal(simulate.validation_categories(train, 0.1), train[3::10])
    for share in (0.003, 0.2, 0.37, 0.5):
        chosen = simulate.validation_categories(train, share)
        assert len(set(chosen)) == len(chosen) == max(1, round(share * 150)) and set(chosen) <= set(train)


# ---------------------------------------------------------------- settings and keys


def test_settings() -> None:
    assert SplitConfig().validation is None and SplitConfig(validation=True).validation == 0.1
    assert SplitConfig(validation=False).validation is None
    old = parse_experiment({"name": "old", "data": {"kind": "simulated", "validation_split": True}}, "record")
    assert old.split.validation == 0.1  # as it was spelt when only these data had it
    for wrong in (0.0, 0.6, "yes"):
        with pytest.raises(UserError, match=r"split\.validation"):
            override(old, {"split.validation": wrong}, "--set")
    stimuli = {"name": "s", "data": {"kind": "stimuli"}, "decoder": {"kind": "external"}}
    with pytest.raises(UserError, match="has none; leave it out"):
        parse_experiment(stimuli | {"split": {"validation": 0.1}}, "mine.yaml")


def test_the_rule_is_part_of_the_keys_of_what_it_decides_and_of_no_other() -> None:
    plain = Experiment(name="any", data=SimulatedData())
    other, more = (override(plain, {"split.validation": share}, "test") for share in (0.1, 0.2))
    found = [{step.name: step.key for step in steps(e)} for e in (plain, other, more)]
    assert all(len({keys[name] for keys in found}) == 3 for name in found[0])
    code = [closure([step.make.__module__]) for e in (plain, other) for step in steps(e) if step.name == "data"]
    assert ["cnd.data.validation" in modules for modules in code] == [False, True]
