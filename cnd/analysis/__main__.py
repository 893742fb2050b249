"""``python -m cnd.analysis RUN_ID``: the linear decoding analysis of a finished run, without training anything.

RUN_ID is the run's id in MLflow, the beginning of it, or the name of the trial such as ``10-seed0``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cnd.cache import StageCache, write_json
from cnd.config import parse_assignments
from cnd.errors import UserError
from cnd.trials import find_trial


def run(output: Path, cache: Path, run_id: str, edits: dict[str, Any]) -> tuple[Path, Path]:
    """Analyse, note it in the trial's file for the report, and log it in MLflow."""
    from cnd.pipeline import Progress, analyse_record
    from cnd.tracking import Tracker

    path, trial = find_trial(output, run_id)

    def tell(progress: Progress) -> None:
        print(f"\r{progress.phase} {100 * progress.fraction:3.0f} %", end="", file=sys.stderr, flush=True)

    tables, figures = analyse_record(output / trial["record"], StageCache(cache), edits, tell)
    print(file=sys.stderr)
    write_json(path, trial | {"analysis": tables.relative_to(output).as_posix()})
    if trial.get("tracking_uri") and trial.get("run_id"):
        local = trial["tracking_uri"].startswith("sqlite")
        tracker = Tracker(trial["tracking_uri"], output / "mlartifacts" if local else None, path.parents[1].name)
        tracker.analysis(trial["run_id"], tables, figures)
        tracker.end(tracker.parent, "FINISHED")  # opening the tracker set it running
    return tables, figures


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m cnd.analysis", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("run_id", metavar="RUN_ID", help="its id in MLflow, the beginning of it, or the trial's name such as 10-seed0")
    add("--output", type=Path, default=Path("runs"), metavar="DIR", help="of the sweep (default: runs/)")
    add("--cache", type=Path, metavar="DIR", help="of the sweep (default: OUTPUT/cache)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. analysis.noise_seeds=3")
    options = parser.parse_args(argv)
    try:
        output = options.output.expanduser().absolute()
        edits = parse_assignments(options.set)
        if wrong := [key for key in edits if not key.startswith("analysis.")]:
            raise UserError(f"--set {wrong[0]}: only settings of the analysis can change, e.g. analysis.noise_seeds=3")
        tables, figures = run(output, options.cache or output / "cache", options.run_id, edits)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"tables: {tables}\nfigures: {figures}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
