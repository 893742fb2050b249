"""One run of a sweep: what is missing is computed, every event goes to the table, the trial files and MLflow."""

from __future__ import annotations

import importlib
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.store.folder import SweepFolder
from cnd.workflow.cache import StageCache
from reports.scale import Scale
from sweeps.executor import Job, Resources, run_jobs
from sweeps.live import Board
from sweeps.trials import Trial, fused

if TYPE_CHECKING:
    from cnd.store.tracking import Tracker

SECONDS_BETWEEN_METRICS = 5.0
EXTRAS = {"intervene": "interventions", "analyse": "analysis"}
"""What may follow a run, and the stage that it makes, which the trial's file names for the report."""
STAGES = (*EXTRAS.values(), "figures")


class Scribe:
    """Writes to MLflow in a thread of its own, so that neither its import nor its store holds up a trial.

    Every call only queues the work. An error of the tracking never stops the trials; it is kept in ``error``.
    """

    def __init__(self, folder: SweepFolder, uri: str, local: bool) -> None:
        self.folder, self.uri = folder, uri
        self.artifacts = folder.output / "mlartifacts" if local else None
        self.error: Exception | None = None
        self._lost = local and not (folder.output / "mlflow.db").exists()  # a new folder, or someone deleted it
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._tracker: Tracker | None = None
        self._runs: dict[str, str] = {}  # ids of runs that are open, by trial
        self._told: dict[str, float] = {}
        self._used = False

    def wants(self, trial: Trial) -> bool:
        """Whether a finished trial is not in the store yet."""
        known = self.folder.read(trial.name)
        return self._lost or not known.get("run_id") or known.get("tracking_uri") != self.uri

    def start(self, trial: Trial) -> None:
        self._queue(lambda tracker: self._open(tracker, trial))

    def progress(self, trial: Trial, metrics: dict[str, float], samples_seen: int) -> None:
        now = time.monotonic()
        if metrics and now - self._told.get(trial.name, 0.0) >= SECONDS_BETWEEN_METRICS:
            self._told[trial.name] = now
            self._queue(lambda tracker: tracker.progress(self._runs[trial.name], metrics, samples_seen))

    def record(self, trial: Trial, record: Path, extras: dict[str, Path]) -> None:
        """Args:
        extras: folders of what followed the run, by stage.
        """

        def write(tracker: Tracker) -> None:
            self._open(tracker, trial)
            if "analysis" in extras:
                tracker.analysis(self._runs[trial.name], extras["analysis"], extras.get("figures"))
            if "interventions" in extras:
                tracker.interventions(self._runs[trial.name], extras["interventions"])
            tracker.record(self._runs[trial.name], record, trial.keys("phase1"))
            del self._runs[trial.name]
            self.folder.write(trial, tracking_uri=self.uri)

        self._queue(write)

    def fail(self, trial: Trial, error: str) -> None:
        def write(tracker: Tracker) -> None:
            self._open(tracker, trial)
            tracker.fail(self._runs.pop(trial.name), error)

        self._queue(write)

    def close(self, status: str) -> None:
        """End the sweep's run, and as KILLED those of trials that were running; wait until all is written."""
        if self._used:
            self._queue(lambda tracker: self._end(tracker, status))
        self._thread.shutdown(wait=True)

    def _open(self, tracker: Tracker, trial: Trial) -> None:
        if trial.name not in self._runs:
            params = {"row": trial.row, "label": trial.label or "", "control": trial.control, **trial.settings}
            params |= {"role": trial.role or "", "subject": trial.subject or ""} | _flat(trial)
            stages = {name: ",".join(trial.keys(name)) for name, _ in trial.stages}
            tags = {f"stage.{name}.key": keys for name, keys in stages.items()}
            if warnings := trial.experiment.warnings():
                tags["warnings"] = "\n".join(warnings)
            self._runs[trial.name] = tracker.start(trial.name, trial.key, params, tags)
            self.folder.write(trial, run_id=self._runs[trial.name])

    def _end(self, tracker: Tracker, status: str) -> None:
        for run in self._runs.values():
            tracker.end(run, "KILLED")
        tracker.end(tracker.parent, status)

    def _queue(self, work: Callable[[Tracker], None]) -> None:
        def do() -> None:
            from cnd.store.tracking import Tracker

            if self.error is None:
                if self._tracker is None:
                    self._tracker = Tracker(self.uri, self.artifacts, self.folder.name)
                work(self._tracker)

        def keep(future: Future[None]) -> None:
            if isinstance(error := future.exception(), Exception) and self.error is None:
                self.error = error

        self._used = True
        self._thread.submit(do).add_done_callback(keep)


