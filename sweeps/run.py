#!/usr/bin/env python3
"""Run a sweep, or go on with it: ``python sweeps/run.py ablation_table1``. ``--help`` lists the rest.

Data goes to stdout, progress to stderr. Exit code 0: complete; 1: some trials failed; 2: wrong settings or usage, told
in one line; 130: interrupted; 143, 129: ended by SIGTERM or SIGHUP. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shlex
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # Python put sweeps/ first, where our file names could hide libraries
    _here = Path(__file__).resolve().parent
    sys.path[:] = [str(_here.parent), *(p for p in sys.path if Path(p or ".").resolve() not in (_here, _here.parent))]

from cnd.errors import UserError, printable, told_by_the_system
from cnd.experiment import today
from cnd.paper import published
from cnd.store.convergence import verdict
from cnd.store.folder import SweepFolder, damaged
from cnd.store.states import of_sweep
from cnd.terminal import any_encoding, width
from cnd.workflow.cache import StageCache
from sweeps import forecast, signals, start
from sweeps.compare import compare
from sweeps.options import parse
from sweeps.request import Request, warnings_for
from sweeps.space import is_search
from sweeps.spec import Line, Sweep
from sweeps.text import plan_text, result_text, say
from sweeps.trials import Trial, in_table_order, seconds_to_report, work
from sweeps.watch import show

if TYPE_CHECKING:
    from sweeps.session import Scribe

# ---------------------------------------------------------------- commands


def run(request: Request) -> int:
    """Run what is missing, then table, report and MLflow."""
    from reports.metrics import check as check_metrics
    from sweeps.executor import Resources
    from sweeps.headline import tell_table
    from sweeps.live import Board
    from sweeps.proposers import Table
    from sweeps.ray_folder import remove_left
    from sweeps.session import Session, adopt

    options, folder = request.options, request.folder
    folder.exists()  # a folder of another version is refused before anything runs
    trials, at_once = request.chosen(), request.concurrency()
    check_metrics(request.options.metrics or (), measured(trials))
    if lacking := request.missing(trials):
        more = f" ({len(lacking) - 1} more missing, see: plan)" if len(lacking) > 1 else ""
        raise UserError(lacking[0].splitlines()[0] + more)
    limit = options.max_concurrent if options.ray_address else at_once  # a cluster knows its own size
    resources = Resources(limit, options.gpus_per_trial, options.ray_address)
    content, began = request.plan(trials), time.monotonic()
    planned = plan_text(request.sweep, content, at_once, width(sys.stderr))
    say("\n".join([planned, *request.notes]).rstrip("\n") + "\n")
    if not all(map(request.done, trials)):
        check(request, trials)
    with folder.locked():
        remove_left(folder.path)
        scribe, status, failed = scribe_of(request), "KILLED", False
        try:
            for trials in request.rounds():
                define(request, trials)
                unmade = adopt(folder, request.cache, trials, scribe)
                missing = [trial for trial in unmade if not request.stays_failed(trial)]
                if left := len(unmade) - len(missing):
                    say(f"{left} failed before and would fail again; --retry-failed runs them all the same")
                names = [trial.name for trial in missing]
                board = Board(request.sweep.title, names, at_once, request.expected_seconds())
                board.expect({trial.name: work(trial) for trial in missing}, seconds_to_report(len(trials)))
                session = Session(folder, request.cache, Table(missing), board, scribe, keep_going=options.keep_going)
                if missing:
                    session.run(resources, request.pipeline, options.fuse)
                failed = failed or bool(session.failed_trials) or left > 0
                if error := session.gave_up:
                    say(f"stopped: the first trials all failed with {error}; --keep-going runs the others too")
                    break
            status = "FAILED" if failed else "FINISHED"
        finally:
            scribe.close(status)
    if _show_result(request, trials, scribe.uri):
        tell_table(scribe, status)
    if content["expected_minutes"] and not request.auto:
        say(forecast.told((time.monotonic() - began) / 60, content["expected_minutes"]))
    return 1 if failed or scribe.error is not None else 0


def check(request: Request, trials: list[Trial]) -> None:
    """Look at the files of every part that some trial uses, each once.

    Raises:
        UserError: one is missing or malformed.
    """
    look, seen = importlib.import_module(request.pipeline).check, set()
    for experiment in (trial.experiment for trial in trials):
        parts = (experiment.data, experiment.generator, experiment.decoder, experiment.evaluation)
        if parts not in seen:
            seen.add(parts)
            look(experiment)


def define(request: Request, chosen: list[Trial]) -> None:
    """Write the sweep's definition: the chosen trials, and those of earlier commands that are still what they were."""
    from reports.metrics import measured as is_measured

    before = request.folder.definition() if request.folder.exists() else request.folder.seen()
    names = {trial.name for trial in chosen}
    kept = [
        trial for trial in request.everything_with(before) if trial.name in names or request.folder.is_complete(trial)
    ]
    columns = request.options.metrics
    if columns is None:  # as before, as far as there are such scores now
        columns = [name for name in before.get("metrics", []) if is_measured(name, measured(kept))]
    asked = request.options.margin
    choices = {"margin": before.get("margin") if asked is None else asked, "metrics": columns}
    if looked := max(request.seeds if request.auto else 0, before.get("max_seeds", 0)):
        choices["max_seeds"] = looked  # once verdicts were looked at on the way, the correction for it stays
    request.folder.define(definition(request, kept) | choices, in_table_order(request.sweep, kept))


