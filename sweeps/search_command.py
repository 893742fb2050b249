"""``sweeps/run.py`` for a search: propose, run on validation data, and score the best few on test at the end."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cnd.errors import UserError
from cnd.experiment import Experiment, override, parse_assignments, today
from cnd.json_files import read_json, write_json
from cnd.store.folder import SweepFolder, damaged
from cnd.workflow.cache import StageCache
from sweeps import run as table
from sweeps.confounds import differing
from sweeps.options import AUTO
from sweeps.search import (
    REFERENCE,
    OptunaSearch,
    Outcome,
    Start,
    best,
    higher_is_better,
    journal,
    objective_names,
    start_of,
    trial_of,
    validation_scores,
)
from sweeps.space import Search, load_search, validation
from sweeps.spec import Column, Row, Sweep, load_base, load_sweep
from sweeps.text import columns
from sweeps.trials import Trial

STUDY_FILE, SEARCH_FILE, TRIALS_FILE, FINAL_FILE = "study.jsonl", "search.json", "trials.json", "final.json"
FOREIGN = ("rows", "subjects", "stimuli", "reconstructions", "judge")
SHOWN = 10  # of the best trials, on the terminal


class SearchRequest:
    """A command's search and base experiment; and the places where their results lie.

    Attributes:
        base: of the reference; the trials are the same on validation data (``blind``).
    """

    def __init__(self, options: argparse.Namespace, pipeline: str) -> None:
        self.options, self.pipeline = options, pipeline
        for name in FOREIGN:
            if getattr(options, name):
                raise UserError(f"--{name}: belongs to tables, and '{options.sweep}' is a search; leave it out")
        if options.fuse > 1 or options.until_converged:
            name = "fuse" if options.fuse > 1 else "until-converged"
            raise UserError(f"--{name}: trials of a search run each by itself, as long as its file says; leave it out")
        if options.seeds == AUTO:
            raise UserError(f"--seeds {AUTO}: belongs to tables; a search takes a number of training seeds a trial")
        self.search = self._asked_for()
        self.edits = parse_assignments(options.set)
        for key in self.edits:
            if today(key) in self.search.space:
                raise UserError(f"--set {key}: has no effect, because {self.search.name} varies it")
        bare = load_base(options.experiment, self.edits)
        self.base = override(bare, self.search.set, self.search.where()) if self.search.set else bare
        self.search = self.search.of(self.base)
        self.blind = validation(self.base, self.search.where())
        self.search.tried(self.blind)
        self.names = objective_names(self.search, self.blind)
        self.up = higher_is_better(self.search, self.blind)
        self.folder = SweepFolder(options.output, f"{self.search.name}-{self.base.name}")
        self.cache = StageCache(options.cache)

    def _asked_for(self) -> Search:
        search, options = load_search(self.options.sweep), self.options
        changes = {name: getattr(options, name) for name in ("trials", "hours") if getattr(options, name) is not None}
        if options.seeds is not None:
            changes["seeds"] = options.seeds
        return search.model_copy(update=changes)  # the options were checked already

    def starts(self) -> tuple[list[Start], list[str]]:
        """The points to begin with: the reference, where the space has it, then those enqueued; and what to say.

        Raises:
            UserError: a row is not in the space.
        """
        starts, notes = [], []
        try:
            starts.append(start_of(self.search, self.base, self.base, REFERENCE))
        except UserError as error:
            notes.append(f"the reference is no trial of the search, because it lies outside of its space: {error}")
        if (wanted := self.search.enqueue) is not None:
            listed = load_sweep(wanted.sweep)
            known = {row.id: row for row in listed.rows}
            for row in wanted.rows or known:
                if row not in known:
                    raise UserError(f"{self.search.where()}: enqueue: there is no row '{row}' in {listed.name}")
                edited = override(self.base, known[row].set, listed.where(row))
                starts.append(start_of(self.search, self.base, edited, f"row {row} of {listed.name}"))
        return starts, notes

    def steps(self) -> Callable[..., Any]:
        found: Callable[..., Any] = importlib.import_module(self.pipeline).steps
        return found

    def proposer(self, mend: bool = False) -> OptunaSearch:
        """Args:
        mend: this process holds the folder, and goes on with the search.
        """
        self.folder.path.mkdir(parents=True, exist_ok=True)
        storage = journal(self.folder.path / STUDY_FILE, mend)
        return OptunaSearch(self.search, self.blind, self.steps(), storage, self.starts()[0] if mend else ())

    def known(self) -> list[Outcome]:
        """Of every proposal so far.

        Raises:
            UserError: the search was never run here.
        """
        self.folder.definition()
        return self.proposer().outcomes()

    def concurrency(self) -> int:
        """Trials at once (:meth:`sweeps.run.Request.concurrency`)."""
        return table.Request.concurrency(self)  # type: ignore[arg-type]

    def missing(self) -> list[str]:
        """Files that are not there."""
        found: list[str] = importlib.import_module(self.pipeline).missing(self.base)
        return found

    def examined(self) -> list[str]:
        """What must be known of the data.

        Raises:
            UserError: data, generator and judges do not go together, or a data file is malformed.
        """
        found: list[str] = importlib.import_module(self.pipeline).examine(self.base, self.cache)
        return found

    # ---- what a search is, for going on with it

    def identity(self) -> dict[str, Any]:
        """What must stay the same, as JSON values."""
        space = self.search.model_dump(mode="json")["space"]
        bounds = {"low", "high", "step"}  # these may change
        skipped = {"name", "description", "rivals", "minutes_per_trial"}
        return {
            "space": {key: {k: v for k, v in part.items() if k not in bounds} for key, part in space.items()},
            "objectives": self.names,
            "seeds": self.search.seeds,
            "experiment": self.blind.model_dump(mode="json", exclude=skipped),
        }

    def check_same(self) -> None:
        """Raises:
        UserError: what lies in the folder is another search.
        """
        path = self.folder.path / SEARCH_FILE
        if not path.is_file():
            return
        before, now = read_json(path)["identity"], json.loads(json.dumps(self.identity()))
        if changed := _first_difference(before, now):
            raise UserError(
                f"{self.folder.path}: holds a search with another {changed}, whose trials do not compare; change it "
                "back, give this search another name, or choose another --output"
            )


def _first_difference(before: Any, now: Any, at: str = "") -> str:
    """Dotted key of the first difference of JSON values; "" where there is none."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        found = (_first_difference(before.get(k), now.get(k), f"{at}.{k}" if at else k) for k in keys)
        return next((difference for difference in found if difference), "")
    return "" if before == now else at


