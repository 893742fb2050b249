"""A pipeline with the real one's interface that computes nothing: for tests of the sweep, which must not train.

It notes every stage it builds in ``CACHE/built.txt``. Files in ``CACHE/`` steer it: ``fail-<depth>`` makes trials with
that concept depth fail, ``hang-<depth>`` makes them wait until the file is gone, ``memory-<depth>`` holds in how many
parts their batches must be.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnd.decoders.cnd.decoder import CndDecoder
from cnd.experiment import Experiment
from cnd.generators.shared import SharedRunError
from cnd.keys import content_hash
from cnd.workflow.cache import StageCache


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


def steps(experiment: Experiment, analyse: bool = False, intervene: bool = False) -> list[Stage]:
    content = experiment.model_dump(mode="json", exclude={"name", "description"})
    found = [Stage("data", content_hash(content["data"]))]
    if isinstance(experiment.decoder, CndDecoder) and experiment.decoder.phase1.enabled:
        found.append(Stage("phase1", content_hash([content["decoder"]["phase1"], experiment.seed])))
    if intervene:
        found.append(Stage("interventions", content_hash([content, "interventions"])))
    if analyse:
        found += [Stage(name, content_hash([content, name])) for name in ("analysis", "figures")]
    return [*found, Stage("record", content_hash(content))]


def _depth(experiment: Experiment) -> int:
    return experiment.decoder.phase2.concept_depth if isinstance(experiment.decoder, CndDecoder) else 4


def _note(cache: StageCache, line: str) -> None:
    with (cache.root / "built.txt").open("a") as file:
        file.write(line + "\n")


def examine(experiment: Experiment, cache: StageCache) -> list[str]:
    return []


def check(experiment: Experiment) -> None:
    pass


def warm_up() -> None:
    pass


def prepare(experiment: Experiment, cache: StageCache, report: Callable[[Progress], None]) -> None:
    _build(steps(experiment)[0], cache)


def run(experiment: Experiment, cache: StageCache, report: Callable[[Progress], None], micro_batches: int = 1) -> Path:
    depth = _depth(experiment)
    enough = cache.root / f"memory-{depth}"
    if enough.exists() and isinstance(experiment.decoder, CndDecoder):
        with (cache.root / "attempts.txt").open("a") as file:
            file.write(f"{depth} in {micro_batches}\n")
        if micro_batches < int(enough.read_text()):
            raise MemoryError("no room")
    folder = Path()
    for index, stage in enumerate(found := steps(experiment)):
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


def together(experiment: Experiment) -> str | None:
    return "cnd" if isinstance(experiment.decoder, CndDecoder) else None


def run_together(
    experiments: Mapping[str, Experiment], cache: StageCache, own: frozenset[tuple[str, str]]
) -> Iterator[tuple[str, Progress | Path | Exception]]:
    """One after the other; with ``unfused`` in the cache all fail for want of memory."""
    for name, experiment in experiments.items():
        told: list[Progress] = []
        _note_group(cache, list(experiments), own)
        try:
            if (cache.root / "unfused").exists():
                raise SharedRunError("out of memory")
            yield name, run(experiment, cache, told.append)
        except Exception as error:
            yield name, error


def _note_group(cache: StageCache, names: list[str], own: frozenset[tuple[str, str]]) -> None:
    with (cache.root / "groups.txt").open("a") as file:
        file.write(f"{' '.join(names)}: {' '.join(sorted(name for name, _ in own))}\n")


def intervene(experiment: Experiment, cache: StageCache, report: Callable[[Progress], None]) -> Path:
    *_, interventions, _ = steps(experiment, intervene=True)
    return _build(interventions, cache, lambda folder: _interventions(experiment, folder))


def analyse(experiment: Experiment, cache: StageCache, report: Callable[[Progress], None]) -> tuple[Path, Path]:
    *_, analysis, figures, _ = steps(experiment, analyse=True)
    return _build(analysis, cache, _analysis), _build(figures, cache)


def _build(stage: Stage, cache: StageCache, make: Callable[[Path], None] = lambda folder: None) -> Path:
    def noting(folder: Path) -> None:
        make(folder)
        _note(cache, f"{stage.name} {stage.key}")

    return cache.build(stage.name, stage.key, {}, noting)


def _interventions(experiment: Experiment, folder: Path) -> None:
    import numpy as np
    import pandas as pd

    metric = experiment.evaluation.all_metrics()[0].name
    one = pd.DataFrame({"item": np.arange(6), "sample": 0, "metric": metric, "value": 0.5})
    pd.concat([one.assign(variant=name) for name in ("normal", "none")]).to_parquet(folder / "scores.parquet")
    scores = {name: {metric: 0.5} for name in ("normal", "none")}
    (folder / "summary.json").write_text(
        json.dumps({"scores": scores, "measures": {"share": 0.25}, "if_equal": {}, "seconds": 1.0})
    )


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

    random = np.random.default_rng([experiment.seed, _depth(experiment)])
    item = np.arange(6)
    items: dict[str, Any] = {"item": item, "stimulus": [f"s{i}" for i in item], "category": item // 2, "fold": 0}
    items |= {"category_name": [f"c{i // 2}" for i in item], "truth": item // 2}
    pd.DataFrame(items).to_parquet(folder / "items.parquet")
    metrics = experiment.evaluation.all_metrics()
    values = {metric.name: random.random(6) for metric in metrics}
    scores = [pd.DataFrame({"item": item, "sample": 0, "metric": n, "value": v}) for n, v in values.items()]
    pd.concat(scores).to_parquet(folder / "scores.parquet")
    steps = [("phase1.tune", 0, 100 * i, "loss", 1 / (i + 1)) for i in range(3)]
    steps += [("phase2", fold, 100 * i, "loss", fold + 1.0) for i in range(3) for fold in range(2)]
    names = ["phase", "fold", "samples_seen", "name", "value"]
    pd.DataFrame(steps, columns=names).to_parquet(folder / "history.parquet")
    images = random.integers(0, 255, (6, 3, 8, 8), dtype=np.uint8)
    stimuli = np.random.default_rng(5).integers(0, 255, images.shape, dtype=np.uint8)  # of every trial
    save_file({"stimuli": stimuli, "reconstructions": images[:, None]}, folder / "images.safetensors")
    (folder / "experiment.json").write_text(json.dumps(experiment.model_dump(mode="json")))
    means = {name: float(np.mean(value)) for name, value in values.items()}
    summary: dict[str, Any] = {"scores": means, "n_items": 6, "n_samples": 1, "seconds": {}}
    summary |= {"metrics": [metric.describe() for metric in metrics], "simulated": True, "data": {}}
    summary["worker"] = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    summary["worker"]["folder"] = os.getcwd()
    (folder / "summary.json").write_text(json.dumps(summary))
