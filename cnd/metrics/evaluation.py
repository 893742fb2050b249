"""What scores a run: n-way accuracy by one or more judges (sec. 4.3, Algorithm 1), and whatever metrics are added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from cnd import registry
from cnd.metrics.judges.embedded import EmbeddedClassifier
from cnd.metrics.nway import NWay, rank_counts
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
    classifiers: tuple[AnyJudge, ...] = (EmbeddedClassifier(),)  # the first one gives the table's score
    metrics: tuple[AnyMetric, ...] = ()  # beside n-way accuracy, or in its place
    headline: str | None = None  # name of the metric that is the table's score; None: the first

    @model_validator(mode="after")
    def _not_empty(self) -> EvaluationConfig:
        if not self.n_way and not self.metrics:
            raise ValueError("n_way must name at least one number of classes, or metrics another score")
        if self.n_way and self.top_k >= min(self.n_way):
            raise ValueError("top_k must be smaller than every n_way")
        if self.n_way and not self.classifiers:
            raise ValueError("classifiers must name at least one; for other scores than n-way set n_way to [] too")
        if len(set(self.judges)) < len(self.classifiers):
            raise ValueError("classifiers must have different names: scores are kept by name")
        names = [metric.name for metric in self.all_metrics()]
        if len(set(names)) < len(names):
            raise ValueError("metrics must have different names: scores are kept by name")
        if self.headline is not None and self.headline not in names:
            raise ValueError(f"headline: '{self.headline}' is not measured; choose among {', '.join(names)}")
        return self

    def first(self) -> EvaluationConfig:
        """What gives the table's score: the rest stands beside it."""
        if self.headline is not None:
            chosen = tuple(metric for metric in self.metrics if metric.name == self.headline)
            return self.model_copy(update={"n_way": (), "metrics": chosen}) if chosen else self
        if not self.n_way:
            return self.model_copy(update={"metrics": self.metrics[:1]})
        return self.model_copy(update={"n_way": self.n_way[:1], "classifiers": self.classifiers[:1], "metrics": ()})

    @property
    def judges(self) -> list[str]:
        """Names of the judges, the table's first."""
        return [judge.label for judge in self.classifiers]

    def asks_for_classes(self) -> bool:
        """Whether some metric is scored by the true class of an item."""
        return any(metric.needs_classes for metric in self.all_metrics())

    def all_metrics(self) -> list[Metric]:
        """The headline first, then n-way accuracies by the first judge, by the others, then further metrics."""
        by_judge = [(n, None if i == 0 else judge) for i, judge in enumerate(self.judges) for n in self.n_way]
        found = [*(NWay(n=n, top_k=self.top_k, judge=judge) for n, judge in by_judge), *self.metrics]
        return sorted(found, key=lambda metric: metric.name != self.headline)  # stable


def judge_all(
    config: EvaluationConfig,
    judges: dict[str, Judge],
    stimuli: ImageArray,
    images: np.ndarray,
    labels: np.ndarray | None,
) -> dict[str, Judgement]:
    """What each judge says of the reconstructions.

    Args:
        images: uint8 [item, sample, c, h, w].
        labels: class of each item among the judges' classes, for ``truth: label``.
    """
    flat = images.reshape(-1, *images.shape[2:])
    found = {}
    for name, judge in judges.items():
        probabilities = judge.probabilities(flat).reshape(*images.shape[:2], -1)
        true_class = labels if config.truth == "label" else judge.probabilities(stimuli).argmax(1)
        assert true_class is not None  # the caller has labels where they are the truth
        found[name] = Judgement(probabilities, true_class)
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


def rank_table(judgements: dict[str, Judgement]) -> pd.DataFrame:
    """Where the true class stands among all of a judge's, for n-way accuracies of any n afterwards.

    One line an item, sample and judge: item, sample, judge, above (classes more probable), tied, n_classes.
    """
    import pandas as pd

    parts = []
    for name, judgement in judgements.items():
        above, tied = rank_counts(judgement.probabilities, judgement.truth)
        item, sample = np.indices(above.shape).reshape(2, -1)
        columns = dict(item=item, sample=sample, judge=name, above=above.ravel(), tied=tied.ravel())
        parts.append(pd.DataFrame(columns | {"n_classes": judgement.probabilities.shape[2]}))
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
