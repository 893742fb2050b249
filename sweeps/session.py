"""One run of a sweep: what is missing is computed, every event goes to the table, the trial files and MLflow."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.errors import in_one_line
from cnd.experiment import Experiment
from cnd.json_files import write_json
from cnd.store import database
from cnd.store.folder import SweepFolder, read_known
from cnd.store.reachable import silent
from cnd.workflow.cache import StageCache
from cnd.workflow.progress import CHECKPOINT, PERCENT
from reports.scale import Scale
from sweeps.background import Background
from sweeps.executor import Job, Resources, run_jobs
from sweeps.live import Board
from sweeps.proposers import Proposer
from sweeps.ray_folder import RAY
from sweeps.trials import FOLLOWING, Trial, fused
from sweeps.turns import Turns

if TYPE_CHECKING:
    from cnd.store.tracking import SearchRuns, Tracker
    from sweeps.headline import Headline

KEEP_ARTIFACTS = ("http:", "https:", "databricks")  # servers do; MLflow would put others into the working directory
SECONDS_BETWEEN_METRICS = 5.0
SECONDS_TO_END = 4.0  # for MLflow, when the command was told to stop; Slurm and Docker kill it after about ten
HEADLINE_FILE = "headline.json"  # what of the sweep's result was told to MLflow, and where
EXTRAS = {"intervene": "interventions", "analyse": "analysis"}
"""What may follow a run, and the stage that it makes."""


class Scribe:
    """Writes to MLflow in a thread of its own, so that neither its import nor its store holds up a trial.

    Every call only queues the work. An error of the tracking never stops the trials; it is kept in ``error``, and what
    was not written the next command writes, from the trial files and the records.

    Args:
        uri: of the store; None: the one below the output folder.
        search: what the runs of a search have in common; None: it is a table.
        params: settings by dotted name, which a table's runs tell where they have another value.
        columns: dotted names of those that its trials have under a column's key already.
    """

    def __init__(
        self, folder: SweepFolder, uri: str | None, search: SearchRuns | None = None,
        params: Mapping[str, Any] | None = None, columns: Collection[str] = (),
    ) -> None:  # fmt: skip
        from cnd.store.tracking import sqlite_uri

        local, uri = uri is None, uri or sqlite_uri(folder.output)
        self.folder, self.uri, self.search = folder, uri, search
        self.params, self.columns = search.params if search else params or {}, columns
        self.artifacts = None if uri.startswith(KEEP_ARTIFACTS) else folder.output / database.ARTIFACTS
        self.error: str | None = None
        self._finished: set[str] | None = None
        told: list[str] = []
        if local:
            self._finished, told = database.opened(folder.output)
        if not local and (why := silent(uri)):
            self.error = f"{uri} {why}"
            told.append(f"MLflow: {self.error}; the trials run without it")
        _say(told)
        self._background = Background("mlflow")
        self._tracker: Tracker | None = None
        self._runs: dict[str, str] = {}  # ids of runs that are open, by trial
        self._told: dict[str, float] = {}
        self._used = self._stopping = False

    def wants(self, trial: Trial) -> bool:
        """Whether a finished trial is not in the store yet."""
        known = self.folder.read(trial.name)
        if self._finished is not None:
            return known.get("run_id") not in self._finished
        return not known.get("run_id") or known.get("tracking_uri") != self.uri

    def lacks(self, inputs: str) -> bool:
        """Whether the run of the whole sweep does not show what was made of these, and can be told."""
        if self.error is not None:
            return False
        known = read_known(self.folder.path / HEADLINE_FILE)
        if known.get("inputs") != inputs:
            return True
        if self._finished is not None:
            return known.get("run_id") not in self._finished
        return known.get("tracking_uri") != self.uri

    def headline(self, headline: Headline, status: str) -> None:
        """Write what the sweep found with its run, and wait until it is written."""

        def write(tracker: Tracker) -> None:
            tracker.headline(headline.metrics, headline.tags, headline.files, headline.text, headline.when)
            noted = {"run_id": tracker.parent, "tracking_uri": self.uri, "inputs": headline.inputs}
            write_json(self.folder.path / HEADLINE_FILE, noted)

        self._queue(write)
        self.close(status)

    def start(self, trial: Trial) -> None:
        self._queue(lambda tracker: self._open(tracker, trial))

    def progress(self, trial: Trial, metrics: dict[str, float], samples_seen: int) -> None:
        if self.search is not None:
            if CHECKPOINT in metrics:
                score, percent = metrics[CHECKPOINT], int(metrics[PERCENT])
                self._queue(lambda tracker: tracker.checkpoint(self._runs[trial.name], score, percent))
            return
        now = time.monotonic()
        due = CHECKPOINT in metrics or now - self._told.get(trial.name, 0.0) >= SECONDS_BETWEEN_METRICS
        if metrics and due:
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
            tracker.record(self._runs[trial.name], record, trial.keys("phase1"), self._shown(trial, _score(record)[0]))
            del self._runs[trial.name]
            self.folder.write(trial, tracking_uri=self.uri)

        self._queue(write)

    def fail(self, trial: Trial, error: str) -> None:
        def write(tracker: Tracker) -> None:
            self._open(tracker, trial)
            tracker.fail(self._runs.pop(trial.name), error)

        self._queue(write)

    def prune(self, trial: Trial) -> None:
        """A search stopped it."""

        def write(tracker: Tracker) -> None:
            self._open(tracker, trial)
            tracker.prune(self._runs.pop(trial.name))

        self._queue(write)

    def best_so_far(self, name: str, values: list[float]) -> None:
        """Of a search's objective, after each complete trial."""
        if self._used:
            self._queue(lambda tracker: tracker.best_so_far(name, values))

    def close(self, status: str) -> None:
        """End the sweep's run, and as KILLED those of trials that were running; wait until all is written.

        A command that was told to stop (status KILLED, or an interruption here) writes no more than these ends.
        """
        if not self._used and status == "FINISHED" and self._left_open():
            self._queue(lambda tracker: None)  # opens the sweep's run again, which a killed command did not end
        if not self._used:
            return
        try:
            if status != "KILLED":
                self._background.do(lambda: self._end(status))
                self._background.wait()
        except KeyboardInterrupt:
            self.stop()
            self._background.wait(SECONDS_TO_END)
            raise
        if status == "KILLED":
            self.stop()
            self._background.wait(SECONDS_TO_END)
        if self._tracker is not None:
            _say(self._tracker.told)
            self._tracker.told.clear()
        if self.error is not None:
            _say([f"MLflow could not be written ({self.error}); sync, or the same command again, writes what it lacks"])

    def _left_open(self) -> bool:
        store = self.folder.output / database.FILE
        return self._finished is not None and database.left_open(store, f"sweep {self.folder.name}")

    def stop(self) -> None:
        """Write nothing more but the ends of what is open, at once: there may be seconds left."""
        self._stopping = True
        self._background.do(lambda: self._end("KILLED"))

    def _open(self, tracker: Tracker, trial: Trial) -> None:
        if trial.name not in self._runs:
            varied = _varied(trial, self.params)
            params = {key: value for key, value in varied.items() if key not in self.columns}
            if self.search is None:
                more = {"row": trial.row, "seed": trial.seed, "label": trial.label, "role": trial.role}
                params = {key: value for key, value in more.items() if value is not None} | params
            stages = {name: ",".join(trial.keys(name)) for name, _ in trial.stages}
            tags = {f"stage.{name}.key": keys for name, keys in stages.items()}
            if warnings := trial.experiment.warnings():
                tags["warnings"] = "\n".join(warnings)
            self._runs[trial.name] = tracker.start(trial.name, trial.key, params, tags, self._shown(trial))
            self.folder.write(trial, run_id=self._runs[trial.name])

    def _shown(self, trial: Trial, score: str = "") -> str:
        """What MLflow calls its run: the row, the subject, what tells it from the base, the seed, and the score."""
        several = self.search is None or "seed" not in self.params
        words = [trial.row, trial.subject or "", trial.label or "", f"seed {trial.seed}" if several else ""]
        return " ".join(word for word in words if word) + (f": {score}" if score else "")

    def _end(self, status: str) -> None:
        """Whatever went wrong before: what can be ended is not left open."""
        if (tracker := self._tracker) is None:
            return
        try:
            while self._runs:
                tracker.end(self._runs.popitem()[1], "KILLED")
            tracker.end(tracker.parent, status if self.error is None else "FAILED")
        except Exception as error:
            self.error = self.error or in_one_line(error)

    def _queue(self, work: Callable[[Tracker], None]) -> None:
        def do() -> None:
            if self.error is not None or self._stopping:
                return
            try:
                from cnd.store.tracking import Tracker

                self._tracker = self._tracker or Tracker(
                    self.uri, self.artifacts, self.folder.name, self.search, self.params
                )
                if not self._stopping:
                    work(self._tracker)
            except Exception as error:
                self.error = in_one_line(error)

        self._used = True
        self._background.do(do)


