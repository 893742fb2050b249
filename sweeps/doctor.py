"""``doctor``: whether trial files, cache and MLflow agree (:mod:`cnd.store.states`); with ``--repair`` they then do."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from cnd.errors import UserError, in_one_line
from cnd.store import database
from cnd.store.states import STATES, of_sweep
from sweeps.text import columns
from sweeps.trials import FOLLOWING, Trial

if TYPE_CHECKING:
    from sweeps.request import Request
    from sweeps.search_request import SearchRequest

    Asked: TypeAlias = Request | SearchRequest

DELETED = "deleted"  # of runs that say the same as another one


class Run(NamedTuple):
    """A run in MLflow."""

    id: str
    name: str
    key: str
    status: str


@dataclass
class Line:
    """What is said of a trial, of the sweep, or of a stage that sweeps share.

    Attributes:
        state: by the trial's file, or as it follows from those of the trials.
        record: whether the result is in the cache; None: it has none.
        run: status in MLflow, "" without a run, several where there are several.
        problems: in which they disagree.
        mend: runs, and the status that they are to have.
        unwritten: MLflow lacks what `sync` writes.
    """

    name: str
    state: str
    record: bool | None
    run: str
    problems: list[str] = field(default_factory=list)
    mend: list[tuple[Run, str]] = field(default_factory=list)
    unwritten: bool = False


def doctor(request: Asked, trials: Sequence[Trial], sync: Callable[[Any], int]) -> int:
    """Compare, mend and compare again where that is asked for; 1 where something disagrees (still), else 0.

    Args:
        trials: of the sweep as they would be run today.
        sync: the command that writes to MLflow what it lacks.

    Raises:
        UserError: the sweep was never run here, or a command is running it.
    """
    from cnd.store.tracking import sqlite_uri

    folder, options = request.folder, request.options
    folder.definition()
    if folder.in_use():
        raise UserError(f"{folder.path}: a command is running this sweep; ask again when it has ended (status --watch)")
    uri, today = options.tracking_uri or sqlite_uri(options.output), {trial.name: trial for trial in trials}
    lines = compared(request, today, uri)
    wrong = sum(bool(line.problems) for line in lines)
    if wrong and options.repair:
        with folder.locked():
            _mend_files(request, today, lines)
            _mend_runs(uri, compared(request, today, uri))
        if any(line.unwritten for line in compared(request, today, uri)):
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                sync(request)
            _mend_runs(uri, compared(request, today, uri))  # its own run says what the trials' say now
        lines = compared(request, today, uri)
    left = sum(bool(line.problems) for line in lines)
    _tell(request, lines, wrong, left)
    return 1 if left else 0


def compared(request: Asked, today: dict[str, Trial], uri: str) -> list[Line]:
    """Each trial of the sweep, its own run, and stages that were left open; or that MLflow cannot be read."""
    known = {trial["name"]: trial for trial in request.folder.trials()}
    try:
        runs, stages = runs_of(uri, request.folder.name)
    except Exception as error:  # a store may raise whatever it likes
        told = f"{'the store' if uri.startswith('sqlite') else uri} cannot be read ({in_one_line(error)})"
        return [Line("MLflow", "", None, "", [told], unwritten=True)]
    lines = [_trial(request, name, trial, today.get(name), runs) for name, trial in known.items()]
    lines.append(_sweep(request.folder.name, {trial["state"] for trial in known.values()}, runs))
    used = {key for name, key in request.folder.stages() if name == "phase1"}
    for run in stages:
        if run.key in used and run.status == "RUNNING":
            told = "its run was not written to its end"
            lines.append(Line(f"{run.name} {run.key[:8]}", "", None, run.status, [told], [(run, "KILLED")]))
    return lines


def _trial(request: Asked, name: str, trial: dict[str, Any], today: Trial | None, runs: list[Run]) -> Line:
    """One that was made by other code or settings than today's is compared by what its file says."""
    state, key = trial["state"], trial.get("key") or (today.key if today else "")  # a file may be lost
    stages = [("record", key)] if key else []
    if state != "complete" and today is not None and today.key == key:  # what follows its run may have failed
        stages = [stage for stage in today.stages if stage[0] in ("record", *FOLLOWING)]
    record = bool(stages) and all(request.cache.has(*stage) for stage in stages)
    mine = [run for run in runs if (run.name, run.key) == (name, key)]
    first = next((run for run in mine if run.id == trial.get("run_id")), *mine[-1:]) if mine else None
    line = Line(name, state, record, " ".join(run.status for run in mine))
    if record != STATES[state].record:
        line.problems.append("its result is there" if record else "its result is gone")
    status = first.status if first else ""
    if status not in STATES[state].runs:
        line.problems.append(f"MLflow has {f'it as {status}' if status else 'no run of it'}")
        line.unwritten = state == "complete"
        line.mend += [(first, STATES[state].runs[-1])] if first and state != "complete" else []
    elif state == "complete" and first and trial.get("run_id") != first.id:
        line.problems.append("its file names another run")
        line.unwritten = True
    if len(mine) > 1:
        line.problems.append(f"MLflow has {len(mine)} runs of it")
        line.mend += [(run, DELETED) for run in mine if run is not first]
    for run in runs:
        if run.name == name and run.key != key and run.status == "RUNNING":
            line.problems.append("a run with earlier settings is left RUNNING")
            line.mend.append((run, "KILLED"))
    return line