def _flat(trial: Trial) -> dict[str, Any]:
    from cnd.store.tracking import flatten

    return flatten(trial.experiment.model_dump(mode="json", exclude={"name", "description", "rivals"}))


class Session:
    """Runs trials and hears of them (:class:`sweeps.executor.Watcher`)."""

    def __init__(
        self, folder: SweepFolder, cache: StageCache, trials: list[Trial], board: Board, scribe: Scribe
    ) -> None:
        self.folder, self.cache, self.board, self.scribe = folder, cache, board, scribe
        self.trials = {trial.name: trial for trial in trials}
        self.failed_trials: dict[str, str] = {}

    def run(self, resources: Resources, pipeline: str, fuse: int = 1) -> None:
        """Run all trials.

        Args:
            fuse: how many share one frozen generator in a process, where they can.

        Raises:
            KeyboardInterrupt: Ctrl-C; what was finished is kept.
        """
        needed = Counter(stage for trial in self.trials.values() for stage in trial.stages)
        common = importlib.import_module(pipeline).together if fuse > 1 else lambda experiment: None
        groups = [
            [self._job(trial, needed) for trial in group]
            for group in fused(list(self.trials.values()), fuse, lambda trial: common(trial.experiment))
        ]
        for trial in self.trials.values():
            self.folder.write(trial, state="pending", error=None, record=None)
            self.folder.traceback_file(trial.name).unlink(missing_ok=True)
        with self.board:
            run_jobs(groups, self.cache.root, self.folder.path / "ray", resources, self, pipeline)

    def _job(self, trial: Trial, needed: Counter[tuple[str, str]]) -> Job:
        return Job(
            trial.name,
            trial.experiment.model_dump(mode="json"),
            self.folder.traceback_file(trial.name),
            trial.key,
            tuple(part for part, stage in EXTRAS.items() if trial.keys(stage)),
            tuple(stage for stage in trial.stages if needed[stage] == 1),
        )

    def started(self, name: str) -> None:
        self.board.started(name)
        self.folder.write(self.trials[name], state="running")
        self.scribe.start(self.trials[name])

    def progressed(self, name: str, progress: dict[str, Any]) -> None:
        self.board.progressed(name, progress["phase"], progress["fraction"], progress["metrics"])
        self.scribe.progress(self.trials[name], progress["metrics"], progress["samples_seen"])

    def finished(self, name: str, record: Path, seconds: float) -> None:
        trial = self.trials[name]
        self.board.finished(name, table_score(record), seconds)
        extras = found_extras(self.cache, trial)
        done = {"state": "complete", "record": self.folder.record_name(record), "seconds": round(seconds, 3)}
        self.folder.write(trial, **done, **_entries(self.folder, extras))
        self.scribe.record(trial, record, extras)

    def failed(self, name: str, error: str) -> None:
        self.failed_trials[name] = error
        self.board.failed(name, error)
        self.folder.write(self.trials[name], state="failed", error=error)
        self.scribe.fail(self.trials[name], error)


def adopt(folder: SweepFolder, cache: StageCache, trials: list[Trial], scribe: Scribe) -> list[Trial]:
    """Note the trials whose results are in the cache already; the rest is returned, in order."""
    missing = []
    for trial in trials:
        record, extras = cache.find("record", trial.key), found_extras(cache, trial)
        if record is None or any(trial.keys(stage) and stage not in extras for stage in STAGES):
            missing.append(trial)
            continue
        entry = _entries(folder, extras)
        new = any(folder.read(trial.name).get(key) != value for key, value in entry.items())
        if new or not folder.is_complete(trial):
            folder.write(trial, state="complete", error=None, record=folder.record_name(record), **entry)
        if new or scribe.wants(trial):
            scribe.record(trial, record, extras)
    return missing


def found_extras(cache: StageCache, trial: Trial) -> dict[str, Path]:
    """Folders of what followed the trial's run, by stage, where it is wanted and there."""
    found = {stage: cache.find(stage, key) for stage in STAGES for key in trial.keys(stage)[:1]}
    return {stage: folder for stage, folder in found.items() if folder is not None}


def _entries(folder: SweepFolder, extras: dict[str, Path]) -> dict[str, str]:
    """What a trial's file says of what followed its run; what was made earlier stays noted when it is not wanted."""
    return {stage: folder.record_name(extras[stage]) for stage in EXTRAS.values() if stage in extras}


def table_score(record: Path) -> str:
    """The table's score of a record with its unit and name, "" where it has none."""
    summary = json.loads((record / "summary.json").read_text(encoding="utf-8"))
    first: dict[str, Any] = next(iter(summary["metrics"]), {})
    score = summary["scores"].get(first.get("name"))
    return "" if score is None else f"{Scale(percent=first['percent']).score(float(score))} {first['title']}"