def measured(trials: list[Trial]) -> list[str]:
    """Names of the metrics that some of the trials measure."""
    return list(dict.fromkeys(m.name for trial in trials for m in trial.experiment.evaluation.all_metrics()))


def definition(request: Request, trials: list[Trial]) -> dict[str, Any]:
    """What the folder keeps of the sweep, as JSON values."""
    sweep = request.sweep
    first = {trial.row: trial for trial in reversed(in_table_order(sweep, trials))}
    subjects = list(dict.fromkeys(trial.subject for trial in trials if trial.subject is not None))
    content = sweep.model_dump(mode="json", include={"name", "title", "description", "reference"})
    return content | {
        "paper_metric": sweep.paper_metric and sweep.paper_metric.describe(),
        "experiment": request.base.name,
        "words": request.words(),
        "set": {key: request.edits[key] for key in sorted(request.edits)},
        "columns": [{"key": c.key, "title": c.title, "setting": today(c.setting)} for c in sweep.columns],
        "rows": [
            {
                "id": line.id,
                "label": line.label,
                "settings": first[line.id].settings,
                "set": {today(key): value for key, value in line.set.items()},
                "paper": _paper(sweep, line, subjects),
                "published": published(getattr(line, "published", None) or ""),
                "control": first[line.id].control,
                "role": first[line.id].role,
            }
            for line in sweep.lines
            if line.id in first
        ],
        "subjects": subjects,
        "seeds": sorted({trial.seed for trial in trials}),
        "factors": [factor.model_dump(mode="json") for factor in sweep.factors],
    }


def _paper(sweep: Sweep, line: Line, subjects: list[str]) -> float | None:
    """The paper's figure of a row; else the mean of what was published of its decoder on these subjects."""
    if (stated := getattr(line, "paper", None)) is not None or sweep.paper_metric is None:
        return stated
    scores = published(getattr(line, "published", None) or "").get(str(sweep.paper_metric.describe()["name"]), {})
    known = [scores[subject] for subject in subjects if subject in scores]
    return round(sum(known) / len(known), 2) if known and len(known) == len(subjects) else None


def scribe_of(request: Request) -> Scribe:
    """Who writes the table's runs to MLflow: of a trial what differs from the base experiment."""
    from sweeps.session import Scribe, flat

    columns = {today(column.setting) for column in request.sweep.columns}
    return Scribe(request.folder, request.options.tracking_uri, None, flat(request.base), columns | {"seed"})


def _show_result(request: Request, trials: list[Trial], uri: str) -> Path | None:
    """Print the table; returns the report, if there is anything to report on."""
    from reports import noops
    from reports.build import build_report, result_table
    from reports.collect import read_sweep
    from reports.looks import saved
    from reports.results import results

    folder = request.folder
    known = [{"name": trial.name} | folder.read(trial.name) for trial in trials]
    complete = any(trial["state"] == "complete" for trial in known)
    records = read_sweep(folder.output, folder.path) if complete or request.auto else None
    path = build_report(folder.output, folder.path, True, records) if complete else None
    if request.auto and records:
        say(str(saved(records)))
    told = [*warnings_for(trials), *request.examined(trials)]
    if request.options.json:
        content = {"sweep": request.sweep.name, "experiment": request.base.name, "trials": known, "warnings": told}
        scored = results(folder.output, folder.path, records) if path else {}
        print(json.dumps(content | scored | {"report": str(path) if path else None, "mlflow": uri}, indent=1))
    elif path:
        print(result_text(request.sweep, result_table(folder.output, folder.path, records), told))
    for failure, names in failures(known).items():
        others = f" and {len(names) - 1} more in the same way" if len(names) > 1 else ""
        say(f"failed: {names[0]}{others}: {failure} ({folder.traceback_file(names[0])})")
    for warning in noops.of(records) if complete and records else []:
        say(f"warning: {warning}")
    if path:
        say(f"report: {path}")
    where = f"mlflow ui --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1" if "sqlite" in uri else uri
    say(f"MLflow: {where}")
    return path


