"""The figures of a search. Each function takes a data frame and returns a figure; none reads or writes anything.

Columns of the frames are named as readers shall see them (:func:`reports.scale.titles`).
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnd.cortex.drawing.figures import BLUE, GREY, INK, ORANGE, STYLE
from reports.scale import Scale
from reports.search_tables import best_so_far, is_number, is_wide, on_front, smoothed

ACROSS = 3  # panels beside one another
CONTOURS, GRID, LEVELS = 3, 60, 15  # pairs of settings; points along an axis; heights


def history(trials: pd.DataFrame, objective: str, higher_is_better: bool, scale: Scale) -> Figure:
    """Score of each trial in the order of proposals, the best so far, and what was known beforehand.

    Args:
        trials: of :func:`reports.search_tables.trial_table`.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 3.6))
        axes = figure.subplots()
        done = trials[trials["state"] == "complete"]
        known = done["label"] != ""
        for part, color, label in ((done[~known], BLUE, "proposed"), (done[known], ORANGE, "known beforehand")):
            if len(part):
                axes.scatter(part["number"], scale.factor * part[objective], s=26, color=color, label=label, zorder=3)
        stopped = trials[trials["state"] == "pruned"]
        if len(stopped):
            low = scale.factor * done[objective].min() if len(done) else 0.0
            axes.scatter(stopped["number"], [low] * len(stopped), marker="x", color=GREY, label="stopped early")
        best = scale.factor * best_so_far(trials[objective], higher_is_better)
        axes.step(trials["number"], best, where="post", color=INK, lw=1.4, label="best so far")
        reference = done[done["label"] == "reference"]
        if len(reference):
            axes.axhline(scale.factor * reference[objective].iloc[0], color=ORANGE, lw=1, ls=":", label="reference")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trial")
        axes.set_ylabel(f"validation: {scale.axis}")
        figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=9)
        _grid(axes)
    return figure


def parallel(trials: pd.DataFrame, objective: str, settings: list[str], higher_is_better: bool, scale: Scale) -> Figure:
    """A line a complete trial through its settings, by colour of its score; the best are drawn last."""
    done = trials.dropna(subset=[objective]).sort_values(objective, ascending=higher_is_better)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 4.2))
        axes = figure.subplots()
        places = {setting: _places(done[setting]) for setting in settings}
        values = scale.factor * done[objective].to_numpy(dtype=float)
        norm = Normalize(values.min(), values.max() if values.max() > values.min() else values.min() + 1)
        cmap = mpl.colormaps["viridis" if higher_is_better else "viridis_r"]
        lines = np.column_stack([places[setting][0] for setting in settings])
        for line, value in zip(lines, values, strict=True):
            axes.plot(range(len(settings)), line, color=cmap(norm(value)), lw=1.4, alpha=0.85, marker="o", ms=3)
        for x, setting in enumerate(settings):
            axes.axvline(x, color="#bbbbbb", lw=1, zorder=0)
            for y, word in places[setting][1]:
                axes.annotate(
                    word, (x, y), xytext=(4, 0), textcoords="offset points", fontsize=8, va="center", color=INK
                )
        axes.set_xticks(range(len(settings)), [setting.replace(" ", "\n") for setting in settings], fontsize=9)
        axes.set_xlim(-0.1, len(settings) - 1 + 0.35)
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        figure.colorbar(ScalarMappable(norm, cmap), ax=axes, label=f"validation: {scale.axis}", pad=0.01)
    return figure