def search(options: argparse.Namespace, pipeline: str) -> int:
    """A command on a search; returns its exit code."""
    commands = {"run": run, "plan": plan, "status": status, "report": report, "verify": verify}
    request = SearchRequest(options, pipeline)
    if options.command == "clean":
        return table.clean(request)  # type: ignore[arg-type]  # it asks for folder, cache and options only
    commands["export-best"] = export_best
    return commands[options.command](request)


# ---------------------------------------------------------------- commands


def run(request: SearchRequest) -> int:
    """Run what the budget leaves, then the final comparison, and report."""
    request.folder.exists()  # a folder of another version is refused before anything runs
    if lacking := request.missing():
        raise UserError(lacking[0].splitlines()[0])
    request.check_same()
    importlib.import_module(request.pipeline).check(request.blind)
    _say("\n".join([_plan_text(request), *request.examined()]))
    began = time.monotonic()
    failed = _search(request)
    found = request.known()
    took, expected = (time.monotonic() - began) / 60, _expected_minutes(request, 0)
    _say(f"search: {len(found)} of {request.search.trials} trials in {took:.1f} minutes (forecast: {expected:.1f})")
    if not any(outcome.state == "complete" for outcome in found):
        _say("no trial is complete; the same command goes on from here")
        return 1
    with contextlib.redirect_stdout(sys.stderr if request.options.json else sys.stdout):  # one JSON text
        code = run_final(request, found)
    path = write_report(request)
    if request.options.json:
        print(json.dumps({"search": request.search.name, "trials": _listed(found), "report": str(path)}, indent=1))
    else:
        print(_best_text(request, found))
    for number, label in sorted(failed.items()):
        _say(f"failed: trial {number:04d} {label}: the same command tries it again".replace("  ", " "))
    _say(f"report: {path}")
    return 1 if failed else code


