#!/usr/bin/env python3
"""Run a sweep, or go on with it: ``python sweeps/run.py ablation_table1``. ``--help`` lists the rest.

Data goes to stdout, progress to stderr. Exit code 0: complete; 1: some trials failed; 2: wrong settings or usage, told
in one line; 130: interrupted. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if __name__ == "__main__":  # Python put sweeps/ first, where our file names could hide libraries
    _here = Path(__file__).resolve().parent
    sys.path[:] = [str(_here.parent), *(p for p in sys.path if Path(p or ".").resolve() not in (_here, _here.parent))]

from cnd.cache import StageCache
from cnd.config import Experiment, parse_assignments
from cnd.errors import UserError, nearest
from sweeps.folder import SweepFolder, damaged
from sweeps.spec import (
    EXPERIMENTS,
    SWEEPS,
    Sweep,
    Trial,
    count_stages,
    in_table_order,
    load_base,
    load_sweep,
    names_in,
    resolve,
)

if TYPE_CHECKING:
    import pandas as pd

COMMANDS = ("run", "plan", "status", "report", "verify", "clean")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            option = message.split()[2].partition("=")[0]
            message += nearest(option, [o for o in self._option_string_actions if o.startswith("--")])
        raise UserError(f"{message} (see --help)")


def _parser() -> argparse.ArgumentParser:
    names = {"sweeps": names_in(SWEEPS), "experiments": names_in(EXPERIMENTS)}
    parser = _Parser(
        prog="python sweeps/run.py",
        usage="%(prog)s [plan|status|report|verify|clean] SWEEP [options]",
        description="Run every trial of a sweep that is not done yet, in parallel, and report.",
        epilog="".join(f"{what}: {', '.join(found) or 'none'}\n" for what, found in names.items())
        + "\nplan    the trials, the stages they share and the expected time; runs nothing\n"
        "status  the state of every trial\n"
        "report  build the HTML report again\n"
        "verify  check the files of every result against the hashes written with them\n"
        "clean   list what the sweep alone uses, and delete it with --force\n"
        "\nThe same command again goes on where it stopped. Exit code 0: complete, 1: some trials failed,\n"
        "2: wrong settings or usage, 130: interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("words", nargs="+", metavar="[COMMAND] SWEEP", help="name of a sweep, or path of its YAML file")
    add("--experiment", default="simulated", metavar="NAME|PATH", help="base experiment (default: simulated)")
    add("--rows", metavar="IDS", help="only these rows, e.g. 0,10; all controls come along unless one is named")
    add("--seeds", type=int, default=1, metavar="N", help="how many training seeds (default: 1)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. data.path=FILE")
    add("--output", type=Path, default=Path("runs"), metavar="DIR", help="everything goes here (default: runs/)")
    add("--cache", type=Path, metavar="DIR", help="where stage results are kept (default: OUTPUT/cache)")
    add("--max-concurrent", type=int, metavar="N", help="trials at once (default: one a CPU core, or as GPUs allow)")
    add("--gpus-per-trial", type=float, default=0.0, metavar="N", help="GPUs for a trial, e.g. 0.5 (default: 0)")
    add("--ray-address", metavar="ADDRESS", help="of a running Ray cluster that shares the file system")
    add("--tracking-uri", metavar="URI", help="MLflow store (default: SQLite below OUTPUT)")
    add("--force", action="store_true", help="clean: really delete")
    add("--json", action="store_true", help="print JSON")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with ``command``, ``sweep``, ``rows`` (list or None) and absolute folders.

    Raises:
        UserError: wrong usage.
    """
    options = _parser().parse_intermixed_args(argv)
    command, *rest = options.words if options.words[0] in COMMANDS else ["run", *options.words]
    if len(rest) != 1:
        found = f"found {' '.join(rest)}" if rest else "none is given"
        hint = nearest(rest[0], COMMANDS) if len(rest) > 1 else f"; sweeps: {', '.join(names_in(SWEEPS))}"
        raise UserError(f"expected one sweep, {found}{hint} (see --help)")
    options.command, options.sweep = command, rest[0]
    for name, least in (("seeds", 1), ("max_concurrent", 1), ("gpus_per_trial", 0)):
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
    if options.rows is not None:
        options.rows = [row.strip() for row in options.rows.split(",") if row.strip()]
        if not options.rows:
            raise UserError("--rows: name at least one row, e.g. --rows 0,10")
    options.output = options.output.expanduser().absolute()
    options.cache = options.cache or options.output / "cache"
    return options


