"""What a trained decoder still does when a part of it is replaced, as a step: scores and measures, no training.

Every variant of a test item starts from the noise of the item's first reconstruction, so that only the replaced part
tells two of them apart.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.errors import UserError
from cnd.json_files import write_json
from cnd.metrics.evaluation import EvaluationConfig, mean_scores, score_table
from cnd.protocols import (
    Bench,
    Conditioning,
    Decoder,
    FmriDataset,
    FmriSplit,
    Interventions,
    JudgeChoice,
    Noise,
    SamplingConfig,
    TrainingSet,
)
from cnd.workflow.lab import Laboratory
from cnd.workflow.samples import SAMPLES, patterns
from cnd.workflow.scoring import all_own, judge_folds

if TYPE_CHECKING:
    import numpy as np

    from cnd.workflow.plan import FoldSteps

NORMAL = "normal"  # the decoder as it was trained


def intervene(
    bench: Bench,
    folder: Path,
    interventions: Interventions,
    evaluation: EvaluationConfig,
    judges: tuple[JudgeChoice, ...],
    sampling: SamplingConfig,
    seed: int,
    decoder: Decoder,
    folds: list[FoldSteps],
    **needs: Any,
) -> None:
    """Write ``scores.parquet`` (variant, item, sample, metric, value) and ``summary.json``.

    Args:
        decoder, folds: of the run; the steps of the folds are among ``needs``.
    """
    import numpy as np
    import pandas as pd

    start = time.time()
    drawn, measured = [], []
    for index, fold in enumerate(folds):
        work = _Fold(bench, interventions, decoder, fold, (index, len(folds)))
        drawn.append(work.images(sampling, seed))
        measured.append(work.measures())
    datasets: list[FmriDataset] = [bench.value(fold.given.data) for fold in folds]
    labels = None
    if evaluation.truth == "label" and evaluation.classifiers:
        labels = np.concatenate([bench.value(f.given.classes)(d.test) for f, d in zip(folds, datasets, strict=True)])
    own = all_own(bench, [fold.given.own_classes for fold in folds])
    tables = {}
    for variant in drawn[0]:
        images = np.concatenate([images[variant] for images in drawn])
        stimuli, truth = judge_folds(bench, evaluation, judges, datasets, labels, images, own)
        tables[variant] = score_table(evaluation.all_metrics(), stimuli, images, truth)
    scores = pd.concat([table.assign(variant=name) for name, table in tables.items()], ignore_index=True)
    scores.to_parquet(folder / "scores.parquet")
    summary = {
        "scores": {variant: mean_scores(table) for variant, table in tables.items()},
        "if_equal": dict(interventions.if_equal),
        "measures": pd.DataFrame(measured).mean().dropna().to_dict(),  # over folds
        "seconds": time.time() - start,
    }
    write_json(folder / "summary.json", summary)


class _Fold:
    """The decoder of one fold, taken up from its trainings.

    Args:
        place: index of the fold and number of folds.
    """

    def __init__(
        self, bench: Bench, interventions: Interventions, decoder: Decoder, fold: FoldSteps, place: tuple[int, int]
    ) -> None:
        self.bench, self.interventions, self.decoder, self.fold, self.place = bench, interventions, decoder, fold, place
        self.dataset: FmriDataset = bench.value(fold.given.data)
        train: TrainingSet = bench.value(fold.given.training)
        self.lab = Laboratory(bench, fold.given, fold.given.classes, fold.given.generator)
        self.fitted: Conditioning = decoder.fit(train, self.lab)  # type: ignore[assignment]  # it has interventions

    def images(self, sampling: SamplingConfig, seed: int) -> dict[str, np.ndarray]:
        """One reconstruction of each test item by variant, uint8 [item, 1, c, h, w]."""
        from safetensors.numpy import load_file

        from cnd.generators.sampling import draw

        items, generator = patterns(self.decoder, self.lab, self.dataset.test), self.fitted.generator
        noise = Noise(seed, sampling.samples_per_item).latents(len(items), generator.latent_shape)[:, :1]
        found = {NORMAL: load_file(self.bench.value(self.fold.sample) / SAMPLES)["reconstructions"][:, :1]}
        conditions = self.interventions.conditions(self.fitted)
        for index, (variant, condition) in enumerate(conditions.items()):
            done = (self.place[0] + index / len(conditions)) / self.place[1]
            self.bench.report("interventions", done, 0, {})
            found[variant] = draw(sampling, generator, condition(items).to(self.bench.device), noise)
        return found

    def measures(self) -> dict[str, float]:
        """Those of the decoder, on test items; and how its attention agrees with the classes."""
        test = patterns(self.decoder, self.lab, self.dataset.test)
        found = dict(self.interventions.measures(self.fitted, test))
        for name, split in (("test", self.dataset.test), ("train", self.dataset.train)):
            found |= {f"{key}/{name}": value for key, value in self._agreement(split).items()}
        return found

    def _agreement(self, split: FmriSplit) -> dict[str, float]:
        scores = self.interventions.class_scores(self.fitted, patterns(self.decoder, self.lab, split))
        if scores is None or not len(split):
            return {}
        try:
            return agreement(scores, self.lab.classes_of(split))
        except UserError:  # labels that the generator does not know, and no stimuli to judge
            return {}


def agreement(scores: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """How attention agrees with the true class.

    ``top_is_class`` is the share of items whose top concept is their class; ``top_is_class_chance`` the share if the
    top concepts were dealt out to the items at random, sum_c p(top = c) p(class = c). ``class_rank`` is the mean share
    of the other concepts that have less attention than the class, ties counted half: 0.5 by chance, 1 at best.

    Args:
        scores: [item, class], attention over the concept bank.
        classes: int [item].
    """
    import numpy as np

    n_classes = scores.shape[1]
    chosen = scores.argmax(1)
    counts = [np.bincount(found, minlength=n_classes) / len(scores) for found in (chosen, classes)]
    own = np.take_along_axis(scores, classes[:, None], axis=1)
    below = (scores < own).sum(1) + ((scores == own).sum(1) - 1) / 2
    return {
        "top_is_class": float((chosen == classes).mean()),
        "top_is_class_chance": float(counts[0] @ counts[1]),
        "class_rank": float((below / max(1, n_classes - 1)).mean()),
    }
