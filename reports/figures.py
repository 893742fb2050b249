"""The report's figures. Each function takes data frames and returns a figure; none reads or writes anything."""

from __future__ import annotations

from collections.abc import Collection
from textwrap import shorten, wrap
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from cnd.cortex.drawing.figures import BLUE, GREY, INK, ORANGE, STYLE
from reports.scale import PERCENT, Scale

GREEN, RED = "#009E73", "#B3430E"  # of the same palette as the other colours
VERDICTS = {  # marker, colour, filled, for people
    "better": ("^", BLUE, True, "better than the reference"),
    "worse": ("v", RED, True, "worse"),
    "equivalent": ("s", GREEN, True, "equivalent within the margin"),
    "undecided": ("o", INK, False, "undecided"),
    "": ("o", GREY, False, "one seed: no verdict"),
}
MOST_POINTS = 400  # of one learning curve


def forest_plot(
    differences: pd.DataFrame, band: float, by_seed: pd.DataFrame, scale: Scale = PERCENT, margin: float = 0.05
) -> Figure:
    """Difference of each row from the reference row with its 95 % interval; controls below on their own axis.

    Args:
        differences: columns row, title, control, difference, low, high, verdict.
        band: half-width in which all rows would lie (95 %) if they were equally good; NaN draws none.
        by_seed: columns row, seed, difference; may be empty.
        scale: of the score.
        margin: within which rows count as equivalent; drawn where there are verdicts.
    """
    judged = bool(differences["verdict"].ne("").any())
    control = differences["control"].astype(bool)
    blocks = [block for block in (differences[~control], differences[control]) if len(block)]
    heights = [len(block) + 1.0 for block in blocks] or [1.0]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 1.2 + 0.29 * sum(heights)))
        panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, block in zip(panels, blocks, strict=False):
            _forest_block(axes, block, by_seed, scale.factor)
            if np.isfinite(band):
                label = "holds all rows, 95 % of the time, if they are equally good"
                axes.axvspan(
                    -scale.factor * band, scale.factor * band, color=GREY, alpha=0.22, lw=0, label=label, zorder=0
                )
            if judged:
                for side in (-1, 1):
                    axes.axvline(side * scale.factor * margin, color=GREEN, lw=1, ls=":", zorder=1)
            axes.set_title("Controls (own scale)" if block["control"].iloc[0] else "Rows")
        panels[-1].set_xlabel(f"difference from the reference row, {scale.difference_axis}")
        found = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        if found:
            below: Any = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": 9}
            figure.legend(list(found.values()), list(found), **below)
    return figure


def _forest_block(axes: Axes, block: pd.DataFrame, by_seed: pd.DataFrame, factor: float) -> None:
    heights = dict(zip(block["row"], range(len(block)), strict=True))
    axes.axvline(0, color=INK, lw=1, zorder=1)
    single = by_seed[by_seed["row"].isin(list(heights))]
    if len(single):
        y = single["row"].map(heights)
        axes.scatter(
            factor * single["difference"], y, s=42, marker="|", color=ORANGE, label="single training seed", zorder=2
        )
    for line in block.to_dict("records"):
        shape, color, filled, label = VERDICTS[line["verdict"]]
        if line["control"] and not line["verdict"]:  # a control that is there for something else than a verdict
            shape, color, filled, label = "D", INK, True, ""
        y = heights[line["row"]]
        axes.plot([factor * line["low"], factor * line["high"]], [y, y], color=color, lw=2, zorder=3)
        face = color if filled else "white"
        axes.plot(factor * line["difference"], y, shape, ms=6.5, mew=1.6, mfc=face, mec=color, label=label, zorder=4)
    titles = [str(title) if len(str(title)) <= 48 else f"{str(title)[:47]}…" for title in block["title"]]
    aligned: Any = {"family": "monospace", "fontsize": 9} if not block["control"].iloc[0] else {}
    axes.set_yticks(range(len(block)), titles, **aligned)
    axes.set_ylim(len(block) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e3e3e3", lw=0.8)
    axes.set_axisbelow(True)


def factor_curves(points: pd.DataFrame, scale: Scale = PERCENT) -> Figure:
    """Score against one setting, all else equal: a panel a factor; 95 % intervals; the reference row filled.

    Args:
        points: columns factor, x_title, x, position, row, reference, score, low, high, chance.
        scale: of the score.
    """
    factors = list(dict.fromkeys(points["factor"]))
    n_rows, n_columns = _layout(len(factors))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=((3.2 if n_columns != 2 else 4.4) * n_columns + 0.4, 2.9 * n_rows))
        panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).ravel()
        for axes, factor in zip(panels, factors, strict=False):
            _factor_panel(axes, points[points["factor"] == factor].sort_values("position"), factor, scale.factor)
        for axes in panels[len(factors) :]:
            axes.set_axis_off()
        for axes in panels[::n_columns]:
            axes.set_ylabel(scale.axis)
        panels[0].set_ylim(*_score_limits(points, scale))  # shared by all panels
    return figure


def _score_limits(points: pd.DataFrame, scale: Scale) -> tuple[float, float]:
    """From 0, or lower where scores are, to a little above the highest; no accuracy exceeds 100 %."""
    lowest, highest = points[["score", "low"]].min().min(), points[["score", "high", "chance"]].max().max()
    top = 1.08 * highest if highest > 0 else 0.01
    return scale.factor * min(0.0, 1.08 * lowest), scale.factor * (min(1.04, top) if scale.percent else top)


def _layout(n_panels: int) -> tuple[int, int]:
    """Rows and columns of a figure of panels, at most three abreast and with few empty places."""
    n_columns = 2 if n_panels == 4 else min(3, max(1, n_panels))
    return max(1, -(-n_panels // n_columns)), n_columns


def _factor_panel(axes: Axes, curve: pd.DataFrame, factor: str, by: float) -> None:
    x = np.arange(len(curve))
    error = by * np.array([curve["score"] - curve["low"], curve["high"] - curve["score"]], dtype=float)
    axes.errorbar(x, by * curve["score"], error, color=BLUE, ecolor=BLUE, elinewidth=1.6, lw=1, capsize=3, zorder=2)
    faces = [BLUE if reference else "white" for reference in curve["reference"]]
    axes.scatter(x, by * curve["score"], s=46, c=faces, edgecolors=BLUE, linewidths=1.6, zorder=3)
    if curve["chance"].notna().any():
        axes.axhline(by * curve["chance"].iloc[0], color=GREY, lw=1.2, ls="--", zorder=1)
    axes.set_xticks(x, [f"{at}\nrow {row}" for at, row in zip(curve["x"], curve["row"], strict=True)])
    axes.set_xlim(-0.5, len(curve) - 0.5)
    axes.set_xlabel(curve["x_title"].iloc[0])
    axes.set_title(shorten(str(factor), 44, placeholder="…"), fontsize=9.5)
    axes.grid(axis="y", color="#e3e3e3", lw=0.8)
    axes.set_axisbelow(True)


def image_grid(images: pd.DataFrame) -> Figure:
    """Pictures in a grid; grid rows and columns in order of first appearance.

    Args:
        images: columns row_title, column_title, pixels (uint8 [1 or 3, height, width]); cells may be missing.
    """
    rows, columns = list(dict.fromkeys(images["row_title"])), list(dict.fromkeys(images["column_title"]))
    size = max((max(pixels.shape[1:]) for pixels in images["pixels"]), default=1)
    gap, cell = max(1, size // 16), size + max(1, size // 16)
    canvas = np.full((len(rows) * cell + gap, len(columns) * cell, 3), 255, dtype=np.uint8)
    for line in images.to_dict("records"):
        top, left = rows.index(line["row_title"]) * cell, columns.index(line["column_title"]) * cell
        top += gap if top else 0  # air between the stimuli and what was made of them
        picture = _rgb(line["pixels"])
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    inches = min(0.78, 7.6 / max(1, len(columns)))
    margin = 0.5 + 0.1 * min(34, max(len(title) for title in rows))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(margin + inches * len(columns), 0.6 + inches * len(rows)))
        axes = figure.subplots()
        axes.imshow(canvas, interpolation="nearest" if size <= 96 else "antialiased")
        axes.set_yticks(
            [r * cell + size / 2 for r in range(len(rows))], [shorten(r, 34, placeholder="…") for r in rows]
        )
        wrapped = ["\n".join(wrap(shorten(c, 28, placeholder="…"), 11)) for c in columns]
        axes.set_xticks([c * cell + size / 2 for c in range(len(columns))], wrapped, fontsize=8)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(False)
    return figure


def _rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = np.moveaxis(pixels, 0, -1)
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture[..., :3]


def learning_curves(history: pd.DataFrame, reference: str, nulls: Collection[str]) -> Figure:
    """Each recorded quantity against samples seen, a panel a phase and quantity; the reference row stands out.

    Args:
        history: columns row, phase, samples_seen, name, value; folds and seeds are averaged.
        reference: id of the row drawn in colour.
        nulls: ids of the rows drawn in orange: trained on pairs that do not belong together.
    """
    kinds = dict.fromkeys(nulls, "shuffled pairs") | {reference: f"row {reference} (reference)"}
    colors = {"other rows": GREY, "shuffled pairs": ORANGE, kinds[reference]: BLUE}
    keys = ["phase", "name", "row", "samples_seen"]
    curves = history.groupby(keys, sort=False)["value"].mean().reset_index()
    curves["kind"] = curves["row"].map(kinds).fillna("other rows")
    panels = list(dict.fromkeys(zip(curves["phase"], curves["name"], strict=True)))
    n_rows, n_columns = _layout(len(panels))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * n_columns + 0.4, 2.4 * n_rows + 0.5))
        axes_of = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes, (phase, name) in zip(axes_of, panels, strict=False):
            _curves_panel(axes, curves[(curves["phase"] == phase) & (curves["name"] == name)], colors)
            axes.set_title(f"{phase}: {name.replace('_', ' ')}", fontsize=9.5)
        for axes in axes_of[len(panels) :]:
            axes.set_axis_off()
        figure.supxlabel("samples seen", fontsize=10)
        present = set(curves["kind"])
        lines = [Line2D([], [], color=color, label=kind) for kind, color in reversed(colors.items()) if kind in present]
        figure.legend(handles=lines, loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return figure


def _curves_panel(axes: Axes, curves: pd.DataFrame, colors: dict[str, str]) -> None:
    order = [kind for kind in colors if kind in set(curves["kind"])]
    curves = curves.sort_values(["kind", "samples_seen"], key=lambda c: c.map(order.index) if c.name == "kind" else c)
    thinned = curves[
        curves.groupby("row").cumcount() % max(1, len(curves) // (MOST_POINTS * curves["row"].nunique())) == 0
    ]
    single = thinned["samples_seen"].nunique() < 2
    for _, curve in thinned.groupby(["kind", "row"], sort=False):
        kind = str(curve["kind"].iloc[0])
        axes.plot(
            curve["samples_seen"], curve["value"], color=colors[kind], lw=0.9 if kind == "other rows" else 1.9,
            marker="o" if single else None,
        )  # fmt: skip
    axes.grid(color="#e8e8e8", lw=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("")
    axes.set_ylabel("")


def validation_curves(curves: pd.DataFrame, late: Collection[str], chance: float, scale: Scale = PERCENT) -> Figure:
    """Validation score by samples seen, all rows in one panel; the legend lists them from best to worst at the end.

    Args:
        curves: columns row, title, control, samples_seen, score.
        late: ids of rows that had not converged; they are dashed.
        chance: level of the score; NaN draws none.
        scale: of the score.
    """
    last = curves.sort_values("samples_seen").groupby("row").last().sort_values("score", ascending=False)
    colors = iter(_distinct(int((~last["control"].astype(bool)).sum())))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, max(3.6, 1.2 + 0.22 * len(last))))
        axes = figure.subplots()
        for row, line in last.iterrows():
            own = curves[curves["row"] == row].sort_values("samples_seen")
            color, dashes = GREY if line["control"] else next(colors), "--" if row in late else "-"
            end = f"{scale.number(line['score'])}  {shorten(str(line['title']), 34, placeholder='…')}"
            label = f"{end}{' (not converged)' if row in late else ''}"
            x, y = own["samples_seen"], scale.factor * own["score"]
            axes.plot(x, y, dashes, color=color, lw=1.6, marker="o", ms=3.2, label=label)
        if np.isfinite(chance):
            axes.axhline(scale.factor * chance, color=GREY, lw=1.2, ls=":", label="chance")
        axes.set_xlabel("samples seen")
        axes.set_ylabel(f"validation score: {scale.axis}")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_xlim(left=0)
        axes.grid(color="#e8e8e8", lw=0.8)
        axes.set_axisbelow(True)
        figure.legend(loc="outside right upper", frameon=False, fontsize=9, title="at the end", alignment="left")
    return figure


def _distinct(n: int) -> list[Any]:
    """Colours of neighbours in the legend far apart."""
    strong = [BLUE, ORANGE, GREEN, "#CC79A7", "#7A3E9D", "#56B4E9", INK, "#B8A000", RED, "#3B7A57"]
    return strong[:n] if n <= len(strong) else [*strong, *sns.color_palette("husl", n - len(strong))]
