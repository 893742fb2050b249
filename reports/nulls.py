"""Whether controls are at chance: by permuting which item each reconstruction belongs to, where records allow it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from cnd import statistics
from reports.collect import RecordedTrial, Records, TableRow
from reports.scale import Scale

ROLES = ("null", "floor")  # what a decoder scores that cannot, or need not, know the item
COLUMNS = ["permuted", "p_chance"]
ALPHA = 0.05
NOTABLE = 0.005  # by which chance by permutation differs from the nominal level before it is told


def against_permuted(records: Records, row: TableRow, metric: str) -> dict[str, float]:
    """``permuted``, the mean score with permuted items, and ``p_chance``, that of the test (one-sided).

    Subjects and seeds are averaged first. NaN for other rows than nulls and floors, for another metric than the
    table's, and where not every record of the row keeps pairings of the same items.
    """
    found = _pairings(records, row) if row.role in ROLES and metric == records.metric else None
    units = None if found is None else statistics.sampling_units(found[1]["category"], found[1]["item"])
    if found is None or units is None or len(np.unique(units)) < 2:
        return dict.fromkeys(COLUMNS, float("nan"))
    sign = 1 if records.facts(metric).higher_is_better else -1
    test = statistics.permutation_test(sign * found[0], units)
    return {"permuted": sign * test.expected, "p_chance": test.p_value}


def _pairings(records: Records, row: TableRow) -> tuple[NDArray[np.float64], pd.DataFrame] | None:
    """Mean scores [item, item] of reconstructions against items, and the items: item, stimulus, category, target."""
    scores, items = [], []
    for trial in (trial for trial in records.of(row.id) if trial.folder is not None):
        found = _read(trial, records.metric)
        if found is None:
            return None
        pairs, table = found
        known = records.items[(records.items["row"] == row.id) & (records.items["seed"] == trial.seed)]
        if trial.subject is not None:
            known = known[known["subject"] == trial.subject]
        one = known.drop_duplicates("item").set_index("item")
        if not table["item"].isin(one.index).all():
            return None
        named = one.loc[table["item"], ["stimulus", "category"]].reset_index()
        scores.append(pairs[:, table["target"]])
        items.append(named.assign(target=table["target"].to_numpy()))
    if not scores or not all(other.equals(items[0]) for other in items):
        return None
    return np.mean(scores, axis=0), items[0]


def _read(trial: RecordedTrial, metric: str) -> tuple[NDArray[np.float64], pd.DataFrame] | None:
    """Scores [item, target] and columns item, target of a record; None where it keeps none of this metric."""
    path = (trial.folder or Path()) / "pairings.safetensors"
    try:
        with safe_open(path, framework="numpy") as kept:
            if (kept.metadata() or {}).get("metric") != metric:
                return None
            item, target, scores = (kept.get_tensor(name) for name in ("item", "target", "scores"))
    except (OSError, SafetensorError):  # a record of older code, or of a metric that has none
        return None
    return scores.astype(np.float64), pd.DataFrame({"item": item, "target": target})


def tested(line: Mapping[Any, Any]) -> bool:
    """Whether a line of the score table was judged by permutation."""
    return math.isfinite(line["p_chance"])


def verdict(line: Mapping[Any, Any], scale: Scale, above: str = "above chance") -> str:
    """``at chance (permutation of the items: p = .43)``, of a line that was judged so.

    Args:
        above: the words for a score above chance.
    """
    by_construction = line["p_chance"] == 1 and math.isclose(
        line["score"], line["permuted"], rel_tol=1e-6, abs_tol=1e-6
    )
    if by_construction:  # no order changes anything, up to the single precision of the pairings
        return "at chance by construction: to every item it shows the same image"
    level = ""
    if notable(line):
        nominal = f", not the nominal {scale.score(line['chance'])}" if math.isfinite(line["chance"]) else ""
        level = f"; chance by permutation is {scale.score(line['permuted'])}{nominal}"
    word = above if line["p_chance"] <= ALPHA else "at chance"
    return f"{word} (permutation of the items: p {_p(line['p_chance'])}{level})"


def notable(line: Mapping[Any, Any]) -> bool:
    """Whether chance by permutation is to be shown beside the nominal level: it differs, or there is none."""
    return tested(line) and not abs(line["permuted"] - line["chance"]) <= NOTABLE


def notes(records: Records, scores: pd.DataFrame, unit: str) -> list[str]:
    """How it was judged whether controls are at chance, for the report's notes on statistics.

    Args:
        scores: the score table.
        unit: "category" or "item", the sampling unit.
    """
    controls = {row.id: row for row in records.rows if row.role in ROLES}
    lines = scores[(scores["metric"] == records.metric) & scores["row"].isin(list(controls))].to_dict("records")
    judged = [line for line in lines if tested(line)]
    rest = [controls[line["row"]].title for line in lines if not tested(line) and controls[line["row"]].role == "null"]
    found = []
    if judged:
        found.append(
            f"Whether a null or a floor is at chance is judged by permuting which item each reconstruction belongs "
            f"to{': whole categories' if unit == 'category' else ''}, all orders of up to 7, else 10,000 drawn ones; "
            "one-sided at 5 %, subjects and seeds averaged first. Chance by permutation is the mean score over the "
            "orders. It exceeds the nominal level where a decoder knows which classes occur. At chance "
            f"is what was not shown to be above: one in 20 true nulls is called above by luck ({len(judged)} "
            f"{'rows were' if len(judged) > 1 else 'row was'} judged, without correction)."
        )
    if rest:
        found.append(
            f"Of {', '.join(rest)} not every record keeps the scores against other items of the same test set: "
            "whether it is at chance was judged by its interval."
        )
    return found


def _p(p: float) -> str:
    """``= .43``; three digits where it matters, never a bare zero."""
    if p < 0.001:
        return "< .001"
    text = f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return f"= {text.removeprefix('0') if p < 0.995 else '1'}"