def failures(known: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Names of the failed trials by their error, as the first of them has it."""
    found: dict[str, list[str]] = {}
    for trial in known:
        if trial["state"] == "failed":
            same = (e for e, names in found.items() if e.replace(names[0], trial["name"]) == trial["error"])
            found.setdefault(next(same, trial["error"]), []).append(trial["name"])
    return found


def plan(request: Request) -> int:
    """Print what a run would do, and which files it lacks."""
    trials = request.chosen()
    missing, content = request.missing(trials), request.plan(trials)
    if request.options.json:
        print(json.dumps(content | {"missing": missing}, indent=1))
    else:
        print(plan_text(request.sweep, content, request.concurrency(), width(sys.stdout)), end="")
    for note in request.notes:
        say(note)
    for what in missing:
        say(f"missing: {what}")
    return 2 if missing else 0


def status(request: Request) -> int:
    """Print the state of every trial of the last run."""

    def look() -> dict[str, Any]:
        return {"sweep": request.sweep.name, "experiment": request.base.name, "trials": request.folder.trials()}

    options = request.options
    return show(request.folder, look, lambda told: _states(request, told["trials"]), options.watch, options.json)


def _states(request: Request, trials: list[dict[str, Any]]) -> list[list[str]]:
    """Trials as lines of a table."""
    several = any(trial["subject"] is not None for trial in trials)
    lines = [["row", *(["subject"] if several else []), "seed", "state", "seconds", "converged", ""]]
    for trial in trials:
        seconds = "" if trial["seconds"] is None else f"{trial['seconds']:.0f}"
        subject = [trial["subject"] or ""] if several else []
        record = request.folder.output / trial["record"] if trial["state"] == "complete" else None
        converged = verdict([record]).state if record else ""
        own = [str(trial["seed"]), trial["state"], seconds, converged, trial["error"] or ""]
        lines.append([trial["row"], *subject, *own])
    return lines


def report(request: Request) -> int:
    """Build the HTML report again, with other columns if some are chosen, write it to MLflow, and print its path."""
    from reports.build import build_report
    from reports.collect import read_sweep
    from reports.metrics import check as check_metrics
    from reports.results import results
    from sweeps.headline import tell_table

    folder, columns = request.folder, request.options.metrics
    folder.definition()
    if request.options.margin is not None:
        folder.amend(margin=request.options.margin)
    if columns is not None:
        check_metrics(columns, [metric.name for metric in read_sweep(folder.output, folder.path).metrics])
        folder.amend(metrics=columns)
    records = read_sweep(folder.output, folder.path)
    path = build_report(folder.output, folder.path, records=records)
    tell_table(scribe_of(request), ended(folder))
    scored = results(folder.output, folder.path, records) if request.options.json else {}
    print(json.dumps(scored | {"report": str(path)}, indent=1) if request.options.json else path)
    return 0


def verify(request: Request) -> int:
    """Check every result's files, and every number of the report; exit code 1 when some are wrong."""
    from reports.verify import verify_report

    folder = request.folder
    folder.definition()
    stages = folder.stages()
    problems = damaged(request.cache, stages)
    there = sum(request.cache.path(*stage).exists() for stage in stages)
    report = verify_report(folder.output, folder.path)
    if request.options.json:
        told = {"numbers": report.numbers, "problems": report.problems}
        print(json.dumps({"checked": there, "damaged": problems, "report": told}, indent=1))
    else:
        print("".join(f"{name}: {problem}\n" for name, problem in problems.items()), end="")
        print("".join(f"{problem}\n" for problem in report.problems), end="")
        print(f"{there} results checked, {len(problems)} damaged")
        print(f"{report.numbers:,} numbers of the report recomputed, {len(report.problems)} problems")
    if problems and request.options.repair:
        with folder.locked():
            for stage in stages:
                request.cache.find(*stage)  # moves what is damaged aside
        say("run the sweep again: it makes anew what was moved aside")
    elif problems:
        say("verify --repair moves damaged results aside; the sweep, run again, then makes them anew")
    return 1 if problems or report.problems else 0


def sync(request: Request) -> int:
    """Write to MLflow what it lacks of trials and report; exit code 1 where it could not be written."""
    from reports.build import build_report
    from sweeps.headline import tell_table

    trials = [trial for trial in request.defined() if request.folder.is_complete(trial)]
    scribe = scribe_of(request)
    code = write_to_mlflow(scribe, request.cache, request.options, trials)
    if trials:
        build_report(request.folder.output, request.folder.path, unless_current=True)
        tell_table(scribe, ended(request.folder))
    return code if scribe.error is None else 1


def ended(folder: SweepFolder) -> str:
    """How MLflow has the whole of a sweep that no process runs."""
    return of_sweep({trial["state"] for trial in folder.trials()})


def doctor(request: Request) -> int:
    """Compare trial files, cache and MLflow (:func:`sweeps.doctor.doctor`)."""
    from sweeps.doctor import doctor

    return doctor(request, request.defined(), sync)


def write_to_mlflow(scribe: Scribe, cache: StageCache, options: argparse.Namespace, trials: list[Trial]) -> int:
    """The same for some finished trials."""
    from sweeps.session import adopt

    with scribe.folder.locked():
        lacking = [trial for trial in trials if scribe.wants(trial)]
        adopt(scribe.folder, cache, lacking, scribe)
        scribe.close("FINISHED")
    uri = scribe.uri
    if options.json:
        told = {"finished": len(trials), "lacking": len(lacking), "error": scribe.error, "mlflow": uri}
        print(json.dumps(told, indent=1))
    else:
        print(f"MLflow lacked {len(lacking)} of {len(trials)} finished trials")
    return 1 if scribe.error is not None else 0


def clean(request: Request) -> int:
    """List the sweep's folder, report and the results that only it uses; with --force delete them."""
    folder, force = request.folder, request.options.force
    folder.definition()
    with folder.locked():
        stages = [stage for stage in folder.own_stages() if request.cache.path(*stage).exists()]
        paths = [request.cache.path(*stage) for stage in stages]
        paths += [path for path in (folder.path, *folder.reports, folder.tables) if path.exists()]
        size = sum(f.stat().st_size for path in paths for f in [path, *path.rglob("*")] if f.is_file())
        for stage in folder.own_stages() if force else []:
            request.cache.remove(*stage)
        if force:
            for page in folder.reports:
                page.unlink(missing_ok=True)
            shutil.rmtree(folder.tables, ignore_errors=True)
            shutil.rmtree(folder.path)
    if request.options.json:
        print(json.dumps({"deleted": force, "paths": [str(path) for path in paths], "bytes": size}, indent=1))
    else:
        print("".join(f"{'deleted' if force else 'would delete'} {path}\n" for path in paths), end="")
        say(f"{size / 1e6:.1f} MB" + ("; runs in MLflow are kept" if force else "; add --force to delete"))
    return 0


def no_search(request: Request) -> int:
    """Raises:
    UserError: a table has no best trial to be exported.
    """
    raise UserError(f"{request.options.command}: '{request.sweep.name}' is a table; name a search")


def main(argv: list[str] | None = None, pipeline: str = "cnd.workflow.run") -> int:
    """The command; returns its exit code.

    Args:
        pipeline: module with ``missing``, ``steps``, ``examine``, ``check``, ``prepare``, ``run``,
            ``intervene`` and ``analyse``.
    """
    any_encoding()
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
    with signals.as_interrupts():
        return _main(argv, pipeline)


def _main(argv: list[str] | None, pipeline: str) -> int:
    commands = {"run": run, "plan": plan, "status": status, "report": report, "verify": verify, "clean": clean}
    commands |= {"sync": sync, "doctor": doctor, "export-best": no_search}
    try:
        options = parse(argv)
        if options.command == "compare":
            return compare(options)
        if options.command in ("new", "schema"):
            return getattr(start, options.command)(options)
        if is_search(options.sweep):
            from sweeps.search_command import search

            return search(options, pipeline)
        return commands[options.command](Request(options, pipeline))
    except UserError as error:
        say(f"error: {printable(' '.join(str(error).splitlines()))}")
        return 2
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        say(f"error: not enough memory: {printable(' '.join(str(error).split()) or 'none is left')}")
        return 2
    except OSError as error:  # a full disk, a folder that cannot be written, a name that is too long
        say(f"error: {printable(told_by_the_system(error))}")
        return 2
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            say(f"{signals.name()}; the same command goes on from here")
        return signals.exit_code()


if __name__ == "__main__":
    sys.exit(main())
