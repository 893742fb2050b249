"""A simulated visual cortex that sees rendered objects: a benchmark shaped like GOD whose truth is known.

150 categories for training, 50 others for testing (:mod:`cnd.data.simulation.stimuli`), seen by a visual cortex
(:mod:`cnd.data.simulation.cortex`). A trial is

    pattern = sqrt(snr_v) * signal_v + noise,   var(signal_v) = var(noise) = 1,

so a voxel's noise ceiling is known: the correlation of an average of r trials with the noise-free signal is
sqrt(r snr / (r snr + 1)). Arithmetic is float64 and the result is rounded to 1/1024 before it becomes float32: the
same seed gives the same bytes on every machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cnd.data.simulation.cortex import AREAS, Cortex, build_cortex, noise_free_signal
from cnd.data.simulation.names import CATEGORY_NAMES, IMAGE_SIZE, N_CATEGORIES, category_split, items
from cnd.data.simulation.stimuli import render
from cnd.protocols import FmriDataset, FmriSplit, Normalisation

if TYPE_CHECKING:
    from cnd.data.simulated import SimulatedData

RUN_LENGTH = 55  # trials a run, as in GOD's training sessions
QUANTUM = 1 / 1024


class NoiseModel:
    """Unit-variance noise: white, smooth over the cortex, and drifting slowly within a run."""

    def __init__(self, cortex: Cortex, config: SimulatedData, rng: np.random.Generator):
        self.config = config
        centres = cortex.position[rng.choice(len(cortex.position), min(80, len(cortex.position)), replace=False)]
        squared = ((cortex.position[:, None] - centres[None]) ** 2).sum(2)
        kernel = np.exp(-squared / (2 * 15.0**2)) + 1e-6  # 15 mm
        self.smooth = kernel / np.linalg.norm(kernel, axis=1, keepdims=True)

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Noise of n trials in consecutive runs, float64 [n, n_voxels]."""
        n_voxels, n_factors = self.smooth.shape
        white = rng.standard_normal((n, n_voxels))
        smooth = rng.standard_normal((n, n_factors)) @ self.smooth.T
        run, within = np.divmod(np.arange(n), RUN_LENGTH)
        # Half a cosine over the run, random in sign, size and phase for every voxel and run.
        amplitude = rng.standard_normal((run.max() + 1, 2, n_voxels))
        phase = np.pi * (within + 0.5) / RUN_LENGTH
        drift = np.cos(phase)[:, None] * amplitude[run, 0] + np.sin(phase)[:, None] * amplitude[run, 1]
        correlated, slow = self.config.noise_correlation, self.config.drift
        return np.sqrt(1 - correlated - slow) * white + np.sqrt(correlated) * smooth + np.sqrt(slow) * drift


def _rng(config: SimulatedData, purpose: str) -> np.random.Generator:
    """An independent stream for each purpose, subject and brain seed."""
    return np.random.default_rng([config.brain_seed, config.subject, *purpose.encode()])


