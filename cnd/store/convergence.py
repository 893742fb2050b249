"""Whether a finished trial, or the seeds of a row together, had converged: read from what the records hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from cnd.statistics import Rise

State = Literal["yes", "no", "not measured", "no training"]
CURVE = "curve.parquet"
PAIRED = ["fold", "item"]


@dataclass(frozen=True)
class Verdict:
    """``yes`` and ``no`` by the rule of :mod:`cnd.statistics.convergence`, with the rise that they rest on."""

    state: State
    rise: Rise | None = None


def curve_ends(record: Path) -> pd.DataFrame | None:
    """Scores of the validation items at three quarters of a training and at its end; None where they are unknown.

    Columns: fold, item, category, stimulus, before, after.
    """
    import pandas as pd

    from cnd.statistics import last_quarter

    if not (record / CURVE).is_file():
        return None
    parts = []
    for _, curve in pd.read_parquet(record / CURVE).groupby("fold"):
        if (ends := last_quarter(curve["samples_seen"])) is None:
            return None
        at = [curve[curve["samples_seen"] == seen].set_index(PAIRED) for seen in ends]
        parts.append(at[0].assign(before=at[0]["value"], after=at[1]["value"]).reset_index())
    return pd.concat(parts)[[*PAIRED, "category", "stimulus", "before", "after"]]


def verdict(records: Sequence[Path]) -> Verdict:
    """Of the records of one row's seeds and subjects together; what is said of none of them is not measured."""
    import pandas as pd

    from cnd import statistics

    if records and not any(in_steps(record) for record in records):
        return Verdict("no training")
    known = [ends for record in records if (ends := curve_ends(record)) is not None]
    if not known or len(known) < len(records):
        return Verdict("not measured")
    ends = pd.concat(known, ignore_index=True)
    found = statistics.rise(ends["before"], ends["after"], units(ends))
    return Verdict("no" if found.still_rising else "yes", found)


def units(ends: pd.DataFrame) -> np.ndarray:
    """The independent unit of each line: its category, or its stimulus where there are few categories."""
    from cnd import statistics

    return statistics.sampling_units(ends["category"].to_numpy(), ends["stimulus"].to_numpy(dtype=str))


def in_steps(record: Path) -> bool:
    """Whether the decoder was trained step by step; records that do not say so were."""
    try:
        summary = json.loads((record / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return bool(summary.get("in_steps", True))
