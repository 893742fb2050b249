"""n-way top-k accuracy of a classifier on reconstructions (sec. 4.3; Algorithm 1 of sec. 8.1).

One trial draws ``n_way - 1`` of the other classes at random; it succeeds when the true class is among the ``top_k``
most probable of the ``n_way`` (Algorithm 1 prints "arg min"; it means arg max). Only the classifier's ranking
counts, so the mean over all trials has a closed form and needs no random draw.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import comb
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from cnd.errors import UserError
from cnd.protocols import Choice, ImageArray, Judgement, Metric, Pairings, Truth
from cnd.settings import Positive

ONE_CLASS = "evaluation: the data set has one class, so there is nothing to decide; use another metric"


class NWay(Metric):
    """n-way top-k accuracy by one judge."""

    percent: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = True
    kind: Literal["nway"] = "nway"
    n: Annotated[int, Field(ge=2)] = 50
    top_k: Positive = 1
    judge: str | None = None  # name of the judge; None: the first one, the table's
    candidates: Literal["judge", "dataset"] = "judge"  # trials are drawn among its classes, or those of the data set
    classes: tuple[Annotated[int, Field(ge=0)], ...] = ()  # or among these of its classes

    @model_validator(mode="after")
    def _fits(self) -> NWay:
        fits = self.top_k < self.n <= len(set(self.classes)) == len(self.classes)
        if self.classes and not fits:
            raise ValueError(f"classes: {self.n}-way top-{self.top_k} needs {self.n} different ones, or more")
        if self.classes and self.own_classes:
            raise ValueError("classes: cannot be named where candidates is 'dataset'; leave one of the two out")
        return self

    @property
    def own_classes(self) -> bool:
        """Where candidates are those of the data set."""
        return self.candidates == "dataset"

    @property
    def name(self) -> str:
        """``nway50_top1``; among classes ``nway2_top1_of_6_9``, or ``nway8_top1_of_dataset``; of another judge than the
        table's with ``/<judge>``."""
        among = "_dataset" if self.own_classes else "".join(f"_{c}" for c in self.classes)
        return f"nway{self.n}_top{self.top_k}" + (among and f"_of{among}") + (f"/{self.judge}" if self.judge else "")

    @property
    def title(self) -> str:
        """``50-way top-1``; among two classes ``6 or 9``."""
        among = "the data's classes" if self.own_classes else " or ".join(map(str, self.classes))
        told = f"{self.n}-way top-{self.top_k}" + (among and f" among {among}")
        return told + (f", {self.judge}" if self.judge else "")

    @property
    def note(self) -> str:
        """The same for every n and judge, so that it is told once."""
        return "n-way accuracies are exact expectations over all n-way draws, not samples of them."

    def chance(self) -> float:
        """Of a constant prediction."""
        return self.top_k / self.n

    def too_few(self, choice: Choice) -> str | None:
        """Fewer classes in the data set than candidates."""
        if self.own_classes and choice.classes == 1:
            return ONE_CLASS
        if not self.own_classes or choice.classes is None or self.n <= choice.classes:
            return None
        return (
            f"evaluation.n_way = {self.n} exceeds the {choice.classes} classes of the data set (evaluation.candidates "
            f"= dataset); choose at most {choice.classes}, or candidates = judge"
        )

    def among(self, truth: Truth) -> str:
        """``the 200 classes of judge 'embedded'``."""
        if self.classes:
            return f"the {len(self.classes)} classes {', '.join(map(str, self.classes))} of the judge"
        name, found = of_judge(truth, self.judge)
        if self.own_classes:
            return f"the {len(own_of(found))} classes of the data set"
        return f"the {found.probabilities.shape[2]} classes of judge '{name}'"

    def score(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> NDArray[np.float64]:
        """Expected success of each reconstruction, [item, sample]; NaN for an item of none of ``classes``."""
        scored, place, probabilities = self._judged(truth)
        scores = np.full(images.shape[:2], np.nan)
        scores[scored] = self._accuracy(probabilities, np.repeat(place, images.shape[1]))
        return scores

    def pairings(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> Pairings | None:
        """Against every class that is some item's true one; None where no item is of one of ``classes``."""
        scored, place, probabilities = self._judged(truth)
        if not len(scored):
            return None
        classes, target = np.unique(place, return_inverse=True)
        n = probabilities.shape[0] * probabilities.shape[1]
        scores = [self._accuracy(probabilities, np.full(n, c)).mean(1) for c in classes]
        return Pairings(scored, target, np.stack(scores, axis=1))

    def _judged(self, truth: Truth) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Items of a candidate [n]; its place among them [n]; what the judge gives these [n, sample, candidate]."""
        _, found = of_judge(truth, self.judge)
        n_classes = found.probabilities.shape[2]
        if self.own_classes:
            among, true_class = own_of(found), found.own_truth
            if (told := self.too_few(Choice(classes=len(among)))) is not None:
                raise UserError(told)
        else:
            among, true_class = np.array(self.classes or range(n_classes)), found.truth
        if among.max() >= n_classes:
            raise UserError(f"evaluation.metrics: class {among.max()} is none of the judge's {n_classes} classes")
        assert true_class is not None  # it comes with the data set's own classes
        scored, place = np.nonzero(true_class[:, None] == among)
        return scored, place, found.probabilities[scored][..., among]

    def _accuracy(self, probabilities: NDArray[np.float64], target: NDArray[np.int64]) -> NDArray[np.float64]:
        """[n, sample] of probabilities [n, sample, class] and targets [n * sample]."""
        n, n_samples, n_classes = probabilities.shape
        flat = probabilities.reshape(n * n_samples, n_classes)
        return n_way_accuracy(flat, target, self.n, self.top_k).reshape(n, n_samples)


def of_judge(truth: Truth, name: str | None) -> tuple[str, Judgement]:
    """Name and judgement of one judge; None: of the table's."""
    name = next(iter(truth.judgements)) if name is None else name
    return name, truth.judgements[name]


def own_of(judgement: Judgement) -> NDArray[np.int64]:
    """The judge's classes that occur in the data set.

    Raises:
        UserError: there are fewer than two, so that nothing is to be decided.
    """
    assert judgement.own is not None  # the evaluation asked for them
    if len(judgement.own) < 2:
        raise UserError(ONE_CLASS)
    return judgement.own


def at_most(setting: str, n: int) -> str:
    """The remedy where a metric chooses among more than there are."""
    return f"set its {setting} to {n} or less" if n > 1 else "leave it out"


def n_way_accuracy(probabilities: ArrayLike, target: ArrayLike, n_way: int, top_k: int = 1) -> NDArray[np.float64]:
    """Expected success of an n-way trial, exactly, with ties broken uniformly at random in expectation.

    With r classes above the true one and t tied with it, the true class is equally likely to stand at each of the
    places r, r + 1, ..., r + t of the ranking; the result is the mean success of those places.

    Args:
        probabilities: [n_items, n_classes], the classifier's output on each reconstruction. Any score that orders
            the classes will do.
        target: [n_items], index of the true class.
        n_way: classes in a trial, the true one included.
        top_k: how many of the best classes count as a success.

    Returns:
        [n_items] accuracy from 0 to 1. A constant prediction gives ``top_k / n_way``.

    Raises:
        ValueError: a wrong shape, a NaN, a target that is no class, or n_way and top_k that do not fit.
    """
    greater, ties, n_classes = _counts(probabilities, target, n_way, top_k)
    return accuracy_of_ranks(greater, ties, n_classes, n_way, top_k)


def accuracy_of_ranks(
    greater: NDArray[np.int64], ties: NDArray[np.int64], n_classes: int, n_way: int, top_k: int = 1
) -> NDArray[np.float64]:
    """As :func:`n_way_accuracy`, from what ``ranks.parquet`` of a record keeps; for any number of candidates.

    Args:
        greater: [n_items], classes that stand above the true one.
        ties: [n_items], other classes that stand level with it.
    """
    by_place = _success_by_place(n_classes, n_way, top_k)
    accuracy = by_place[greater]
    for item in np.flatnonzero(ties):
        accuracy[item] = by_place[greater[item] : greater[item] + ties[item] + 1].mean()
    return accuracy


def n_way_curve(
    greater: NDArray[np.int64],
    ties: NDArray[np.int64],
    n_classes: int,
    candidates: Iterable[int] | None = None,
    top_k: int = 1,
) -> NDArray[np.float64]:
    """Exact accuracy of each item by the number of candidates, [n_items, n_candidates].

    Args:
        greater: as of :func:`accuracy_of_ranks`.
        ties: likewise.
        candidates: numbers n; None: all from ``top_k + 1`` to ``n_classes`` (seconds for 1,000 classes).
    """
    asked = candidates or range(top_k + 1, n_classes + 1)
    return np.stack([accuracy_of_ranks(greater, ties, n_classes, n, top_k) for n in asked], axis=1)


def rank_counts(probabilities: NDArray[Any], target: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Classes above the true one and classes tied with it, each [item, sample].

    Args:
        probabilities: [item, sample, class].
        target: [item], index of the true class.
    """
    own = np.take_along_axis(probabilities, target[:, None, None], axis=2)
    return (probabilities > own).sum(axis=2), (probabilities == own).sum(axis=2) - 1


def n_way_accuracy_monte_carlo(
    probabilities: ArrayLike,
    target: ArrayLike,
    n_way: int,
    n_trials: int,
    rng: np.random.Generator,
    top_k: int = 1,
) -> NDArray[np.float64]:
    """Share of successful trials, as Algorithm 1 runs them; ties are broken at random in each trial.

    A trial's outcome depends on how many of the drawn classes stand above the true one and how many tie with it, so
    these two counts are drawn instead of the classes.

    Args:
        probabilities: [n_items, n_classes].
        target: [n_items], index of the true class.
        n_way: classes in a trial, the true one included.
        n_trials: trials for each item.
        rng: source of the draws.
        top_k: how many of the best classes count as a success.

    Returns:
        [n_items] accuracy from 0 to 1.

    Raises:
        ValueError: as :func:`n_way_accuracy`, or no trial asked for.
    """
    if n_trials < 1:
        raise ValueError(f"n_trials = {n_trials}: at least one trial is needed")
    greater, ties, n_classes = _counts(probabilities, target, n_way, top_k)
    size = (n_trials, len(greater))
    above = rng.hypergeometric(greater, n_classes - 1 - greater, n_way - 1, size=size)
    tied = rng.hypergeometric(ties, n_classes - 1 - greater - ties, n_way - 1 - above, size=size)
    placed_before = rng.integers(0, tied, endpoint=True)
    accuracy: NDArray[np.float64] = (above + placed_before < top_k).mean(axis=0)
    return accuracy


def _counts(
    probabilities: ArrayLike, target: ArrayLike, n_way: int, top_k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Per item: classes above the true one, classes tied with it; and the number of classes."""
    scores, truth = np.asarray(probabilities), np.asarray(target)
    _check(scores, truth, n_way, top_k)
    greater, ties = rank_counts(scores[:, None], truth.astype(np.int64))
    return greater[:, 0], ties[:, 0], scores.shape[1]


def _check(scores: NDArray[Any], truth: NDArray[Any], n_way: int, top_k: int) -> None:
    if scores.ndim != 2:
        raise ValueError(f"probabilities must have the shape [n_items, n_classes], not {list(scores.shape)}")
    if truth.shape != scores.shape[:1]:
        raise ValueError(f"target must have the shape [{len(scores)}], one class an item, not {list(truth.shape)}")
    if truth.size and not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"target must hold class indices (integers), not {truth.dtype}")
    n_classes = scores.shape[1]
    if n_way < 2:
        raise ValueError(f"n_way = {n_way}: a trial needs at least 2 classes")
    if n_way > n_classes:
        raise ValueError(f"n_way = {n_way} exceeds the {n_classes} classes of the classifier")
    if not 1 <= top_k < n_way:
        raise ValueError(f"top_k = {top_k} must be at least 1 and smaller than n_way = {n_way}")
    if ((truth < 0) | (truth >= n_classes)).any():
        raise ValueError(f"target names a class outside 0 to {n_classes - 1}")
    if np.isnan(scores).any():
        raise ValueError("probabilities contain NaN")


@lru_cache(maxsize=64)
def _success_by_place(n_classes: int, n_way: int, top_k: int) -> NDArray[np.float64]:
    """P(success) when exactly r = 0, 1, ..., n_classes - 1 classes stand above the true one: [n_classes], read-only.

    For top-1 this is C(C-1-r, n-1) / C(C-1, n-1). Counted in whole numbers, then rounded once: of all draws, those
    with fewer than ``top_k`` classes among the first r. Going from r to r + 1 loses the draws that held ``top_k - 1``
    of the first r, and the class that now joins them.
    """
    others, drawn = n_classes - 1, n_way - 1
    total = successes = comb(others, drawn)
    table = [1.0]
    for r in range(others):
        successes -= comb(r, top_k - 1) * comb(others - r - 1, drawn - top_k)
        table.append(successes / total)
    result = np.array(table)
    result.flags.writeable = False
    return result
