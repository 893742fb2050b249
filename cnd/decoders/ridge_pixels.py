"""Ridge from voxels onto pixels: reconstruction without a generator, for images that no generator knows.

The oldest linear reconstruction of images (Thirion et al. 2006), and without the local multi-scale bases that Miyawaki
et al. (2008) weigh in place of pixels. One penalty serves all pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from cnd.errors import UserError
from cnd.protocols import Decoder, Fitted, FmriSplit, ImageArray, Lab, Noise, Patterns, Reconstruction, TrainingSet
from cnd.settings import Rate

if TYPE_CHECKING:
    from collections.abc import Iterator

AT_ONCE = 8192  # pixel values whose predictions are in memory together


class RidgePixelsDecoder(Decoder):
    """Ridge from voxels onto the pixel values of the stimulus."""

    uses_generator: ClassVar[bool] = False
    in_steps: ClassVar[bool] = False
    kind: Literal["ridge_pixels"] = "ridge_pixels"
    alphas: tuple[Rate, ...] = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
    n_splits: Annotated[int, Field(ge=2)] = 5  # cross-validation over training categories

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Choose the penalty of least squared error of out-of-fold predictions, folds made of whole categories.

        Raises:
            UserError: the data has no images, or a single training item.
        """
        items = train.items
        if not items.images.size:
            raise UserError(f"decoder.kind = {self.kind}: the data has labels only, and it learns pixels; add images")
        errors = out_of_fold_errors(self, items)
        return _RidgePixels(items, float(self.alphas[int(np.argmin(errors))]))


def out_of_fold_errors(config: RidgePixelsDecoder, train: FmriSplit) -> np.ndarray:
    """Sum of squared errors over items and pixels under each penalty, float64 [n_alphas]."""
    from cnd.linear.folds import folds_of
    from cnd.linear.ridge import smoothers

    fold, fmri = folds_of(len(train), config.n_splits, train.category), train.fmri.astype(np.float64)
    errors = np.zeros(len(config.alphas))
    for index in np.unique(fold):
        held = fold == index
        weights = smoothers(fmri[~held], fmri[held], config.alphas)
        for pixels in _pixels(train.images):
            mean = pixels[~held].mean(0)
            predicted = mean + weights @ (pixels[~held] - mean)  # [n_alphas, held, pixels]
            errors += np.square(predicted - pixels[held]).sum((1, 2))
    return errors


class _RidgePixels:
    def __init__(self, train: FmriSplit, alpha: float) -> None:
        self.train, self.alpha = train, alpha

    def reconstruct(self, items: Patterns, noise: Noise) -> Reconstruction:
        """One image of each item, the same for every sample: nothing is drawn by chance."""
        from cnd.linear.ridge import smoothers

        train, shape = self.train, self.train.images.shape[1:]
        (weights,) = smoothers(train.fmri.astype(np.float64), items.fmri.astype(np.float64), [self.alpha])
        parts = []
        for pixels in _pixels(train.images):
            mean = pixels.mean(0)
            parts.append((mean + weights @ (pixels - mean)).round().clip(0, 255).astype(np.uint8))
        images = np.concatenate(parts, axis=1).reshape(len(items), 1, *shape)
        facts = {"ridge_alpha": self.alpha, "parameters": (train.fmri.shape[1] + 1) * int(np.prod(shape))}
        return Reconstruction(np.repeat(images, noise.samples, axis=1), facts=facts)


def _pixels(images: ImageArray) -> Iterator[np.ndarray]:
    """Values of all images, float64 [n, k], k of them at a time."""
    flat = np.asarray(images).reshape(len(images), -1)
    for start in range(0, flat.shape[1], AT_ONCE):
        yield flat[:, start : start + AT_ONCE].astype(np.float64)
