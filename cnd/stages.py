"""Which stages a run consists of, and the content hash each is kept under. Loads no torch.

A key names everything the result depends on: settings, data, upstream keys, seed, and the code that computes it.
Rows that share a stage therefore share its key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnd import data, generators
from cnd.cache import DESCRIPTION, StageCache, code_version, content_hash, file_hash
from cnd.config import CndDecoder, Experiment
from cnd.errors import UserError
from cnd.evaluation import classifier_files

HERE = Path(__file__).parent


ANALYSIS = ("cortex/compute", "cortex/tables.py", "linear", "generators", "phase2/model.py")
"""Code that computes a linear decoding analysis."""

DRAWING = ("cortex/drawing",)
"""Code that draws it."""


@dataclass(frozen=True)
class Stage:
    """A cached computation: its name, the content hash it is kept under, and what went into the hash."""

    name: str
    key: str
    inputs: dict[str, Any] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Fold:
    """The stages of one train / test partition."""

    index: int
    data: Stage
    latents: Stage
    pretrain: Stage | None
    phase1: Stage | None
    phase2: Stage | None
    sample: Stage

    @property
    def all(self) -> list[Stage]:
        """The stages that this experiment has, in order of computation."""
        parts = (self.data, self.latents, self.pretrain, self.phase1, self.phase2, self.sample)
        return [stage for stage in parts if stage is not None]


def _stage(name: str, **inputs: Any) -> Stage:
    return Stage(name, content_hash({"stage": name, **inputs}), inputs)


def code(*parts: str) -> str:
    """Hash of the source of parts of the package."""
    return code_version(*(HERE / part for part in parts))


def fold_stages(experiment: Experiment, index: int, planned: bool = False) -> Fold:
    """Stages of one fold, with keys that name everything their result depends on.

    Args:
        planned: count files that are not there yet by their names. Such keys tell stages apart, as a plan needs, but
            are not those of the run.
    """
    e = experiment
    data_stage = _stage("data", data=data.fingerprint(e.data, planned), fold=index)
    generator = generators.fingerprint(e.generator, planned)
    latents = _stage("latents", data=data_stage.key, generator=generator, code=code("generators"))
    pretrain = phase1 = phase2 = None
    if isinstance(e.decoder, CndDecoder):
        if e.phase1.enabled:
            pretrain, phase1 = _phase1_stages(e, data_stage, planned)
        chosen_by_test = e.phase2.checkpoint == "test_best"
        phase2 = _stage(
            "phase2",
            latents=latents.key,
            phase1=phase1.key if phase1 else None,
            encoder=e.encoder.model_dump(mode="json"),
            phase2=e.phase2.model_dump(mode="json"),
            shuffle_pairs=e.shuffle_pairs,
            seed=e.seed,
            code=code("inputs.py", "decoding.py", "phase1/model.py", "phase2", "generators"),
            test_score=[e.sampling.model_dump(mode="json"), e.evaluation.model_dump(mode="json")]
            if chosen_by_test
            else None,
        )
    sample = _stage(
        "sample",
        decoder=e.decoder.model_dump(mode="json"),
        latents=latents.key,
        phase2=phase2.key if phase2 else None,
        shuffle_pairs=e.shuffle_pairs,
        sampling=e.sampling.model_dump(mode="json"),
        judge=None if isinstance(e.decoder, CndDecoder) else judges(e, planned)[0],  # finds classes by stimuli
        seed=e.seed,
        code=code(
            "inputs.py", "decoding.py", "phase2/sampling.py", "phase2/model.py", "generators", "baselines", "linear"
        ),
    )
    return Fold(index, data_stage, latents, pretrain, phase1, phase2, sample)


def _checkpoint_hash(path: Path | None, planned: bool) -> str | None:
    if path is None:
        return None
    if path.is_file():
        return file_hash(path)
    if planned:
        return str(path)
    raise UserError(_no_checkpoint(path))


def _no_checkpoint(path: Path) -> str:
    return f"{path}: no such file (phase1.initial_weights); give the path of an encoder checkpoint"


def judges(e: Experiment, planned: bool = False) -> list[Any]:
    """What identifies each classifier that scores."""
    return [classifier_files.fingerprint(c, e.generator, planned) for c in e.evaluation.classifiers]


def _phase1_stages(e: Experiment, data_stage: Stage, planned: bool) -> tuple[Stage | None, Stage]:
    """Pre-training on the unlabelled pools, which folds and subjects may share, and tuning on the training set."""
    settings = e.phase1.model_dump(mode="json", exclude={"pretrain_epochs", "tune_epochs", "initial_weights"})
    initial = _checkpoint_hash(e.phase1.initial_weights, planned)
    version = code("inputs.py", "decoding.py", "phase1")
    common = dict(encoder=e.encoder.model_dump(mode="json"), phase1=settings, seed=e.seed, code=version)
    pretrain = None
    pool = data.pool_fingerprint(e.data, planned)
    if pool and e.phase1.pretrain_epochs:
        pretrain = _stage("pretrain", pool=pool, epochs=e.phase1.pretrain_epochs, initial=initial, **common)
    start = pretrain.key if pretrain else initial
    return pretrain, _stage("phase1", data=data_stage.key, epochs=e.phase1.tune_epochs, start=start, **common)


def record_stage(experiment: Experiment, folds: list[Fold], planned: bool = False) -> Stage:
    """The last stage: scores, histories and images of all folds."""
    return _stage(
        "record",
        samples=[fold.sample.key for fold in folds],
        evaluation=experiment.evaluation.model_dump(mode="json"),
        judges=judges(experiment, planned),
        code=code("record.py", "evaluation"),
    )


def analysis_stage(experiment: Experiment, folds: list[Fold]) -> Stage:
    """The linear decoding analysis of a run (sec. 3.4); not every run has one."""
    return _stage(
        "analysis",
        samples=[fold.sample.key for fold in folds],
        analysis=experiment.analysis.model_dump(mode="json"),
        seed=experiment.seed,
        code=code(*ANALYSIS),
    )


def figures_stage(analysis: Stage) -> Stage:
    """The pictures of an analysis."""
    page = file_hash(HERE / "cortex" / "drawing" / "cortex.html")
    return _stage("figures", analysis=analysis.key, page=page, code=code(*DRAWING))


def stages(experiment: Experiment, analyse: bool = False, planned: bool = False) -> list[Stage]:
    """Every stage of a run in order of computation; the last one is the record.

    Args:
        analyse: with the linear decoding analysis and its figures, which stand before the record.
        planned: for a plan, which must not fail where files are missing; see :func:`fold_stages`.

    Raises:
        UserError: a file is missing.
    """
    folds = [fold_stages(experiment, index, planned) for index in data.folds(experiment.data)]
    found = [stage for fold in folds for stage in fold.all]
    if analyse:
        found.append(analysis_stage(experiment, folds))
        found.append(figures_stage(found[-1]))
    return [*found, record_stage(experiment, folds, planned)]


def missing(experiment: Experiment) -> list[str]:
    """For each file that is not there: what to get, where to get it and where to put it, in one line."""
    parts = [data.missing(experiment.data), generators.missing(experiment.generator)]
    parts += [classifier_files.missing(c) for c in experiment.evaluation.classifiers]
    checkpoint = experiment.phase1.initial_weights
    parts.append(_no_checkpoint(checkpoint) if checkpoint and not checkpoint.is_file() else None)
    return [part for part in parts if part]


def recorded_folds(cache: StageCache, record: Path) -> list[Fold]:
    """The stages that a finished run was made of, by what lies beside each result; whatever the code is today.

    Raises:
        UserError: a stage's result is no longer there.
    """

    def follow(name: str, key: str) -> Stage:
        path = cache.find(name, key)
        if path is None:
            raise UserError(f"{cache.path(name, key)}: the result of an earlier stage is gone; run the sweep again")
        return Stage(name, key, json.loads((path / DESCRIPTION).read_text(encoding="utf-8")))

    folds = []
    for key in json.loads((record / DESCRIPTION).read_text(encoding="utf-8"))["samples"]:
        sample = follow("sample", key)
        latents = follow("latents", sample.inputs["latents"])
        data_stage = follow("data", latents.inputs["data"])
        phase2 = follow("phase2", sample.inputs["phase2"]) if sample.inputs["phase2"] else None
        folds.append(Fold(data_stage.inputs["fold"], data_stage, latents, None, None, phase2, sample))
    return folds
