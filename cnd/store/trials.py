"""Finished runs in an output folder, by the id that MLflow shows or by the name of the trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnd.errors import UserError
from cnd.store.folder import read_known


def find_trial(output: Path, run_id: str) -> tuple[Path, dict[str, Any]]:
    """The file of the one finished trial that is meant, and its content.

    Args:
        output: the ``--output`` folder.
        run_id: a trial's name, or the first characters, at least four, of MLflow's id.

    Raises:
        UserError: none, several, or one that is not finished.
    """
    files = sorted(output.glob("sweeps/*/trials/*.json"))
    known = {path: content for path in files if (content := read_known(path))}
    begins = run_id if len(run_id) >= 4 else None
    found = {
        path: trial
        for path, trial in known.items()
        if path.stem == run_id or (begins and str(trial.get("run_id") or "").startswith(begins))
    }
    if not found:
        names = ", ".join(sorted({path.stem for path in files})[:8]) or "none"
        raise UserError(f"{run_id}: no such run below {output}; there are {names} (give --output, or an id of MLflow)")
    if len(found) > 1:
        raise UserError(f"{run_id}: {len(found)} runs match; give the id that MLflow shows")
    ((path, trial),) = found.items()
    if trial.get("state") != "complete" or not trial.get("record"):
        raise UserError(f"{path}: this run is {trial.get('state')}; only a finished run can be analysed")
    return path, trial
