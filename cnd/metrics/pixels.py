"""What compares a reconstruction with its stimulus pixel by pixel: correlation (PixCorr) and structural similarity."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from cnd.errors import UserError
from cnd.metrics.published import CONVENTIONS, ConventionName, need_stimuli
from cnd.metrics.resizing import for_pixels
from cnd.protocols import ImageArray, Metric, Pairings, Truth

SIGMA, TRUNCATE = 1.5, 3.5  # of SSIM's Gaussian window: 11 pixels wide
MARGIN = int(TRUNCATE * SIGMA + 0.5)  # pixels at the border whose window leaves the image
C1, C2 = 0.01**2, 0.03**2  # for a data range of 1
AT_ONCE = 2**16  # values of all images that are in memory in double precision together
GREY = (0.2125, 0.7154, 0.0721)  # of red, green and blue: Rec. 709, as scikit-image's rgb2gray has it


class PixelMetric(Metric):
    """One that compares the pixels of two images of one size: as they come, or by a published convention."""

    kind: Any
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    convention: ConventionName | None = None  # sizes as in cnd/metrics/published.py; None: images as they are

    @property
    def name(self) -> str:
        """The convention stands behind the kind."""
        return str(self.kind) + (f"_{self.convention}" if self.convention else "")

    def by(self) -> str:
        """The convention for people."""
        return f", {CONVENTIONS[self.convention].title}" if self.convention else ""

    def compare(self, stimulus: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Scores [sample] of one item.

        Args:
            stimulus: [channels, height, width], uint8, or floating-point from 0 to 1 by a convention.
            samples: [sample, channels, height, width], likewise.
        """
        raise NotImplementedError

    def score(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> np.ndarray:
        """[item, sample] from -1 to 1.

        Raises:
            UserError: no stimuli, or reconstructions of another size and no convention that would resize them.
        """
        self._check(stimuli, images)
        return np.stack([self.compare(*self._prepared(stimuli[i : i + 1], images[i])) for i in range(len(images))])

    def _check(self, stimuli: ImageArray, images: np.ndarray) -> None:
        need_stimuli(stimuli.size, self.name)
        (h, w), (height, width) = stimuli.shape[-2:], images.shape[-2:]
        if self.convention is None and (h, w) != (height, width):
            raise UserError(
                f"evaluation.metrics: {self.kind} needs images of one size; stimuli are {w}x{h}, reconstructions "
                f"{width}x{height}: set data.image_size, where the data has it, set the metric's convention "
                f"({', '.join(CONVENTIONS)}), which resizes, or leave the metric out"
            )

    def _prepared(self, stimulus: ImageArray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A stimulus [c, h, w], given as [1, c, h, w], and samples [sample, c, h, w] in the sizes of the convention."""
        if self.convention is None:
            return np.asarray(stimulus[0]), samples
        side = stimulus.shape[2], stimulus.shape[3]
        return for_pixels(stimulus, self.convention, side)[0], for_pixels(samples, self.convention, side)


class PixelCorrelation(PixelMetric):
    """Pearson correlation of a reconstruction with its stimulus over all pixel values of the RGB images."""

    kind: Literal["pixel_correlation"] = "pixel_correlation"

    @property
    def title(self) -> str:
        """``PixCorr`` where it is somebody's convention."""
        return f"PixCorr{self.by()}" if self.convention else "pixel correlation"

    @property
    def note(self) -> str:
        """What it is, and what it is not."""
        return (
            "Pixel correlation is Pearson's r over all values of the RGB image, 0 where one of the two is constant. It "
            "has no chance level: photographs resemble each other, so that a fixed blurred image scores above 0."
        )

    def compare(self, stimulus: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """0 for a constant image, which resembles nothing."""
        return correlation(stimulus, samples)

    def pairings(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> Pairings | None:
        """Against the stimulus of every item."""
        self._check(stimuli, images)
        units = [_units(*self._prepared(stimuli[i : i + 1], images[i])) for i in range(len(images))]
        targets = np.stack([own[0].astype(np.float32) for own, _ in units])  # half the memory: these are images
        drawn = np.stack([samples.mean(0).astype(np.float32) for _, samples in units])
        scores, item = np.zeros((len(images), len(images))), np.arange(len(images))
        for start in range(0, targets.shape[1], AT_ONCE):
            part = slice(start, start + AT_ONCE)
            scores += drawn[:, part].astype(np.float64) @ targets[:, part].astype(np.float64).T
        return Pairings(item, item, np.clip(scores, -1.0, 1.0))


class StructuralSimilarity(PixelMetric):
    """SSIM of the grey images (Wang et al. 2004): local means, variances and covariance under a Gaussian window."""

    kind: Literal["ssim"] = "ssim"

    @property
    def title(self) -> str:
        """``SSIM``."""
        return f"SSIM{self.by()}"

    @property
    def note(self) -> str:
        """As the field computes it."""
        return (
            "SSIM compares grey images under a Gaussian window (sigma 1.5, 11 pixels, variances without sample "
            "correction, data range 1), as scikit-image does. It has no chance level: smooth images score high."
        )

    def compare(self, stimulus: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Raises:
        UserError: images smaller than the window.
        """
        if min(samples.shape[-2:]) <= 2 * MARGIN:
            h, w = samples.shape[-2:]
            raise UserError(
                f"evaluation.metrics: ssim needs {2 * MARGIN + 1}x{2 * MARGIN + 1} pixels or more, these are {w}x{h}; "
                "set the metric's convention to mindeye2, which enlarges them, or leave it out"
            )
        return structural_similarity(_grey(stimulus), _grey(samples))


def correlation(stimulus: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Pearson's r of each sample with the stimulus, float64 [sample].

    Args:
        stimulus: [channels, height, width].
        samples: [sample, channels, height, width]; where one of the two has a single channel, it counts as grey RGB.
    """
    a, b = _units(stimulus, samples)
    return np.clip((a * b).sum(1), -1.0, 1.0)


def _units(stimulus: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of :func:`_unit` of the arguments of :func:`correlation`: [1, values] and [sample, values]."""
    channels = max(len(stimulus), samples.shape[1])
    stimulus = np.broadcast_to(stimulus, (channels, *stimulus.shape[1:]))
    samples = np.broadcast_to(samples, (len(samples), channels, *samples.shape[2:]))
    return _unit(stimulus[None]), _unit(samples)


def structural_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean SSIM over the pixels whose window lies in the image, float64 [...].

    Args:
        a: grey images, float64 [..., height, width] from 0 to 1.
        b: likewise.
    """
    from scipy.ndimage import gaussian_filter

    def smooth(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, (*[0.0] * (x.ndim - 2), SIGMA, SIGMA), truncate=TRUNCATE)

    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    above = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    below = (mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2)
    inner = (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    found: np.ndarray = (above / below)[inner].mean((-2, -1))
    return np.clip(found, -1.0, 1.0)


def _grey(images: np.ndarray) -> np.ndarray:
    """Luminance from 0 to 1, float64 [..., height, width], of images [..., channels, height, width]."""
    values = images / 255 if images.dtype == np.uint8 else images
    if values.shape[-3] == 1:
        return np.asarray(values[..., 0, :, :], dtype=np.float64)
    return np.einsum("c,...chw->...hw", np.array(GREY), values)


def _unit(images: np.ndarray) -> np.ndarray:
    """Images as rows, centred, of length 1; constant ones become 0."""
    rows = images.reshape(len(images), -1).astype(np.float64)
    rows -= rows.mean(1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