def _search(request: SearchRequest) -> dict[int, str]:
    """Propose and run until the budget is used; returns the trials that failed."""
    from cnd.store.tracking import sqlite_uri
    from sweeps.executor import Resources
    from sweeps.live import Board
    from sweeps.session import Scribe, Session

    options, folder = request.options, request.folder
    at_once = request.concurrency()
    limit = options.max_concurrent if options.ray_address else at_once
    uri = options.tracking_uri or sqlite_uri(options.output)
    with folder.locked():
        proposer = request.proposer(mend=True)
        write_json(folder.path / SEARCH_FILE, _described(request))
        define(request, proposer.trials())
        scribe, status = Scribe(folder, uri, local=not options.tracking_uri), "KILLED"
        seeds = request.search.seeds
        more = seeds * max(0, request.search.trials - sum(o.state != "open" for o in proposer.outcomes()))
        board = Board(request.search.title, [], at_once, _expected_seconds(request), more=more)
        session = Session(folder, request.cache, proposer, board, scribe, validation_scores(request.names))
        try:
            if more:
                session.run(Resources(limit, options.gpus_per_trial, options.ray_address), request.pipeline)
            status = "FAILED" if proposer.failed else "FINISHED"
        finally:
            define(request, proposer.trials())
            write_json(folder.path / TRIALS_FILE, _listed(proposer.outcomes()))
            scribe.close(status)
            if status == "KILLED":  # Ctrl-C: what is known is reported all the same
                _say(f"report: {write_report(request)}")
    if scribe.error is not None:
        _say(f"MLflow could not be written, run the command again: {scribe.error}")
    return proposer.failed


def define(request: SearchRequest, trials: list[Trial]) -> None:
    """Write what the folder holds, as tables do."""
    search = request.search
    content = search.model_dump(mode="json", include={"name", "title", "description"})
    nothing: list[Any] = []
    content |= {"reference": "", "experiment": request.base.name, "words": [search.name]}
    content |= {"columns": nothing, "rows": nothing}
    request.folder.define(content | {"kind": "search"}, trials)


def _described(request: SearchRequest) -> dict[str, Any]:
    """What the report is told of the search."""
    search = request.search
    point = request.starts()[0]
    return {
        "search": search.model_dump(mode="json"),
        "experiment": request.base.name,
        "identity": request.identity(),
        "objectives": [{"name": n, "higher_is_better": up} for n, up in zip(request.names, request.up, strict=True)],
        "metrics": [metric.describe() for metric in request.blind.evaluation.all_metrics()],
        "reference": search.settings(point[0].point) if point and point[0].label == REFERENCE else None,
        "data": request.blind.data.kind,
        "simulated": request.blind.data.simulated,
        "final": f"{search.name}_final-{request.base.name}",
        "set": {key: request.edits[key] for key in sorted(request.edits)},
    }


def _listed(found: list[Outcome]) -> list[dict[str, Any]]:
    """Outcomes as JSON values."""
    return [
        {
            "number": o.number, "state": o.state, "label": o.label, "values": list(o.values),
            "by_seed": [list(values) for values in o.by_seed], "settings": o.settings,
            "curve": {str(percent): score for percent, score in o.curve.items()},
        }
        for o in found
    ]  # fmt: skip


def plan(request: SearchRequest) -> int:
    """Print what a run would do, and which files it lacks."""
    missing, told = request.missing(), request.examined()
    if request.options.json:
        search = request.search
        minutes = round(_expected_minutes(request, _done(request)), 1)
        content: dict[str, Any] = {"search": search.name, "experiment": request.base.name}
        content |= {"objectives": request.names, "space": search.model_dump(mode="json")["space"]}
        content |= {"trials": search.trials, "missing": missing, "expected_minutes": minutes, "warnings": told}
        print(json.dumps(content, indent=1))
    else:
        print("\n".join([_plan_text(request), *told]))
    for what in missing:
        _say(f"missing: {what}")
    return 2 if missing else 0


