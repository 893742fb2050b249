"""``python -m cnd export RUN_ID FOLDER``: the trained decoder of a finished run as a diffusers pipeline."""

from __future__ import annotations

from pathlib import Path

from cnd.store.trials import find_trial
from cnd.workflow.cache import StageCache


def export(output: Path, cache: Path, run_id: str, fold: int, folder: Path) -> Path:
    """Write the decoder of one fold; see :class:`cnd.generators.pipeline.CndPipeline`.

    Raises:
        UserError: no such finished run or fold, or the run trained no decoder.
    """
    from cnd.workflow.run import export_record

    return export_record(output / find_trial(output, run_id)[1]["record"], StageCache(cache), fold, folder)
