"""Whether a finished trial, or the seeds of a row together, had converged: read from what the records hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from cnd.statistics import Rise

State = Literal["yes", "no", "at chance", "not measured", "no training"]
CURVE = "curve.parquet"
PAIRED = ["fold", "item"]


@dataclass(frozen=True)
class Verdict:
    """``yes`` and ``no`` by the rule of :mod:`cnd.statistics.convergence`, with the rise that they rest on.

    ``at chance`` is a curve that is flat where nothing is known yet: such a training may not have begun to learn.
    """

    state: State
    rise: Rise | None = None


def curve_ends(record: Path) -> pd.DataFrame | None:
    """Scores of the validation items at three quarters of a training and at its end; None where they are unknown.

    Columns: fold, item, category, stimulus, before, after; both with the sign turned where lower is better.
    """
    import numpy as np
    import pandas as pd
    from pyarrow.parquet import ParquetFile

    from cnd.statistics import last_quarter

    if not (record / CURVE).is_file():
        return None
    sign = 1 if _metric(record).get("higher_is_better", True) else -1
    with ParquetFile(record / CURVE) as file:  # a fraction of the time of pandas' reader, which matters for thousands
        curves = file.read(use_threads=False).to_pandas()
    folds, seen = curves["fold"].to_numpy(), curves["samples_seen"].to_numpy()
    parts = []
    for fold in np.unique(folds):
        if (ends := last_quarter(seen[folds == fold].tolist())) is None:
            return None
        first, last = (curves[(folds == fold) & (seen == end)] for end in ends)
        if not np.array_equal(first["item"], last["item"]):  # in another order, or not all of them
            last = last.set_index("item").reindex(first["item"])
        part = first[[*PAIRED, "category", "stimulus"]]
        parts.append(part.assign(before=sign * first["value"], after=sign * last["value"].to_numpy()))
    both = parts[0] if len(parts) == 1 else pd.concat(parts)
    defined = both.dropna(subset=["before", "after"])  # a metric among some classes says nothing of items of others
    return defined if len(defined) else None


def verdict(records: Sequence[Path], read: Callable[[Path], pd.DataFrame | None] = curve_ends) -> Verdict:
    """Of the records of one row's seeds and subjects together; what is said of none of them is not measured.

    Args:
        read: :func:`curve_ends`, or what has kept its results.
    """
    import pandas as pd

    from cnd import statistics

    if records and not any(in_steps(record) for record in records):
        return Verdict("no training")
    known = [ends for record in records if (ends := read(record)) is not None]
    if not known or len(known) < len(records):
        return Verdict("not measured")
    ends = pd.concat(known, ignore_index=True)
    unit = units(ends)
    found = statistics.rise(ends["before"], ends["after"], unit)
    if found.still_rising:
        return Verdict("no", found)
    chance = chance_level(records[0])
    known_something = chance is None or statistics.above(ends["after"], unit, chance)
    return Verdict("yes" if known_something else "at chance", found)


def units(ends: pd.DataFrame) -> np.ndarray:
    """The independent unit of each line: its category, or its stimulus where there are few categories."""
    from cnd import statistics

    return statistics.sampling_units(ends["category"].to_numpy(), ends["stimulus"].to_numpy(dtype=str))


def in_steps(record: Path) -> bool:
    """Whether the decoder was trained step by step; records that do not say so were."""
    return bool(_summary(record).get("in_steps", True))


def chance_level(record: Path) -> float | None:
    """What chance gives of the first metric, with the sign of :func:`curve_ends`; None where it has none."""
    metric = _metric(record)
    chance, sign = metric.get("chance"), 1 if metric.get("higher_is_better", True) else -1
    return None if chance is None else sign * float(chance)


def _metric(record: Path) -> dict[str, Any]:
    """What the record says of its first metric, which the curve shows."""
    metrics: list[dict[str, Any]] = _summary(record).get("metrics") or [{}]
    return metrics[0]


def _summary(record: Path) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads((record / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary
