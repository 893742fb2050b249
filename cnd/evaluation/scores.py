"""From reconstructions to per-item scores: every accuracy, interval and test in a report comes from these tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cnd.config import EvaluationConfig
from cnd.evaluation.nway import n_way_accuracy
from cnd.protocols import Classifier, FmriDataset


def score_name(config: EvaluationConfig, n_way: int) -> str:
    """Column and metric name of a score, e.g. ``nway50_top1``."""
    return f"nway{n_way}_top{config.top_k}"


def score_items(
    config: EvaluationConfig,
    judges: dict[str, Classifier],
    dataset: FmriDataset,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    fold: int = 0,
) -> pd.DataFrame:
    """n-way accuracy of every item and sample by every judge (sec. 4.3, Algorithm 1).

    Args:
        judges: by name; the first one gives the table's score and the columns ``truth`` and ``predicted``.
        images: reconstructions of the test items, uint8 [item, sample, c, h, w].
        labels: class index of each test item among the judges' classes, for ``truth: label``.

    Returns:
        one row an item and sample: item, stimulus, category, category_name, truth, fold, sample, predicted, seen (where
        the data set knows) and one column a number of ways; those of further judges end with ``/<name>``.
    """
    test = dataset.test
    n_items, n_samples = images.shape[:2]
    item = np.repeat(np.arange(n_items), n_samples)
    scores: dict[str, np.ndarray] = {}
    first: tuple[np.ndarray, np.ndarray] | None = None
    for name, judge in judges.items():
        probabilities = judge.probabilities(images.reshape(-1, *images.shape[2:]))
        true_class = labels if config.truth == "label" else judge.probabilities(test.images).argmax(1)
        assert true_class is not None  # the caller has labels where they are the truth
        suffix = "" if first is None else f"/{name}"
        for n in config.n_way:
            scores[score_name(config, n) + suffix] = n_way_accuracy(probabilities, true_class[item], n, config.top_k)
        first = first or (true_class, probabilities.argmax(1))
    assert first is not None  # the configuration names at least one judge
    truth, predicted = first
    columns = dict(
        item=item,
        stimulus=[test.stimulus[i] for i in item],
        category=test.category[item],
        category_name=[dataset.class_names[c] for c in test.category[item]],
        truth=truth[item],
        fold=fold,
        sample=np.tile(np.arange(n_samples), n_items),
        predicted=predicted,
    )
    if test.seen is not None:
        columns["seen"] = test.seen[item]
    return pd.DataFrame(columns | scores)


def mean_scores(config: EvaluationConfig, items: pd.DataFrame) -> dict[str, float]:
    """Mean over items of the mean over samples, by every judge; and by the first one

    - of the best sample (``_best_of_samples``, optimistic),
    - without the items that generator and judge have probably been trained on (``_unseen``), where that is known.
    """
    first = [score_name(config, n) for n in config.n_way]
    names = [c for c in items.columns if c.partition("/")[0] in first]
    means = items.groupby("item")[names].mean().mean()
    best = items.groupby("item")[first].max().mean()
    found = {n: float(means[n]) for n in names} | {f"{n}_best_of_samples": float(best[n]) for n in first}
    if "seen" in items and not items["seen"].all():
        unseen = items[~items["seen"]].groupby("item")[first].mean().mean()
        found |= {f"{n}_unseen": float(unseen[n]) for n in first}
    return found


def chance(config: EvaluationConfig) -> dict[str, float]:
    """Score of a decoder that knows nothing."""
    return {score_name(config, n): config.top_k / n for n in config.n_way}


def top_concepts(attention: np.ndarray, class_names: list[str], n: int = 10) -> pd.DataFrame:
    """The ``n`` concepts each item attends to most: item, concept, concept_name, weight, and ``even``.

    ``even`` is the weight that every concept has where attention picks none, one over the number of concepts.

    Args:
        attention: [items, concepts], rows sum to one.
    """
    top = np.argsort(-attention, axis=1)[:, :n]
    item = np.repeat(np.arange(len(attention)), top.shape[1])
    names = [class_names[c] for c in top.ravel()]
    weight = attention[item, top.ravel()]
    even = 1 / attention.shape[1]
    return pd.DataFrame(dict(item=item, concept=top.ravel(), concept_name=names, weight=weight, even=even))
