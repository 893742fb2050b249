"""The report's section on training seeds: a dot for each row and seed, their mean and the interquartile mean."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cnd.cortex.drawing.figures import BLUE, GREY, INK, ORANGE, STYLE
from cnd.statistics import interquartile_mean
from reports.collect import Records
from reports.complete import complete_scores
from reports.scale import PERCENT, Scale

LONGEST = 44  # characters of a row's title


def section(records: Records) -> dict[str, Any] | None:
    """The figure; None where no row was trained with two seeds or more."""
    table = seed_table(records)
    if table.empty:
        return None
    return {"figure": seed_dots(table, records.scale)}


def seed_table(records: Records) -> pd.DataFrame:
    """A line a row and seed: row, title, seed, score, mean, iqm, low, high; rows with one seed only are not in it.

    ``iqm`` is the interquartile mean over items and seeds, of subjects their mean, with its bootstrap interval.
    """
    lines = []
    for row in (row for row in records.rows if not row.control):
        found = complete_scores(records, [row])
        if found is None or found.scores.shape[2] < 2:
            continue
        scores = found.scores[0].mean(axis=2)  # [item, seed]
        iqm = interquartile_mean(scores, found.units)
        line = {"row": row.id, "title": row.title, "mean": scores.mean()}
        line |= {"iqm": iqm.estimate, "low": iqm.low, "high": iqm.high}
        lines += [
            line | {"seed": seed, "score": score} for seed, score in zip(found.seeds, scores.mean(0), strict=True)
        ]
    return pd.DataFrame(lines, columns=["row", "title", "seed", "score", "mean", "iqm", "low", "high"])


def seed_dots(table: pd.DataFrame, scale: Scale = PERCENT) -> Figure:
    """Rows from the top in the table's order; a dot a seed, a bar at the mean, a diamond at the interquartile mean.

    Args:
        table: of :func:`seed_table`.
        scale: of the score.
    """
    rows = list(dict.fromkeys(table["row"]))
    titles = dict(zip(table["row"], table["title"], strict=True))
    by = scale.factor
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 1.3 + 0.27 * len(rows)))
        axes = figure.subplots()
        for height, row in enumerate(rows):
            own = table[table["row"] == row]
            first = own.iloc[0]
            axes.plot([by * own["score"].min(), by * own["score"].max()], [height] * 2, color=GREY, lw=1, zorder=1)
            axes.scatter(by * own["score"], np.full(len(own), height), s=26, color=BLUE, alpha=0.75, zorder=2, lw=0)
            axes.scatter(by * first["mean"], height, s=150, marker="|", color=INK, lw=2, zorder=3)
            axes.plot([by * first["low"], by * first["high"]], [height + 0.24] * 2, color=ORANGE, lw=1.2, zorder=1)
            axes.scatter(by * first["iqm"], height + 0.24, s=26, marker="D", color=ORANGE, zorder=3, lw=0)
        shown = [t if len(t) <= LONGEST else f"{t[: LONGEST - 1]}…" for t in (str(titles[row]) for row in rows)]
        axes.set_yticks(range(len(rows)), shown)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(scale.axis)
        axes.grid(axis="x", color="#e3e3e3", lw=0.8)
        axes.set_axisbelow(True)
        dots = [
            Line2D([], [], color=BLUE, marker="o", ms=5, ls="", label="one training seed"),
            Line2D([], [], color=INK, marker="|", ms=11, mew=2, ls="", label="mean"),
            Line2D([], [], color=ORANGE, marker="D", ms=5, lw=1.2, label="interquartile mean, 95 % (bootstrap)"),
        ]
        figure.legend(handles=dots, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure
