"""Switches that do nothing: rows whose training losses equal the reference's bit for bit although a setting differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cnd.json_files import read_json
from cnd.store.tracking import flatten

SECTIONS = ("data", "split", "generator", "decoder")  # what a training depends on, besides the seed


def find(trials: Sequence[Mapping[str, Any]], output: Path, reference: str) -> list[str]:
    """A sentence for each such row.

    Args:
        trials: what is kept of each: row, subject, seed, state, control, record.
        output: the folder that the records are named relative to.
        reference: id of the row that the others are compared with.
    """
    complete = [t for t in trials if t["state"] == "complete" and not t.get("control")]
    records = {(t["row"], t["subject"], t["seed"]): output / t["record"] for t in complete}
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


def differing(record: Path, other: Path) -> list[str]:
    """Dotted keys in which what two records were trained by differs."""
    one, two = (flatten({k: read_json(r / "experiment.json")[k] for k in SECTIONS}) for r in (record, other))
    missing = object()
    return [key for key in dict.fromkeys([*one, *two]) if one.get(key, missing) != two.get(key, missing)]


def same_losses(record: Path, other: Path) -> bool:
    """Whether both tell losses, and the same ones."""
    one, two = (_losses(r / "history.parquet") for r in (record, other))
    return len(one) > 0 and one.equals(two)


def _losses(path: Path) -> pd.DataFrame:
    table = pd.read_parquet(path)
    kept = table[
        table["name"].astype(str).str.endswith("loss") & ~table["name"].astype(str).str.startswith("validation")
    ]
    order = ["phase", "fold", "samples_seen", "name", "value"]
    return kept[order].sort_values(order[:-1], ignore_index=True)
