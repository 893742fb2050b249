"""What a table of many rows costs beside its trials: the driver, its report, and the commands that look at it.

    python experiments/benchmarks/scale.py --rows 1000 --seeds 3
    python experiments/benchmarks/scale.py --rows 200 --output /tmp/scale    # keeps it; again: only what comes after

Trials are faked: workers that are done at once, and records with the files and sizes that one of Table 1 leaves. Each
command runs in a process of its own, of which wall and processor seconds and the most memory are told. ``run`` is the
driver with its trials in its own process (Ray left out): seconds a trial, and from the last trial to its end, with
MLflow, table and report. ``again`` is the same command when nothing is left to do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # what is installed has only cnd

from cnd.experiment import Experiment
from cnd.keys import content_hash
from cnd.workflow.cache import StageCache

N_ITEMS, N_CATEGORIES, SIZE = 200, 40, 64
VALIDATION, CHECKPOINTS = 60, (3184, 6368, 9536, 12712)
LEVELS = (10, 5)  # of mask ratio and depth; what is left of the rows are levels of a loss weight
COMMANDS = ("again", "report", "plan", "status", "verify")
SWEEP = "scale"


# ---------------------------------------------------------------- a pipeline that computes nothing


@dataclass(frozen=True)
class Stage:
    name: str
    key: str


def steps(experiment: Experiment, analyse: bool = False, intervene: bool = False) -> list[Stage]:
    content = experiment.model_dump(mode="json", exclude={"name", "description"})
    shared = {"phase1": content["decoder"].get("phase1"), "seed": experiment.seed}
    named = {"data": content["data"], "phase1": shared, "phase2": content, "sample": [content], "record": [[content]]}
    return [Stage(name, content_hash(own)) for name, own in named.items()]


def missing(experiment: Experiment) -> list[str]:
    return []


def examine(experiment: Experiment, cache: StageCache) -> list[str]:
    return []


def check(experiment: Experiment) -> None:
    pass


def together(experiment: Experiment) -> None:
    return None


def run(experiment: Experiment, cache: StageCache, report: Any) -> Path:
    *_, record = steps(experiment)
    return cache.build(record.name, record.key, {}, lambda folder: _record(experiment, folder, cache.root.parent))


def _record(experiment: Experiment, folder: Path, output: Path) -> None:
    decoder = experiment.decoder.model_dump(mode="json")
    random = np.random.default_rng([experiment.seed, int(content_hash(decoder)[:8], 16)])
    items = np.arange(N_ITEMS)
    quality = 1.5 + 0.15 * np.cos(int(content_hash(decoder)[8:12], 16)) + 0.1 * random.standard_normal()
    quality -= 9 * experiment.split.shuffle_pairs
    hard = np.random.default_rng(0).standard_normal(N_ITEMS)
    own = 1 / (1 + np.exp(-3 * (quality - hard + 0.5 * random.standard_normal(N_ITEMS))))
    metrics = experiment.evaluation.all_metrics()
    values = {metric.name: own ** (1 + 0.5 * number) for number, metric in enumerate(metrics)}
    scores = [pd.DataFrame({"item": items, "sample": 0, "metric": n, "value": v}) for n, v in values.items()]
    pd.concat(scores).to_parquet(folder / "scores.parquet")
    _history(random).to_parquet(folder / "history.parquet")
    _curve(random, own.mean()).to_parquet(folder / "curve.parquet")
    for name, source in _shared(output, metrics[0].name, experiment.seed).items():
        os.link(source, folder / name)
    (folder / "experiment.json").write_text(json.dumps(experiment.model_dump(mode="json"), indent=1))
    summary: dict[str, Any] = {"n_items": N_ITEMS, "n_samples": 1, "in_steps": True, "simulated": True, "remarks": []}
    summary |= {"parameters": {"trainable": 883616, "frozen": 4891523}, "facts": [], "classifiers": ["embedded"]}
    summary |= {"seconds": {"phase1": 12.9, "phase2": 93.9, "sample": 4.8}, "warnings": []}
    summary |= {"training": {"steps": 800, "samples_seen": 12712, "seconds_scoring": 7.1}}
    summary |= {"data": {"description": "no data: a benchmark", "n_voxels": 1200, "n_train": 1200, "n_test": N_ITEMS}}
    summary |= {"scores": {name: float(value.mean()) for name, value in values.items()}}
    summary |= {"metrics": [metric.describe() for metric in metrics]}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))


def _history(random: np.random.Generator) -> pd.DataFrame:
    names = [("phase1.pretrain", name) for name in ("cross_contrast", "self_contrast", "loss")]
    names += [("phase1.tune", name) for name in ("cross_contrast", "self_contrast", "loss")] + [("phase2", "loss")]
    seen = 250 * np.arange(1, 65)
    parts = [
        pd.DataFrame({"phase": phase, "samples_seen": seen, "name": name, "value": np.exp(-seen / 9000), "fold": 0})
        for phase, name in names
    ]
    score = {"phase": "phase2", "samples_seen": CHECKPOINTS, "name": "validation_score", "value": 0.8, "fold": 0}
    table = pd.concat([*parts, pd.DataFrame(score)], ignore_index=True)
    return table.assign(value=table["value"] * (1 + 0.05 * random.standard_normal(len(table))))


def _curve(random: np.random.Generator, score: float) -> pd.DataFrame:
    item = np.arange(VALIDATION)
    parts = [
        pd.DataFrame({"item": item, "category": item % N_CATEGORIES, "stimulus": [f"held out {i}" for i in item]})
        .assign(samples_seen=seen, value=np.clip(score * part + 0.1 * random.standard_normal(VALIDATION), 0, 1), fold=0)
        for seen, part in zip(CHECKPOINTS, (0.5, 0.9, 0.95, 0.95), strict=True)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@cache
def _shared(output: Path, metric: str, seed: int) -> dict[str, Path]:
    """Files that all records of a seed have alike, which links keep from filling the disk."""
    from safetensors.numpy import save_file

    folder = output / "shared" / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    items = np.arange(N_ITEMS)
    category = items * N_CATEGORIES // N_ITEMS
    names = [f"kind {c}" for c in category]
    table = {"item": items, "fold": 0, "stimulus": [f"{n} {i}" for n, i in zip(names, items, strict=True)]}
    pd.DataFrame(table | {"category": category, "category_name": names}).to_parquet(folder / "items.parquet")
    y, x = np.mgrid[:SIZE, :SIZE]
    discs = ((y - 32) ** 2 + (x - 32) ** 2 < (5 + items[:, None, None] % 25) ** 2)[:, None].repeat(3, axis=1)
    stimuli = (200 * discs + 30).astype(np.uint8)
    drawn = np.roll(stimuli, seed + 1, axis=2)[:, None]
    save_file({"stimuli": stimuli, "reconstructions": drawn}, folder / "images.safetensors")
    pairs = np.random.default_rng(seed).random((N_ITEMS, N_CATEGORIES)).astype(np.float32)
    save_file({"item": items, "target": category, "scores": pairs}, folder / "pairings.safetensors", {"metric": metric})
    return {path.name: path for path in folder.iterdir()}


# ---------------------------------------------------------------- the commands, each in a process of its own


def write_sweep(path: Path, n_rows: int) -> None:
    """A full grid over three settings, with a rival and a null beside it."""
    ratios, depths = (np.linspace(0.05, 0.95, LEVELS[0]).round(2).tolist(), list(range(2, 2 + LEVELS[1])))
    weights = np.linspace(0.05, 1, n_rows // (LEVELS[0] * LEVELS[1])).round(3).tolist()
    grid = {"decoder.phase1.mask_ratio": ratios, "decoder.phase2.concept_depth": depths}
    content: dict[str, Any] = {"name": SWEEP, "title": f"{n_rows} rows that are not real"}
    content |= {"grid": grid | {"decoder.phase1.alpha_c": weights}}
    base = "_".join(str(values[0]) for values in (ratios, depths, weights))
    null = {"id": "shuffled", "label": "shuffled pairs", "base": base, "role": "null"}
    content["controls"] = [null | {"set": {"split.shuffle_pairs": True}}]
    path.write_text(json.dumps(content))  # JSON is YAML too


def child(command: str, output: Path, seeds: int) -> None:
    """One command in this process; of ``run`` also when its last trial ended."""
    import cnd.workflow.cache
    from sweeps import session
    from sweeps.run import main

    last = [time.monotonic(), time.process_time()]
    began, first = list(last), list[float]()

    def run_jobs(cache: Path, folder: Path, resources: Any, watcher: Any, pipeline: str) -> None:
        store = StageCache(cache)
        first.extend((time.monotonic(), time.process_time()))
        while (group := watcher.next_group()) is not None:
            for job in group:
                watcher.started(job.name)
                watcher.finished(job.name, run(Experiment.model_validate(job.experiment), store, None), 0.0)
        last[:] = [time.monotonic(), time.process_time()]

    session.run_jobs = run_jobs
    cnd.workflow.cache.sync = lambda path: None  # workers would wait for the disk, not the driver
    words = [str(output / f"{SWEEP}.yaml"), "--experiment", "simulated", "--output", str(output)]
    words += ["--seeds", str(seeds), "--analysis", "none", "--interventions", "none"]
    code = main([*([] if command in ("run", "again") else [command]), *words], Path(__file__).stem)
    told = {"code": code}
    if command == "run":
        told |= {"start_s": first[0] - began[0], "trials_s": last[0] - first[0], "trials_cpu_s": last[1] - first[1]}
        told |= {"after_s": time.monotonic() - last[0], "after_cpu_s": time.process_time() - last[1]}
    (output / "told.json").write_text(json.dumps(told))


def measure(command: str, output: Path, seeds: int, profile: Path | None) -> dict[str, float]:
    """Seconds and memory of a command, as the system counts them."""
    words = [sys.executable, *(["-m", "cProfile", "-o", str(profile)] if profile else []), __file__]
    began = time.monotonic()
    with (output / f"{command}.txt").open("w") as told:
        process = subprocess.Popen(
            [*words, "--child", command, "--output", str(output), "--seeds", str(seeds)], stdout=told, stderr=told
        )
        _, _, used = os.wait4(process.pid, 0)
    found = {"wall_s": time.monotonic() - began, "cpu_s": used.ru_utime + used.ru_stime}
    found |= {"peak_MB": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6}
    return found | json.loads((output / "told.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="a multiple of 50")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a folder to keep; where it holds a run, only what comes after it")
    parser.add_argument("--only", default=",".join(COMMANDS), help="of the commands after the run")
    parser.add_argument("--profile", type=Path, help="folder for a profile of each command, which then takes longer")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.output, options.seeds)
        return
    with tempfile.TemporaryDirectory() as folder:
        output = (options.output or Path(folder)).absolute()
        output.mkdir(parents=True, exist_ok=True)
        fresh = not (output / f"{SWEEP}.yaml").exists()
        write_sweep(output / f"{SWEEP}.yaml", options.rows)
        found: dict[str, Any] = {"rows": options.rows, "seeds": options.seeds}
        for command in [*(["run"] if fresh else []), *filter(None, options.only.split(","))]:
            profile = options.profile and options.profile / f"{command}.prof"
            found[command] = {k: round(v, 2) for k, v in measure(command, output, options.seeds, profile).items()}
            print(json.dumps({command: found[command]}), file=sys.stderr, flush=True)
        pages = [path.stat().st_size / 1e6 for path in (output / "reports").glob("*.html")]
        print(json.dumps(found | {"page_MB": [round(size, 2) for size in pages]}, indent=1))


if __name__ == "__main__":
    main()