class Request:
    """A command's sweep, experiment and trials; and the places where their results lie."""

    def __init__(self, options: argparse.Namespace, pipeline: str) -> None:
        self.options, self.pipeline = options, pipeline
        self.edits = parse_assignments(options.set)
        self.sweep: Sweep = load_sweep(options.sweep)
        self.base: Experiment = load_base(options.experiment, self.edits)
        self.folder = SweepFolder(options.output, f"{self.sweep.name}-{self.base.name}")
        self.cache = StageCache(options.cache)

    def trials(self, rows: list[str] | None, seeds: int) -> list[Trial]:
        stages = importlib.import_module(self.pipeline).stages
        return resolve(self.sweep, self.base, stages, rows, seeds, self.edits)

    def chosen(self) -> list[Trial]:
        return self.trials(self.options.rows, self.options.seeds)

    def concurrency(self) -> int:
        """Trials at once.

        Raises:
            UserError: trials want GPUs and there is none.
        """
        wanted, gpus = self.options.max_concurrent, self.options.gpus_per_trial
        if gpus and not self.options.ray_address:
            there = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
            if there < gpus:
                raise UserError(f"--gpus-per-trial {gpus:g}: this machine has {there}")
            return int(min(wanted or there / gpus, there / gpus))
        return int(wanted or n_cpus())

    def plan(self, trials: list[Trial]) -> dict[str, Any]:
        """What ``plan --json`` prints."""
        missing = [trial for trial in trials if not self.cache.has("record", trial.key)]
        at_once = min(self.concurrency(), max(1, len(missing)))
        return {
            "sweep": self.sweep.name,
            "experiment": self.base.name,
            "trials": [self._planned(trial) for trial in in_table_order(self.sweep, trials) if not trial.control],
            "controls": [self._planned(trial) for trial in in_table_order(self.sweep, trials) if trial.control],
            "stages": count_stages(trials),
            "expected_minutes": round(len(missing) * self.expected_seconds() / 60 / at_once, 1),
        }

    def expected_seconds(self) -> float:
        """Of a trial: as measured here, else the experiment's figure."""
        return self.folder.typical_seconds() or 60 * self.base.minutes_per_trial

    def _planned(self, trial: Trial) -> dict[str, Any]:
        done = self.cache.has("record", trial.key)
        settings = {"settings": trial.settings, "label": trial.label, "done": done}
        return {"row": trial.row, "seed": trial.seed, "key": trial.key, **settings}


