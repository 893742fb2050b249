"""Metrics: how reconstructions are scored; and judges, the classifiers that some of them ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from cnd.protocols.data import ImageArray
from cnd.settings import Part

if TYPE_CHECKING:
    import numpy as np

    from cnd.protocols.generator import GeneratorChoice


class Judge(Protocol):
    """The classifier F of Algorithm 1."""

    name: str

    def probabilities(self, images: ImageArray) -> np.ndarray:
        """Class probabilities float64 [n, classes] of uint8 images."""
        ...

    def features(self, images: ImageArray) -> np.ndarray:
        """What the classes are read from, float32 [n, n_features]. Only metrics that compare features ask for it."""
        ...


class JudgeChoice(Part):
    """Settings that name a judge. Its ``name`` tells its scores from those of other judges."""

    kind: Any

    @property
    def label(self) -> str:
        """What reports call it."""
        return str(getattr(self, "name", self.kind))

    def n_classes(self, generator: GeneratorChoice) -> int:
        """Classes that it knows.

        Raises:
            ValueError: it does not go with the generator.
        """
        raise NotImplementedError

    def class_space(self, generator: GeneratorChoice) -> str:
        """Whose classes it tells, in words (:meth:`GeneratorChoice.class_space`); by default the generator's."""
        return generator.class_space()

    def of(self, generator: GeneratorChoice) -> JudgeChoice:
        """The judge beside a generator, from whose folder it may come."""
        return self

    def load(self) -> Judge:
        """The classifier, frozen.

        Raises:
            UserError: weights are missing or damaged.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Judgement:
    """What one judge says.

    Attributes:
        probabilities: [item, sample, class], of reconstructions.
        truth: int64 [item], the true class.
        own: int64 [k], ascending, the judge's classes that occur in the data set; None where nothing asks for them.
        own_truth: int64 [item], the true class among these: the label, or which of them the judge sees in the stimulus.
    """

    probabilities: np.ndarray
    truth: np.ndarray
    own: np.ndarray | None = None
    own_truth: np.ndarray | None = None


@dataclass(frozen=True)
class Truth:
    """What is known of the test items besides their images.

    Attributes:
        stimulus: name of each item.
        category: int64 [item], index into ``class_names``.
        judgements: by the name of each judge; the first is the table's.
        judges: the judges themselves, by name, for metrics that compare images by their features.
    """

    stimulus: Sequence[str]
    category: np.ndarray
    class_names: Sequence[str]
    judgements: dict[str, Judgement] = field(default_factory=dict)
    judges: dict[str, Judge] = field(default_factory=dict)


class Choice(NamedTuple):
    """What metrics may choose among, as far as it is known; None where it is not.

    Attributes:
        items: test items of all folds.
        stimuli: distinct ones that they show.
        classes: of the generator, that occur in the data set.
    """

    items: int | None = None
    stimuli: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Pairings:
    """What reconstructions score against other items than their own, for a test by permutation.

    A target is what an item is judged by: its stimulus, or its true class, which several items may share.

    Attributes:
        item: int64 [n], the items that have a score.
        target: int64 [n], the column of each item's own target.
        scores: float64 [n, target], of the reconstructions of an item against each target, the mean over samples; in
            an item's own column it is the mean of its scores.
    """

    item: np.ndarray
    target: np.ndarray
    scores: np.ndarray


class Metric(Part):
    """One score of every reconstruction. Folds are pooled before it is asked, so it sees all test items at once."""

    kind: Any
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    higher_is_better: ClassVar[bool] = True
    percent: ClassVar[bool] = False  # whether people read it in %, as they do accuracies
    needs_labels: ClassVar[bool] = False  # as the truth (``evaluation.truth: label``)
    needs_classes: ClassVar[bool] = False  # whether it asks what judges say of the true class

    @property
    def name(self) -> str:
        """Its name in tables of scores, files and MLflow."""
        return str(self.kind)

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name.replace("_", " ")

    @property
    def note(self) -> str:
        """How it is computed, in a sentence for the report; "" where its title says all."""
        return ""

    @property
    def own_classes(self) -> bool:
        """Whether it decides among the classes that occur in the data set, for :attr:`Judgement.own`."""
        return False

    def chance(self) -> float | None:
        """Score of a decoder that knows nothing; None where there is no such number, or the data decide it."""
        return None

    def too_few(self, choice: Choice) -> str | None:
        """Why it cannot choose among so few, in one line with the remedy; None where it can."""
        return None

    def among(self, truth: Truth) -> str:
        """What it decides among, with its number, as "the 200 classes of the judge"; "" where it decides nothing."""
        return ""

    def score(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> np.ndarray:
        """Scores, float64 [item, sample]; NaN where one is not defined.

        Args:
            stimuli: uint8 [item, channels, height, width]; of size 0 where the data has labels only.
            images: reconstructions, uint8 [item, sample, channels, height, width].
        """
        raise NotImplementedError

    def pairings(self, stimuli: ImageArray, images: np.ndarray, truth: Truth) -> Pairings | None:
        """Scores of reconstructions against every item's target; None where the metric has none, or they cost much.

        Args:
            stimuli: as of :meth:`score`.
            images: likewise.
        """
        return None

    def describe(self, truth: Truth | None = None) -> dict[str, Any]:
        """What a reader of the scores needs: name, title, bounds, direction, chance, whether they are read in %.

        Args:
            truth: of the items that were scored, for what they were decided among.
        """
        low, high = self.bounds
        known = {"name": self.name, "title": self.title, "low": low, "high": high, "chance": self.chance()}
        known |= {"higher_is_better": self.higher_is_better, "percent": self.percent, "note": self.note}
        return known if truth is None else known | {"among": self.among(truth)}
