"""Identification: which of the stimuli that were shown is most like the reconstruction, pixel by pixel."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cnd.errors import UserError
from cnd.metrics.nway import at_most, n_way_accuracy
from cnd.metrics.pixels import PixelMetric, correlation
from cnd.protocols import Choice, ImageArray, Pairings, Truth

DIGITS = 12  # of a correlation: equal images must tie, whatever the order in which a product was summed


class Identification(PixelMetric):
    """How often a stimulus is found among n by its reconstruction, as the one with the largest pixel correlation.

    Candidates are the stimuli of all test items, each once however often it was shown (Miyawaki et al. 2008; Kay et
    al. 2008). Scores are exact expectations over all sets of n that hold the right one.
    """

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    percent: ClassVar[bool] = True
    kind: Literal["identification"] = "identification"
    n: Annotated[int, Field(ge=2)] = 2  # candidates, the right one included

    @property
    def name(self) -> str:
        """``identification20``."""
        return f"{self.kind}{self.n}" + (f"_{self.convention}" if self.convention else "")

    @property
    def title(self) -> str:
        """``identification, 1 of 20``."""
        return f"identification, 1 of {self.n}{self.by()}"

    @property
    def note(self) -> str:
        """The same for every n."""
        return (
            "Identification takes the stimulus whose pixels correlate most with the reconstruction for the answer, "
            "among distinct stimuli of the test items; scores are exact expectations over all sets of candidates."
        )

    def chance(self) -> float:
        """Of a reconstruction that is the same for all items."""
        return 1 / self.n

    def too_few(self, choice: Choice) -> str | None:
        """Fewer distinct stimuli than candidates."""
        if choice.stimuli is None or self.n <= choice.stimuli:
            return None
        return (
            f"evaluation.metrics: {self.name} chooses among {self.n} stimuli, and the test items show {choice.stimuli} "
            f"different ones; {at_most('n', choice.stimuli)}"
        )

    def among(self, truth: Truth) -> str:
        """Of how many they are drawn."""
        return f"{self.n} of the {len(set(truth.stimulus))} distinct test stimuli"

    def score(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> NDArray[np.float64]:
        """Expected success of each reconstruction, [item, sample].

        Raises:
            UserError: no stimuli, fewer distinct ones than candidates, or reconstructions of another size.
        """
        similarity, right = self._similarity(stimuli, images, truth)
        return self._accuracy(similarity, right)

    def pairings(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> Pairings | None:
        """Against every distinct stimulus."""
        similarity, right = self._similarity(stimuli, images, truth)
        targets = range(similarity.shape[2])
        scores = [self._accuracy(similarity, np.full(len(images), t)).mean(1) for t in targets]
        return Pairings(np.arange(len(images)), right, np.stack(scores, axis=1))

    def _similarity(
        self, stimuli: ImageArray, images: np.ndarray, truth: Truth
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Correlations [item, sample, distinct stimulus], and the place of each item's own among these [item]."""
        self._check(stimuli, images)
        _, first, right = np.unique(np.asarray(truth.stimulus), return_index=True, return_inverse=True)
        if (told := self.too_few(Choice(stimuli=len(first)))) is not None:
            raise UserError(told)
        found: NDArray[np.float64] = np.empty((*images.shape[:2], len(first)))
        for i, samples in enumerate(images):
            for place, at in enumerate(first):
                found[i, :, place] = correlation(*self._prepared(stimuli[at : at + 1], samples))
        return found.round(DIGITS), right.reshape(-1).astype(np.int64)

    def _accuracy(self, similarity: NDArray[np.float64], target: NDArray[np.int64]) -> NDArray[np.float64]:
        """[item, sample] of similarities [item, sample, candidate] and targets [item]."""
        n, n_samples, n_candidates = similarity.shape
        flat = similarity.reshape(n * n_samples, n_candidates)
        return n_way_accuracy(flat, np.repeat(target, n_samples), self.n).reshape(n, n_samples)
