"""The report's section on what rows still score when a part of their decoder is replaced, without training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cnd import statistics
from reports.collect import RecordedTrial, Records
from reports.scale import PERCENT, Scale
from reports.tables import by_row

NORMAL = "normal"
TRAIN = "/train"  # of a measure on training items, which stands beside that on test items
COLUMNS = ["row", "variant", "score", "difference", "low", "high"]
TITLES = {
    "attention_entropy": "entropy of attention",
    "bank_share": "through the bank",
    "top_is_class/test": "top concept is the class",
    "class_rank/test": "rank of the class",
}
CHANCE = {"class_rank/test": 0.5}


@dataclass(frozen=True)
class Found:
    """What was left behind by the trials of all rows.

    Attributes:
        scores: the table's metric, columns row, variant, seed, item (the stimulus's number, see
            :attr:`reports.collect.Records.numbered`), category, value; means over subjects.
        measures: columns row, name, value.
        if_equal: by variant, what it means when the score stays the same.
    """

    scores: pd.DataFrame
    measures: pd.DataFrame
    if_equal: dict[str, str]
    problems: list[str]


def section(records: Records) -> dict[str, Any] | None:
    """What the template prints; None where nothing was replaced."""
    found = read(records)
    if found.scores.empty:
        return {"variants": [], "problems": found.problems} if found.problems else None
    table = difference_table(found.scores)
    variants = [v for v in dict.fromkeys(table["variant"]) if v != NORMAL]
    names = [n for n in dict.fromkeys(found.measures["name"]) if "_chance" not in n and not n.endswith(TRAIN)]
    return {
        "variants": variants,
        "measures": [TITLES.get(name, name.replace("_", " ")) for name in names],
        "lines": [_line(records, row, table, found.measures, variants, names) for row in dict.fromkeys(table["row"])],
        "verdicts": verdicts(records, table, found.if_equal),
        "problems": found.problems,
    }


def read(records: Records) -> Found:
    """The scores and measures of every trial that has some."""
    numbered = records.numbered.drop_duplicates(["row", "subject", "seed", "item"])
    known: Any = numbered.set_index(["row", "subject", "seed", "item"])[["shown", "category"]].sort_index()
    scores, measures, problems = [], [], []
    if_equal: dict[str, str] = {}
    for trial in records.complete:
        if trial.interventions is None:
            continue
        try:
            table, summary = _trial(trial, records.metric)
            own = known.loc[trial.row, trial.subject or "", trial.seed].loc[table["item"]]
        except (OSError, ValueError, KeyError) as error:
            problems.append(f"row {trial.row}, seed {trial.seed}: interventions cannot be read ({error})")
            continue
        table = table.assign(item=own["shown"].to_numpy(), category=own["category"].to_numpy())
        scores.append(table.assign(row=trial.row, seed=trial.seed))
        measures += [{"row": trial.row, "name": name, "value": v} for name, v in summary["measures"].items()]
        if_equal |= summary["if_equal"]
    groups = ["row", "variant", "seed", "item"]
    means = pd.DataFrame(columns=[*groups, "category", "value"])
    if scores:
        means = pd.concat(scores).groupby(groups, sort=False)[["category", "value"]].mean().reset_index()
    measured = pd.DataFrame(measures, columns=["row", "name", "value"])
    return Found(means, measured.groupby(["row", "name"], sort=False).mean().reset_index(), if_equal, problems)


def _trial(trial: RecordedTrial, metric: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    assert trial.interventions is not None
    summary = json.loads((trial.interventions / "summary.json").read_text(encoding="utf-8"))
    scores = pd.read_parquet(trial.interventions / "scores.parquet")
    scores = scores.loc[scores["metric"] == metric, ["variant", "item", "value"]].dropna()
    return scores, {"measures": dict(summary["measures"]), "if_equal": dict(summary["if_equal"])}


def difference_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Columns row, variant, score, and difference from the row as trained with its 95 % limits, paired by item.

    With two or more seeds the limits include other trainings.
    """
    lines = []
    for row, own in scores.groupby("row", sort=False):
        by_variant = own.pivot(index=["variant", "item"], columns="seed", values="value").dropna(axis=1, how="all")
        category = own.groupby("item")["category"].first()
        normal = by_variant.loc[NORMAL]
        for variant in own["variant"].unique():
            line = {"row": row, "variant": variant, "score": float(by_variant.loc[variant].stack().mean())}
            if variant != NORMAL:
                changed = (by_variant.loc[variant] - normal).dropna()
                units = statistics.sampling_units(category[changed.index].to_numpy(), changed.index.to_numpy())
                d = statistics.crossed_mean(changed.to_numpy(), units)
                line |= {"difference": d.estimate, "low": d.low, "high": d.high}
            lines.append(line)
    return pd.DataFrame(lines, columns=COLUMNS)


