"""Published scores of the table's rows against ours, where both were measured on the same data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from cnd import paper
from cnd.statistics.agreement import rank_agreement
from reports.collect import Records, TableRow
from reports.complete import complete_scores
from reports.tables import by_row

FEWEST = 3  # rows whose order says anything


def section(records: Records, scores: pd.DataFrame) -> dict[str, Any] | None:
    """Of each row where its published score lies, and how far the orders agree; None where no comparison may be made.

    Args:
        scores: of :func:`reports.tables.score_table`.

    Returns:
        ``rows``: "inside" or "outside" by row id; ``inside``: how many are; ``others``: titles of rows with a published
        score that is of other data than theirs; ``tau``: Kendall's tau-b, None where too
        few rows have scores of the same seeds.
    """
    own = by_row(scores[scores["metric"] == records.metric])
    known = [row for row in records.rows if row.id in own and comparable(records, row)]
    stated = {row.id: row.paper / 100 for row in known if row.paper is not None}
    rows = {row: _place(own[row]["low"], own[row]["high"], score) for row, score in stated.items()}
    rows = {row: place for row, place in rows.items() if place}
    if not rows:
        return None
    others = [row.title for row in records.rows if row.paper is not None and row.id in own and row not in known]
    inside = list(rows.values()).count("inside")
    return {"rows": rows, "inside": inside, "others": others, "tau": _tau(records, stated)}


def comparable(records: Records, own: TableRow) -> bool:
    """Whether a row's published score is of the data, the subjects and the metric of all its finished trials."""
    stated = [row for row in records.rows if row.paper is not None]
    trials = [trial for trial in records.complete if trial.row == own.id]
    named = (records.sweep.get("paper_metric") or {}).get("name")
    if own not in stated or not trials or records.metric != named or not records.facts(records.metric).percent:
        return False
    if any(trial.summary.get("simulated") or _on_validation(trial.experiment) for trial in trials):
        return False
    by_subject = all(row.published for row in stated)  # then the paper's column is their mean over these subjects
    return all(paper.scored_on(trial.experiment.get("data") or {}, any_subject=by_subject) for trial in trials)


def _on_validation(experiment: dict[str, Any]) -> bool:
    return bool((experiment.get("split") or {}).get("validation"))


def _place(low: float, high: float, score: float) -> str:
    if not np.isfinite([low, high]).all():
        return ""
    return "inside" if low <= score <= high else "outside"


def _tau(records: Records, stated: dict[str, float]) -> dict[str, Any] | None:
    found = complete_scores(records, [row for row in records.rows if row.id in stated])
    if found is None or len(found.rows) < FEWEST:
        return None
    published = [stated[row.id] for row in found.rows]
    if len(set(published)) < 2:
        return None
    tau = rank_agreement(found.scores, published, found.units)
    return {"estimate": tau.estimate, "low": tau.low, "high": tau.high, "n_rows": tau.n_rows, "n_seeds": tau.n_seeds}
