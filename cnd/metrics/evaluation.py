"""What scores a run: n-way accuracy by one or more judges (sec. 4.3, Algorithm 1), and whatever metrics are added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from cnd import registry
from cnd.metrics.accuracy import Accuracy
from cnd.metrics.judges.embedded import EmbeddedClassifier
from cnd.metrics.nway import NWay, own_of, rank_counts
from cnd.protocols import ImageArray, Judge, JudgeChoice, Judgement, Metric, Truth
from cnd.settings import Config, Positive

if TYPE_CHECKING:
    import pandas as pd

    AnyJudge = JudgeChoice
    AnyMetric = Metric
else:
    AnyJudge, AnyMetric = registry.union("cnd.judges"), registry.union("cnd.metrics")


class EvaluationConfig(Config):
    """n-way top-1 accuracy (sec. 4.3, Algorithm 1), and further metrics, which may also stand alone."""

    n_way: tuple[Annotated[int, Field(ge=2)], ...] = (50, 100)  # none: no n-way
    top_k: Positive = 1
    truth: Literal["classifier", "label"] = "classifier"  # true class: F's top-1 on the image, or the label
    # classes that n-way trials draw from: all that F knows, or those that occur in the data set, which is then also
    # what F chooses among where it says the true class; labels get their plain accuracy beside it
    candidates: Literal["judge", "dataset"] = "judge"
    classifiers: tuple[AnyJudge, ...] = (EmbeddedClassifier(),)  # the first one gives the table's score
    metrics: tuple[AnyMetric, ...] = ()  # beside n-way accuracy, or in its place
    headline: str | None = None  # name of the metric that is the table's score; None: the first

    @model_validator(mode="after")
    def _not_empty(self) -> EvaluationConfig:
        if not self.all_metrics():
            raise ValueError("n_way must name at least one number of classes, or metrics another score")
        if self.n_way and self.top_k >= min(self.n_way):
            raise ValueError("top_k must be smaller than every n_way")
        if self.n_way and not self.classifiers:
            raise ValueError("classifiers must name at least one; for other scores than n-way set n_way to [] too")
        if len(set(self.judges)) < len(self.classifiers):
            raise ValueError("classifiers must have different names: scores are kept by name")
        for metric in self.all_metrics():
            if metric.needs_labels and self.truth != "label":
                raise ValueError(f"metrics: '{metric.name}' compares with labels; set truth to 'label' or leave it out")
            if metric.own_classes and not self.classifiers:
                raise ValueError(f"classifiers must name at least one, because '{metric.name}' asks it")
        names = [metric.name for metric in self.all_metrics()]
        if len(set(names)) < len(names):
            raise ValueError("metrics must have different names: scores are kept by name")
        if self.headline is not None and self.headline not in names:
            raise ValueError(f"headline: '{self.headline}' is not measured; choose among {', '.join(names)}")
        return self

    def first(self) -> EvaluationConfig:
        """What gives the table's score, wherever it is told: the rest stands beside it."""
        leading = self.all_metrics()[0]
        if (own := next((n for n in self.n_way if self._n_way(n).name == leading.name), None)) is not None:
            only = {"n_way": (own,), "classifiers": self.classifiers[:1], "metrics": (), "headline": None}
            return self.model_copy(update=only)
        if any(leading.name == self._n_way(n, judge).name for n in self.n_way for judge in self.judges[1:]):
            return self
        return self.model_copy(update={"n_way": (), "metrics": (leading,)})

    def _n_way(self, n: int, judge: str | None = None) -> NWay:
        return NWay(n=n, top_k=self.top_k, judge=judge, candidates=self.candidates)

    @property
    def own_classes(self) -> bool:
        """Whether some score asks for the classes that occur in the data set."""
        return any(metric.own_classes for metric in self.all_metrics())

    @property
    def judges(self) -> list[str]:
        """Names of the judges, the table's first."""
        return [judge.label for judge in self.classifiers]

    def asks_for_classes(self) -> bool:
        """Whether some metric is scored by the true class of an item."""
        return any(metric.needs_classes for metric in self.all_metrics())

    def all_metrics(self) -> list[Metric]:
        """The headline first, then n-way accuracies by the first judge, by the others, then further metrics."""
        found: list[Metric] = [
            self._n_way(n, judge if i else None) for i, judge in enumerate(self.judges) for n in self.n_way
        ]
        plain = Accuracy()
        if self.candidates == "dataset" and self.truth == "label" and plain.name not in {m.name for m in self.metrics}:
            found.append(plain)
        found += self.metrics
        return sorted(found, key=lambda metric: metric.name != self.headline)  # stable


