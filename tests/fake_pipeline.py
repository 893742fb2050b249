"""A pipeline with the real one's interface that computes nothing: for tests of the sweep, which must not train.

It notes every stage it builds in ``CACHE/built.txt``. Files in ``CACHE/`` steer it: ``fail-<depth>`` makes trials with
that concept depth fail, ``hang-<depth>`` makes them wait until the file is gone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnd.keys import content_hash
from cnd.workflow.cache import StageCache
from cnd.decoders.cnd.generators.pipeline import CndDecoder
from cnd.experiment import Experiment


@dataclass(frozen=True)
class Progress:
    phase: str
    fraction: float
    samples_seen: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    name: str
    key: str


def missing(experiment: Experiment) -> list[str]:
    return []


def stages(experiment: Experiment, analyse: bool = False, planned: bool = False) -> list[Stage]:
    content = experiment.model_dump(mode="json", exclude={"name", "description"})
    found = [Stage("data", content_hash(content["data"]))]
    if isinstance(experiment.decoder, CndDecoder) and experiment.phase1.enabled:
        found.append(Stage("phase1", content_hash([content["phase1"], experiment.seed])))
    if analyse:
        found += [Stage(name, content_hash([content, name])) for name in ("analysis", "figures")]
    return [*found, Stage("record", content_hash(content))]


def _note(cache: StageCache, line: str) -> None:
    with (cache.root / "built.txt").open("a") as file:
        file.write(line + "\n")


def check(experiment: Experiment) -> None:
    pass


def warm_up() -> None:
    pass


def prepare(experiment: Experiment, cache: StageCache, report: Callable[[Progress], None]) -> None:
    _build(stages(experiment)[0], cache)


def run(experiment: Experiment, cache: StageCache, report: Callable[[Progress], None]) -> Path:
    depth = experiment.phase2.concept_depth
    folder = Path()
    for index, stage in enumerate(found := stages(experiment)):
        report(Progress(stage.name, index / len(found), 100 * index, {f"{stage.name}/loss": 1.0 / (index + 1)}))
        if stage.name == "record":
            while (cache.root / f"hang-{depth}").exists():
                time.sleep(0.02)
            if (cache.root / f"fail-{depth}").exists():
                raise FloatingPointError(f"loss is nan\nat step {depth}")
            if (cache.root / f"die-{depth}").exists():
                os._exit(1)
            folder = _build(stage, cache, lambda f: _record(experiment, f))
        else:
            _build(stage, cache)
    return folder


def analyse(experiment: Experiment, cache: StageCache, report: Callable[[Progress], None]) -> tuple[Path, Path]:
    *_, analysis, figures, _ = stages(experiment, analyse=True)
    return _build(analysis, cache, _analysis), _build(figures, cache)


def _build(stage: Stage, cache: StageCache, make: Callable[[Path], None] = lambda folder: None) -> Path:
    def noting(folder: Path) -> None:
        make(folder)
        _note(cache, f"{stage.name} {stage.key}")

    return cache.build(stage.name, stage.key, {}, noting)


def _analysis(folder: Path) -> None:
    import pandas as pd

    cell = {"drive": ["stimulus"], "side": ["encoder"], "layer": [4], "step": [0.5]}
    pd.DataFrame(cell | {"r2": [0.25]}).to_parquet(folder / "states.parquet")
    means = {"roi": ["L_V1"], "encoding_r2": [0.125], "share_significant": [0.5]}
    pd.DataFrame(cell | means).to_parquet(folder / "rois.parquet")


def _record(experiment: Experiment, folder: Path) -> None:
    import numpy as np
    import pandas as pd
    from safetensors.numpy import save_file

    random = np.random.default_rng([experiment.seed, experiment.phase2.concept_depth])
    item = np.arange(6)
    items: dict[str, Any] = {"item": item, "stimulus": [f"s{i}" for i in item], "category": item // 2, "fold": 0}
    items |= {"category_name": [f"c{i // 2}" for i in item], "truth": item // 2, "sample": 0, "predicted": item // 2}
    items |= {f"nway{n}_top1": random.random(6) for n in experiment.evaluation.n_way}
    pd.DataFrame(items).to_parquet(folder / "items.parquet")
    steps = [("phase1.tune", 0, 100 * i, "loss", 1 / (i + 1)) for i in range(3)]
    steps += [("phase2", fold, 100 * i, "loss", fold + 1.0) for i in range(3) for fold in range(2)]
    names = ["phase", "fold", "samples_seen", "name", "value"]
    pd.DataFrame(steps, columns=names).to_parquet(folder / "history.parquet")
    images = random.integers(0, 255, (6, 3, 8, 8), dtype=np.uint8)
    save_file({"stimuli": images, "reconstructions": images[:, None]}, folder / "images.safetensors")
    (folder / "experiment.json").write_text(json.dumps(experiment.model_dump(mode="json")))
    scores = {f"nway{n}_top1": float(np.mean(items[f"nway{n}_top1"])) for n in experiment.evaluation.n_way}
    chance = {f"nway{n}_top1": 1 / n for n in experiment.evaluation.n_way}
    summary: dict[str, Any] = {"scores": scores, "chance": chance, "n_items": 6, "n_samples": 1, "seconds": {}}
    summary |= {"simulated": True, "deviations": [], "warnings": [], "data": {}}
    summary["worker"] = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    summary["worker"]["folder"] = os.getcwd()
    (folder / "summary.json").write_text(json.dumps(summary))
