"""Switches that do nothing: rows whose training losses equal the reference's bit for bit although a setting differs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile

from cnd.json_files import read_json
from cnd.store.tracking import flatten
from reports.collect import Records

SECTIONS = ("data", "split", "generator", "decoder")  # what a training depends on, besides the seed


Trained = Mapping[tuple[str, str | None, int], Path]  # record of a row, subject and seed


def find(records: Trained, reference: str) -> list[str]:
    """A sentence for each such row.

    Args:
        records: of what is complete, controls left out.
        reference: id of the row that the others are compared with.
    """
    told: dict[str, str] = {}
    for (row, subject, seed), record in records.items():
        other = records.get((reference, subject, seed))
        if row == reference or row in told or other is None:
            continue
        changed = differing(record, other)
        if changed and same_losses(record, other):
            told[row] = (
                f"row {row}: its training losses equal those of row {reference} bit for bit, although it differs in "
                f"{', '.join(changed[:3])}: this switch does nothing to the training"
            )
    return list(told.values())


@lru_cache(maxsize=1)  # the page says it, and the command
def of(records: Records) -> list[str]:
    """Those of a sweep."""
    controls = {row.id for row in records.rows if row.control}
    trained = {(t.row, t.subject, t.seed): t.folder for t in records.complete if t.row not in controls and t.folder}
    return find(trained, records.reference)


def differing(record: Path, other: Path) -> list[str]:
    """Dotted keys in which what two records were trained by differs."""
    one, two = _settings(record), _settings(other)
    missing = object()
    return [key for key in dict.fromkeys([*one, *two]) if one.get(key, missing) != two.get(key, missing)]


def same_losses(record: Path, other: Path) -> bool:
    """Whether both tell losses, and the same ones."""
    files = record / "history.parquet", other / "history.parquet"
    if not np.array_equal(_values(files[0]), _values(files[1]), equal_nan=True):  # as of nearly all: soon told
        return False
    losses = [_losses(file) for file in files]
    return len(losses[0]) > 0 and losses[0].equals(losses[1])


@lru_cache(maxsize=32)
def _values(path: Path) -> NDArray[np.float64]:
    """Of all losses, from the least on."""
    with ParquetFile(path) as file:
        table = file.read(["name", "value"], use_threads=False)
    names = np.array(table["name"].to_pylist(), dtype=str)
    ours = np.char.endswith(names, "loss") & ~np.char.startswith(names, "validation")
    return np.sort(table["value"].to_numpy()[ours].astype(np.float64))


@lru_cache(maxsize=32)  # the reference's own, of each seed and subject, are asked for with every row
def _settings(record: Path) -> dict[str, Any]:
    content = read_json(record / "experiment.json")
    return flatten({section: content[section] for section in SECTIONS})


def _losses(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path)
    names = table["name"].astype(str)
    kept = table[names.str.endswith("loss") & ~names.str.startswith("validation")]
    order = ["phase", "fold", "samples_seen", "name", "value"]
    return kept[order].sort_values(order[:-1], ignore_index=True)
