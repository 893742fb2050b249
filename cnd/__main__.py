"""``python -m cnd export RUN_ID FOLDER``: the trained decoder of a finished run as a diffusers pipeline."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cnd.cache import StageCache
from cnd.errors import UserError
from cnd.trials import find_trial


def export(output: Path, cache: Path, run_id: str, fold: int, folder: Path) -> Path:
    """Write the decoder of one fold; see :class:`cnd.decoder.CndPipeline`.

    Raises:
        UserError: no such finished run or fold, or the run trained no decoder.
    """
    from cnd.config import Experiment
    from cnd.decoder import export_run
    from cnd.stages import recorded_folds

    record = output / find_trial(output, run_id)[1]["record"]
    experiment = Experiment.model_validate(json.loads((record / "experiment.json").read_text(encoding="utf-8")))
    folds = {f.index: f for f in recorded_folds(StageCache(cache), record)}
    if fold not in folds:
        raise UserError(f"--fold {fold}: the run has the folds {', '.join(map(str, folds))}")
    return export_run(experiment, StageCache(cache), folds[fold], folder)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m cnd", description=__doc__, allow_abbrev=False)
    command = parser.add_subparsers(required=True, metavar="export").add_parser("export", allow_abbrev=False)
    add = command.add_argument
    add("run_id", metavar="RUN_ID", help="id of the run in MLflow, or the trial's name such as 10-seed0")
    add("folder", metavar="FOLDER", type=Path, help="where to write the pipeline")
    add("--fold", type=int, default=0, metavar="N", help="of a cross-validated run (default: 0)")
    add("--output", type=Path, default=Path("runs"), metavar="DIR", help="of the sweep (default: runs/)")
    add("--cache", type=Path, metavar="DIR", help="of the sweep (default: OUTPUT/cache)")
    options = parser.parse_args(argv)
    try:
        output = options.output.expanduser().absolute()
        cache = options.cache or output / "cache"
        print(export(output, cache, options.run_id, options.fold, options.folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
