"""Which stages a run consists of, and the content hash each is kept under. Loads no torch.

A key names everything the result depends on: settings, data, upstream keys, seed, and the code that computes it.
Rows that share a stage therefore share its key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnd import data, generators
from cnd.cache import code_version, content_hash
from cnd.config import CndDecoder, Experiment

HERE = Path(__file__).parent


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
    phase1: Stage | None
    phase2: Stage | None
    sample: Stage


def _stage(name: str, **inputs: Any) -> Stage:
    return Stage(name, content_hash({"stage": name, **inputs}), inputs)


def code(*parts: str) -> str:
    """Hash of the source of parts of the package."""
    return code_version(*(HERE / part for part in parts))


def fold_stages(experiment: Experiment, index: int) -> Fold:
    """Stages of one fold, with keys that name everything their result depends on."""
    e = experiment
    data_stage = _stage("data", data=data.fingerprint(e.data), fold=index)
    generator = generators.fingerprint(e.generator)
    latents = _stage("latents", data=data_stage.key, generator=generator, code=code("generators"))
    phase1 = phase2 = None
    if isinstance(e.decoder, CndDecoder):
        if e.phase1.enabled:
            phase1 = _stage(
                "phase1",
                data=data_stage.key,
                encoder=e.encoder.model_dump(mode="json"),
                phase1=e.phase1.model_dump(mode="json"),
                seed=e.seed,
                code=code("pipeline.py", "phase1"),
            )
        chosen_by_test = e.phase2.checkpoint == "test_best"
        phase2 = _stage(
            "phase2",
            latents=latents.key,
            phase1=phase1.key if phase1 else None,
            encoder=e.encoder.model_dump(mode="json"),
            phase2=e.phase2.model_dump(mode="json"),
            shuffle_pairs=e.shuffle_pairs,
            seed=e.seed,
            code=code("pipeline.py", "phase1/model.py", "phase2", "generators"),
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
        seed=e.seed,
        code=code("pipeline.py", "phase2/sampling.py", "phase2/model.py", "generators", "baselines"),
    )
    return Fold(index, data_stage, latents, phase1, phase2, sample)


def record_stage(experiment: Experiment, folds: list[Fold]) -> Stage:
    """The last stage: scores, histories and images of all folds."""
    return _stage(
        "record",
        samples=[fold.sample.key for fold in folds],
        evaluation=experiment.evaluation.model_dump(mode="json"),
        code=code("record.py", "evaluation"),
    )


def stages(experiment: Experiment) -> list[Stage]:
    """Every stage of a run in order of computation; the last one is the record.

    Raises:
        UserError: a data file is missing.
    """
    folds = [fold_stages(experiment, index) for index in data.folds(experiment.data)]
    found = [s for f in folds for s in (f.data, f.latents, f.phase1, f.phase2, f.sample) if s is not None]
    return [*found, record_stage(experiment, folds)]
