"""The table's score of test items as a step, for a decoder that chooses by it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnd.metrics.evaluation import EvaluationConfig, judge_all, mean_scores, score_table
from cnd.protocols import Bench, FmriDataset, JudgeChoice, Truth
from cnd.steps import Step


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