def _places(values: pd.Series) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights 0 to 1 of values on their axis, and what is written there; NaN where the setting was not varied."""
    known = values.dropna()
    if not is_number(known):
        words = sorted({str(value) for value in known})
        at = {word: i / max(1, len(words) - 1) for i, word in enumerate(words)}
        return values.map(lambda v: at.get(str(v), np.nan)).to_numpy(dtype=float), [(y, w) for w, y in at.items()]
    numbers = values.to_numpy(dtype=float)
    scaled = np.log(numbers) if is_wide(known) else numbers
    low, high = np.nanmin(scaled), np.nanmax(scaled)
    ends = [(0.0, f"{known.min():.3g}"), (1.0, f"{known.max():.3g}")]
    return (scaled - low) / (high - low if high > low else 1.0), ends if high > low else ends[:1]


def slices(trials: pd.DataFrame, objective: str, settings: list[str], scale: Scale) -> Figure:
    """Score against each setting, a panel each; darker points are later trials."""
    done = trials.dropna(subset=[objective])
    n_rows = -(-len(settings) // ACROSS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 2.5 * n_rows + 0.2))
        panels = figure.subplots(n_rows, ACROSS, squeeze=False, sharey=True).ravel()
        for axes, setting in zip(panels, settings, strict=False):
            part = done.dropna(subset=[setting])
            x: Any = part[setting]
            if not is_number(x):
                words = sorted({str(value) for value in x})
                x = x.map(lambda v, words=words: words.index(str(v)))
                axes.set_xticks(range(len(words)), [word[:18] for word in words], fontsize=8)
                axes.set_xlim(-0.5, len(words) - 0.5)
            elif is_wide(x):
                axes.set_xscale("log")
                ends = np.geomspace(x.min(), x.max(), 3)  # a range of less than ten has no tick of its own
                axes.set_xticks(ends, [f"{end:.2g}" for end in ends], fontsize=8)
                axes.set_xticks([], minor=True)
            axes.scatter(x, scale.factor * part[objective], c=part["number"], cmap="Blues", vmin=-len(done) / 2, s=24)
            axes.set_title(setting, fontsize=9.5)
            _grid(axes)
        for axes in panels[len(settings) :]:
            axes.set_axis_off()
        figure.supylabel(f"validation: {scale.axis}", fontsize=10)
    return figure


def contours(trials: pd.DataFrame, objective: str, settings: list[str], higher_is_better: bool, scale: Scale) -> Figure:
    """Score over pairs of settings: a smoothed mean of neighbouring trials, and the trials themselves.

    Args:
        settings: the most important first; a panel for each of the first pairs.
    """
    done = trials.dropna(subset=[objective])
    pairs = [pair for pair in combinations(settings[:CONTOURS], 2) if len(done.dropna(subset=list(pair))) > 1]
    values = scale.factor * done[objective].to_numpy(dtype=float)
    norm = Normalize(values.min(), values.max() if values.max() > values.min() else values.min() + 1)
    cmap = mpl.colormaps["viridis" if higher_is_better else "viridis_r"]
    line = np.linspace(-0.04, 1.04, GRID)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 3.5))
        panels = figure.subplots(1, CONTOURS, squeeze=False)[0]
        for axes, (one, other) in zip(panels, pairs, strict=False):
            part = done.dropna(subset=[one, other])
            (x, x_words), (y, y_words) = _places(part[one]), _places(part[other])
            scores = scale.factor * part[objective].to_numpy(dtype=float)
            ground = smoothed(x, y, scores, line, line)
            levels = np.linspace(norm.vmin or 0, norm.vmax or 1, LEVELS)
            axes.contourf(line, line, ground, levels=levels, cmap=cmap, alpha=0.8)
            axes.scatter(x, y, c=scores, norm=norm, cmap=cmap, s=26, edgecolors=INK, linewidths=0.6)
            axes.set_xticks([at for at, _ in x_words], [word[:12] for _, word in x_words], fontsize=8)
            axes.set_yticks([at for at, _ in y_words], [word[:12] for _, word in y_words], fontsize=8)
            axes.set_xlabel(one)
            axes.set_ylabel(other)
        for axes in panels[len(pairs) :]:
            axes.set_axis_off()
        figure.colorbar(ScalarMappable(norm, cmap), ax=panels, label=f"validation: {scale.axis}", pad=0.01)
    return figure


def importance(table: pd.DataFrame) -> Figure:
    """Importance of each setting beside what shuffled scores give.

    Args:
        table: of :func:`reports.search_tables.importance_table`.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 1.1 + 0.36 * len(table)))
        axes = figure.subplots()
        y = np.arange(len(table))[::-1]
        axes.barh(
            y, table["null_high"], height=0.72, color=GREY, alpha=0.35, label="95 % of shuffled scores lie in here"
        )
        axes.barh(y, table["importance"], height=0.34, color=BLUE, label="share of the variance of scores")
        axes.set_yticks(y, table["setting"])
        axes.set_xlim(0, 1)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def pareto(trials: pd.DataFrame, objectives: list[str], higher_is_better: list[bool], scales: list[Scale]) -> Figure:
    """Both objectives of each complete trial, and the front: trials that no other beats in both."""
    done = trials.dropna(subset=objectives)
    front = on_front(done[objectives].to_numpy(dtype=float), higher_is_better)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 4.0))
        axes = figure.subplots()
        x, y = (scales[i].factor * done[objectives[i]] for i in (1, 0))
        axes.scatter(x[~front], y[~front], s=24, color=GREY, label="other trials")
        order = np.argsort(x[front].to_numpy())
        axes.plot(
            x[front].to_numpy()[order], y[front].to_numpy()[order], "o-", color=BLUE, ms=5.5, label="Pareto front"
        )
        axes.set_xlabel(scales[1].axis)
        axes.set_ylabel(f"validation: {scales[0].axis}")
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
        _grid(axes)
    return figure


def _grid(axes: Axes) -> None:
    axes.grid(color="#e8e8e8", lw=0.8)
    axes.set_axisbelow(True)