def _say(lines: list[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def flat(experiment: Experiment) -> dict[str, Any]:
    """Its settings by dotted name."""
    from cnd.store.tracking import flatten

    return flatten(experiment.model_dump(mode="json", exclude={"name", "description", "rivals"}))


def _cell(value: Any) -> Any:
    """A list in one line: MLflow would write it over several."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _varied(trial: Trial, common: Mapping[str, Any]) -> dict[str, Any]:
    """What a search varied, where it applies, and what else differs from its reference, such as the seed."""
    own = {key: _cell(value) for key, value in trial.settings.items() if value != "-"}
    return {k: v for k, v in flat(trial.experiment).items() if k not in trial.settings and common.get(k) != v} | own


ALIKE = 3  # trials that fail in the same way before any is done, for the rest to be left


class Session:
    """Runs trials and hears of them (:class:`sweeps.executor.Watcher`).

    Args:
        scores: what the proposer is told of a record; a table is told nothing.
        keep_going: begin further trials although the first ones all failed in the same way.
    """

    def __init__(
        self,
        folder: SweepFolder,
        cache: StageCache,
        proposer: Proposer,
        board: Board,
        scribe: Scribe,
        scores: Callable[[Path], tuple[float, ...]] = lambda record: (),
        keep_going: bool = True,
    ) -> None:
        self.folder, self.cache, self.proposer, self.board, self.scribe = folder, cache, proposer, board, scribe
        self.scores, self.keep_going = scores, keep_going
        self._any_done = False
        self.trials: dict[str, Trial] = {}  # that were asked for
        self.failed_trials: dict[str, str] = {}
        self._turns: Turns | None = None  # of trials known beforehand
        self._needed: Counter[tuple[str, str]] | None = None

    def run(self, resources: Resources, pipeline: str, fuse: int = 1) -> None:
        """Run all trials.

        Args:
            fuse: how many share one frozen generator in a process, where they can; for trials known beforehand.

        Raises:
            KeyboardInterrupt: Ctrl-C; what was finished is kept.
        """
        planned = self.proposer.planned()
        for trial in planned:
            self._clear(trial)
        if planned:
            trials = list(iter(self.proposer.ask, None))
            self.trials |= {trial.name: trial for trial in trials}
            groups = [[trial] for trial in trials]
            if fuse > 1:
                common = importlib.import_module(pipeline).together
                self._needed = Counter(stage for trial in trials for stage in trial.stages)
                groups = fused(trials, fuse, lambda trial: common(trial.experiment))
            self._turns = Turns(groups, self.cache)
        with self.board:
            run_jobs(self.cache.root, self.folder.path / RAY, resources, self, pipeline)

    @property
    def gave_up(self) -> str:
        """The error that the first trials all failed with, so that no further ones are begun; "" while there is none.

        An error's own words about its trial do not make it another one.
        """
        errors = {error.replace(name, "TRIAL") for name, error in self.failed_trials.items()}
        if self.keep_going or self._any_done or len(errors) != 1 or len(self.failed_trials) < ALIKE:
            return ""
        return next(iter(self.failed_trials.values()))

    def next_group(self) -> list[Job] | None:
        """As the executor wants it; a trial whose result is there already is told to the proposer instead."""
        if self.gave_up:
            return None
        if self._turns is not None:
            group = self._turns.next()
            return None if group is None else [self._job(trial) for trial in group]
        while (trial := self.proposer.ask()) is not None:
            self.trials[trial.name] = trial
            if adopt(self.folder, self.cache, [trial], self.scribe):
                self._clear(trial)
                self.board.add(trial.name)
                return [self._job(trial)]
            record = self.cache.path("record", trial.key)
            self.board.add(trial.name)
            self.board.finished(trial.name, table_score(record), 0.0, known=True)
            self.proposer.tell(trial, self.scores(record))
        return None

    def _clear(self, trial: Trial) -> None:
        if not self.folder.trial_file(trial.name).exists():  # which says the same, without waiting for the disk
            return
        self.folder.write(trial, state="pending", error=None, record=None)
        self.folder.traceback_file(trial.name).unlink(missing_ok=True)

    def _job(self, trial: Trial) -> Job:
        return Job(
            trial.name,
            trial.experiment.model_dump(mode="json"),
            self.folder.traceback_file(trial.name),
            trial.key,
            tuple(part for part, stage in EXTRAS.items() if trial.keys(stage)),
            tuple(stage for stage in trial.stages if self._needed and self._needed[stage] == 1),
        )

    def started(self, name: str) -> None:
        self.board.started(name)
        self.folder.write(self.trials[name], state="running")
        self.scribe.start(self.trials[name])

    def progressed(self, name: str, progress: dict[str, Any]) -> bool:
        self.board.progressed(name, progress["phase"], progress["fraction"], progress["metrics"])
        if progress["phase"] != "done":  # its scores come with the record: MLflow compares the first one told
            self.scribe.progress(self.trials[name], progress["metrics"], progress["samples_seen"])
        at = progress["metrics"].get(PERCENT)
        return at is not None and self.proposer.stops(self.trials[name], int(at), progress["metrics"][CHECKPOINT])

    def finished(self, name: str, record: Path, seconds: float) -> None:
        self._any_done = True
        trial = self._ended(name)
        self.board.finished(name, table_score(record), seconds)
        extras = found_extras(self.cache, trial)
        self.folder.traceback_file(name).unlink(missing_ok=True)  # of an attempt with too little memory
        done = {"state": "complete", "record": self.folder.record_name(record), "seconds": round(seconds, 3)}
        self.folder.write(trial, **done, **_entries(self.folder, extras))
        self.scribe.record(trial, record, extras)
        self.proposer.tell(trial, self.scores(record))

    def stopped(self, name: str, seconds: float) -> None:
        self._any_done = True
        trial = self._ended(name)
        self.board.pruned(name, seconds)
        self.folder.write(trial, state="pruned", seconds=round(seconds, 3))
        self.scribe.prune(trial)
        self.proposer.tell(trial, None)

    def failed(self, name: str, error: str) -> None:
        trial = self._ended(name)
        same = next((n for n, e in self.failed_trials.items() if e.replace(n, name) == error), None)
        self.failed_trials[name] = error
        self.board.failed(name, error if same is None else f"as {same}")
        self.folder.write(trial, state="failed", error=error)
        self.scribe.fail(trial, error)
        self.proposer.tell(trial, None)

    def set_back(self, name: str, why: str) -> None:
        if self._turns is not None:
            self._turns.ended(name)
        self.board.set_back(name, why)
        self.folder.write(self.trials[name], state="pending")

    def _ended(self, name: str) -> Trial:
        if self._turns is not None:
            self._turns.ended(name)
        return self.trials.pop(name)  # a search may ask for thousands

    def interrupted(self) -> None:
        self.scribe.stop()


def adopt(folder: SweepFolder, cache: StageCache, trials: list[Trial], scribe: Scribe) -> list[Trial]:
    """Note the trials whose results are in the cache already; the rest is returned, in order."""
    missing = []
    for trial in trials:
        record, extras = cache.find("record", trial.key), found_extras(cache, trial)
        lacking = any(trial.keys(stage) and stage not in extras for stage in FOLLOWING)
        if record is None or lacking or any(cache.was_set_aside(*stage) for stage in trial.stages):
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
    found = {stage: cache.find(stage, key) for stage in FOLLOWING for key in trial.keys(stage)[:1]}
    return {stage: folder for stage, folder in found.items() if folder is not None}


def _entries(folder: SweepFolder, extras: dict[str, Path]) -> dict[str, str]:
    """What a trial's file says of what followed its run; what was made earlier stays noted when it is not wanted."""
    return {stage: folder.record_name(extras[stage]) for stage in FOLLOWING if stage in extras}


def table_score(record: Path) -> str:
    """The table's score of a record with its unit and name, "" where it has none."""
    return " ".join(_score(record)).strip()


def _score(record: Path) -> tuple[str, str]:
    """The same apart."""
    summary = json.loads((record / "summary.json").read_text(encoding="utf-8"))
    first: dict[str, Any] = next(iter(summary["metrics"]), {})
    score = summary["scores"].get(first.get("name"))
    return ("", "") if score is None else (Scale(percent=first["percent"]).score(float(score)), first["title"])
