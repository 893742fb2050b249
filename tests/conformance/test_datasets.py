"""One suite for every data set: what :class:`cnd.protocols.FmriDataset` promises."""

from __future__ import annotations

import numpy as np
import pytest

from cnd import data
from cnd.config import Digits69Data, SimulatedData
from cnd.protocols import FmriDataset

SMALL = dict(n_voxels=128, images_per_category=1, test_images_per_category=1, test_repetitions=2, n_unlabelled=32)


@pytest.fixture(scope="module", params=["simulated", "digits69"])
def case(request, digits69_file) -> tuple[SimulatedData | Digits69Data, FmriDataset]:
    if request.param == "simulated":
        config: SimulatedData | Digits69Data = SimulatedData(**SMALL)
    else:
        if digits69_file is None:
            pytest.skip("digits69: digit69_28x28.mat is not here (it cannot be shipped)")
        config = Digits69Data(path=digits69_file)
    return config, data.load(config, data.folds(config)[0])


def test_shapes_and_types(case):
    _, dataset = case
    for split in (dataset.train, dataset.test):
        assert split.fmri.dtype == np.float32 and split.fmri.ndim == 2
        assert split.images.dtype == np.uint8 and split.images.ndim == 4
        assert split.category.dtype == np.int64
        assert len(split.fmri) == len(split.images) == len(split.category) == len(split.stimulus) > 0
    assert dataset.train.fmri.shape[1] == dataset.test.fmri.shape[1]
    assert all(pool.dtype == np.float32 and pool.ndim == 2 and len(pool) for pool in dataset.unlabelled)


def test_values_are_finite_and_normalised_by_training_statistics(case):
    _, dataset = case
    for patterns in (dataset.train.fmri, dataset.test.fmri, *dataset.unlabelled):
        assert np.isfinite(patterns).all()
    assert np.abs(dataset.train.fmri.mean(0)).max() < 2e-3  # rounding of the simulated voxels is 1e-3
    varying = dataset.train.fmri.std(0) > 0
    assert np.abs(dataset.train.fmri.std(0)[varying] - 1).max() < 2e-3


def test_no_test_item_is_a_training_item(case):
    _, dataset = case
    train = {image.tobytes() for image in dataset.train.images}
    assert not any(image.tobytes() in train for image in dataset.test.images)
    assert not set(dataset.train.stimulus) & set(dataset.test.stimulus)


def test_categories_index_the_class_names(case):
    _, dataset = case
    assert dataset.train.category.min() >= 0 and dataset.train.category.max() < len(dataset.class_names)
    assert dataset.test.category.max() < len(dataset.class_names)


def test_voxel_annotations_are_aligned(case):
    _, dataset = case
    n_voxels = dataset.train.fmri.shape[1]
    assert len(dataset.roi) in (0, n_voxels)
    assert dataset.vertex is None or len(dataset.vertex) == n_voxels


def test_same_config_gives_the_same_bytes(case):
    config, dataset = case
    again = data.load(config, data.folds(config)[0])
    assert again.train.fmri.tobytes() == dataset.train.fmri.tobytes()
    assert again.test.fmri.tobytes() == dataset.test.fmri.tobytes()
    assert again.test.images.tobytes() == dataset.test.images.tobytes()


def test_fingerprint_changes_with_the_data(case):
    config, _ = case
    if isinstance(config, SimulatedData):
        assert data.fingerprint(config) != data.fingerprint(config.model_copy(update={"brain_seed": 9}))
    assert data.fingerprint(config) == data.fingerprint(config.model_copy())
