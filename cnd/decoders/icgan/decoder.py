"""fMRI-ICGAN (Ozcelik et al. 2022), reference [18] of the paper: no diffusion model, no labels.

Three ridge regressions from the voxels give what an instance-conditioned GAN takes: the instance features of the image,
its noise vector, and its dense vector, the smallest maps, which stands in for the noise vector's first chunk. The last
two of the training images are found by inversion (:mod:`cnd.decoders.icgan.inversion`).

Departures from the published method:

- Penalties are chosen by cross-validation over training categories: one for all instance features, one for each number
  of noise and dense vectors. Theirs are fixed, 500 for features, 1 for noise and 100 for dense vectors.
- Predicted features are brought to the mean and spread of those of the training images by the spread of predictions of
  held-out training items, as decoder ``ridge`` does. Theirs are z-scored with the statistics of all predicted test
  items, so that an item's image depends on the others: ``transductive`` does that, and the report says so.
- Predicted features are then brought to a fixed length (``feature_length``), since those of an image have one: a mean
  of noisy predictions is shorter. Somewhat longer than an image's, they draw the category more clearly.
- Without the published files (``generator_weights``, ``feature_weights``) small networks take their place
  (:mod:`cnd.decoders.icgan.networks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from cnd.decoders.icgan.inversion import VECTORS, inversion_step
from cnd.decoders.icgan.networks import Sources, load, problem_without_files
from cnd.decoders.icgan.settings import InversionConfig
from cnd.decoders.ridge import RidgeDecoder, parameters
from cnd.decoders.ridge import fit as fit_ridge
from cnd.protocols import (
    Decoder,
    Fitted,
    FmriSplit,
    Given,
    Lab,
    Noise,
    Patterns,
    Reconstruction,
    Stimuli,
    TrainingSet,
)
from cnd.settings import FileOf, Rate
from cnd.steps import Step

if TYPE_CHECKING:
    from cnd.decoders.icgan.generator import InstanceGenerator

Predict = Callable[[np.ndarray], np.ndarray]
BATCH = 50  # images generated at once


class IcGanDecoder(Decoder):
    """Ridge from voxels into instance features, noise and dense vectors of an instance-conditioned GAN."""

    uses_generator: ClassVar[bool] = False
    in_steps: ClassVar[bool] = False
    shares: ClassVar[Mapping[str, float]] = {"inversion": 0.8}
    kind: Literal["icgan"] = "icgan"
    generator_weights: Path | None = None  # G_ema_best0.pth of an IC-GAN with BigGAN; None: the small one
    feature_weights: Path | None = None  # of SwAV's ResNet-50 (.pth.tar or .safetensors); None: the small one
    inversion: InversionConfig = InversionConfig()
    alphas: Annotated[tuple[Rate, ...], Field(min_length=1)] = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
    n_splits: Annotated[int, Field(ge=2)] = 5  # cross-validation over training categories
    # length of predicted features over that of the features of an image; None: as they are predicted, as published
    feature_length: Rate | None = 1.5
    transductive: bool = False  # predicted features are z-scored over all test items, as published

    @property
    def sources(self) -> Sources:
        """The files of the networks."""
        if self.generator_weights is None or self.feature_weights is None:
            return Sources()
        return Sources(generator=FileOf(path=self.generator_weights), features=FileOf(path=self.feature_weights))

    def steps(self, given: Given) -> dict[str, Step]:
        """``icgan_inversion``."""
        return {"icgan_inversion": inversion_step(self.inversion, self.sources, given)}

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Regress the vectors of the training images on their fMRI.

        Raises:
            UserError: the data has no images or fewer than two items, or the networks do not fit the images.
        """
        from safetensors.numpy import load_file

        folder: Path = lab.value(self.steps(lab.given)["icgan_inversion"])
        vectors = load_file(folder / VECTORS)
        channels, height, width = train.items.images.shape[1:]
        networks = load(self.sources, (channels, height, width)).to(lab.device)
        features, alpha = regress_features(train.items, vectors["features"], self.alphas, self.n_splits)
        others = np.concatenate([vectors["noise"], vectors["dense"]], 1)
        predict = regress_others(train.items, others, self.alphas, self.n_splits)
        fitted = parameters(train.items, vectors["features"]) + parameters(train.items, others)
        facts = {"feature_ridge_alpha": alpha, "parameters": fitted}
        return _FittedIcGan(self, networks.generator, features, predict, vectors["features"], lab, facts)

    def missing(self) -> list[str]:
        """The files, where one of two is not set, or not there."""
        paths = {"generator_weights": self.generator_weights, "feature_weights": self.feature_weights}
        found = [
            f"{path}: no such file (decoder.{name})" for name, path in paths.items() if path and not path.is_file()
        ]
        unset = [name for name, path in paths.items() if path is None]
        if len(unset) == 1:
            found.append(
                f"decoder.{unset[0]} is not set: generator and instance features belong together; set it too, or leave "
                "both out for the small networks that ship with the package"
            )
        return found

    def missing_for(self, items: Stimuli, samples: int) -> list[str]:
        """The files, where no network that ships with the package makes such images."""
        if self.generator_weights is not None or not all(items.shape):
            return []
        problem = problem_without_files(items.shape)
        return [problem] if problem else []

    def check(self) -> None:
        """Read the files, where there are any.

        Raises:
            UserError: one cannot be read, or is of another network.
        """
        if self.generator_weights is not None and self.feature_weights is not None:
            from cnd.decoders.icgan.checkpoints import load_generator, load_swav

            load_generator(self.generator_weights)
            load_swav(self.feature_weights)

    def warnings(self) -> list[str]:
        """What its scores do not compare with."""
        found = []
        if self.transductive:
            found.append(
                "Transductive: what IC-GAN predicts of an item is z-scored with the statistics of all test items "
                "(decoder.transductive); scores are not comparable with an inductive protocol."
            )
        if self.generator_weights is None:
            found.append(
                "IC-GAN without its published networks: a small generator and small instance features, trained for "
                "minutes on images like the stimuli and with a reconstruction loss beside the adversarial one, take "
                "the place of those trained on ImageNet (decoder.generator_weights, decoder.feature_weights)."
            )
        return found


