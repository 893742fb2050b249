"""Data whose training items are scored in place of the test set, as a step. No other step of a run sees test items."""

from __future__ import annotations

from pathlib import Path

from cnd.data import validation
from cnd.protocols import Bench, DataSource, FmriDataset
from cnd.steps import Step
from cnd.workflow.inputs import every_core, load_data


def make_held_out(bench: Bench, folder: Path, source: DataSource, fold: int, share: float, images: Step | None) -> None:
    """Load one fold, hold training items out, let the test items go, and write the rest."""
    from cnd.data.storage import save_dataset

    bench.report("data", 0.0, 0, {})
    store = None if images is None else bench.value(images)
    with every_core():
        save_dataset(validation.load(source, share, fold, store), folder)


def load_held_out(
    bench: Bench, folder: Path, source: DataSource, fold: int, share: float, images: Step | None
) -> FmriDataset:
    """Read what :func:`make_held_out` wrote."""
    return load_data(bench, folder, source, fold, images)
