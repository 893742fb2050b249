"""Where a sweep's numbers come from: data, settings, versions, seeds and what each trial changed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from cnd import paper
from cnd.errors import UserError
from cnd.experiment import Experiment, parse_experiment
from cnd.places import COMMAND
from cnd.store.tracking import flatten
from reports.collect import RecordedTrial, Records
from reports.drawn import listed

__all__ = ["data", "departures", "gathered", "provenance", "rivals", "trained", "warnings"]

Place = tuple[str, str | None, int]  # row, subject and seed


def gathered(records: Records, key: str) -> list[dict[str, str]]:
    """Distinct notes of the records, each with the rows that carry it."""
    return _by_rows(records, lambda trial: [str(note) for note in trial.summary.get(key, [])])


def warnings(records: Records) -> list[dict[str, str]]:
    """What must be known before the scores of some rows are believed."""
    known = _all_told(records)
    return _by_rows(
        records,
        lambda trial: list(dict.fromkeys([*known[_place(trial)].warnings, *trial.summary.get("warnings", [])])),
    )


def departures(records: Records) -> list[dict[str, str]]:
    """Where rows differ from what the paper states, other than in the factors that they declare."""
    known = _all_told(records)
    return _by_rows(records, lambda trial: known[_place(trial)].departures)


def rivals(records: Records) -> list[dict[str, str]]:
    """What the experiment sets for decoders beside its own (``rivals``), with the rows that ran so."""
    known = _all_told(records)
    return _by_rows(records, lambda trial: known[_place(trial)].rivals)


def trained(records: Records) -> bool:
    """Whether any row was trained, so that another seed would give another result."""
    return any(told.learns for told in _all_told(records).values())


def open_choices(records: Records) -> list[str]:
    """What the paper does not say, as the reference row has it."""
    trial = _described(records)
    return _told(trial, paper.open_choices) if trial else []


def _told(trial: RecordedTrial, tell: Callable[[Experiment], list[str]]) -> list[str]:
    try:
        return tell(parse_experiment(trial.experiment, "experiment.json"))
    except UserError as error:  # a part that is no longer installed, say
        return [f"Settings that cannot be read: {error}"]


class _Told(NamedTuple):
    """What the settings of a trial tell."""

    warnings: list[str]
    departures: list[str]
    rivals: list[str]
    learns: bool


@lru_cache(maxsize=1)
def _all_told(records: Records) -> dict[Place, _Told]:
    """Of every finished trial, each parsed once."""
    factors = {row.id: row.factors for row in records.rows}
    found: dict[Place, _Told] = {}
    for trial in records.complete:
        try:
            e = parse_experiment(trial.experiment, "experiment.json")
            told = paper.departures(e, factors.get(trial.row, ()))
            found[_place(trial)] = _Told(e.warnings(), told, _of_rivals(e), e.decoder.learns)
        except UserError as error:  # a part that is no longer installed, say
            unknown = [f"Settings that cannot be read: {error}"]
            found[_place(trial)] = _Told(unknown, unknown, unknown, True)
    return found


def _place(trial: RecordedTrial) -> Place:
    return trial.row, trial.subject, trial.seed


def _of_rivals(experiment: Experiment) -> list[str]:
    kind = experiment.decoder.kind
    chosen = flatten(experiment.rivals.get(kind, {}))
    return [f"{kind}: " + ", ".join(f"{key} = {paper.show(value)}" for key, value in chosen.items())] * bool(chosen)


def _by_rows(records: Records, notes: Callable[[RecordedTrial], list[str]]) -> list[dict[str, str]]:
    rows_of: dict[str, dict[str, None]] = {}
    for trial in records.complete:
        for note in notes(trial):
            rows_of.setdefault(note, {})[trial.row] = None
    every = list(dict.fromkeys(trial.row for trial in records.complete))
    return [{"note": note, "rows": _rows(list(rows), every)} for note, rows in rows_of.items()]


def _rows(rows: list[str], every: list[str]) -> str:
    """The rows in words, by those that are left out where they are fewer."""
    having = set(rows)
    others = [row for row in every if row not in having]
    if not others:
        return "all rows"
    return f"all rows but {listed(others)}" if len(others) < len(rows) else f"rows {listed(rows)}"


def data(records: Records) -> list[dict[str, Any]]:
    """What the data sets say of themselves, ready to print: description, facts and the rows that have them.

    Of each row it is the first finished trial's; the reference row's come first.
    """
    found: list[tuple[dict[str, Any], list[str]]] = []
    every = [row.id for row in records.rows if records.first(row.id) is not None]
    for row in sorted(every, key=lambda row: row != records.reference):
        trial = records.first(row)
        assert trial is not None
        facts = dict(trial.summary.get("data", {}))
        for known, rows in found:
            if known == facts:
                rows.append(row)
                break
        else:
            found.append((facts, [row]))
    return [
        {
            "description": str(facts.get("description", "")),
            "facts": {key.replace("_", " "): _number(v) for key, v in facts.items() if key != "description"},
            "rows": _rows(rows, every),
        }
        for facts, rows in found
    ]


def simulated(records: Records) -> tuple[list[str], list[str]]:
    """Titles of the finished rows whose data are simulated, and of the others."""
    finished = [(row, trial) for row in records.rows if (trial := records.first(row.id)) is not None]
    told = [(row.title, bool(trial.summary.get("simulated"))) for row, trial in finished]
    return [title for title, is_so in told if is_so], [title for title, is_so in told if not is_so]


def provenance(records: Records) -> dict[str, Any]:
    """Command, seeds, versions, the reference row's settings, and a line a trial with what it changed of them."""
    reference = _described(records)
    base = flatten(reference.experiment) if reference else {}
    return {
        "command": command(records),
        "seeds": ", ".join(map(str, records.seeds)),
        "versions": reference.summary.get("versions", {}) | _code(reference) if reference else {},
        "config": json.dumps(reference.experiment, indent=2) if reference else "",
        "config_row": reference.row if reference else "",
        "trials": [_trial_line(trial, base) for trial in records.trials],
        "wall_seconds": sum(trial.seconds or 0.0 for trial in records.trials),
    }