def _done(request: SearchRequest) -> int:
    """Trials that have ended, without loading Optuna where there is nothing to read."""
    if not (request.folder.path / STUDY_FILE).is_file():
        return 0
    return sum(outcome.state != "open" for outcome in request.known())


def _expected_seconds(request: SearchRequest) -> float:
    return request.folder.typical_seconds() or 60 * request.base.minutes_per_trial


def _expected_minutes(request: SearchRequest, done: int) -> float:
    search = request.search
    trials = max(0, search.trials - done) * search.seeds
    final = (search.final.best + 1) * search.final.seeds
    return (trials + final) * _expected_seconds(request) / 60 / request.concurrency()


def _plan_text(request: SearchRequest) -> str:
    search, done = request.search, _done(request)
    lines = [["setting", "", "when"]]
    for key, part in search.space.items():
        shown = part.model_dump(mode="json", exclude={"when", "kind"}, exclude_defaults=True)
        lines.append(
            [key, " ".join(f"{k} {v}" for k, v in shown.items()), " ".join(f"{k} = {v}" for k, v in part.when.items())]
        )
    starts, notes = request.starts()
    seeds = f" x {search.seeds} seeds" if search.seeds > 1 else ""
    return "\n".join(
        [
            search.title,
            f"experiment {request.base.name}, validation data: {search.trials} trials{seeds}; {done} are done",
            f"objectives: {', '.join(request.names)}; sampler {search.sampler.kind}, pruner {search.pruner.kind}",
            f"to begin with: {', '.join(start.label for start in starts) or 'nothing'}",
            f"then on test data, once: reference and the best {search.final.best} x {search.final.seeds} fresh seeds",
            f"expected: {_expected_minutes(request, done):.1f} minutes, {request.concurrency()} at once",
            *notes,
            "",
            columns(lines),
            "",
        ]
    )


def status(request: SearchRequest) -> int:
    """Print the state of every trial so far."""
    found = request.known()
    busy = request.folder.in_use()
    states = {o.number: _state(request, o, busy) for o in found}
    if request.options.json:
        listed = [line | {"state": states[line["number"]]} for line in _listed(found)]
        print(json.dumps({"search": request.search.name, "trials": listed}, indent=1))
        return 0
    lines = [["trial", "state", *request.names, *map(_short, request.search.space), ""]]
    for o in found:
        values = [f"{v:.4g}" for v in o.values] or ["" for _ in request.names]
        settings = [_word(o.settings.get(key, "-")) for key in request.search.space]
        lines.append([f"{o.number:04d}", states[o.number], *values, *settings, o.label])
    print(columns(lines))
    return 0


def _state(request: SearchRequest, outcome: Outcome, busy: bool) -> str:
    """As the trial's files have it, where it is still open."""
    if outcome.state != "open":
        return outcome.state
    seeds = range(request.base.seed, request.base.seed + request.search.seeds)
    states = [request.folder.read(f"{outcome.number:04d}-seed{seed}").get("state") for seed in seeds]
    if "failed" in states:
        return "failed"
    return "running" if busy else "interrupted"


def _best_text(request: SearchRequest, found: list[Outcome]) -> str:
    """The best trials, on validation data."""
    lines = [["trial", *(f"validation {name}" for name in request.names), *map(_short, request.search.space), ""]]
    for o in best(found, request.up, SHOWN):
        settings = [_word(o.settings.get(key, "-")) for key in request.search.space]
        lines.append([f"{o.number:04d}", *(f"{v:.4g}" for v in o.values), *settings, o.label])
    return columns(lines)


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def report(request: SearchRequest) -> int:
    """Build the HTML report again and print its path."""
    write_json(request.folder.path / TRIALS_FILE, _listed(request.known()))
    path = write_report(request)
    print(json.dumps({"report": str(path)}) if request.options.json else path)
    return 0


