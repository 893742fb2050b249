"""The report's section on training seeds: a dot for each row and seed, their mean and the interquartile mean."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cnd.cortex.drawing.figures import BLUE, GREY, INK, ORANGE, STYLE
from cnd.statistics import interquartile_mean
from reports.collect import Records
from reports.drawn import drawn
from reports.inference import crossed_scores
from reports.scale import PERCENT, Scale

LONGEST = 44  # characters of a row's title


def section(records: Records) -> dict[str, Any] | None:
    """The figure; None where no row was trained with two seeds or more."""
    table = seed_table(records)
    if table.empty:
        return None
    return {"figure": seed_dots(table, records.scale)}


def seed_table(records: Records) -> pd.DataFrame:
    """A line a drawn row and seed: row, title, seed, score, mean, iqm, low, high; not of rows with one seed only.

    ``iqm`` is the interquartile mean over items and seeds, of subjects their mean, with its bootstrap interval.
    """
    lines = []
    for row in (row for row in drawn(records) if not row.control):
        found = crossed_scores(records, row.id, records.metric)
        if found is None or len(found.seeds) < 2:
            continue
        scores = found.values.mean(axis=2)  # [item, seed]
        iqm = interquartile_mean(scores, found.units)
        line = {"row": row.id, "title": row.title, "mean": scores.mean()}
        line |= {"iqm": iqm.estimate, "low": iqm.low, "high": iqm.high}
        by_seed = zip(found.seeds, scores.mean(axis=0), strict=True)
        lines += [line | {"seed": seed, "score": score} for seed, score in by_seed]
    return pd.DataFrame(lines, columns=["row", "title", "seed", "score", "mean", "iqm", "low", "high"])


def seed_dots(table: pd.DataFrame, scale: Scale = PERCENT) -> Figure:
    """Rows from the top in the table's order: a dot a seed and a bar at their mean; beside them interquartile means.

    Args:
        table: of :func:`seed_table`.
        scale: of the score.
    """
    rows = [own for _, own in table.groupby("row", sort=False)]
    by = scale.factor
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 1.1 + 0.27 * len(rows)))
        seeds, middle = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
        for height, own in enumerate(rows):
            line, scores = own.iloc[0], by * own["score"]
            seeds.plot([scores.min(), scores.max()], [height] * 2, color=GREY, lw=1, zorder=1)
            seeds.scatter(scores, np.full(len(own), height), s=26, color=BLUE, alpha=0.75, zorder=2, lw=0)
            seeds.scatter(by * line["mean"], height, s=150, marker="|", color=INK, lw=2, zorder=3)
            middle.plot([by * line["low"], by * line["high"]], [height] * 2, color=ORANGE, lw=2, zorder=1)
            middle.scatter(by * line["iqm"], height, s=30, marker="D", color=ORANGE, zorder=2, lw=0)
        titles = [str(own["title"].iloc[0]) for own in rows]
        seeds.set_yticks(range(len(rows)), [t if len(t) <= LONGEST else f"{t[: LONGEST - 1]}…" for t in titles])
        seeds.set_ylim(len(rows) - 0.4, -0.6)
        seeds.set_title("Each training seed, and their mean")
        middle.set_title("Interquartile mean")
        for axes in (seeds, middle):
            axes.tick_params(axis="y", length=0)
            axes.set_xlabel(scale.axis)
            axes.grid(axis="x", color="#e3e3e3", lw=0.8)
            axes.set_axisbelow(True)
    return figure