def _code(trial: RecordedTrial) -> dict[str, str]:
    """What code made a record, as its summary names it; nothing of older ones."""
    code = trial.summary.get("code", {})
    known = {"CnD commit": code.get("commit"), "CnD code": str(code.get("hash") or "")[:12]}
    return {name: value for name, value in known.items() if value}


def _described(records: Records) -> RecordedTrial | None:
    """The trial whose settings and data are shown: the reference row's, or the first that is finished."""
    return records.first(records.reference) or next(iter(records.complete), None)


def command(records: Records, seeds: str = "", rows: Sequence[str] = ()) -> str:
    """The command line that gives this sweep again, quoted for a shell.

    Args:
        seeds: what stands after ``--seeds`` in place of what was run.
        rows: only these; none names no rows.
    """
    sweep = records.sweep
    named = sweep.get("words") or [sweep.get("name"), "--experiment", sweep.get("experiment")]
    most = sweep.get("max_seeds")
    run = f"auto --max-seeds {most}" if most else str(len(records.seeds))
    words = [*COMMAND.split(), *map(str, named), *(["--rows", ",".join(rows)] if rows else [])]
    words += ["--seeds", *(seeds or run).split()]
    if sweep.get("subjects"):
        words += ["--subjects", ",".join(map(str, sweep["subjects"]))]
    if sweep.get("metrics"):
        words += ["--metrics", ",".join(map(str, sweep["metrics"]))]
    for key, value in (sweep.get("set") or {}).items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def _trial_line(trial: RecordedTrial, base: dict[str, Any]) -> dict[str, Any]:
    own = flatten(trial.experiment)
    ignored = ("seed", "name", "description", "rivals")
    changed = [
        key
        for key in sorted(own.keys() | base.keys())
        if own.get(key) != base.get(key) and key.partition(".")[0] not in ignored
    ]
    later = [f"seed = {own['seed']}"] if own.get("seed", trial.seed) != trial.seed else []  # of a row's own stream
    return {
        "row": trial.row,
        "subject": trial.subject,
        "seed": trial.seed,
        "state": trial.state,
        "key": trial.key,
        "run_id": trial.run_id,
        "seconds": trial.seconds,
        "phases": trial.summary.get("seconds", {}),
        "parameters": trial.summary.get("parameters", {}),
        "error": trial.error,
        "changes": [*later, *(f"{key} = {own[key]}" for key in changed if key in own)],
    }


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