def verdicts(records: Records, table: pd.DataFrame, if_equal: dict[str, str]) -> list[str]:
    """A sentence a variant: what its replacement does to the reference row, or to the first row that there is.

    The 95 % interval of the paired difference decides, each for itself.
    """
    rows = list(dict.fromkeys(table["row"]))
    shown = records.reference if records.reference in rows else rows[0]
    sentences = []
    for variant, lines in table[table["variant"] != NORMAL].groupby("variant", sort=False):
        line = by_row(lines)[shown]
        told = _told(line, if_equal.get(str(variant), ""))
        differing = sum(map(_differs, by_row(lines).values()))
        change = _interval(line, records.scale)
        head = f"{_title(records, shown)}, {variant}: {change}{' points' if records.scale.percent else ''}."
        sentences.append(f"{head} {told} The score changes in {differing} of {len(lines)} rows.")
    return sentences


def _told(line: dict[str, Any], equal: str) -> str:
    if _differs(line):
        return "The interval leaves out 0: what was replaced matters."
    if line["low"] <= 0 <= line["high"]:
        return f"No change is shown: {equal}, as far as these items tell." if equal else "No change is shown."
    return "Too few items to tell."


def _differs(line: dict[str, Any]) -> bool:
    return bool(line["low"] > 0 or line["high"] < 0)


def _interval(line: dict[str, Any], scale: Scale) -> str:
    return f"{scale.signed(line['difference'])} ({scale.signed(line['low'])} to {scale.signed(line['high'])})"


def _title(records: Records, row: str) -> str:
    return next(r.title for r in records.rows if r.id == row)


def _line(
    records: Records, row: str, table: pd.DataFrame, measures: pd.DataFrame, variants: list[str], names: list[str]
) -> dict[str, Any]:
    """One row of the table, as strings."""
    own = {str(line["variant"]): line for line in table[table["row"] == row].to_dict("records")}
    values = {str(line["name"]): line["value"] for line in measures[measures["row"] == row].to_dict("records")}
    return {
        "title": _title(records, row),
        "reference": row == records.reference,
        "normal": records.scale.number(own[NORMAL]["score"]),
        "cells": [_cell(own[variant], records.scale) if variant in own else None for variant in variants],
        "measures": [_measure(name, values) for name in names],
    }


def _cell(line: dict[Any, Any], scale: Scale) -> dict[str, Any]:
    return {"score": scale.number(line["score"]), "difference": _interval(line, scale), "differs": _differs(line)}


def _measure(name: str, values: dict[str, Any]) -> dict[str, Any] | None:
    """The number in %; and, where they are known, its chance level and the number for training items."""
    if name not in values:
        return None
    kind, _, split = name.partition("/")
    beside = {"chance": values.get(f"{kind}_chance/{split}", CHANCE.get(name)), "training": values.get(kind + TRAIN)}
    notes = [f"{what} {PERCENT.number(value)}" for what, value in beside.items() if value is not None]
    return {"value": PERCENT.number(values[name]), "notes": notes}
