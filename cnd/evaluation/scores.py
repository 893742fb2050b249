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
    config: EvaluationConfig, judge: Classifier, dataset: FmriDataset, images: np.ndarray, fold: int = 0
) -> pd.DataFrame:
    """n-way accuracy of every item and sample (sec. 4.3, Algorithm 1).

    Args:
        images: reconstructions of the test items, uint8 [item, sample, c, h, w].

    Returns:
        one row an item and sample: item, stimulus, category, category_name, truth, fold, sample, predicted and one
        column a number of ways.
    """
    test = dataset.test
    n_items, n_samples = images.shape[:2]
    probabilities = judge.probabilities(images.reshape(-1, *images.shape[2:]))
    truth = test.category if config.truth == "label" else judge.probabilities(test.images).argmax(1)
    item = np.repeat(np.arange(n_items), n_samples)
    columns = dict(
        item=item,
        stimulus=[test.stimulus[i] for i in item],
        category=test.category[item],
        category_name=[dataset.class_names[c] for c in test.category[item]],
        truth=truth[item],
        fold=fold,
        sample=np.tile(np.arange(n_samples), n_items),
        predicted=probabilities.argmax(1),
    )
    scores = {score_name(config, n): n_way_accuracy(probabilities, truth[item], n, config.top_k) for n in config.n_way}
    return pd.DataFrame(columns | scores)


def mean_scores(config: EvaluationConfig, items: pd.DataFrame) -> dict[str, float]:
    """Mean over items of the mean over samples, and of the best sample (optimistic)."""
    names = [score_name(config, n) for n in config.n_way]
    per_item = items.groupby("item")[names]
    means, best = per_item.mean().mean(), per_item.max().mean()
    return {n: float(means[n]) for n in names} | {f"{n}_best_of_samples": float(best[n]) for n in names}


def chance(config: EvaluationConfig) -> dict[str, float]:
    """Score of a decoder that knows nothing."""
    return {score_name(config, n): config.top_k / n for n in config.n_way}


def top_concepts(attention: np.ndarray, class_names: list[str], n: int = 10) -> pd.DataFrame:
    """The ``n`` concepts each item attends to most: item, concept, concept_name, weight.

    Args:
        attention: [items, concepts], rows sum to one.
    """
    top = np.argsort(-attention, axis=1)[:, :n]
    item = np.repeat(np.arange(len(attention)), top.shape[1])
    names = [class_names[c] for c in top.ravel()]
    return pd.DataFrame(dict(item=item, concept=top.ravel(), concept_name=names, weight=attention[item, top.ravel()]))
