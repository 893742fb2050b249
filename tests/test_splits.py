"""Edits of the data: shuffled pairs, random input, validation hold-out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cnd.data.splits import SplitConfig, data_as_used, held_out, training_step
from cnd.decoders.ridge import RidgeDecoder, fit
from cnd.protocols import FmriDataset, FmriSplit, TrainingSet
from cnd.steps import Step

N, VOXELS = 120, 30
CATEGORY = np.arange(N) // 4


def items(fmri: np.ndarray, category: np.ndarray = CATEGORY) -> FmriSplit:
    """Items whose images tell which they are."""
    images = np.arange(len(fmri), dtype=np.uint8)[:, None, None, None]
    return FmriSplit(fmri.astype(np.float32), images, category, [f"item {i}" for i in range(len(fmri))])


@pytest.fixture(scope="module")
def dataset() -> FmriDataset:
    fmri = np.random.default_rng(0).standard_normal((N + 10, VOXELS))
    pool = (np.ones((3, VOXELS), np.float32),)
    return FmriDataset(items(fmri[:N]), items(fmri[N:], np.arange(10)), pool, ["c"] * 30, "made", True)


DATA = Step("data", held_out)


def made(step: Step, dataset: FmriDataset) -> Any:
    """What a step makes of the data set."""
    return dataset if step is DATA else step.make(SimpleNamespace(value=lambda need: dataset), **step.arguments)


def training(dataset: FmriDataset, seed: int = 0, **split: Any) -> TrainingSet:
    return made(training_step(SplitConfig(**split), DATA, seed), dataset)


# ---------------------------------------------------------------- shuffled pairs


def test_shuffled_pairs_move_patterns_and_nothing_else(dataset: FmriDataset) -> None:
    plain, shuffled = training(dataset).items, training(dataset, shuffle_pairs=True).items
    np.testing.assert_array_equal(plain.fmri, dataset.train.fmri)
    for name in ("images", "category", "stimulus"):
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(plain, name))
    moved = (shuffled.fmri != plain.fmri).any(1)
    assert moved.mean() > 0.9
    assert sorted(row.tobytes() for row in shuffled.fmri) == sorted(row.tobytes() for row in plain.fmri)
    np.testing.assert_array_equal(training(dataset).held, training(dataset, shuffle_pairs=True).held)


def test_the_order_belongs_to_the_seed(dataset: FmriDataset) -> None:
    orders = [training(dataset, seed, shuffle_pairs=True).items.fmri for seed in (0, 0, 1)]
    assert orders[0].tobytes() == orders[1].tobytes() != orders[2].tobytes()
    known = np.random.default_rng([1, 5]).permutation(N)  # as published results were made
    np.testing.assert_array_equal(orders[2], dataset.train.fmri[known])


@pytest.mark.parametrize("shuffle", [False, True])
def test_ridge_learns_from_pairs_and_nothing_from_shuffled_ones(shuffle: bool) -> None:
    rng = np.random.default_rng(0)
    target, weights = rng.standard_normal((30, 6)), rng.standard_normal((6, VOXELS))

    def seen(category: np.ndarray) -> np.ndarray:
        return target[category] @ weights + 0.5 * rng.standard_normal((len(category), VOXELS))

    data = FmriDataset(items(seen(CATEGORY)), items(seen(np.arange(30)), np.arange(30)), (), ["c"] * 30, "made", True)
    train = training(data, shuffle_pairs=shuffle)
    predict, _ = fit(RidgeDecoder(), train.items, target[train.items.category])
    predicted = predict(data.test.fmri)
    nearest = ((predicted[:, None] - target[None]) ** 2).sum(2).argmin(1)
    correct = int((nearest == np.arange(30)).sum())
    assert correct <= 4 if shuffle else correct >= 27  # by chance one of 30; 5 or more in 0.3 %


# ---------------------------------------------------------------- random input


def test_random_input_replaces_all_fmri_with_stimuli(dataset: FmriDataset) -> None:
    plain = data_as_used(SplitConfig(), DATA, 0)
    assert plain is DATA
    one, again, other = (made(data_as_used(SplitConfig(random_input=True), DATA, s), dataset) for s in (0, 0, 1))
    for name in ("train", "test"):
        noise, before = getattr(one, name), getattr(dataset, name)
        assert noise.fmri.dtype == np.float32 and noise.fmri.shape == before.fmri.shape
        np.testing.assert_array_equal(noise.images, before.images)
        assert noise.stimulus == before.stimulus and noise.fmri.tobytes() == getattr(again, name).fmri.tobytes()
        for unlike in (before.fmri, getattr(other, name).fmri):
            assert abs(np.corrcoef(noise.fmri.ravel(), unlike.ravel())[0, 1]) < 0.2
    assert abs(one.train.fmri.mean()) < 0.1 and abs(one.train.fmri.std() - 1) < 0.1
    assert one.unlabelled is dataset.unlabelled


# ---------------------------------------------------------------- validation


def before(category: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Positions held out as an earlier version chose them."""
    rng = np.random.default_rng([seed, 2])
    categories = np.unique(category)
    if len(categories) >= 10:
        return np.flatnonzero(
            np.isin(category, rng.choice(categories, max(1, round(fraction * len(categories))), replace=False))
        )
    held = np.zeros(len(category), dtype=bool)
    held[rng.choice(len(category), max(1, round(fraction * len(category))), replace=False)] = True
    return np.flatnonzero(held)


@pytest.mark.parametrize("category", [CATEGORY, np.arange(N) % 9, np.arange(N) % 10, np.zeros(7, int)])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("seed", [0, 3])
def test_the_same_items_are_held_out_as_before(category: np.ndarray, fraction: float, seed: int) -> None:
    np.testing.assert_array_equal(held_out(category, fraction, seed), before(category, fraction, seed))


def test_whole_categories_are_held_out(dataset: FmriDataset) -> None:
    train = training(dataset, validation_fraction=0.2)
    inside, outside = set(CATEGORY[train.held]), set(CATEGORY[train.fitting])
    assert len(inside) == 6 and not inside & outside
    assert sorted([*train.held, *train.fitting]) == list(range(N))


def test_a_few_categories_lose_items_and_none_is_lost() -> None:
    category = np.arange(100) % 2
    held = held_out(category, 0.1, 0)
    assert len(held) == 10 and (np.diff(held) > 0).all() and len(np.unique(np.delete(category, held))) == 2


# ---------------------------------------------------------------- keys


def test_what_the_data_do_not_feel_moves_no_key() -> None:
    def key(seed: int = 0, **split: Any) -> tuple[str, str]:
        config = SplitConfig(**split)
        data = data_as_used(config, DATA, seed)
        return data.key, training_step(config, data, seed).key

    assert key() == key(random_input=False)
    assert key()[0] == key(shuffle_pairs=True)[0] == key(seed=1)[0]  # only what is learnt from changes
    assert len({key()[1], key(shuffle_pairs=True)[1], key(seed=1)[1], key(validation_fraction=0.2)[1]}) == 4
    assert key()[0] != key(random_input=True)[0] != key(seed=1, random_input=True)[0]