def n_cpus() -> int:
    """CPU cores that this process may use, container limits included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no limit ("max"), or not Linux
        return cores


# ---------------------------------------------------------------- commands


def run(request: Request) -> int:
    """Run what is missing, then table, report and MLflow."""
    from cnd.tracking import sqlite_uri
    from sweeps.executor import Resources
    from sweeps.live import Board
    from sweeps.session import Scribe, Session, adopt

    options, folder = request.options, request.folder
    trials = request.chosen()
    resources = Resources(request.concurrency(), options.gpus_per_trial, options.ray_address)
    uri = options.tracking_uri or sqlite_uri(options.output)
    _say(plan_text(request, request.plan(trials)))
    with folder.locked():
        define(request, trials)
        scribe, status = Scribe(folder, uri, local=not options.tracking_uri), "KILLED"
        try:
            missing = adopt(folder, request.cache, trials, scribe)
            board = Board(
                request.sweep.title, [t.name for t in missing], resources.concurrency, request.expected_seconds()
            )
            session = Session(folder, missing, board, scribe)
            if missing:
                session.run(request.cache, resources, request.pipeline)
            status = "FAILED" if session.failed_trials else "FINISHED"
        finally:
            scribe.close(status)
    if scribe.error is not None:
        _say(f"MLflow could not be written, run the command again: {scribe.error}")
    _show_result(request, trials, uri)
    return 1 if session.failed_trials or scribe.error is not None else 0


def define(request: Request, chosen: list[Trial]) -> None:
    """Write the sweep's definition: the chosen trials, and those of earlier commands that are still what they were."""
    seeds = len(request.folder.definition()["seeds"]) if (request.folder.path / "sweep.json").exists() else 0
    names = {trial.name for trial in chosen}
    everything = request.trials(None, max(seeds, request.options.seeds))
    kept = [trial for trial in everything if trial.name in names or request.folder.is_complete(trial)]
    request.folder.define(request.sweep, request.base, kept, request.edits)


def _show_result(request: Request, trials: list[Trial], uri: str) -> None:
    from reports.build import build_report, result_table

    folder = request.folder
    known = [folder.read(trial.name) for trial in trials]
    path = build_report(folder.output, folder.path) if any(t["state"] == "complete" for t in known) else None
    if request.options.json:
        content = {"sweep": request.sweep.name, "experiment": request.base.name, "trials": known}
        print(json.dumps(content | {"report": str(path) if path else None, "mlflow": uri}, indent=1))
    elif path:
        print(result_text(request, result_table(folder.output, folder.path)))
    for trial in known:
        if trial["state"] == "failed":
            name = f"{trial['row']}-seed{trial['seed']}"
            _say(f"failed: {name}: {trial['error']} ({folder.traceback_file(name)})")
    if path:
        _say(f"report: {path}")
    where = f"mlflow ui --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1" if "sqlite" in uri else uri
    _say(f"MLflow: {where}")


def plan(request: Request) -> int:
    """Print what a run would do."""
    content = request.plan(request.chosen())
    print(json.dumps(content, indent=1) if request.options.json else plan_text(request, content))
    return 0


def status(request: Request) -> int:
    """Print the state of every trial of the last run."""
    trials = request.folder.trials()
    if request.options.json:
        print(json.dumps({"sweep": request.sweep.name, "experiment": request.base.name, "trials": trials}, indent=1))
        return 0
    lines = [["row", "seed", "state", "seconds", ""]]
    for trial in trials:
        seconds = "" if trial["seconds"] is None else f"{trial['seconds']:.0f}"
        lines.append([trial["row"], str(trial["seed"]), trial["state"], seconds, trial["error"] or ""])
    print(columns(lines))
    return 0


def report(request: Request) -> int:
    """Build the HTML report again and print its path."""
    from reports.build import build_report

    request.folder.definition()
    path = build_report(request.folder.output, request.folder.path)
    print(json.dumps({"report": str(path)}) if request.options.json else path)
    return 0


def verify(request: Request) -> int:
    """Check every result's files; exit code 1 when some are damaged."""
    request.folder.definition()
    stages = request.folder.stages()
    problems = damaged(request.cache, stages)
    there = sum(request.cache.path(*stage).exists() for stage in stages)
    if request.options.json:
        print(json.dumps({"checked": there, "damaged": problems}, indent=1))
    else:
        print("".join(f"{name}: {problem}\n" for name, problem in problems.items()), end="")
        print(f"{there} results checked, {len(problems)} damaged")
    if problems:
        _say("run the sweep again: it moves damaged results aside and makes them anew")
    return 1 if problems else 0


