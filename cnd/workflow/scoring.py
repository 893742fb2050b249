"""Scores of reconstructions; and the table's score as a step, for a decoder that chooses by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnd.metrics.evaluation import EvaluationConfig, judge_all, mean_scores, score_table
from cnd.protocols import Bench, FmriDataset, JudgeChoice, Judgement, Truth
from cnd.steps import Step

if TYPE_CHECKING:
    import pandas as pd


def score_folds(
    bench: Bench,
    evaluation: EvaluationConfig,
    judges: tuple[JudgeChoice, ...],
    datasets: Sequence[FmriDataset],
    labels: np.ndarray | None,
    images: np.ndarray,
) -> tuple[pd.DataFrame, dict[str, Judgement]]:
    """Scores of the test items of all folds together (:func:`score_table`), and what each judge says.

    Args:
        labels: of the items, [item], where labels are the truth.
        images: uint8 [item, sample, c, h, w].
    """
    tests = [dataset.test for dataset in datasets]
    known = all(test.images.size for test in tests)
    stimuli = np.concatenate([test.images for test in tests]) if known else np.empty((len(images), 0, 0, 0), np.uint8)
    loaded = {name: bench.judge(judge) for name, judge in zip(evaluation.judges, judges, strict=True)}
    judgements = judge_all(evaluation, loaded, stimuli, images, labels)
    names = [name for test in tests for name in test.stimulus]
    truth = Truth(names, np.concatenate([test.category for test in tests]), datasets[0].class_names, judgements)
    return score_table(evaluation.all_metrics(), stimuli, images, truth), judgements


def test_scorer(
    bench: Bench,
    evaluation: EvaluationConfig,
    judges: tuple[JudgeChoice, ...],
    data: Step,
    classes: Step | None,
) -> Callable[[np.ndarray], float]:
    """A function from reconstructions of the test items to the table's score."""
    dataset: FmriDataset = bench.value(data)
    test, metric = dataset.test, evaluation.all_metrics()[:1]

    def score(images: np.ndarray) -> float:
        labels = None if classes is None else bench.value(classes)(test)
        first = {name: bench.judge(judge) for name, judge in zip(evaluation.judges[:1], judges[:1], strict=True)}
        judgements = judge_all(evaluation, first, test.images, images, labels)
        truth = Truth(test.stimulus, test.category, dataset.class_names, judgements)
        return mean_scores(score_table(metric, test.images, images, truth))[metric[0].name]

    return score
