"""The figures of the analysis. Each function takes arrays and data frames and returns a figure; no I/O."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cnd.cortex.drawing.sheets import Sheet

mpl.use("Agg")

BLUE, ORANGE, GREY, INK = "#0072B2", "#E69F00", "#9AA0A6", "#222222"  # Okabe and Ito: any kind of colour vision
SIDE_COLORS = {"encoder": BLUE, "decoder": ORANGE}
EMPTY, HIDDEN, PALE = "#ececec", "#a3b1c0", "#f0d9d0"  # cortex without voxels; voxels not shown; not shown, signed
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
}
WIDTH, TITLE, FOOT, BAR = 9.9, 0.3, 0.2, 0.75  # inches: figure; above, below each picture; colour bar and its label
SMALL = 3.5  # inches; a narrower picture has no room for the names of areas
N_COLORS = 25  # few enough to be told apart, and to leave the picture small; odd, so that 0 is white
GAP = 24  # pixels between pictures
HALO = [patheffects.withStroke(linewidth=2.2, foreground="white")]


# ---------------------------------------------------------------- the cortex


def cortex_maps(sheet: Sheet, maps: pd.DataFrame, unit: str, signed: bool = False, hidden: str = "") -> Figure:
    """One picture of the cortex per panel, all on one colour scale.

    All panels share one pair of axes, in pixels: dozens of axes and a layout engine would take ten times as long.

    Args:
        maps: columns row, column (place of the panel, in order of first appearance), title, voxel, value, shown.
        unit: quantity and unit, for the colour bar.
        signed: colours diverge from 0; a value that is not shown is pale instead of grey.
        hidden: what it means that a voxel is not shown, for the legend.
    """
    rows, columns = list(dict.fromkeys(maps["row"])), list(dict.fromkeys(maps["column"]))
    cmap, norm = color_scale(maps, signed)
    inches = (WIDTH - 0.2) / (len(columns) * (sheet.voxel.shape[1] + GAP))  # per pixel
    small = inches * sheet.voxel.shape[1] < SMALL
    line, across = sheet.voxel.shape[0] + (TITLE + FOOT) / inches, sheet.voxel.shape[1] + GAP
    height = len(rows) * line * inches + BAR
    with mpl.rc_context(STYLE | {"figure.constrained_layout.use": False}):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0.1 / WIDTH, BAR / height, 1 - 0.2 / WIDTH, 1 - BAR / height))
        for (row, column), panel in maps.groupby(["row", "column"], sort=False):
            left, top = columns.index(column) * across, rows.index(row) * line
            _cortex_panel(axes, sheet, paint(sheet, panel, cmap, norm, signed), left, top + TITLE / inches, not small)
            size = 8 if small else 10
            axes.text(
                left, top + 0.6 * TITLE / inches, panel["title"].iloc[0], va="center", fontsize=size, weight="bold"
            )
        axes.set(xlim=(0, len(columns) * across), ylim=(len(rows) * line, 0), aspect="equal")
        axes.set_axis_off()
        bar_axes = figure.add_axes((0.25, (BAR - 0.2) / height, 0.5, 0.15 / height))
        extend = _extend(maps, signed)
        bar = figure.colorbar(ScalarMappable(norm, cmap), cax=bar_axes, orientation="horizontal", extend=extend)
        bar.set_label(unit)
        bar.locator = MaxNLocator(nbins=6, symmetric=signed)
        bar.update_ticks()
        _map_legend(figure, bool((~maps["shown"].astype(bool)).any()), signed, hidden)
    return figure


def color_scale(maps: pd.DataFrame, signed: bool, share: float = 0.99) -> tuple[Colormap, Normalize]:
    """From 0 to where ``share`` of what is shown lies below, or symmetric about 0."""
    values = maps["value"].to_numpy(dtype=float)
    shown = maps["shown"].to_numpy(dtype=bool)
    chosen = np.abs(values) if signed else values[shown] if shown.any() else values
    chosen = chosen[np.isfinite(chosen)]
    top = float(np.quantile(chosen, share)) if len(chosen) else 1.0
    top = top if top > 0 else 1.0
    return mpl.colormaps["RdBu_r" if signed else "YlOrRd"].resampled(N_COLORS), Normalize(-top if signed else 0.0, top)


def _extend(maps: pd.DataFrame, signed: bool) -> str:
    """Ends of a colour bar beyond which shown values lie."""
    return "both" if signed or bool((maps["value"][maps["shown"].astype(bool)] < 0).any()) else "max"


def paint(sheet: Sheet, panel: pd.DataFrame, cmap: Colormap, norm: Normalize, signed: bool) -> NDArray[np.float64]:
    """RGB [height, width, 3] of a sheet with the values of ``panel`` (columns voxel, value, shown)."""
    highest = int(max(sheet.voxel.max(), panel["voxel"].max()))
    colors = np.tile(to_rgb(EMPTY), (highest + 2, 1))  # the last one, found by index -1, is cortex without voxels
    rgb = cmap(norm(panel["value"].to_numpy(dtype=float)))[:, :3]
    hidden = ~panel["shown"].to_numpy(dtype=bool) | ~np.isfinite(panel["value"].to_numpy(dtype=float))
    rgb[hidden] = 1 - 0.3 * (1 - rgb[hidden]) if signed else to_rgb(HIDDEN)
    colors[panel["voxel"].to_numpy()] = rgb
    picture = colors[sheet.voxel] * sheet.shade[..., None]
    picture[~sheet.cortex] = 1.0
    return picture


def _cortex_panel(axes: Axes, sheet: Sheet, picture: NDArray[np.float64], left: float, top: float, named: bool) -> None:
    height, width = sheet.voxel.shape
    axes.imshow(picture, interpolation="nearest", extent=(left, left + width, top + height, top))
    lines = [line + np.array([left, top]) for line in sheet.outlines]
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=0.9), autolim=False)
    for label in sheet.labels if named else ():
        x, y = label.x + left, label.y + top
        if label.point:
            axes.plot((label.point[0] + left, x), (label.point[1] + top, y), color=INK, lw=0.8)
        axes.text(x, y, label.name, ha="center", va="center", fontsize=7.5, color=INK, path_effects=HALO)
    for text, x in sheet.titles:
        axes.text(x + left, top + height, text, ha="center", va="top", fontsize=8, color="#57606a")


def _map_legend(figure: Figure, some_hidden: bool, signed: bool, hidden: str) -> None:
    patches = [Patch(color=EMPTY, label="no voxels")]
    if some_hidden and hidden:
        patches.insert(0, Patch(color=PALE if signed else HIDDEN, label=hidden))
    figure.legend(handles=patches, loc="lower right", fontsize=8, frameon=False)  # beside the colour bar


def volume_scatter(maps: pd.DataFrame, unit: str) -> Figure:
    """Voxels of a volume in three projections, axes in mm; a row of panels for each map, one colour scale.

    Args:
        maps: columns row (title), x, y, z (mm), value, shown.
    """
    rows = list(dict.fromkeys(maps["row"]))
    cmap, norm = color_scale(maps, signed=False)
    planes = [("x", "y", "seen from above"), ("x", "z", "from behind"), ("y", "z", "from the side")]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.9, 2.9 * len(rows) + 0.8))
        axes_of = figure.subplots(len(rows), 3, squeeze=False)
        for title, line in zip(rows, axes_of, strict=True):
            panel = maps[maps["row"] == title].sort_values("value", na_position="first")
            for axes, (across, up, name) in zip(line, planes, strict=True):
                dim = panel[~panel["shown"]]
                axes.scatter(dim[across], dim[up], s=5, color=HIDDEN, linewidths=0)
                lit = panel[panel["shown"]]
                axes.scatter(lit[across], lit[up], s=7, c=lit["value"], cmap=cmap, norm=norm, linewidths=0)
                axes.set(xlabel=f"{across}, mm", ylabel=f"{up}, mm", aspect="equal")
                axes.set_title(f"{title}: {name}" if name == planes[0][2] else name, fontsize=9.5)
        bar = figure.colorbar(
            ScalarMappable(norm, cmap), ax=axes_of, location="bottom", shrink=0.55, aspect=42,
            extend=_extend(maps, signed=False),
        )  # fmt: skip
        bar.set_label(unit)
    return figure


# ---------------------------------------------------------------- layers, steps, areas


def r2_heatmap(states: pd.DataFrame) -> Figure:
    """Held-out R^2 of every layer and step beside the 95 % level of its null: a panel for each drive and side.

    Args:
        states: columns drive, side, layer, step, r2, r2_null_95, r2_p, n_significant, n_targets.
    """
    drives = list(dict.fromkeys(states["drive"]))
    sides = [side for side in SIDE_COLORS if side in set(states["side"])]
    top = max(0.01, float(states["r2"].max()))
    n_layers = states["layer"].nunique()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.9, len(drives) * (0.72 * n_layers + 0.75) + 0.8))
        axes_of = figure.subplots(len(drives), len(sides), squeeze=False)
        for drive, line in zip(drives, axes_of, strict=True):
            for side, axes in zip(sides, line, strict=True):
                cells = states[(states["drive"] == drive) & (states["side"] == side)]
                _heat_panel(axes, cells, top)
                axes.set_title(f"{side}, {drive}-driven")
        scale = ScalarMappable(Normalize(0, top), mpl.colormaps["YlGnBu"])
        bar = figure.colorbar(scale, ax=axes_of, location="bottom", shrink=0.5, aspect=42, extend="min")
        bar.set_label("held-out R² of the hidden states' components (share of variance)")
    return figure


def _heat_panel(axes: Axes, cells: pd.DataFrame, top: float) -> None:
    table = cells.pivot(index="layer", columns="step", values="r2")
    axes.imshow(table, cmap="YlGnBu", vmin=0, vmax=top, aspect="auto")
    layers, steps = list(table.index), list(table.columns)
    for cell in cells.to_dict("records"):
        x, y = steps.index(cell["step"]), layers.index(cell["layer"])
        color = "white" if cell["r2"] > 0.6 * top else INK
        star = "*" if np.isfinite(cell["r2_p"]) and cell["r2_p"] <= 0.05 else ""
        number, null = (_number(cell[name]) for name in ("r2", "r2_null_95"))
        axes.text(x, y - 0.22, f"{number}{star}", ha="center", va="center", color=color, fontsize=9.5)
        small = f"null {null}\n{cell['n_significant']} of {cell['n_targets']}"
        axes.text(x, y + 0.2, small, ha="center", va="center", color=color, fontsize=7.5)
    axes.set_xticks(range(len(steps)), [f"{100 * step:.0f} %" for step in steps])
    axes.set_yticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    axes.set_xlabel("denoising done")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "−") if np.isfinite(value) else "–"  # a state that does not vary has no R^2


def area_bars(areas: pd.DataFrame) -> Figure:
    """Four quantities of every area, encoder and decoder beside each other.

    Args:
        areas: columns side, area, n_voxels, weight, pattern, encoding_r2, share_significant; in drawing order.
    """
    names = list(dict.fromkeys(areas["area"]))
    panels = [
        ("weight", "raw weight", "mean |W|,\nunits of the state per SD", 1.0),
        ("pattern", "Haufe pattern", "mean |pattern|,\nSD × units of the state", 1.0),
        ("encoding_r2", "encoding R²", "held-out R²\nof a voxel", 1.0),
        ("share_significant", "significant voxels", "% of voxels, by FDR", 100.0),
    ]
    counts = areas.drop_duplicates("area").set_index("area")["n_voxels"]
    titles = [f"{name or 'no area known'} ({counts[name]})" for name in names]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.9, 1.5 + 0.27 * max(2, len(names))))
        axes_of = figure.subplots(1, 4, sharey=True)
        for axes, (column, title, unit, factor) in zip(axes_of, panels, strict=True):
            for offset, side in ((-0.19, "encoder"), (0.19, "decoder")):
                mine = areas[areas["side"] == side].set_index("area")[column].reindex(names)
                axes.barh(np.arange(len(names)) + offset, factor * mine, 0.36, color=SIDE_COLORS[side], label=side)
            axes.set_title(title)
            axes.set_xlabel(unit)
            axes.locator_params(axis="x", nbins=4)  # four panels abreast leave little room for numbers
            axes.ticklabel_format(axis="x", scilimits=(-2, 3), useMathText=True)
            axes.axvline(0, color=INK, lw=0.8)
            axes.grid(axis="x", color="#e3e3e3", lw=0.8)
            axes.set_axisbelow(True)
        axes_of[0].set_yticks(range(len(names)), titles, fontsize=9)
        axes_of[0].set_ylim(len(names) - 0.4, -0.6)
        handles, labels = axes_of[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def area_heatmap(means: pd.DataFrame, order: list[str], unit: str, signed: bool = False) -> Figure:
    """A value for every area (columns) and layer, step or run (lines): a panel for each side, one colour scale.

    Args:
        means: columns line, side, area, value, n_voxels, said (written into the cell).
        order: areas from left to right.
        unit: quantity and unit, for the colour bar.
        signed: colours diverge from 0.
    """
    lines, sides = (list(dict.fromkeys(means[name])) for name in ("line", "side"))
    cmap, norm = color_scale(means.assign(shown=True), signed, share=1.0)
    top = norm.vmax or 1.0
    counts = means.drop_duplicates("area").set_index("area")["n_voxels"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.9, len(sides) * (0.45 * len(lines) + 0.9) + 1.0))
        axes_of = list(figure.subplots(len(sides), 1, squeeze=False, sharex=True)[:, 0])
        for side, axes in zip(sides, axes_of, strict=True):
            cells = means[means["side"] == side]
            axes.imshow(
                cells.pivot(index="line", columns="area", values="value").loc[lines, order],
                cmap,
                norm,
                aspect="auto" if len(order) > 6 else 0.35,  # height by width of a cell; few are not stretched
            )
            for cell in cells.to_dict("records"):
                strength = abs(cell["value"]) if signed else cell["value"]
                color = "white" if strength > 0.6 * top else INK
                x, y, said = order.index(cell["area"]), lines.index(cell["line"]), cell["said"].replace("-", "−")
                axes.text(x, y, said, ha="center", va="center", fontsize=7, color=color)
            axes.set_yticks(range(len(lines)), lines)
            axes.set_title(side)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        names = [f"{area or 'no area known'} ({counts[area]})" for area in order]
        axes_of[-1].set_xticks(range(len(order)), names, rotation=45, ha="right")
        below = not signed and bool((means["value"] < 0).any())
        bar = figure.colorbar(
            ScalarMappable(norm, cmap), ax=axes_of, location="bottom", shrink=0.5, aspect=42,
            extend="min" if below else "neither",
        )  # fmt: skip
        bar.set_label(unit)
    return figure


def area_decoding(areas: pd.DataFrame, order: list[str]) -> Figure:
    """Held-out R^2 of each layer from one area's voxels alone (mean over steps): a panel for each drive and side.

    Args:
        areas: columns drive, side, layer, area, n_voxels, r2 (a line per step is averaged here).
        order: areas from left to right.
    """
    drives = list(dict.fromkeys(areas["drive"]))
    sides = [side for side in SIDE_COLORS if side in set(areas["side"])]
    layers = sorted(areas["layer"].unique())
    colors = mpl.colormaps["viridis"](np.linspace(0.05, 0.85, len(layers)))
    counts = areas.drop_duplicates("area").set_index("area")["n_voxels"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.9, 2.6 * len(drives) + 0.7))
        axes_of = figure.subplots(len(drives), len(sides), squeeze=False, sharex=True, sharey=True)
        for drive, line in zip(drives, axes_of, strict=True):
            for side, axes in zip(sides, line, strict=True):
                mine = areas[(areas["drive"] == drive) & (areas["side"] == side)]
                for layer, color, marker in zip(layers, colors, "os^Dv" * len(layers), strict=False):
                    r2 = mine[mine["layer"] == layer].groupby("area")["r2"].mean().reindex(order)
                    axes.plot(range(len(order)), r2, marker, color=color, ls="-", lw=0.8, ms=5, label=f"layer {layer}")
                axes.axhline(0, color=INK, lw=0.8)
                axes.set_title(f"{side}, {drive}-driven")
                axes.grid(axis="y", color="#e3e3e3", lw=0.8)
                axes.set_axisbelow(True)
        for axes in axes_of[-1]:
            axes.set_xticks(range(len(order)), [f"{area} ({counts[area]})" for area in order], rotation=45, ha="right")
        for axes in axes_of[:, 0]:
            axes.set_ylabel("held-out R²")
        handles, labels = axes_of[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(layers), frameon=False, fontsize=9)
    return figure
