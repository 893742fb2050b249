"""Scores of several rows for the same items, seeds and subjects, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnd import statistics
from reports.collect import Records, TableRow


@dataclass(frozen=True)
class Scores:
    """Scores of some rows without a gap.

    Attributes:
        rows: in the order asked for.
        seeds: rising.
        scores: [n_rows, n_items, n_seeds, n_subjects], means over samples.
        units: [n_items] label of each item's independent unit.
    """

    rows: list[TableRow]
    seeds: list[int]
    scores: NDArray[np.float64]
    units: NDArray[Any]


def complete_scores(records: Records, rows: list[TableRow]) -> Scores | None:
    """Scores of the rows for the seeds that most of them have in common; None where there are none.

    A row that failed for one seed would cost all others that seed, and a seed that has only begun would cost most
    rows: of all such choices the one is taken that uses most trials, the more seeds where two use as many.
    """
    if records.metric not in records.per_item:
        return None
    wide = records.per_item[records.metric].dropna().unstack("item")  # [row x subject x seed, item]
    subjects = [subject or "" for subject in records.subjects]
    known = set(wide.index)
    having = {s: [r for r in rows if all((r.id, sub, s) in known for sub in subjects)] for s in records.seeds}
    ordered = sorted(having, key=lambda seed: (-len(having[seed]), seed))
    choices = []
    for n in range(1, len(ordered) + 1):
        common = [row for row in rows if all(row in having[seed] for seed in ordered[:n])]
        choices.append((len(common) * n, n, common))
    size, n, common = max(choices, key=lambda choice: choice[:2])
    seeds = sorted(ordered[:n])
    lines = [(row.id, subject, seed) for row in common for seed in seeds for subject in subjects]
    table = wide.loc[lines].dropna(axis="columns")
    if not size or table.empty:
        return None
    items = table.columns.to_numpy()
    category = records.items.drop_duplicates("item").set_index("item")["category"].loc[items].to_numpy()
    scores = table.to_numpy(dtype=np.float64).reshape(len(common), n, len(subjects), len(items))
    return Scores(common, seeds, np.moveaxis(scores, 3, 1), statistics.sampling_units(category, items))
