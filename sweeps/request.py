"""What a command on a table asks for: its sweep, experiment and trials, and the places where their results lie."""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnd.errors import UserError
from cnd.experiment import Experiment, parse_assignments
from cnd.json_files import read_json
from cnd.store.convergence import verdict
from cnd.store.folder import SweepFolder
from cnd.workflow.cache import StageCache
from reports.ceilings import far_under
from sweeps import forecast
from sweeps.options import AUTO, OF_SEARCH
from sweeps.retry import recurs
from sweeps.rounds import begun, by_records, most, rounds
from sweeps.spec import SCORE, Sweep, load_base, load_sweep
from sweeps.text import say
from sweeps.trials import FOLLOWING, Trial, count_stages, in_table_order, resolve, seconds_to_report, work

UNTIL_CONVERGED: dict[str, Any] = {"decoder.phase2.until_converged": {}}


class Request:
    """A command's sweep, experiment and trials; and the places where their results lie."""

    def __init__(self, options: argparse.Namespace, pipeline: str) -> None:
        self.options, self.pipeline = options, pipeline
        self.edits = (UNTIL_CONVERGED if options.until_converged else {}) | parse_assignments(options.set)
        self.sweep, self.base, self.notes = self._asked_for()
        self.folder = SweepFolder(options.output, f"{self.sweep.name}-{self.base.name}")
        self.cache = StageCache(options.cache)
        self._resolved: dict[tuple[Any, ...], list[Trial]] = {}

    def _asked_for(self) -> tuple[Sweep, Experiment, list[str]]:
        """Sweep, base experiment and what to say of them beforehand.

        Raises:
            UserError: unknown names, wrong settings, or options that only searches have.
        """
        if given := [name for name in OF_SEARCH if getattr(self.options, name) is not None]:
            raise UserError(f"--{given[0]}: belongs to searches, and '{self.options.sweep}' is none; leave it out")
        if self.options.sweep != SCORE:
            return load_sweep(self.options.sweep), load_base(self.options.experiment, self.edits), []
        from sweeps.score import scoring

        return scoring(self.options, self.edits)

    def words(self) -> list[str]:
        """What of the command line names sweep and experiment."""
        if self.options.sweep != SCORE:
            return [self.sweep.name, "--experiment", self.base.name]
        from sweeps.score import words

        return words(self.options)

    def trials(self, rows: list[str] | None, seeds: int, subjects: Sequence[str]) -> list[Trial]:
        asked = (None if rows is None else tuple(rows), seeds, tuple(subjects))
        if asked not in self._resolved:  # of thousands of trials it takes seconds
            steps = importlib.import_module(self.pipeline).steps
            extras = self.options.analysis, subjects, self.options.interventions
            self._resolved[asked] = resolve(self.sweep, self.base, steps, rows, seeds, self.edits, *extras)
        return list(self._resolved[asked])

    def defined(self) -> list[Trial]:
        """The trials of the sweep as earlier commands defined it.

        Raises:
            UserError: it was never run here.
        """
        return self.everything_with(self.folder.definition())

    def everything_with(self, before: dict[str, Any]) -> list[Trial]:
        """Trials of all rows, with the seeds and subjects of an earlier definition and those that are asked for."""
        subjects = list(dict.fromkeys([*before["subjects"], *self.options.subjects]))
        return self.trials(None, max(len(before["seeds"]), self.seeds), subjects)

    @property
    def auto(self) -> bool:
        """Whether seeds are spent row by row."""
        return bool(self.options.seeds == AUTO)

    @property
    def seeds(self) -> int:
        """How many training seeds a row gets, at most."""
        return int(self.options.max_seeds if self.auto else self.options.seeds or self.sweep.seeds)

    def everything(self) -> list[Trial]:
        """The trials that the command may come to."""
        trials = self.trials(self.options.rows, self.seeds, self.options.subjects)
        return most(trials) if self.auto else trials

    def chosen(self) -> list[Trial]:
        """The trials that it runs in any case."""
        return begun(self.everything()) if self.auto else self.everything()

    def rounds(self) -> Iterator[list[Trial]]:
        """The trials of the first round, then those with the ones of the next.

        Each round is to be run before the next one is asked for. There is one unless seeds are spent row by row.
        """
        if not self.auto:
            return iter([self.chosen()])
        return rounds(self.sweep, self.everything(), by_records(self.folder.output, self.folder.path), say)

    def missing(self, trials: list[Trial]) -> list[str]:
        """Files that the trials need and that are not there, each with its remedy."""
        find = importlib.import_module(self.pipeline).missing
        return list(dict.fromkeys(line for trial in trials for line in find(trial.experiment)))

    def examined(self, trials: list[Trial]) -> list[str]:
        """What must be known of the trials' data, each sentence once.

        Raises:
            UserError: data, generator and judges of a trial do not go together, or a data file is malformed.
        """
        look = importlib.import_module(self.pipeline).examine
        return list(dict.fromkeys(told for trial in trials for told in look(trial.experiment, self.cache)))

    def concurrency(self) -> int:
        """Trials at once (:func:`concurrency`)."""
        return concurrency(self.options)

    def plan(self, trials: list[Trial]) -> dict[str, Any]:
        """What ``plan --json`` prints."""
        missing = [trial for trial in trials if not self.done(trial) and not self.stays_failed(trial)]
        wanted = sum(map(work, missing))
        converged = self.converged(trials)
        at_once = min(self.concurrency(), max(1, len(missing)))
        ceilings = self.ceilings(trials)
        seconds, possible = self.expected_seconds(), self.everything() if self.auto else []
        left = sum(not self.done(trial) for trial in possible)
        further = {"trials": len(possible), "seeds": self.seeds, "minutes": round(left * seconds / 60 / at_once, 1)}
        return {
            "sweep": self.sweep.name,
            "experiment": self.base.name,
            "trials": [
                self._planned(trial, converged) for trial in in_table_order(self.sweep, trials) if not trial.control
            ],
            "controls": [
                self._planned(trial, converged) for trial in in_table_order(self.sweep, trials) if trial.control
            ],
            "stages": count_stages(trials),
            "ceilings": ceilings,
            "warnings": [*warnings_for(trials), *self.examined(trials), *far_under(ceilings)],
            "expected_minutes": round((wanted * seconds / at_once + seconds_to_report(len(trials))) / 60, 1)
            if missing
            else 0.0,
            "expected_from": forecast.per_trial(self.folder, self.base).source,
        } | ({"at_most": further} if possible else {})

    def ceilings(self, trials: list[Trial]) -> dict[str, float]:
        """Scores of the ceilings that are known already, by label, where the table's score is an accuracy.

        Of several subjects and seeds it is the first that counts.
        """
        found: dict[str, float] = {}
        for trial in in_table_order(self.sweep, trials):
            record = self.cache.find("record", trial.key) if trial.role == "ceiling" else None
            if record is None:
                continue
            summary = read_json(record / "summary.json")
            metric = summary["metrics"][0]
            if metric["percent"] and metric["higher_is_better"] and metric["name"] in summary["scores"]:
                found.setdefault(trial.label or trial.row, summary["scores"][metric["name"]])
        return found

    def expected_seconds(self) -> float:
        """Of a trial (:func:`sweeps.forecast.per_trial`)."""
        return forecast.per_trial(self.folder, self.base).seconds

    def converged(self, trials: list[Trial]) -> dict[str, str]:
        """Whether the kept results of a row had converged, by row; nothing of rows without any."""
        folders: dict[str, list[Path]] = {}
        for trial in trials:
            if self.cache.has("record", trial.key):
                folders.setdefault(trial.row, []).append(self.cache.path("record", trial.key))
        return {row: verdict(records).state for row, records in folders.items()}

    def done(self, trial: Trial) -> bool:
        """Whether nothing of a trial is left to be made: its record, and what is to follow it."""
        return all(self.cache.has(*stage) for stage in trial.stages if stage[0] in ("record", *FOLLOWING)) and not any(
            self.cache.was_set_aside(*stage) for stage in trial.stages
        )

    def stays_failed(self, trial: Trial) -> bool:
        """Whether a trial is not run, because it failed in a way that it will fail again."""
        return not self.options.retry_failed and recurs(self.folder.read(trial.name), trial.key)

    def _planned(self, trial: Trial, converged: dict[str, str]) -> dict[str, Any]:
        settings = {"settings": trial.settings, "label": trial.label, "done": self.done(trial)}
        settings["converged"] = converged.get(trial.row)
        return {"row": trial.row, "subject": trial.subject, "seed": trial.seed, "key": trial.key, **settings}


def warnings_for(trials: list[Trial]) -> list[str]:
    """What a reader must know before believing the scores of these trials, each sentence once."""
    return list(dict.fromkeys(warning for trial in trials for warning in trial.experiment.warnings()))


def concurrency(options: argparse.Namespace) -> int:
    """Trials at once, as the options and the machine have it.

    Raises:
        UserError: trials want GPUs and there is none.
    """
    wanted, gpus = options.max_concurrent, options.gpus_per_trial
    if gpus and not options.ray_address:
        there = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
        if there < gpus:
            raise UserError(f"--gpus-per-trial {gpus:g}: this machine has {there}")
        return int(min(wanted or there / gpus, there / gpus))
    return int(wanted or n_cpus())


def n_cpus() -> int:
    """CPU cores that this process may use, container limits included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no limit ("max"), or not Linux
        return cores
