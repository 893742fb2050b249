"""The simulated cortex against what is known of it by construction."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from cnd.data.simulated import SimulatedData
from cnd.data.simulation import simulate
from cnd.data.simulation.cortex import AREAS, GRID, build_cortex, receptive_fields
from cnd.data.simulation.names import N_SURFACES, category_split
from cnd.data.simulation.stimuli import render

SMALL = SimulatedData(
    n_voxels=200, images_per_category=1, test_images_per_category=1, test_repetitions=8, snr=0.5, n_unlabelled=0
)


@pytest.fixture(scope="module")
def dataset():
    return simulate.simulate_with_trials(SMALL)


def test_bytes_are_the_same_on_every_machine():
    images = render(np.arange(0, 200, 9), np.random.default_rng(3))
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "f462c1a26c81433d"


def test_split_keeps_every_attribute_in_training():
    train, test = category_split()
    assert len(train) == 150 and len(test) == 50 and not set(train) & set(test)
    for categories in (train, test):
        assert set(categories // N_SURFACES) == set(range(20)) and set(categories % N_SURFACES) == set(range(10))


def test_voxels_lie_in_their_areas():
    cortex = build_cortex(300, np.random.default_rng(0))
    assert len(np.unique(cortex.vertex)) == 300
    for area, spec in AREAS.items():
        inside = cortex.roi[cortex.area == area]
        assert len(inside) >= 8 and {name[2:] for name in inside} <= set(spec.regions)
    assert {name[0] for name in cortex.roi} == {"L", "R"}


def test_receptive_fields_are_contralateral_and_grow():
    cortex = build_cortex(1500, np.random.default_rng(0))
    fields = receptive_fields(cortex, np.random.default_rng(1))
    np.testing.assert_allclose(fields.sum(1), 1)
    axis = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    x = np.tile(axis, GRID)
    centre = fields @ x
    spread = np.sqrt(fields @ x**2 - centre**2)
    left_v1 = cortex.roi == "L_V1"
    right_v1 = cortex.roi == "R_V1"
    assert centre[left_v1].mean() > 0.1 and centre[right_v1].mean() < -0.1
    by_area = [spread[cortex.area == area].mean() for area in ("V1", "V2", "V3", "V4")]
    assert by_area == sorted(by_area)
    eccentric = np.abs(centre[left_v1]) > np.median(np.abs(centre[left_v1]))
    assert spread[left_v1][eccentric].mean() > spread[left_v1][~eccentric].mean()


def test_noise_has_unit_variance_and_the_configured_structure():
    config = SimulatedData(noise_correlation=0.3, drift=0.2)
    cortex = build_cortex(300, np.random.default_rng(0))
    model = simulate.NoiseModel(cortex, config, np.random.default_rng(1))
    noise = model.draw(3300, np.random.default_rng(2))
    assert abs(noise.var() - 1) < 0.05
    distance = np.linalg.norm(cortex.position[:, None] - cortex.position[None], axis=2)
    correlation = np.corrcoef(noise.T)
    near = (distance > 0) & (distance < 6)
    assert correlation[near].mean() > 0.15 > 0.05 > abs(correlation[distance > 60].mean())
    lag_one = (noise[1:55] * noise[:54]).mean()
    assert 0.1 < lag_one < 0.3  # the drift's share: 0.2


def test_noise_ceiling_is_what_the_trials_show(dataset):
    """Correlation of two disjoint averages of r trials is the squared ceiling of r trials."""
    data, trials = dataset
    half = trials.shape[0] // 2
    first, second = trials[:half].mean(0), trials[half:].mean(0)
    measured = [np.corrcoef(first[:, v], second[:, v])[0, 1] for v in range(trials.shape[2])]
    snr = data.facts["median_single_trial_snr"]
    expected = half * snr / (half * snr + 1)
    assert abs(np.median(measured) - expected) < 0.12


def test_average_of_trials_is_the_test_pattern(dataset):
    data, trials = dataset
    np.testing.assert_allclose(trials.mean(0), data.test.fmri, atol=2 * simulate.QUANTUM)


def test_more_repetitions_raise_the_ceiling(dataset):
    facts = dataset[0].facts
    assert facts["noise_ceiling_test_average"] > facts["noise_ceiling_single_trial"] + 0.1


def test_null_pool_has_no_signal():
    """With the signal the pool's variance exceeds that of noise alone, without it it does not."""
    rng, cortex = np.random.default_rng(0), build_cortex(200, np.random.default_rng(0))
    noise = simulate.NoiseModel(cortex, SMALL, rng)
    signal = rng.standard_normal((300, 200)) * np.sqrt(SMALL.snr)
    null = SMALL.model_copy(update={"unlabelled_signal": False})
    pools = [simulate.rest(config, signal, noise, rng) for config in (SMALL, null)]
    assert pools[0].var() > 1.3 * pools[1].var() and abs(pools[1].var() - 1) < 0.1


def test_training_items_are_also_measured_as_test_items_are():
    """For their scores along a training: the same signal, and the noise of an average of as many trials."""
    config = SimulatedData(n_voxels=200, images_per_category=2, n_unlabelled=0, test_repetitions=25, snr=0.04)
    dataset = simulate.simulate(config)
    train = dataset.train
    assert train.repeated is not None and train.repeated.dtype == np.float32
    common = (train.fmri * train.repeated).mean()  # their noise is independent, so this is the signal's variance
    noise = (train.fmri - train.repeated).var(0).mean() / 26  # of the average of 25; a single trial's comes to it
    assert train.repeated.var(0).mean() == pytest.approx(common + noise, rel=0.1)
    assert train.repeated.var() == pytest.approx(dataset.test.fmri.var(), rel=0.15)
    once = simulate.simulate(SimulatedData(**config.model_dump() | dict(test_repetitions=1))).train
    assert np.array_equal(once.fmri, train.fmri)  # trials are drawn from a stream of their own
    assert once.repeated.var() > 5 * train.repeated.var()