def _render_all(category: np.ndarray, seed: int, group: int) -> np.ndarray:
    """Images uint8 [n, 3, 64, 64] of one group, from a stream of its own; 200 at a time to bound memory."""
    rng = np.random.default_rng([seed, 11, group])
    parts = [render(category[start : start + 200], rng) for start in range(0, len(category), 200)]
    return np.concatenate(parts) if parts else np.empty((0, 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)


def repeated_trials(
    config: SimulatedData, signal: np.ndarray, noise: NoiseModel, rng: np.random.Generator
) -> np.ndarray:
    """Single trials of the test items, float64 [repetition, item, voxel]; repetitions lie in separate runs."""
    return np.stack([signal + noise.draw(len(signal), rng) for _ in range(config.test_repetitions)])


def simulate(config: SimulatedData, validation: float | None = None) -> FmriDataset:
    """Render the stimuli, let the subject see them, and normalise with the statistics of the training patterns.

    Args:
        validation: share of the training categories that are judged on in place of the test ones.
    """
    dataset, _ = simulate_with_trials(config, keep_trials=False, validation=validation)
    return dataset


def validation_categories(train: np.ndarray, share: float) -> np.ndarray:
    """Some of the training categories, evenly spread: of a tenth every tenth, from the fourth on."""
    n = max(1, round(share * len(train)))
    return np.sort(train[(3 + np.arange(n) * len(train) // n) % len(train)])


def simulate_with_trials(
    config: SimulatedData, keep_trials: bool = True, validation: float | None = None
) -> tuple[FmriDataset, np.ndarray | None]:
    """As :func:`simulate`, with the normalised single test trials float32 [repetition, item, voxel]."""
    train_categories, test_categories = category_split()
    if validation is not None:
        test_categories = validation_categories(train_categories, validation)
        train_categories = np.setdiff1d(train_categories, test_categories)
    train_category, train_names = items(train_categories, config.images_per_category)
    test_category, test_names = items(test_categories, config.test_images_per_category)
    pool_category = np.random.default_rng([config.stimulus_seed, 3]).integers(0, N_CATEGORIES, config.n_unlabelled)
    groups = (train_category, test_category, pool_category)
    images = np.concatenate([_render_all(group, config.stimulus_seed, i) for i, group in enumerate(groups)])
    everything = np.concatenate(groups)

    n_voxels = round(config.n_voxels * (1, 0.93, 1.15, 1.06, 0.85)[config.subject - 1])
    cortex = build_cortex(n_voxels, _rng(config, "voxels"))
    snr = _voxel_snr(config, cortex)
    n_train, n_test = len(train_category), len(test_category)
    signal = np.sqrt(snr) * noise_free_signal(images, everything, n_train, cortex, _rng(config, "mixing"))
    noise, rng = NoiseModel(cortex, config, _rng(config, "noise")), _rng(config, "trials")

    order = rng.permutation(n_train)  # stimuli are presented in random order, so drift is not tied to category
    train = np.empty((n_train, n_voxels))
    train[order] = signal[:n_train][order] + noise.draw(n_train, rng)
    # the mean of independent noise is noise of less variance, so nothing is gained by drawing every repetition
    less = noise.draw(n_train, _rng(config, "validation")) / np.sqrt(config.test_repetitions)
    repeated = signal[:n_train] + less
    trials = repeated_trials(config, signal[n_train : n_train + n_test], noise, rng)
    pool = rest(config, signal[n_train + n_test :], noise, rng)

    mean, std = train.mean(0), train.std(0)

    def normalise(patterns: np.ndarray) -> np.ndarray:
        return (np.round((patterns - mean) / std / QUANTUM) * QUANTUM).astype(np.float32)

    ceiling = np.sqrt(config.test_repetitions * snr / (config.test_repetitions * snr + 1))
    dataset = FmriDataset(
        train=FmriSplit(normalise(train), images[:n_train], train_category, train_names, repeated=normalise(repeated)),
        test=FmriSplit(normalise(trials.mean(0)), images[n_train : n_train + n_test], test_category, test_names),
        normalisation=Normalisation(mean, std),
        unlabelled=(normalise(pool),) if config.n_unlabelled else (),
        class_names=list(CATEGORY_NAMES),
        description=f"simulated cortex, subject {config.subject}, {n_voxels} voxels, brain seed {config.brain_seed}",
        simulated=True,
        roi=[str(name) for name in cortex.roi],
        vertex=cortex.vertex,
        facts={
            "median_single_trial_snr": float(np.median(snr)),
            "noise_ceiling_single_trial": float(np.median(np.sqrt(snr / (snr + 1)))),
            "noise_ceiling_test_average": float(np.median(ceiling)),
        },
    )
    return dataset, normalise(trials) if keep_trials else None


def _voxel_snr(config: SimulatedData, cortex: Cortex) -> np.ndarray:
    """Single-trial signal variance over noise variance: log-normal over voxels, scaled by the area's gain."""
    rng = _rng(config, "snr")
    snr = np.array([AREAS[a].gain for a in cortex.area]) * np.exp(rng.normal(0, 0.6, len(cortex.area)))
    return snr * config.snr / np.median(snr)


def rest(config: SimulatedData, signal: np.ndarray, noise: NoiseModel, rng: np.random.Generator) -> np.ndarray:
    """Rest-like patterns: mixtures of the signals of two unseen renders, at four times the SNR of a trial.

    Windows of a resting scan are averaged in time, hence the SNR. Without ``unlabelled_signal`` only noise is left.
    """
    n, n_voxels = signal.shape
    if n == 0:
        return np.empty((0, n_voxels))
    share = rng.uniform(0, 1, (n, 1))
    mixed = share * signal + (1 - share) * signal[rng.permutation(n)]
    return (2 * mixed if config.unlabelled_signal else 0) + noise.draw(n, rng)
