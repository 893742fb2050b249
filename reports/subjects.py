"""Scores by subject, beside what was published of the same decoders (the paper's Figure 3a)."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cnd.cortex.drawing.figures import INK, STYLE
from reports.collect import Records
from reports.drawn import drawn
from reports.scale import Scale
from reports.tables import subject_table

SPREAD = 0.6  # of a subject's place, what its rows take


def section(records: Records) -> dict[str, Any] | None:
    """The scores of each row on each subject; None for a single subject.

    The table's score, and any other that something was published of.
    """
    if len(records.subjects) < 2:
        return None
    known = {name for row in records.rows for name in row.published}
    shown = [m for m in records.metrics if m.name == records.metric or m.name in known]
    found = [(metric, subject_table(records, metric.name)) for metric in shown]
    tables = []
    for metric, table in found:
        cells = {(line["row"], line["subject"]): line for line in table.to_dict("records")}
        lines = [
            {
                "title": row.title,
                "reference": row.id == records.reference,
                "cells": [
                    {"ours": cells.get((row.id, s)), "published": row.published.get(metric.name, {}).get(str(s))}
                    for s in records.subjects
                ],
            }
            for row in records.rows
        ]
        tables.append({"scale": metric.scale, "lines": lines})
    rows = [row.id for row in drawn(records) if not row.control]
    panels = [(metric, table[table["row"].isin(rows)]) for metric, table in found]
    titles = {row.id: row.title for row in records.rows}
    return {
        "subjects": records.subjects,
        "tables": tables,
        "published": bool(known),
        "figure": subject_scores([(metric.scale, table) for metric, table in panels if len(table)], titles),
    }


def subject_scores(panels: list[tuple[Scale, pd.DataFrame]], titles: dict[str, str]) -> Figure | None:
    """Each row's score on each subject with its 95 % interval; hollow diamonds: published. A panel a metric.

    Args:
        panels: of each metric its scale and columns row, subject, score, low, high, published.
        titles: of rows, by id.
    """
    if not panels:
        return None
    rows = [row for row in titles if any((table["row"] == row).any() for _, table in panels)]
    colors = dict(zip(rows, sns.color_palette("colorblind", len(rows)), strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 3.1 * len(panels) + 0.6))
        for axes, (scale, table) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
            _panel(axes, scale, table, rows, colors)
        handles = [Line2D([], [], color=colors[row], marker="o", ls="", label=titles[row]) for row in rows]
        if any(table["published"].notna().any() for _, table in panels):
            label = "published (real fMRI, GOD)"
            handles.append(Line2D([], [], color=INK, marker="D", mfc="white", ls="", label=label))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, scale: Scale, table: pd.DataFrame, rows: list[str], colors: dict[str, Any]) -> None:
    subjects = list(dict.fromkeys(table["subject"]))
    for index, row in enumerate(rows):
        own = table[table["row"] == row]
        x = np.array([subjects.index(s) for s in own["subject"]]) + SPREAD * ((index + 0.5) / len(rows) - 0.5)
        y, low, high = (scale.factor * own[name].to_numpy(dtype=float) for name in ("score", "low", "high"))
        axes.errorbar(x, y, np.array([y - low, high - y]), color=colors[row], fmt="o", ms=5, capsize=2, lw=1.4)
        published = own["published"].to_numpy(dtype=float)
        axes.scatter(x, published, s=34, marker="D", facecolors="white", edgecolors=[colors[row]], zorder=3)
    axes.set_xticks(range(len(subjects)), [f"subject {s}" for s in subjects])
    axes.set_xlim(-0.5, len(subjects) - 0.5)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_ylabel(scale.axis)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#e3e3e3", lw=0.8)
    axes.set_axisbelow(True)
