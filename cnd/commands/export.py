"""``python -m cnd export RUN_ID FOLDER``: the trained decoder of a finished run as a diffusers pipeline."""

from __future__ import annotations

import json
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
