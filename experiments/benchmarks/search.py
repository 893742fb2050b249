"""What a search costs beside its trials: seconds of the driver per trial, and its memory.

    python experiments/benchmarks/search.py --trials 1000
    python experiments/benchmarks/search.py --trials 1000 --ray

Trials are faked: a worker that is done at once, and a record of the usual files. Without ``--ray`` they are told in
this process, which leaves proposals (TPE), journal, cache, trial files and MLflow; with it Ray Tune runs them, too.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # what is installed has only cnd

from cnd.experiment import Experiment, load_experiment
from cnd.json_files import write_json
from cnd.keys import content_hash
from cnd.store.folder import SweepFolder
from cnd.workflow.cache import StageCache
from sweeps import executor
from sweeps.live import Board
from sweeps.search import OptunaSearch, objective_names, validation_scores
from sweeps.session import Scribe, Session
from sweeps.space import load_search, validation
from sweeps.storage import journal
from sweeps.trials import Trial

ROOT = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------- a pipeline that computes nothing


@dataclass(frozen=True)
class Stage:
    name: str
    key: str


def steps(experiment: Experiment, analyse: bool = False, intervene: bool = False) -> list[Stage]:
    return [Stage("record", content_hash(experiment.model_dump(mode="json")))]


def warm_up() -> None:
    pass


def prepare(experiment: Experiment, cache: StageCache, report: Any) -> None:
    pass


def run(experiment: Experiment, cache: StageCache, report: Any) -> Path:
    (stage,) = steps(experiment)
    return cache.build(stage.name, stage.key, {}, lambda folder: _record(experiment, folder))


def _record(experiment: Experiment, folder: Path) -> None:
    """Scores have a peak at depth 5 and little masking."""
    settings = experiment.decoder.model_dump()
    score = 1 - (settings["phase2"]["concept_depth"] - 5) ** 2 / 25 - settings["phase1"]["mask_ratio"] / 2
    metrics = experiment.evaluation.all_metrics()
    pd.DataFrame({"item": np.arange(200)}).to_parquet(folder / "items.parquet")
    history = {"phase": "phase2", "samples_seen": np.arange(100), "name": "loss", "value": 1.0, "fold": 0}
    pd.DataFrame(history).to_parquet(folder / "history.parquet")
    write_json(folder / "experiment.json", experiment.model_dump(mode="json"))
    summary = {"scores": {metric.name: score for metric in metrics}, "seconds": {"phase2": 1.0}, "in_steps": True}
    write_json(folder / "summary.json", summary | {"metrics": [metric.describe() for metric in metrics]})


# ---------------------------------------------------------------- the measurement


class Watched(OptunaSearch):
    """Notes time and memory at each proposal."""

    at: list[tuple[float, float, float]]  # seconds of the clock, of this process, and MB of memory in use

    def ask(self) -> Trial | None:
        self.at.append((time.monotonic(), time.process_time(), _memory()))
        return super().ask()


def _memory() -> float:
    """MB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _in_this_process(cache: Path, folder: Path, resources: Any, watcher: Any, pipeline: str) -> None:
    """As :func:`sweeps.executor.run_jobs`, one after the other."""
    store = StageCache(cache)
    while (group := watcher.next_group()) is not None:
        for job in group:
            watcher.started(job.name)
            watcher.finished(job.name, run(Experiment.model_validate(job.experiment), store, None), 0.0)


def measure(n: int, ray: bool, output: Path) -> dict[str, Any]:
    """Seconds a trial and memory, over the first and the last fifth of the trials.

    Args:
        n: trials.
        ray: run them through Ray.
    """
    import sweeps.session

    if not ray:
        sweeps.session.run_jobs = _in_this_process
    search = load_search("search").model_copy(update={"trials": n})
    base = validation(load_experiment(ROOT / "experiments" / "smoke.yaml"), "benchmark")
    folder, cache = SweepFolder(output, "search-smoke"), StageCache(output / "cache")
    folder.path.mkdir(parents=True)
    proposer = Watched(search, base, steps, journal(folder.path / "study.jsonl"))
    proposer.at = []
    scribe = Scribe(folder, None)
    board = Board("benchmark", [], 1, 0.0, more=n, stream=StringIO())
    session = Session(folder, cache, proposer, board, scribe, validation_scores(objective_names(search, base)))
    session.run(executor.Resources(1), Path(__file__).stem)
    scribe.close("FINISHED")
    wall, own, memory = np.array(proposer.at[: n + 1]).T
    fifth = max(1, n // 5)

    def per_trial(seconds: np.ndarray) -> dict[str, float]:
        gaps = np.diff(seconds)
        return {"all": gaps.mean(), "first_fifth": gaps[:fifth].mean(), "last_fifth": gaps[-fifth:].mean()}

    return {
        "trials": n,
        "ray": ray,
        "seconds_a_trial": per_trial(wall),
        "cpu_seconds_a_trial_of_the_driver": per_trial(own),
        "memory_MB": {"after_a_fifth": memory[fifth], "at_the_end": memory[-1]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--ray", action="store_true", help="run the faked trials through Ray Tune")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.trials, options.ray, Path(folder))
    print(
        json.dumps(
            json.loads(json.dumps(found, default=float), parse_float=lambda text: round(float(text), 3)), indent=1
        )
    )


if __name__ == "__main__":
    main()