def _sweep(name: str, states: set[str], runs: list[Run]) -> Line:
    wanted, mine = of_sweep(states), [run for run in runs if (run.name, run.key) == (f"sweep {name}", "")]
    line = Line("sweep", wanted, None, " ".join(run.status for run in mine))
    if mine and mine[-1].status != wanted:
        line.problems.append(f"MLflow has it as {mine[-1].status}")
        line.mend.append((mine[-1], wanted))
    return line


def runs_of(uri: str, sweep: str) -> tuple[list[Run], list[Run]]:
    """The runs of a sweep and those of shared stages, latest first; none where there is no store yet.

    Raises:
        Exception: the store is damaged, or does not answer.
    """
    from cnd.store.tracking import KEY, NAME, SQLITE, STAGES, client_of, ours

    if uri.startswith(SQLITE):
        path = Path(uri.removeprefix(SQLITE))
        if (wrong := database.problem(path)) is not None:
            raise UserError(f"{path} {wrong}")
        if not path.exists():
            return [], []
    client = client_of(uri)

    def listed(name: str) -> list[Run]:
        if (experiment := client.get_experiment_by_name(name)) is None:
            return []
        runs = ours(client, experiment.experiment_id)
        return [Run(run.info.run_id, (tags := run.data.tags)[NAME], tags.get(KEY, ""), run.info.status) for run in runs]

    return listed(sweep), listed(STAGES)


def _mend_files(request: Asked, today: dict[str, Trial], lines: list[Line]) -> None:
    """Have the trials' files say what the cache says: it is what a result is read from."""
    for line in lines:
        trial = today.get(line.name)
        if trial is None or line.record is None or line.record == STATES[line.state].record:
            continue
        if line.record:
            name = request.folder.record_name(request.cache.path("record", trial.key))
            request.folder.write(trial, state="complete", error=None, record=name)
        else:
            request.folder.write(trial, state="pending", error=None, record=None)


def _mend_runs(uri: str, lines: list[Line]) -> None:
    from cnd.store.tracking import client_of

    if changes := [change for line in lines for change in line.mend]:
        client = client_of(uri)
        for run, status in changes:
            if status == DELETED:  # MLflow keeps it among the deleted ones
                client.set_terminated(run.id, "KILLED")
                client.delete_run(run.id)
            else:
                client.set_terminated(run.id, status)


def _tell(request: Asked, lines: list[Line], wrong: int, left: int) -> None:
    if request.options.json:
        shown = ("name", "state", "record", "run", "problems")
        states = [{name: getattr(line, name) for name in shown} for line in lines]
        content = {"sweep": request.folder.name, "states": states, "disagreeing": left, "repaired": wrong - left}
        print(json.dumps(content, indent=1))
    else:
        table = [["", "state", "result", "MLflow", ""]]
        for line in lines:
            record = {None: "", True: "there", False: "-"}[line.record]
            table.append([line.name, line.state, record, line.run or "-", ", ".join(line.problems)])
        print(columns(table))
        print(f"{len(lines)} states compared, {left} disagree" + (f", {wrong - left} repaired" if wrong > left else ""))
    if left and not request.options.repair:
        print("doctor --repair makes them agree", file=sys.stderr)
    elif left:
        print("run the sweep again: it makes and writes what is missing", file=sys.stderr)
