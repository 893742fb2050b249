"""n-way accuracy over the number of candidates, from the ranks of the true class that records keep."""

from __future__ import annotations

from itertools import cycle, product
from textwrap import shorten

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from numpy.typing import NDArray

from cnd import statistics
from cnd.cortex.drawing.figures import BLUE, GREY, INK, STYLE
from cnd.metrics.nway import n_way_curve
from reports.collect import RecordedTrial, Records
from reports.drawn import drawn

N_POINTS = 40  # of a curve, evenly spaced on the logarithmic axis
TICKS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)
COLUMNS = ["row", "title", "control", "reference", "n", "score", "low", "high"]


def curves(records: Records) -> pd.DataFrame:
    """Top-1 accuracy by the table's judge for about 40 numbers of candidates n, exact at each.

    Columns: row, title, control, reference, n, score, low, high. The 95 % interval is that of the reference row, as
    the table has it (:func:`cnd.statistics.crossed_mean`), and NaN elsewhere, or where not every subject has the same
    items and seeds. Rows whose records do not all keep ranks are left out; without any the table is empty.
    """
    parts = []
    for row in drawn(records):
        runs = {(t.subject or "", t.seed): _ranks(t) for t in records.of(row.id) if t.folder is not None}
        known = {run: ranks for run, ranks in runs.items() if ranks is not None}
        if not known or len(known) < len(runs):
            continue
        n_classes = min(int(ranks["n_classes"].min()) for ranks in known.values())
        n = np.unique(np.geomspace(2, n_classes, N_POINTS).round().astype(np.int64))
        own = records.numbered[records.numbered["row"] == row.id].drop_duplicates(["subject", "seed", "item"])
        shown = own.set_index(["subject", "seed", "item"])["shown"].sort_index()
        by_run = {run: _by_item(ranks, n).rename(index=shown.loc[run]).sort_index() for run, ranks in known.items()}
        score = np.mean([accuracy.to_numpy().mean(axis=0) for accuracy in by_run.values()], axis=0)
        line = {"row": row.id, "title": row.title, "control": row.control, "reference": row.id == records.reference}
        low, high = _band(records, row.id, by_run) if row.id == records.reference else (np.nan, np.nan)
        parts.append(pd.DataFrame(line | {"n": n, "score": score, "low": low, "high": high}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def _ranks(trial: RecordedTrial) -> pd.DataFrame | None:
    """Columns item, above, tied, n_classes by the first judge; None where a record has none."""
    if trial.folder is None or not (trial.folder / "ranks.parquet").exists():
        return None
    ranks = pd.read_parquet(trial.folder / "ranks.parquet")
    first = next(iter(trial.summary.get("classifiers", ())), None)
    own = ranks[ranks["judge"] == (first or ranks["judge"].iloc[0])]
    return own[["item", "above", "tied", "n_classes"]]


def _by_item(ranks: pd.DataFrame, n: NDArray[np.int64]) -> pd.DataFrame:
    """Accuracy of each item, means over samples: index item, a column for each number of candidates."""
    places, which = np.unique(ranks[["above", "tied"]].to_numpy(np.int64), axis=0, return_inverse=True)
    curve = n_way_curve(places[:, 0], places[:, 1], int(ranks["n_classes"].iloc[0]), [int(k) for k in n])
    return pd.DataFrame(curve[which.reshape(-1)], columns=n).groupby(ranks["item"].to_numpy()).mean()


def _band(
    records: Records, row: str, by_run: dict[tuple[str, int], pd.DataFrame]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Limits at each number of candidates."""
    subjects, seeds = sorted({subject for subject, _ in by_run}), sorted({seed for _, seed in by_run})
    first = next(iter(by_run.values()))
    if len(by_run) < len(subjects) * len(seeds) or not all(a.index.equals(first.index) for a in by_run.values()):
        return np.full(first.shape[1], np.nan), np.full(first.shape[1], np.nan)
    values = np.stack([[by_run[subject, seed].to_numpy() for subject in subjects] for seed in seeds])
    category = records.per_item.loc[row]["category"].groupby("item").first()[first.index]
    units = statistics.sampling_units(category.to_numpy(), first.index.to_numpy())
    found = [
        statistics.crossed_mean(at.transpose(2, 0, 1), units, bounds=(0.0, 1.0)) for at in np.moveaxis(values, 3, 0)
    ]
    return np.array([i.low for i in found]), np.array([i.high for i in found])


def candidate_curves(points: pd.DataFrame) -> Figure:
    """All rows in one panel; the legend lists them from best to worst at the largest n.

    Args:
        points: columns as of :func:`curves`; not empty.
    """
    last = points.sort_values("n").groupby("row").last().sort_values("score", ascending=False)
    others = int((~last["control"].astype(bool) & ~last["reference"].astype(bool)).sum())
    colors = iter(sns.husl_palette(others, l=0.55, h=0.05))
    greys = cycle(product((GREY, "#50575e"), ((0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), "-")))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, max(3.8, 1.2 + 0.21 * len(last))))
        axes = figure.subplots()
        for row, line in last.iterrows():
            own = points[points["row"] == row].sort_values("n")
            label = f"{100 * line['score']:.1f}  {shorten(str(line['title']), 36, placeholder='…')}"
            if line["reference"]:
                low, high = (100 * own[name].to_numpy(dtype=float) for name in ("low", "high"))
                axes.fill_between(own["n"], low, high, color=BLUE, alpha=0.16, lw=0, zorder=1)
                axes.plot(own["n"], 100 * own["score"], color=BLUE, lw=2.8, label=f"{label} (reference)", zorder=4)
            elif line["control"]:
                color, dashes = next(greys)
                axes.plot(own["n"], 100 * own["score"], color=color, lw=1.5, ls=dashes, label=label, zorder=2)
            else:
                axes.plot(own["n"], 100 * own["score"], color=next(colors), lw=1.2, label=label, zorder=3)
        n = np.unique(points["n"])
        axes.plot(n, 100 / n, "--", color=INK, lw=1.2, label="chance, 1/n", zorder=2)
        axes.set_xscale("log")
        axes.set_xticks([tick for tick in TICKS if tick < 0.75 * n.max()] + [int(n.max())])
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(2, n.max())
        axes.set_ylim(0, 102)
        axes.set_xlabel("candidates n")
        axes.set_ylabel("n-way top-1, %")
        axes.grid(color="#e8e8e8", lw=0.8)
        axes.set_axisbelow(True)
        title = f"at n = {int(n.max())}"
        figure.legend(loc="outside right upper", frameon=False, fontsize=9, title=title, alignment="left")
    return figure
