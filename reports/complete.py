"""Scores of several rows for the same items, seeds and subjects, as one array."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reports.collect import Records, TableRow
from reports.inference import crossed_scores, finished_runs
from reports.pairing import Place, may_stand_beside


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

    Rows that were not shown the reference row's stimuli are left out, as nothing of theirs can be paired.

    A row that failed for one seed would cost all others that seed, and a seed that has only begun would cost most
    rows: of all such choices the one is taken that uses most trials, the more seeds where two use as many. A seed
    counts where every subject has it.
    """
    reference = Place(records, records.reference)
    rows = [row for row in rows if may_stand_beside(Place(records, row.id), reference)]
    subjects = [subject or "" for subject in records.subjects]
    known = {row.id: finished_runs(records, row.id) for row in rows}
    having = {s: {row.id for row in rows if {(sub, s) for sub in subjects} <= known[row.id]} for s in records.seeds}
    ordered = sorted(having, key=lambda seed: (-len(having[seed]), seed))
    choices = []
    for n in range(1, len(ordered) + 1):
        common = [row for row in rows if all(row.id in having[seed] for seed in ordered[:n])]
        choices.append((len(common) * n, n, common))
    _, n, common = max(choices, key=lambda choice: choice[:2])
    runs = set(product(subjects, ordered[:n]))
    found = [crossed_scores(records, row.id, records.metric, runs) for row in common]
    crossed = [scores for scores in found if scores is not None]
    if not crossed or len(crossed) < len(common):
        return None
    items = reduce(np.intersect1d, (scores.items for scores in crossed))
    if not len(items):
        return None
    values = np.stack([scores.values[np.isin(scores.items, items)] for scores in crossed])
    return Scores(common, sorted(ordered[:n]), values, crossed[0].units[np.isin(crossed[0].items, items)])
