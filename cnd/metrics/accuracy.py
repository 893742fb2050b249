"""Accuracy: how often a judge finds the label of an item among the classes of the data set."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cnd.metrics.nway import ONE_CLASS, NWay, of_judge, own_of
from cnd.protocols import Choice, ImageArray, Metric, Pairings, Truth


class Accuracy(Metric):
    """Share of reconstructions in which a judge, asked to choose among the data set's own classes, sees the label.

    It is n-way top-1 with all of these classes and nothing drawn. Ties are broken at random, in expectation.
    """

    percent: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = True
    kind: Literal["accuracy"] = "accuracy"
    judge: str | None = None  # name of the judge; None: the first one, the table's

    @property
    def own_classes(self) -> bool:
        """Always."""
        return True

    @property
    def name(self) -> str:
        """``accuracy``; of another judge than the table's with ``/<judge>``."""
        return self.kind + (f"/{self.judge}" if self.judge else "")

    @property
    def title(self) -> str:
        """``accuracy``, with the judge where it is another than the table's."""
        return self.kind + (f", {self.judge}" if self.judge else "")

    @property
    def note(self) -> str:
        """What the word means here."""
        return (
            "Accuracy is the share of reconstructions that the judge takes for their label, among the data's classes."
        )

    def too_few(self, choice: Choice) -> str | None:
        """One class."""
        return ONE_CLASS if choice.classes == 1 else None

    def among(self, truth: Truth) -> str:
        """``the 8 classes of the data set``."""
        return self._all(truth).among(truth)

    def describe(self, truth: Truth | None = None) -> dict[str, Any]:
        """Chance is one over the number of classes, which the data decide."""
        known = super().describe(truth)
        return known if truth is None else known | {"chance": self._all(truth).chance()}

    def score(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> NDArray[np.float64]:
        """1 or 0 of each reconstruction, between them where classes tie: [item, sample]."""
        return self._all(truth).score(stimuli, images, truth)

    def pairings(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> Pairings | None:
        """Against every class that is some item's label."""
        return self._all(truth).pairings(stimuli, images, truth)

    def _all(self, truth: Truth) -> NWay:
        _, found = of_judge(truth, self.judge)
        return NWay(n=len(own_of(found)), judge=self.judge, candidates="dataset")