def clean(request: Request) -> int:
    """List the sweep's folder, report and the results that only it uses; with --force delete them."""
    folder, force = request.folder, request.options.force
    folder.definition()
    with folder.locked():
        stages = [stage for stage in folder.own_stages() if request.cache.path(*stage).exists()]
        paths = [request.cache.path(*stage) for stage in stages] + [
            p for p in (folder.path, folder.report) if p.exists()
        ]
        size = sum(f.stat().st_size for path in paths for f in [path, *path.rglob("*")] if f.is_file())
        for stage in folder.own_stages() if force else []:
            request.cache.remove(*stage)
        if force:
            folder.report.unlink(missing_ok=True)
            shutil.rmtree(folder.path)
    if request.options.json:
        print(json.dumps({"deleted": force, "paths": [str(path) for path in paths], "bytes": size}, indent=1))
    else:
        print("".join(f"{'deleted' if force else 'would delete'} {path}\n" for path in paths), end="")
        _say(f"{size / 1e6:.1f} MB" + ("; runs in MLflow are kept" if force else "; add --force to delete"))
    return 0


# ---------------------------------------------------------------- text


def plan_text(request: Request, plan: dict[str, Any]) -> str:
    """The plan in words and a table."""
    trials = [*plan["trials"], *plan["controls"]]
    seeds = sorted({trial["seed"] for trial in trials})
    rows = [t for t in plan["trials"] if t["seed"] == seeds[0]]
    titles = [column.title for column in request.sweep.columns]
    lines = [["row", "", *titles, "done"]]
    for trial in (t for t in trials if t["seed"] == seeds[0]):
        done = [t["done"] for t in trials if t["row"] == trial["row"]]
        shown = [str(trial["settings"][column.key]) for column in request.sweep.columns]
        lines.append([trial["row"], trial["label"] or "", *shown, f"{sum(done)}/{len(done)}"])
    n_done = sum(trial["done"] for trial in trials)
    stages = ", ".join(f"{name} {count}" for name, count in plan["stages"].items())
    return (
        f"{request.sweep.title}\n"
        f"experiment {request.base.name}: {len(rows)} rows x {len(seeds)} seed{'s' if len(seeds) > 1 else ''} and"
        f" {len(plan['controls'])} control trials; {n_done} of {len(trials)} trials are done\n"
        f"distinct stages: {stages}\n"
        f"expected: {plan['expected_minutes']:g} minutes with {request.concurrency()} trials at once\n\n"
        f"{columns(lines)}"
    )


def result_text(request: Request, table: pd.DataFrame) -> str:
    """The result table: scores with 95 % intervals, differences from the reference row, the paper's figures."""
    settings = request.sweep.columns
    head = [table.attrs.get("metric", "score") + " % [95 %]", f"vs row {request.sweep.reference} [95 %]", "paper %", ""]
    lines = [["row", "", *(column.title for column in settings), *head]]
    for _, line in table.iterrows():
        shown = [str(line[column.key]) for column in settings]
        score = _interval(line["score"], line["low"], line["high"])
        difference = _interval(line["difference"], line["difference_low"], line["difference_high"], "+")
        paper = "" if line["paper"] != line["paper"] else f"{line['paper']:g}"
        lines.append([str(line["row"]), line["label"], *shown, score, difference, paper, line["state"]])
    return columns(lines)


def _interval(value: float, low: float, high: float, sign: str = "") -> str:
    return "" if value != value else f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def columns(lines: list[list[str]]) -> str:
    """Lines of cells as text in columns."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None, pipeline: str = "cnd.pipeline") -> int:
    """The command; returns its exit code.

    Args:
        pipeline: module with ``stages``, ``prepare`` and ``run``.
    """
    commands = {"run": run, "plan": plan, "status": status, "report": report, "verify": verify, "clean": clean}
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
    try:
        options = parse(argv)
        return commands[options.command](Request(options, pipeline))
    except UserError as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here")
        return 130


if __name__ == "__main__":
    sys.exit(main())
