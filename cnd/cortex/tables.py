"""The files that an analysis leaves behind: names, columns and types; written and read here only. Loads no torch.

``states.parquet``
    One line per drive, side, layer and step: how well the voxels tell the hidden state.
``targets.parquet``
    The same by component of the state's PCA.
``voxels.parquet``
    One line per drive, side, layer, step and voxel: importance and encoding model.
``rois.parquet``
    ``voxels.parquet`` averaged by area.
``areas.parquet``
    Held-out R^2 of the hidden state from the voxels of one area alone, every area with the same number of voxels.
``cortex.parquet``
    Where each voxel lies; ``vertex`` is -1 and coordinates are NaN where unknown.
``items.parquet``, ``item_errors.safetensors``
    Test items of all folds, and the encoding model's squared error on each, for comparing runs.
``summary.json``
    Counts, module names, notes and seconds.

Units: R^2 is 1 - sum (y - predicted)^2 / sum (y - training mean)^2 on test items, so guessing the training mean scores
0 and bad predictions score below. ``weight`` is in units of the state (the root mean variance of its components) per
standard deviation of the voxel; ``pattern`` is a covariance, in the product of the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cnd.errors import UserError
from cnd.json_files import read_json, write_json

CELL = {"drive": "str", "side": "str", "layer": "int64", "step": "float64"}
"""drive: reconstruction | stimulus; side: encoder | decoder; step: 0 the first of the denoising, 1 the last."""

MAPS = ("weight", "weight_signed", "pattern", "pattern_signed", "encoding_r2")
_MAPS = dict.fromkeys(MAPS, "float64")

COLUMNS: dict[str, dict[str, str]] = {
    "states": CELL
    | {"module": "str", "step_index": "int64", "n_components": "int64", "explained_variance": "float64"}
    | {"r2": "float64", "r2_p": "float64", "n_targets": "int64", "n_significant": "int64", "r2_null_95": "float64"},
    "targets": CELL | {"component": "int64"} | dict.fromkeys(("r2", "p", "q", "alpha"), "float64"),
    "voxels": CELL | {"voxel": "int64"} | _MAPS | {"p": "float64", "q": "float64"},
    "rois": CELL | {"roi": "str", "n_voxels": "int64"} | _MAPS | {"share_significant": "float64"},
    "areas": CELL | {"area": "str", "n_voxels": "int64", "r2": "float64"},
    "cortex": {"voxel": "int64", "roi": "str", "vertex": "int64"} | dict.fromkeys("xyz", "float64"),
}
SUMMARY = (
    "n_train", "n_test", "n_voxels", "n_folds", "n_permutations", "fdr", "simulated", "surface", "modules", "notes",
    "seconds",
)  # fmt: skip


def write(folder: Path, tables: dict[str, pd.DataFrame], summary: dict[str, Any]) -> None:
    """Write every table and the summary; columns get their order and type here.

    Raises:
        ValueError: a table, a column or a key of the summary is missing or not in the list.
    """
    if set(tables) != set(COLUMNS) or set(summary) != set(SUMMARY):
        raise ValueError(f"expected tables {sorted(COLUMNS)} and summary {sorted(SUMMARY)}")
    for name, columns in COLUMNS.items():
        table = tables[name]
        if set(table.columns) != set(columns):
            raise ValueError(f"{name}: expected columns {sorted(columns)}, found {sorted(table.columns)}")
        table[list(columns)].astype(columns).to_parquet(folder / f"{name}.parquet", index=False)
    write_json(folder / "summary.json", summary)


def read(folder: Path, name: str) -> pd.DataFrame:
    """One table of an analysis.

    Raises:
        UserError: the file is missing, or lacks a column.
    """
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the analysis first (python -m cnd analyse RUN_ID)")
    table = pd.read_parquet(path)
    if missing := [column for column in COLUMNS[name] if column not in table]:
        raise UserError(
            f"{path}: column '{missing[0]}' is missing, found {list(table.columns)}; run the analysis again"
        )
    return table


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of an analysis."""
    return dict(read_json(folder / "summary.json"))