def judge_all(
    config: EvaluationConfig,
    judges: dict[str, Judge],
    stimuli: ImageArray,
    images: np.ndarray,
    labels: np.ndarray | None,
    own: np.ndarray | None = None,
) -> dict[str, Judgement]:
    """What each judge says of the reconstructions.

    Args:
        images: uint8 [item, sample, c, h, w].
        labels: class of each item among the judges' classes, for ``truth: label``.
        own: the judges' classes that occur in the data set, int64, ascending; None where no score asks for them.
    """
    flat = images.reshape(-1, *images.shape[2:])
    found = {}
    for name, judge in judges.items():
        probabilities = judge.probabilities(flat).reshape(*images.shape[:2], -1)
        if config.truth == "label":
            assert labels is not None  # the caller has labels where they are the truth
            found[name] = Judgement(probabilities, labels, own, None if own is None else labels)
            continue
        seen = judge.probabilities(stimuli)
        chosen = None if own is None else own[seen[:, own].argmax(1)]
        found[name] = Judgement(probabilities, seen.argmax(1), own, chosen)
    return found


def score_table(metrics: list[Metric], stimuli: ImageArray, images: np.ndarray, truth: Truth) -> pd.DataFrame:
    """Scores in long form: one line an item, sample and metric, columns item, sample, metric, value.

    Raises:
        ValueError: a metric gave another shape than [item, sample].
    """
    import pandas as pd  # half a second, and the plan imports this module

    n_items, n_samples = images.shape[:2]
    item, sample = np.repeat(np.arange(n_items), n_samples), np.tile(np.arange(n_samples), n_items)
    parts = []
    for metric in metrics:
        values = np.asarray(metric.score(stimuli, images, truth), dtype=np.float64)
        if values.shape != (n_items, n_samples):
            raise ValueError(f"metric {metric.name}: gave the shape {values.shape}, expected {(n_items, n_samples)}")
        parts.append(pd.DataFrame(dict(item=item, sample=sample, metric=metric.name, value=values.ravel())))
    return pd.concat(parts, ignore_index=True)


def candidates_of(judgement: Judgement, among: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [item, sample, candidate], and the true candidate of each item, int64 [item].

    Args:
        among: as ``EvaluationConfig.candidates``.
    """
    if among == "judge":
        return judgement.probabilities, judgement.truth
    own, true_class = own_of(judgement), judgement.own_truth
    assert true_class is not None  # it comes with them
    return judgement.probabilities[..., own], np.searchsorted(own, true_class)


def rank_table(judgements: dict[str, Judgement], among: str = "judge") -> pd.DataFrame:
    """Where the true class stands among all candidates of a judge, for n-way accuracies of any n afterwards.

    One line an item, sample and judge: item, sample, judge, above (classes more probable), tied, n_classes.

    Args:
        among: as ``EvaluationConfig.candidates``.
    """
    import pandas as pd

    parts = []
    for name, judgement in judgements.items():
        probabilities, true_class = candidates_of(judgement, among)
        above, tied = rank_counts(probabilities, true_class)
        item, sample = np.indices(above.shape).reshape(2, -1)
        columns = dict(item=item, sample=sample, judge=name, above=above.ravel(), tied=tied.ravel())
        parts.append(pd.DataFrame(columns | {"n_classes": probabilities.shape[2]}))
    return pd.concat(parts, ignore_index=True)


def mean_scores(scores: pd.DataFrame) -> dict[str, float]:
    """Mean over items of the mean over samples, by metric; without metrics that are defined nowhere."""
    by_item = scores.groupby(["metric", "item"], sort=False)["value"].mean()
    by_metric = by_item.groupby("metric", sort=False).mean().dropna()
    return {str(name): float(value) for name, value in by_metric.items()}


def best_of_samples(scores: pd.DataFrame, metrics: list[Metric]) -> dict[str, float]:
    """As :func:`mean_scores`, of each item's best sample: optimistic, because the truth picks."""
    by_item = {name: part.groupby("item")["value"] for name, part in scores.groupby("metric", sort=False)}
    best = {m.name: by_item[m.name].max() if m.higher_is_better else by_item[m.name].min() for m in metrics}
    return {name: float(values.mean()) for name, values in best.items() if values.notna().any()}


def top_concepts(attention: np.ndarray, class_names: list[str], n: int = 10) -> pd.DataFrame:
    """The ``n`` concepts each item attends to most: item, concept, concept_name, weight, and ``even``.

    ``even`` is the weight that every concept has where attention picks none, one over the number of concepts.

    Args:
        attention: [items, concepts], rows sum to one.
    """
    import pandas as pd

    top = np.argsort(-attention, axis=1)[:, :n]
    item = np.repeat(np.arange(len(attention)), top.shape[1])
    names = [class_names[c] for c in top.ravel()]
    weight = attention[item, top.ravel()]
    even = 1 / attention.shape[1]
    return pd.DataFrame(dict(item=item, concept=top.ravel(), concept_name=names, weight=weight, even=even))
