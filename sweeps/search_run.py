"""Running a search: propose and train until the budget is used, the final comparison, the report."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.errors import UserError
from cnd.json_files import read_json, write_json
from cnd.store.folder import SweepFolder
from sweeps import forecast
from sweeps.headline import tell_search
from sweeps.search import REFERENCE, Outcome, validation_scores
from sweeps.search_final import run_final
from sweeps.search_forecast import expected_seconds, n_done, trial_minutes
from sweeps.search_request import SEARCH_FILE, TRIALS_FILE, SearchRequest
from sweeps.search_text import best_text, plan_text
from sweeps.storage import answering
from sweeps.text import say
from sweeps.trials import Trial

if TYPE_CHECKING:
    from sweeps.session import Scribe


def run(request: SearchRequest) -> int:
    """Run what the budget leaves, then the final comparison, and report."""
    request.folder.exists()  # a folder of another version is refused before anything runs
    if lacking := request.missing():
        raise UserError(lacking[0].splitlines()[0])
    request.check_same()
    importlib.import_module(request.pipeline).check(request.blind)
    say("\n".join([plan_text(request), *request.examined()]))
    try:
        with answering(request.search.storage):
            return _run(request)
    except KeyboardInterrupt:  # what is known is reported all the same
        if (request.folder.path / TRIALS_FILE).is_file():
            print(best_text(request, request.known()), file=sys.stderr if request.options.json else sys.stdout)
            say(f"report: {write_report(request)}")
        raise


def _run(request: SearchRequest) -> int:
    from reports.results import results

    done = n_done(request)
    began, expected = time.monotonic(), trial_minutes(request, done)
    failed = propose(request)
    found = request.known()
    say(f"search: {len(found)} of {request.search.trials} trials are there")
    if expected and not request.search.hours:
        say(forecast.told((time.monotonic() - began) / 60, expected))
    if not any(outcome.state == "complete" for outcome in found):
        say("no trial is complete; the same command goes on from here")
        return 1
    with contextlib.redirect_stdout(sys.stderr if request.options.json else sys.stdout):  # one JSON text
        code = run_final(request, found)
    path = write_report(request)
    tell_search(scribe_of(request), "FAILED" if failed else "FINISHED")
    if request.options.json:
        content: dict[str, Any] = {"search": request.search.name, "objectives": request.names, "trials": listed(found)}
        final = SweepFolder(request.folder.output, read_json(request.folder.path / SEARCH_FILE)["final"])
        content["final"] = results(final.output, final.path) if final.exists() else None
        print(json.dumps(content | {"report": str(path)}, indent=1))
    else:
        print(best_text(request, found))
    for number, label in sorted(failed.items()):
        say(f"failed: trial {number:04d} {label}: the same command tries it again".replace("  ", " "))
    say(f"report: {path}")
    return 1 if failed else code


def propose(request: SearchRequest) -> dict[int, str]:
    """Propose and run until the budget is used; returns the trials that failed."""
    from sweeps.executor import Resources
    from sweeps.live import Board
    from sweeps.ray_folder import remove_left
    from sweeps.session import Session, adopt

    options, folder = request.options, request.folder
    at_once = request.concurrency()
    limit = options.max_concurrent if options.ray_address else at_once
    with folder.locked():
        remove_left(folder.path)
        proposer = request.proposer(mend=True)
        write_json(folder.path / SEARCH_FILE, described(request))
        define(request, proposer.trials())
        scribe, status = scribe_of(request), "KILLED"
        finished = [trial for trial in proposer.trials() if folder.is_complete(trial) and scribe.wants(trial)]
        adopt(folder, request.cache, finished, scribe)  # MLflow's store may have been lost, or away
        seeds = request.search.seeds
        more = seeds * max(0, request.search.trials - sum(o.state != "open" for o in proposer.outcomes()))
        board = Board(request.search.title, [], at_once, expected_seconds(request), more=more)
        session = Session(folder, request.cache, proposer, board, scribe, validation_scores(request.names))
        try:
            if more:
                session.run(Resources(limit, options.gpus_per_trial, options.ray_address), request.pipeline)
            status = "FAILED" if proposer.failed else "FINISHED"
        finally:
            try:
                define(request, proposer.trials())
                write_json(folder.path / SEARCH_FILE, described(request))  # of the data more is known now
                write_json(folder.path / TRIALS_FILE, listed(proposer.outcomes()))
                scribe.best_so_far(request.names[0], _best_so_far(proposer.outcomes(), request.up[0]))
            finally:
                scribe.close(status)
    return proposer.failed


def scribe_of(request: SearchRequest) -> Scribe:
    """Who writes the search's runs to MLflow: of a trial what differs from the reference."""
    from cnd.store.tracking import SearchRuns
    from sweeps.session import Scribe, flat

    own = ["seed"] if request.search.seeds > 1 else []  # of each run
    common = SearchRuns(tuple(request.names), {k: v for k, v in flat(request.blind).items() if k not in own})
    return Scribe(request.folder, request.options.tracking_uri, common)


def _best_so_far(found: list[Outcome], up: bool) -> list[float]:
    """Of the first objective, after each complete trial in the order of proposals."""
    values = [o.values[0] for o in found if o.state == "complete"]
    return list(accumulate(values, max if up else min))


def define(request: SearchRequest, trials: list[Trial]) -> None:
    """Write what the folder holds, as tables do."""
    search = request.search
    content = search.model_dump(mode="json", include={"name", "title", "description"})
    nothing: list[Any] = []
    content |= {"reference": "", "experiment": request.base.name, "words": [search.name]}
    content |= {"columns": nothing, "rows": nothing}
    request.folder.define(content | {"kind": "search"}, trials)


def described(request: SearchRequest) -> dict[str, Any]:
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
        "notes": request.notes(),
        "set": {key: request.edits[key] for key in sorted(request.edits)},
    }


def listed(found: list[Outcome]) -> list[dict[str, Any]]:
    """Outcomes as JSON values."""
    return [
        {
            "number": o.number, "state": o.state, "label": o.label, "values": list(o.values),
            "by_seed": [list(values) for values in o.by_seed], "settings": o.settings,
            "curve": {str(percent): score for percent, score in o.curve.items()},
        }
        for o in found
    ]  # fmt: skip


def write_report(request: SearchRequest) -> Path:
    """The search's page."""
    from reports.search import build_search_report

    return build_search_report(request.options.output, request.folder.path)