def verify(request: SearchRequest) -> int:
    """Check every result's files; exit code 1 when some are damaged. The final table has a verify of its own."""
    request.folder.definition()
    stages = request.folder.stages()
    problems = damaged(request.cache, stages)
    there = sum(request.cache.path(*stage).exists() for stage in stages)
    if request.options.json:
        print(json.dumps({"checked": there, "damaged": problems}, indent=1))
    else:
        print("".join(f"{name}: {problem}\n" for name, problem in problems.items()), end="")
        print(f"{there} results checked, {len(problems)} damaged")
    return 1 if problems else 0


def write_report(request: SearchRequest) -> Path:
    """The search's page."""
    from reports.search import build_search_report

    return build_search_report(request.options.output, request.folder.path)


# ---------------------------------------------------------------- the final comparison


class FinalRequest(table.Request):
    """The table of reference and best trials: on train and validation data, with fresh seeds, scored on test."""

    def __init__(self, request: SearchRequest, chosen: list[Outcome]) -> None:
        self.of, self.winners = request, chosen
        options = argparse.Namespace(**vars(request.options))
        options.seeds, options.analysis, options.interventions = request.search.final.seeds, "none", "none"
        options.trials = options.hours = options.max_seeds = None
        super().__init__(options, request.pipeline)

    def _asked_for(self) -> tuple[Sweep, Experiment, list[str]]:
        fresh = {"seed": self.of.base.seed + self.of.search.seeds}
        return final_sweep(self.of, self.winners), override(self.of.base, fresh, "--seeds"), []

    def words(self) -> list[str]:
        return [self.of.search.name, "--experiment", self.of.base.name]


def final_sweep(request: SearchRequest, chosen: list[Outcome]) -> Sweep:
    """A row for the reference and for each of the chosen."""
    search = request.search
    short = [_short(key) for key in search.space]
    named = [key.replace(".", "_") if short.count(_short(key)) > 1 else _short(key) for key in search.space]
    rows = [Row(id=REFERENCE, label="as the experiment is")]
    rows += [Row(id=f"t{o.number:04d}", label=f"trial {o.number:04d}", set=o.settings) for o in chosen]
    return Sweep(
        name=f"{search.name}_final",
        title=f"{search.title}: the best on test data",
        description="The best trials of the search and the reference, trained on train and validation data with seeds "
        "that the search did not use, and scored on the test set.",
        reference=REFERENCE,
        columns=tuple(
            Column(key=name, title=_short(key).replace("_", " "), setting=key)
            for name, key in zip(named, search.space, strict=True)
        ),
        rows=tuple(rows),
    )


def run_final(request: SearchRequest, found: list[Outcome]) -> int:
    """Run the final comparison, and note which trials were looked at; returns its exit code."""
    same = {o.number for o in found if not _differs(request, o)}
    chosen = best([o for o in found if o.number not in same], request.up, request.search.final.best)
    path = request.folder.path / FINAL_FILE
    looks = read_json(path)["looks"] if path.is_file() else []
    numbers = [o.number for o in chosen]
    if numbers not in looks:
        looks.append(numbers)
    write_json(path, {"chosen": numbers, "looks": looks})
    return table.run(FinalRequest(request, chosen))


def _differs(request: SearchRequest, outcome: Outcome) -> bool:
    """From the reference."""
    return bool(differing(request.base, override(request.base, outcome.settings, request.search.where())))


def export_best(request: SearchRequest) -> int:
    """Write the best trial as a base experiment, and print the line that makes it a row of a table."""
    ranked = best(request.known(), request.up, 1)
    if not ranked:
        raise UserError(f"{request.folder.path}: no trial is complete yet; run the search first")
    winner, path = ranked[0], request.options.file
    experiment = trial_of(
        request.search, request.base, request.steps(), "best", "", winner.settings, request.base.seed
    ).experiment
    content = experiment.model_dump(mode="json", exclude={"name"})
    scores = ", ".join(f"{n} {v:.4g}" for n, v in zip(request.names, winner.values, strict=True))
    row = yaml.safe_dump({"set": winner.settings}, default_flow_style=True, sort_keys=False, width=10**6).strip()
    head = f"# Trial {winner.number:04d} of the search {request.search.name} on {request.base.name}.\n"
    head += f"# On validation data, where it was chosen, so too high: {scores}. As a row of a table:\n#   {row}\n"
    try:
        path.write_text(head + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    print(row)
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
