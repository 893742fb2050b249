"""MLflow: a run for a sweep, a child run for each of its trials, and a run for each shared Phase 1.

One process writes, from one thread: MLflow's SQLite store breaks when several processes meet it fresh, and a run
that two processes end races. Everything here may be repeated: a run is found by the content key of what it
shows, so a trial that was interrupted, or logged halfway, ends as exactly one run. MLflow is imported when a
:class:`Tracker` is made; that takes a second or two.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.store import database
from cnd.store.convergence import verdict
from cnd.store.leftovers import remove_uploading

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MOST_CHARACTERS, MOST_OF_A_VALUE = 250, 6000  # of a name, and of a parameter's value
BATCH = 1000  # metrics in one call, MLflow's limit
NAME, KEY = "cnd.name", "cnd.key"
ARTIFACTS = (
    "items.parquet", "scores.parquet", "history.parquet", "curve.parquet", "attention.parquet", "experiment.json",
    "summary.json",
)  # fmt: skip
SQLITE = "sqlite:///"
STAGES = "stages"  # the MLflow experiment of runs that sweeps share
PRUNED = " pruned"  # ends the name of such a run
HEADLINE = "headline/"  # begins the name of a table's score: charts open on the first section by the alphabet
GRID_ITEMS, GRID_SAMPLES = 12, 3


def sqlite_uri(output: Path) -> str:
    """The default store below an output folder."""
    return f"{SQLITE}{output / database.FILE}"


def accepted(names: Iterable[str]) -> dict[str, str]:
    """For each name of a metric or parameter one that MLflow accepts, another for each.

    Letters, digits and ``_ - . : /`` and spaces, at most 250 of them, and as a path nothing that could be shortened.
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        parts = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII).split("/")
        parts = [re.sub(r"^\.\.?$|^\.\.", lambda dots: "_" * len(dots[0]), part) for part in parts if part]
        mended = "/".join(parts)[:MOST_CHARACTERS].rstrip("/") or "_"
        taken, number = set(found.values()), 2
        found[name] = mended
        while found[name] in taken:
            end = f"_{number}"
            found[name], number = mended[: MOST_CHARACTERS - len(end)] + end, number + 1
    return found


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` to ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


@dataclass(frozen=True)
class SearchRuns:
    """What the runs of a search have in common, so that MLflow's compare view shows what they differ in.

    MLflow's charts open on the first metric by the alphabet: objectives stand before all else that is measured.

    Attributes:
        objectives: names as records have them, with ``seconds``, the time of the device.
        params: of the reference, told once with the parent.
    """

    objectives: tuple[str, ...]
    params: Mapping[str, Any] = field(default_factory=dict)

    def named(self, values: Mapping[str, float]) -> dict[str, float]:
        """Scores by the name of their metric in MLflow."""
        return {f"{'objective' if name in self.objectives else 'scores'}/{name}": v for name, v in values.items()}


class Tracker:
    """Runs of one sweep over one base experiment.

    Args:
        uri: of the MLflow store, such as :func:`sqlite_uri`.
        artifacts: folder of the artifacts of a local store; None leaves them where a server keeps them.
        sweep: name of the MLflow experiment that holds the runs.
        search: where it is one.
        params: what all runs have in common, told once with the parent: MLflow's pages open on the first parameters by
            the alphabet, so a trial has those that tell it from others.

    Attributes:
        told: what must be said of the store.

    Raises:
        mlflow.exceptions.MlflowException: the store cannot be used.
    """

    def __init__(
        self, uri: str, artifacts: Path | None, sweep: str, search: SearchRuns | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.client, self.search, self.told = client_of(uri), search, list[str]()
        self.artifacts, self.location = artifacts, artifacts.absolute().as_uri() if artifacts else None
        self.sweep = self._experiment(sweep)
        self.known = self._runs(self.sweep)
        common = search.params if search else params
        self.parent = self._run(self.sweep, f"sweep {sweep}", "", {"cnd.kind": "sweep"}, common)
        self._stages: str | None = None
        self._stage_runs: dict[tuple[str, str], str] = {}
        self._ended: set[str] = set()  # keys of those that were seen, or written, to their end

    # ---- trials

    def start(self, name: str, key: str, params: Mapping[str, Any], tags: Mapping[str, str], shown: str = "") -> str:
        """The id of a trial's run, now running: a new run, or the one it had when it was interrupted.

        Args:
            key: content key of the trial's result; another key is another run.
            params: written once.
            shown: what MLflow shows for its name; "": the name.
        """
        return self._run(self.sweep, name, key, {"mlflow.parentRunId": self.parent, **tags}, params, shown)

    def progress(self, run: str, metrics: Mapping[str, float], samples_seen: int) -> None:
        """Live values of a running trial, under ``live/``; the whole curves come with its record."""
        values = {f"live/{name}": value for name, value in metrics.items()}
        self._log(run, ((name, value, samples_seen) for name, value in values.items()), int(time.time() * 1000))

    def checkpoint(self, run: str, score: float, percent: int) -> None:
        """The score of a running trial of a search, by percent of its training."""
        self._log(run, [("progress/validation_score", score, percent)], int(time.time() * 1000))

    def best_so_far(self, name: str, values: Sequence[float]) -> None:
        """The best value of an objective after each trial, as a curve of the parent."""
        begin = self.client.get_run(self.parent).info.start_time  # told twice, it is the same curve
        self._log(self.parent, [(f"objective/{name}", value, n) for n, value in enumerate(values)], begin)

    def headline(
        self, metrics: Mapping[str, float], tags: Mapping[str, str], files: Iterable[Path], text: str, when: int
    ) -> None:
        """What the sweep found, with its parent run; told again, it replaces what was told before.

        Args:
            files: artifacts; of a folder all that is in it.
            text: content of ``results.json``.
            when: milliseconds, later for other metrics.
        """
        self._log(self.parent, ((name, value, 0) for name, value in metrics.items()), when)
        for name, value in tags.items():
            self.client.set_tag(self.parent, name, value)
        for path in files:
            if path.is_dir():
                self.client.log_artifacts(self.parent, str(path), path.name)
            else:
                self.client.log_artifact(self.parent, str(path))
        self.client.log_text(self.parent, text, "results.json")

    def record(self, run: str, folder: Path, phase1: Iterable[str] = (), shown: str = "") -> None:
        """Log a finished trial from its record folder and end its run.

        Args:
            phase1: keys of the Phase 1 stages that it used, by fold; linked as ``stage.phase1.run_id``.
            shown: what MLflow shows for its name from now on; "": what it does.
        """
        import pandas as pd

        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        when = int((folder / "items.parquet").stat().st_mtime * 1000)  # the same when it is logged again
        history = pd.read_parquet(folder / "history.parquet")
        if summary.get("warnings"):
            self.client.set_tag(run, "warnings", "\n".join(summary["warnings"]))
        if parts := summary.get("micro_batches"):
            self.client.set_tag(run, "micro_batches", ", ".join(f"{name}: {n}" for name, n in parts.items()))
        seconds = summary.get("seconds", {})
        values = dict(summary["scores"])
        if self.search is not None:
            values = self.search.named(values | {"seconds": sum(seconds.values())})
        elif summary["metrics"] and (first := summary["metrics"][0]["name"]) in values:
            values = {HEADLINE + first: values.pop(first)} | values
        values |= {f"seconds/{k}": v for k, v in seconds.items()}
        self._log(run, ((name, value, 0) for name, value in values.items()), when)
        self._log(run, _curves(history), when)
        for name in ARTIFACTS:
            if (folder / name).exists():
                self.client.log_artifact(run, str(folder / name))
        if (folder / "images.safetensors").exists():
            self.client.log_image(run, image_grid(folder / "images.safetensors"), artifact_file="reconstructions.png")
        converged = verdict([folder])
        self.client.set_tag(run, "converged", converged.state)
        if converged.rise is not None and self.search is None:
            self._log(run, [("validation/rise_last_quarter", converged.rise.estimate, 0)], when)
        stages = [self._phase1(key, fold, history, when, folder) for fold, key in enumerate(phase1)]
        if stages:
            self.client.set_tag(run, "stage.phase1.run_id", ",".join(stages))
        if shown:
            self.client.update_run(run, name=shown)
        self.end(run, "FINISHED")

    def analysis(self, run: str, folder: Path, figures: Path | None) -> None:
        """Log the tables and figures of a linear decoding analysis: hundreds of numbers by area, so no metrics.

        Args:
            folder: with the tables (``*.parquet``) and ``summary.json``.
            figures: with ``*.png`` and the interactive ``*.html``.
        """
        for path in [*sorted(folder.iterdir()), *(sorted(figures.iterdir()) if figures else [])]:
            if path.suffix in {".parquet", ".png", ".html"} or path.name == "summary.json":
                self.client.log_artifact(run, str(path), "analysis")

    def interventions(self, run: str, folder: Path) -> None:
        """Log the scores and measures of a decoder with parts of it replaced, as ``interventions/...``."""
        for name in ("scores.parquet", "summary.json"):
            self.client.log_artifact(run, str(folder / name), "interventions")
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        values = flatten(summary["measures"]) | {
            f"{variant}/{metric}": value
            for variant, scores in summary["scores"].items()
            for metric, value in scores.items()
        }
        when = int((folder / "scores.parquet").stat().st_mtime * 1000)
        self._log(run, ((f"interventions/{name}", value, 0) for name, value in values.items()), when)

    def fail(self, run: str, error: str) -> None:
        """End a trial's run as failed."""
        self.client.set_tag(run, "error", error)
        self.end(run, "FAILED")

    def prune(self, run: str) -> None:
        """End a trial's run that a search stopped: MLflow has no state of its own for it, so its name says so."""
        self.client.set_tag(run, "pruned", "true")
        name = self.client.get_run(run).info.run_name
        self.client.update_run(run, name=name if name.endswith(PRUNED) else name + PRUNED)
        self.end(run, "KILLED")

    def end(self, run: str, status: str) -> None:
        """End a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run, status)

    # ---- runs

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return str(self.client.create_experiment(name, self.location))
        if found.lifecycle_stage == "deleted":  # in MLflow's pages; no run could be written there
            self.client.restore_experiment(found.experiment_id)
            self.told.append(f"MLflow: the experiment {name} had been deleted; it is restored")
        return str(found.experiment_id)

    def _runs(self, experiment: str) -> dict[tuple[str, str], str]:
        """Run ids by (name, key), the oldest of each."""
        return {(run.data.tags[NAME], run.data.tags[KEY]): run.info.run_id for run in ours(self.client, experiment)}

    def _run(
        self, experiment: str, name: str, key: str, tags: Mapping[str, str], params: Mapping[str, Any] | None = None,
        shown: str = "",
    ) -> str:  # fmt: skip
        run = self.known.get((name, key))
        if run is None:
            everything = {**tags, NAME: name, KEY: key}
            run = self.client.create_run(experiment, tags=everything, run_name=shown or name).info.run_id
            self.known[name, key] = run
        else:
            if self.client.get_run(run).info.status != "RUNNING":
                self.client.update_run(run, status="RUNNING")
            if self.artifacts is not None:
                remove_uploading(self.artifacts / run)
        written = self.client.get_run(run).data.params
        self.client.log_batch(run, params=[param for param in _params(params or {}) if param.key not in written])
        return str(run)

    def _phase1(self, key: str, fold: int, history: pd.DataFrame, when: int, folder: Path) -> str:
        """The run of one Phase 1 training, written when the first trial that used it is."""
        if self._stages is None:
            self._stages = self._experiment(STAGES)
            self._stage_runs = self._runs(self._stages)
        name = "phase1"
        if key in self._ended:
            return self._stage_runs[name, key]
        if (run := self._stage_runs.get((name, key), "")) and self.client.get_run(run).info.status == "FINISHED":
            self._ended.add(key)
            return run
        if not run:  # else whoever wrote it was killed
            tags = {NAME: name, KEY: key}
            run = str(self.client.create_run(self._stages, tags=tags, run_name=f"{name} {key[:8]}").info.run_id)
        self._stage_runs[name, key] = run
        experiment = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
        used = {part: experiment[part] for part in ("data", "decoder", "seed")} | {"fold": fold}
        self.client.log_batch(run, params=_params(flatten(used)))
        mine = history[(history["fold"] == fold) & history["phase"].str.startswith("phase1")]
        self._log(run, _curves(mine), when)
        self.end(run, "FINISHED")
        self._ended.add(key)
        return run

    def _log(self, run: str, values: Iterable[tuple[str, float, int]], when: int) -> None:
        """Metrics (name, value, step) in batches; a value that is not finite is left out."""
        from mlflow.entities import Metric

        finite = [(name, float(value), int(step)) for name, value, step in values if math.isfinite(value)]
        names = accepted(name for name, _, _ in finite)
        metrics = [Metric(names[name], value, when, step) for name, value, step in finite]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run, metrics=metrics[start : start + BATCH])


def ours(client: Any, experiment: str) -> Iterator[Any]:
    """The runs of an MLflow experiment that CnD wrote, latest first."""
    page: str | None = None
    while True:
        runs = client.search_runs([experiment], order_by=["attributes.start_time DESC"], page_token=page)
        yield from (run for run in runs if NAME in run.data.tags)
        if not (page := runs.token):
            return


def _params(values: Mapping[str, Any]) -> list[Any]:
    from mlflow.entities import Param

    names = accepted(values)
    return [Param(names[name], str(value)[:MOST_OF_A_VALUE]) for name, value in values.items()]


def client_of(uri: str) -> Any:
    # else the runs of a server are named on stdout, which is for data
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    # a server that does not answer is given up after seconds, not minutes: what it lacks is written by a later command
    patience = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
    os.environ |= patience | {"GIT_PYTHON_REFRESH": "quiet"} | os.environ | quiet
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # MLflow sets its own levels when imported
        logging.getLogger(name).setLevel(logging.ERROR)
    if not uri.startswith(SQLITE):
        return MlflowClient(tracking_uri=uri)
    path = Path(uri.removeprefix(SQLITE))
    with database.lock(path):  # two sweeps may share an output folder
        if not database.holds_runs(path):
            database.make(path, _create_tables)
        return MlflowClient(tracking_uri=uri)


def _create_tables(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"{SQLITE}{path}", (path.parent / database.ARTIFACTS).absolute().as_uri())
    store.engine.dispose()


def _curves(history: pd.DataFrame) -> Iterable[tuple[str, float, int]]:
    """Learning curves as (name, value, samples seen), averaged over folds."""
    mean = history.groupby(["phase", "name", "samples_seen"], sort=True, as_index=False)["value"].mean()
    names = mean["phase"].astype(str) + "/" + mean["name"].astype(str)
    return zip(names, mean["value"], mean["samples_seen"], strict=True)


def image_grid(path: Path) -> np.ndarray:
    """Stimuli (first line) above their reconstructions, uint8 [height, width, 3], of items spread over the test set.

    Args:
        path: safetensors with ``stimuli`` [item, C, H, W] and ``reconstructions`` [item, sample, C, H, W], uint8.
    """
    import numpy as np
    from safetensors.numpy import load_file

    tensors = load_file(path)
    stimuli, drawn = tensors["stimuli"], tensors["reconstructions"]
    items = np.unique(np.linspace(0, len(stimuli) - 1, GRID_ITEMS).astype(int))
    lines = [stimuli[items], *(drawn[items, sample] for sample in range(min(GRID_SAMPLES, drawn.shape[1])))]
    padded = np.pad(np.stack(lines), [(0, 0)] * 3 + [(1, 1), (1, 1)], constant_values=255)
    line, item, channel, height, width = padded.shape
    grid = padded.transpose(0, 3, 1, 4, 2).reshape(line * height, item * width, channel)
    return np.broadcast_to(grid, (*grid.shape[:2], 3)).copy()
