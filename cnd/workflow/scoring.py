"""Scores of reconstructions; and the table's score as a step, for decoders: along a training, or of test items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnd.metrics.evaluation import EvaluationConfig, judge_all, mean_scores, score_table
from cnd.protocols import Bench, Choice, FmriDataset, FmriSplit, JudgeChoice, TrainingSet, Truth
from cnd.steps import Step

if TYPE_CHECKING:
    import pandas as pd


def judge_folds(
    bench: Bench,
    evaluation: EvaluationConfig,
    judges: tuple[JudgeChoice, ...],
    datasets: Sequence[FmriDataset],
    labels: np.ndarray | None,
    images: np.ndarray,
    own: np.ndarray | None = None,
) -> tuple[np.ndarray, Truth]:
    """What metrics need besides reconstructions: stimuli and truth of the test items of all folds together.

    Args:
        labels: of the items, [item], where labels are the truth.
        images: uint8 [item, sample, c, h, w].
        own: classes that occur in the data set, int64, where a score asks for them (:func:`all_own`).

    Returns:
        Stimuli, uint8 [item, c, h, w], of size 0 where the data has labels only; and the rest.
    """
    tests = [dataset.test for dataset in datasets]
    known = all(test.images.size for test in tests)
    stimuli = np.concatenate([test.images for test in tests]) if known else np.empty((len(images), 0, 0, 0), np.uint8)
    loaded = {name: bench.judge(judge) for name, judge in zip(evaluation.judges, judges, strict=True)}
    judgements = judge_all(evaluation, loaded, stimuli, images, labels, own)
    names = [name for test in tests for name in test.stimulus]
    category = np.concatenate([test.category for test in tests])
    return stimuli, Truth(names, category, datasets[0].class_names, judgements, loaded)


def all_own(bench: Bench, steps: Sequence[Step | None]) -> np.ndarray | None:
    """The classes that occur in the data set, of the step of each fold; None where no score asks for them."""
    found = [bench.value(step) for step in steps if step is not None]
    return np.unique(np.concatenate(found)) if found else None


def test_scorer(
    bench: Bench,
    evaluation: EvaluationConfig,
    judges: tuple[JudgeChoice, ...],
    data: Step,
    classes: Step | None,
    own: Step | None = None,
) -> Callable[[np.ndarray], float]:
    """A function from reconstructions of the test items to the table's score."""
    dataset: FmriDataset = bench.value(data)

    def score(images: np.ndarray) -> float:
        table = _table(bench, evaluation, judges, dataset, dataset.test, images, classes, own)
        return next(iter(mean_scores(table).values()))

    return score


def validation_scorer(
    bench: Bench,
    evaluation: EvaluationConfig,
    judges: tuple[JudgeChoice, ...],
    data: Step,
    training: Step,
    classes: Step | None,
    own: Step | None = None,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """A function from reconstructions [item, sample, ...] of training items, and their positions, to scores [item].

    None where there are neither images to be compared with nor labels to be judged by, or where the held-out items are
    too few for the score: then there is no curve, which is no reason to refuse the training.
    """
    dataset, train = bench.value(data), bench.value(training)
    assert isinstance(train, TrainingSet)
    if not len(train.items) or (not train.items.images.size and evaluation.truth == "classifier"):
        return None
    metric = evaluation.first().all_metrics()[0]

    def too_few(rows: np.ndarray) -> bool:
        names = [train.items.stimulus[row] for row in rows]
        return metric.too_few(Choice(items=len(names), stimuli=len(set(names)))) is not None

    if too_few(train.held):
        return None

    def score(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if too_few(rows):
            return np.full(len(rows), np.nan)
        table = _table(bench, evaluation, judges, dataset, train.items.take(rows), images, classes, own)
        return table.groupby("item")["value"].mean().to_numpy()

    return score


def _table(
    bench: Bench,
    evaluation: EvaluationConfig,
    judges: tuple[JudgeChoice, ...],
    dataset: FmriDataset,
    items: FmriSplit,
    images: np.ndarray,
    classes: Step | None,
    own: Step | None,
) -> pd.DataFrame:
    """The table's score of each item and sample, in long form."""
    table = evaluation.first()
    labels = None if classes is None else bench.value(classes)(items)
    loaded = {name: bench.judge(judge) for name, judge in zip(table.judges, judges, strict=False)}
    judgements = judge_all(table, loaded, items.images, images, labels, None if own is None else bench.value(own))
    truth = Truth(items.stimulus, items.category, dataset.class_names, judgements, loaded)
    return score_table(table.all_metrics()[:1], items.images, images, truth)
