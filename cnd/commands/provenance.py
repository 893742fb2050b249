"""``python -m cnd provenance RUN_ID``: where a finished run comes from; ``rerun`` makes it again and compares."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.errors import UserError
from cnd.json_files import read_json
from cnd.store.provenance import Made, differences, other_scores, seconds_by_device, steps_of
from cnd.store.trials import find_trial
from cnd.threads import threads
from cnd.watching import watching
from cnd.workflow.cache import StageCache

if TYPE_CHECKING:
    from cnd.experiment import Experiment

RERUNS = "reruns"  # folder below the output, where a run that was broken off goes on


def provenance(output: Path, cache: Path, run_id: str, as_json: bool) -> list[str]:
    """What is known of a finished run: settings, data, seed, and of each step its code, machine, time and parents.

    Raises:
        UserError: no such finished run.
    """
    path, trial = find_trial(output, run_id)
    record = _record(output, trial)
    steps = steps_of(StageCache(cache), record)
    content = {
        "run": path.stem,
        "sweep": path.parents[1].name,
        "run_id": trial.get("run_id"),
        **{name: trial.get(name) for name in ("row", "subject", "seed", "seconds")},
        "record": str(record),
        "settings": read_json(record / "experiment.json"),
        "scores": read_json(record / "summary.json")["scores"],
        "seconds_by_device": seconds_by_device(steps),
        "data": {s.key: {"settings": s.settings, "sha256": s.files} for s in steps if s.name == "data"},
        "steps": [_told(step) for step in steps],
    }
    if as_json:
        return [json.dumps(content, indent=1)]
    return _lines(content, steps, cache)


def _record(output: Path, trial: dict[str, Any]) -> Path:
    record = output / trial["record"]
    if not (record / "experiment.json").is_file():
        raise UserError(f"{record}: the run's record is gone; run its sweep again")
    return record


def _told(step: Made) -> dict[str, Any]:
    made = step.made or {"when": None}
    return {"name": step.name, "key": step.key, "parents": step.needs, "code": step.code, "made": made} | {
        "micro_batches": step.parts, "fused": step.fused, "sha256": step.files,
    }  # fmt: skip


def _lines(content: dict[str, Any], steps: list[Made], cache: Path) -> list[str]:
    from cnd.store.tracking import flatten

    experiment = content["settings"]
    lines = [f"{content['run']} of {content['sweep']}, {content['run_id'] or 'not in MLflow'}"]
    lines += [f"record: {content['record']}", f"seed: {experiment['seed']}"]
    lines += [f"{name}: {value:.6g}" for name, value in content["scores"].items()]
    lines += [f"time: {t['wall']:.1f} s, CPU {t['cpu']:.1f} s, on {n}" for n, t in content["seconds_by_device"].items()]
    for key, told in content["data"].items():
        files = ", ".join(f"{name} {value[:12]}" for name, value in told["sha256"].items())
        lines.append(f"data: {key[:12]} ({files})")
    lines += ["", "settings"]
    lines += [f"  {name} = {value}" for name, value in flatten(experiment).items() if value is not None]
    known: dict[str, list[str]] = {}
    lines += ["", "steps, in order"]
    for step in steps:
        parents = ", ".join(f"{called} {key[:8]}" for called, key in step.needs.items()) or "nothing"
        lines.append(f"  {step.name} {step.key[:12]} from {parents}")
        if not step.made:
            lines.append("    what made it is not known" if step.there else "    the result is gone")
            continue
        made = step.made
        parts = f", batches in {step.parts} parts for want of memory" if step.parts > 1 else ""
        lines.append(f"    {made['when']}, {made['seconds']} s, CPU {made['cpu_seconds']} s{parts}")
        for line in _surroundings(made, cache):
            known.setdefault(line, []).append(f"{step.name} {step.key[:8]}")
    lines += ["", "made with"] if known else []
    for line, names in known.items():
        lines.append(f"  {line}" + ("" if len(names) == sum(bool(s.made) for s in steps) else f" ({', '.join(names)})"))
    return lines


def _surroundings(made: dict[str, Any], cache: Path) -> list[str]:
    code, machine = made["code"], made["machine"]
    changes = f", {cache / code['changes']}" if code["changes"] else ""
    return [
        f"code: {code['hash'][:12]}, commit {code['commit'] or 'not known'}{changes}",
        f"device: {made['device']}, threads: {made['threads']}",
        f"machine: {machine['processor']}, {machine['cores']} cores, {machine['system']}",
        "versions: " + ", ".join(f"{name} {value}" for name, value in made["versions"].items()),
    ]


# ---------------------------------------------------------------- made again


def rerun(output: Path, cache: Path, run_id: str) -> tuple[list[str], int]:
    """Make a finished run again, from its data on, in a cache of its own; tells whether all is bit for bit the same.

    Returns:
        what is to be said, a line each, and the exit code: 0 the same, 1 not.

    Raises:
        UserError: no such finished run, or what it needs is not there.
    """
    path, trial = find_trial(output, run_id)
    record = _record(output, trial)
    before = steps_of(StageCache(cache), record)
    fresh = StageCache(output / RERUNS / record.name)
    made = _again(record, before, fresh, path.stem)
    lines, scores = differences(before, steps_of(fresh, made)), other_scores(record, made)
    shutil.rmtree(fresh.root)
    if not scores:
        return [*lines, f"{path.stem}: bit for bit equal, scores and images"], 0
    return [*(lines or ["nothing is known to be other than it was"]), *scores, f"{path.stem}: not the same"], 1


def _again(record: Path, before: list[Made], fresh: StageCache, name: str) -> Path:
    """The record of the same experiment, made with as many threads, and divided batches where it had them."""
    from cnd.workflow.examine import examine
    from cnd.workflow.plan import missing
    from cnd.workflow.run import check, read_experiment, run

    experiment: Experiment = read_experiment(record)
    if lacking := missing(experiment):
        raise UserError(lacking[0])
    examine(experiment, fresh)
    check(experiment)
    n = next((s.made["threads"] for s in reversed(before) if s.made.get("threads")), 1)
    with threads(n), watching(name) as listener:
        return run(experiment, fresh, listener, {step.name: step.parts for step in before})
