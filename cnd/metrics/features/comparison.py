"""Scores from features of stimuli and reconstructions. All test items of all folds are compared at once.

A reconstruction is compared with every stimulus: by Pearson's correlation of the flattened features in identification
and distance, by their cosine in retrieval, as published.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from cnd.errors import UserError
from cnd.metrics.features.sources import AnyFeatures, Extract, JudgeFeatures
from cnd.metrics.nway import at_most, n_way_accuracy
from cnd.metrics.published import need_stimuli
from cnd.protocols import Choice, ImageArray, Metric, Pairings, Truth

AT_ONCE = 64  # reconstructions whose features are in memory together
DIGITS = 12  # of a similarity: equal features must tie, whatever the order in which a product was summed


class FeatureMetric(Metric):
    """One that compares features; not a number (NaN) where weights are missing, never another network's."""

    kind: Any
    features: AnyFeatures = JudgeFeatures()

    @property
    def name(self) -> str:
        """With the network behind the kind."""
        return f"{self.kind}_{self.features.name}"

    @property
    def note(self) -> str:
        """How it is computed; or that it is not, and why."""
        missing = self.features.missing()
        return f"{self.title}: not computed. {missing[0]}." if missing else self.how()

    def how(self) -> str:
        """In a sentence."""
        raise NotImplementedError

    def compare(self, extract: Extract, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> np.ndarray:
        """Scores [item, sample]."""
        raise NotImplementedError

    def score(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> np.ndarray:
        """[item, sample]; NaN where the network's weights are missing.

        Raises:
            UserError: no stimuli, or the network cannot be loaded.
        """
        need_stimuli(stimuli.size, self.name)
        if self.features.missing():
            return np.full(images.shape[:2], np.nan)
        return self.compare(self.features.extractor(truth), stimuli, images, truth)


class TwoWayIdentification(FeatureMetric):
    """Share of the other stimuli that are less like the reconstruction than its own stimulus is."""

    percent: ClassVar[bool] = True
    kind: Literal["two_way"] = "two_way"
    accept: Literal["item", "category"] = "item"  # right: the item's own stimulus, or any one of its category

    @property
    def name(self) -> str:
        """Says so where any stimulus of the category is right."""
        return super().name + ("_by_category" if self.accept == "category" else "")

    @property
    def title(self) -> str:
        """``2-way, AlexNet(2), MindEye2``."""
        return f"2-way, {self.features.title}" + (" (any of its category)" if self.accept == "category" else "")

    def how(self) -> str:
        """The same for every network, so that it is told once."""
        told = (
            "2-way identification is the share of other stimuli whose features correlate less with those of the "
            "reconstruction than its own stimulus's do; a tie counts as failure, the stimulus itself is not counted"
        )
        if self.accept == "category":
            return told + (
                ". Where any of m stimuli of the category is right, the best of them counts and only other categories "
                "are counted; chance is then m/(m+1), not 1/2."
            )
        return f"{told}."

    def chance(self) -> float | None:
        """1/2; with several right answers it depends on how many an item has (:func:`two_way_chance`)."""
        return 0.5 if self.accept == "item" else None

    def among(self, truth: Truth) -> str:
        """All of them, once each."""
        return f"the {len(truth.stimulus)} test items"

    def compare(self, extract: Extract, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> np.ndarray:
        """Share of wins."""
        return two_way(similarities(extract, stimuli, images, centre=True), self._right(truth, len(images)))

    def pairings(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> Pairings | None:
        """Against every stimulus, or every category; None where the score is defined nowhere."""
        need_stimuli(stimuli.size, self.name)
        right = self._right(truth, len(images))
        if self.features.missing() or right.all():
            return None
        similarity = similarities(self.features.extractor(truth), stimuli, images, centre=True)
        _, first, target = np.unique(right, axis=0, return_index=True, return_inverse=True)
        scores = [two_way(similarity, np.broadcast_to(right[i], right.shape)).mean(1) for i in first]
        return Pairings(np.arange(len(images)), target.reshape(-1), np.stack(scores, axis=1))

    def _right(self, truth: Truth, n_items: int) -> np.ndarray:
        """Whether a stimulus is a right answer for an item, bool [item, stimulus]."""
        by_category = self.accept == "category"
        return truth.category[:, None] == truth.category if by_category else np.eye(n_items, dtype=bool)


class FeatureDistance(FeatureMetric):
    """One minus the correlation of a reconstruction's features with those of its stimulus."""

    bounds: ClassVar[tuple[float, float]] = (0.0, 2.0)
    higher_is_better: ClassVar[bool] = False
    kind: Literal["feature_distance"] = "feature_distance"

    @property
    def title(self) -> str:
        """``distance, SwAV, MindEye2``."""
        return f"distance, {self.features.title}"

    def how(self) -> str:
        """The same for every network."""
        return "The distance of features is one minus their correlation: 0 for the stimulus itself, lower is better."

    def compare(self, extract: Extract, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> np.ndarray:
        """Distances."""
        similarity = similarities(extract, stimuli, images, centre=True)
        item = np.arange(len(images))
        return np.clip(1 - similarity[item, :, item], 0.0, 2.0)


class Retrieval(FeatureMetric):
    """How often an item is found among a pool of others, by cosine; in expectation over all pools, exactly."""

    percent: ClassVar[bool] = True
    kind: Literal["retrieval"] = "retrieval"
    direction: Literal["forward", "backward"] = "forward"  # the stimulus by its reconstruction, or the reverse
    pool: Annotated[int, Field(ge=2)] = 50  # items to choose among, the right one included

    @property
    def name(self) -> str:
        """``retrieval_forward50_judge``."""
        return f"{self.kind}_{self.direction}{self.pool}_{self.features.name}"

    @property
    def title(self) -> str:
        """``retrieval of 1 in 50, forward, features of the judge``."""
        return f"retrieval of 1 in {self.pool}, {self.direction}, {self.features.title}"

    def how(self) -> str:
        """The same for both directions."""
        return (
            "Retrieval finds the stimulus by its reconstruction (forward) or the reconstruction by its stimulus "
            "(backward) as the nearest by cosine among a pool; scores are exact expectations over all pools."
        )

    def chance(self) -> float:
        """One over the pool."""
        return 1 / self.pool

    def too_few(self, choice: Choice) -> str | None:
        """Fewer items than the pool has."""
        if choice.items is None or self.pool <= choice.items:
            return None
        return (
            f"evaluation.metrics: {self.name} draws pools of {self.pool}, and there are {choice.items} items; "
            f"{at_most('pool', choice.items)}"
        )

    def among(self, truth: Truth) -> str:
        """What pools are drawn from."""
        return f"{self.pool} of the {len(truth.stimulus)} test items"

    def compare(self, extract: Extract, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> np.ndarray:
        """Raises:
        UserError: fewer items than the pool has.
        """
        n_items, n_samples = images.shape[:2]
        if (told := self.too_few(Choice(items=n_items))) is not None:
            raise UserError(told)
        found = similarities(extract, stimuli, images, centre=False)
        right = np.arange(n_items)
        by_sample = (found[:, s] if self.direction == "forward" else found[:, s].T for s in range(n_samples))
        return np.stack([n_way_accuracy(each, right, self.pool) for each in by_sample], axis=1)


def similarities(extract: Extract, stimuli: ImageArray, images: np.ndarray, centre: bool) -> np.ndarray:
    """Similarity of each reconstruction with each stimulus, float64 [item, sample, stimulus], rounded.

    Args:
        centre: correlation; else cosine. Features without variance (or of length 0) have similarity 0 with all.
    """
    targets = _unit(extract(stimuli), centre)
    flat = images.reshape(-1, *images.shape[2:])
    blocks = [_unit(extract(flat[i : i + AT_ONCE]), centre) @ targets.T for i in range(0, len(flat), AT_ONCE)]
    return np.round(np.concatenate(blocks).reshape(*images.shape[:2], -1), DIGITS)


def two_way(similarity: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Share of wrong stimuli that are less similar than the best right one, [item, sample]; ties fail.

    Args:
        similarity: [item, sample, stimulus].
        right: bool [item, stimulus], whether a stimulus is a right answer for the item.

    Returns:
        NaN for an item without wrong stimuli.
    """
    own = np.where(right[:, None], similarity, -np.inf).max(2, keepdims=True)
    wins = ((similarity < own) & ~right[:, None]).sum(2)
    wrong = (~right).sum(1)[:, None]
    return np.divide(wins, wrong, out=np.full(wins.shape, np.nan), where=wrong > 0)


def two_way_chance(n_right: int) -> float:
    """Expected score of similarities that know nothing, where any of ``n_right`` stimuli is right and none tie.

    The best of m and one more are m + 1 exchangeable numbers; the one more is the largest in 1 of m + 1 cases.
    """
    return n_right / (n_right + 1)


def _unit(features: np.ndarray, centre: bool) -> np.ndarray:
    rows = features.reshape(len(features), -1).astype(np.float64)
    if centre:
        rows -= rows.mean(1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
