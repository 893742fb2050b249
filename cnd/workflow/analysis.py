"""The linear decoding analysis of a run as a step (sec. 3.4, 5.2)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.cortex.settings import AnalysisConfig
from cnd.protocols import Bench, Conditioning, Decoder, FmriDataset, SamplingConfig, TrainingSet
from cnd.workflow.lab import Laboratory
from cnd.workflow.samples import patterns

if TYPE_CHECKING:
    from cnd.cortex.compute.analyse import FoldInputs
    from cnd.workflow.plan import FoldSteps


def analyse_run(
    bench: Bench,
    folder: Path,
    analysis: AnalysisConfig,
    sampling: SamplingConfig,
    seed: int,
    decoder: Decoder,
    folds: list[FoldSteps],
    **needs: Any,
) -> None:
    """Which voxels carry the hidden states of the frozen UNet, as tables.

    Args:
        decoder, folds: of the run; the steps of the folds are among ``needs``.
    """
    from cnd.cortex.compute.analyse import analyse

    inputs = [partial(fold_inputs, bench, decoder, fold) for fold in folds]
    report = lambda fraction, seen, metrics: bench.report("analysis", fraction, seen, metrics)  # noqa: E731
    analyse(analysis, sampling, seed, inputs, folder, report)


def fold_inputs(bench: Bench, decoder: Decoder, fold: FoldSteps) -> FoldInputs:
    """What the analysis needs of one fold."""
    from cnd.cortex.compute.analyse import FoldInputs

    dataset: FmriDataset = bench.value(fold.given.data)
    train: TrainingSet = bench.value(fold.given.training)
    lab = Laboratory(bench, fold.given, fold.given.classes, fold.given.generator)
    fitted: Conditioning = decoder.fit(train, lab)  # type: ignore[assignment]  # declared by ``has_condition``
    splits = (dataset.train, dataset.test)
    decoded, seen = (fitted.condition(patterns(decoder, lab, split)) for split in splits)
    latents = None
    if dataset.train.images.size and dataset.test.images.size:
        frozen = bench.generator(fold.given.generator)
        latents = (bench.value(fold.given.latents).to(bench.device), frozen.encode(dataset.test.images))
    classes = (lab.classes_of(dataset.train), lab.classes_of(dataset.test))
    return FoldInputs(dataset, fitted.generator, (decoded, seen), classes, latents)