# ---------------------------------------------------------------- regressions


def regress_features(
    train: FmriSplit, targets: np.ndarray, alphas: Sequence[float], n_splits: int
) -> tuple[Predict, float]:
    """From fMRI to instance features with the mean and spread of ``targets`` [n_train, n_features]; the penalty.

    Raises:
        UserError: fewer than two items.
    """
    return fit_ridge(RidgeDecoder(alphas=tuple(alphas), n_splits=n_splits), train, targets)


def regress_others(train: FmriSplit, targets: np.ndarray, alphas: Sequence[float], n_splits: int) -> Predict:
    """From fMRI to noise and dense vectors [n_train, width] as ridge predicts them, shrunk towards their mean.

    Raises:
        UserError: fewer than two items.
    """
    from cnd.linear.ridge import VoxelRidge

    model = VoxelRidge(alphas, n_splits)
    model.fit(train.fmri.astype(np.float64), targets.astype(np.float64), train.category)
    return lambda fmri: model.predict(fmri.astype(np.float64)).astype(np.float32)


def with_statistics_of(predicted: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Predictions [m, width] z-scored over themselves, with mean and spread of ``wanted`` [n, width]."""
    spread = np.maximum(predicted.std(0), 1e-6)
    return ((predicted - predicted.mean(0)) / spread * wanted.std(0) + wanted.mean(0)).astype(np.float32)


def of_length(predicted: np.ndarray, wanted: np.ndarray, times: float) -> np.ndarray:
    """Predictions [m, width], each brought to ``times`` the mean length of ``wanted`` [n, width]."""
    length = times * np.linalg.norm(wanted, axis=1).mean()
    return (predicted * (length / np.maximum(np.linalg.norm(predicted, axis=1, keepdims=True), 1e-12))).astype(
        np.float32
    )


class _FittedIcGan:
    def __init__(
        self,
        config: IcGanDecoder,
        generator: InstanceGenerator,
        features: Predict,
        others: Predict,
        known: np.ndarray,
        lab: Lab,
        facts: dict[str, float],
    ) -> None:
        self.config, self.generator, self.features, self.others = config, generator, features, others
        self.known, self.lab, self.facts = known, lab, facts

    def reconstruct(self, items: Patterns, noise: Noise) -> Reconstruction:
        """One image of each item, the same for every sample: nothing is drawn by chance."""
        features, others = self.features(items.fmri), self.others(items.fmri)
        if self.config.transductive:
            features = with_statistics_of(features, self.known)
        if self.config.feature_length is not None:
            features = of_length(features, self.known, self.config.feature_length)
        vectors, images = np.split(others, [self.generator.layout.n_noise], axis=1), []
        for start in range(0, len(items), BATCH):
            rows = slice(start, start + BATCH)
            images.append(self._generated(vectors[0][rows], features[rows], vectors[1][rows]))
        self.lab.report("sample", 1.0, len(items), {})
        return Reconstruction(np.repeat(np.concatenate(images)[:, None], noise.samples, axis=1), facts=self.facts)

    def _generated(self, *vectors: np.ndarray) -> np.ndarray:
        """uint8 images of noise, features and dense vectors."""
        import torch

        with torch.no_grad():
            images = self.generator(*(torch.from_numpy(part.copy()).to(self.lab.device) for part in vectors))
        return images.add(1).mul(127.5).round().to(torch.uint8).cpu().numpy()
