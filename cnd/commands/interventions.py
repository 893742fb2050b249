"""``python -m cnd interventions RUN_ID``: a finished run's decoder with parts of it replaced; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

from cnd.commands.analyse import log, named
from cnd.json_files import write_json
from cnd.store.trials import find_trial
from cnd.watching import watching
from cnd.workflow.cache import StageCache


def interventions(output: Path, cache: Path, run_id: str) -> list[str]:
    """Score, note it in the trial's file for the report, log it in MLflow; tells what was found, a line each.

    Raises:
        UserError: no such finished run, or one whose decoder has no parts that can be replaced.
    """
    from cnd.workflow.run import intervene_record

    path, trial = find_trial(output, run_id)
    with watching(path.stem) as listener:
        folder = intervene_record(output / trial["record"], StageCache(cache), listener)
    write_json(path, trial | {"interventions": named(output, folder)})
    log(output, path, trial, lambda tracker, run: tracker.interventions(run, folder))
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    scores = [
        f"{variant}: {metric} {value:.4f}"
        for variant, found in summary["scores"].items()
        for metric, value in found.items()
    ]
    return [*scores, *(f"{name}: {value:.4f}" for name, value in summary["measures"].items()), f"tables: {folder}"]
