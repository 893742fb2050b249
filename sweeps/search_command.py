"""``sweeps/run.py`` for a search: which command does what."""

from __future__ import annotations

import argparse
import json
from typing import Any

import yaml

from cnd.errors import UserError
from cnd.json_files import write_json, write_text
from cnd.store.folder import damaged
from reports.scale import titles
from sweeps import run as table
from sweeps.doctor import doctor
from sweeps.forecast import per_trial
from sweeps.headline import tell_search
from sweeps.search import best, trial_of
from sweeps.search_forecast import final_minutes, moved_by, n_done, trial_minutes
from sweeps.search_request import TRIALS_FILE, SearchRequest
from sweeps.search_run import listed, run, scribe_of, write_report
from sweeps.search_text import plan_text, state, word
from sweeps.text import say
from sweeps.watch import show


def search(options: argparse.Namespace, pipeline: str) -> int:
    """A command on a search; returns its exit code."""
    commands = {"run": run, "plan": plan, "status": status, "report": report, "verify": verify, "sync": sync}
    commands["doctor"] = lambda request: doctor(request, request.proposer().trials(), sync)
    request = SearchRequest(options, pipeline)
    if options.command == "clean":
        return table.clean(request)  # type: ignore[arg-type]  # it asks for folder, cache and options only
    commands["export-best"] = export_best
    return commands[options.command](request)


def plan(request: SearchRequest) -> int:
    """Print what a run would do, and which files it lacks."""
    missing, told = request.missing(), request.examined()
    if request.options.json:
        search = request.search
        minutes = trial_minutes(request, n_done(request)) + final_minutes(request)
        content: dict[str, Any] = {"search": search.name, "experiment": request.base.name}
        content |= {"objectives": request.names, "space": search.model_dump(mode="json")["space"]}
        content |= {"trials": search.trials, "missing": missing, "warnings": told}
        content |= {
            "expected_minutes": round(minutes, 1),
            "expected_from": per_trial(request.folder, request.base).source,
        }
        content |= {"depends_on": moved_by(search, request.blind, request.steps())}
        print(json.dumps(content, indent=1))
    else:
        print("\n".join([plan_text(request), *told]))
    for what in missing:
        say(f"missing: {what}")
    return 2 if missing else 0


def status(request: SearchRequest) -> int:
    """Print the state of every trial so far."""

    def look() -> dict[str, Any]:
        found, busy = request.known(), request.folder.in_use()
        states = [{"name": f"{o.number:04d}", "state": state(request, o, busy)} for o in found]
        told = [line | own for line, own in zip(listed(found), states, strict=True)]
        return {"search": request.search.name, "trials": told}

    def lines(content: dict[str, Any]) -> list[list[str]]:
        told = [["trial", "state", *request.names, *titles(request.search.space).values(), ""]]
        for trial in content["trials"]:
            values = [f"{v:.4g}" for v in trial["values"]] or ["" for _ in request.names]
            settings = [word(trial["settings"].get(key, "-")) for key in request.search.space]
            told.append([trial["name"], trial["state"], *values, *settings, trial["label"]])
        return told

    return show(request.folder, look, lines, request.options.watch, request.options.json)


def report(request: SearchRequest) -> int:
    """Build the HTML report again and print its path."""
    write_json(request.folder.path / TRIALS_FILE, listed(request.known()))
    path = write_report(request)
    tell_search(scribe_of(request), table.ended(request.folder))
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


def sync(request: SearchRequest) -> int:
    """Write to MLflow what it lacks of the finished trials (:func:`sweeps.run.sync`)."""
    request.folder.definition()
    trials = [trial for trial in request.proposer().trials() if request.folder.is_complete(trial)]
    scribe = scribe_of(request)
    code = table.write_to_mlflow(scribe, request.cache, request.options, trials)
    if (request.folder.path / TRIALS_FILE).is_file():
        write_report(request)
        tell_search(scribe, table.ended(request.folder))
    return code if scribe.error is None else 1


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
        write_text(path, head + yaml.safe_dump(content, sort_keys=False))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    print(row)
    return 0
