"""What differs between two runs of a sweep: maps and pictures of their encoding R^2, row minus reference."""

from __future__ import annotations

from textwrap import shorten
from typing import NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from cnd.analysis import draw, figures, maps
from cnd.analysis.captions import percent
from cnd.analysis.maps import Analysis
from cnd.errors import UserError


class Difference(NamedTuple):
    """A run's title, encoder or decoder, and its :func:`cnd.analysis.maps.difference_map` from the reference."""

    run: str
    side: str
    table: pd.DataFrame


def differences(rows: list[tuple[str, Analysis]], reference: Analysis) -> tuple[list[Difference], list[str]]:
    """Differences of several runs (title, analysis) from one, and why some are missing.

    Reconstruction-driven: the stimulus-driven states do not depend on the decoder, so there two rows cannot differ.
    """
    found: list[Difference] = []
    problems = []
    sides = [side for side in maps.SIDES if side in set(reference.states["side"])]
    for title, analysis in rows:
        try:
            tables = [maps.difference_map(analysis, reference, "reconstruction", side) for side in sides]
            found += [Difference(title, side, table) for side, table in zip(sides, tables, strict=True)]
        except UserError as error:
            problems.append(f"{title}: {error}")
    return found, problems


def difference_drawing(
    found: list[Difference], reference: tuple[str, Analysis], cortex: draw.Cortex | None
) -> draw.Drawing:
    """What :func:`differences` found, on the cortex or, without a surface, by area.

    Args:
        found: at least one map.
        reference: title and analysis.
    """
    title, analysis = reference
    caption = (
        f"Encoding R² of a voxel minus that of {title}, mean over layers and steps, reconstruction-driven: red where "
        "the hidden states under the row's conditions tell more of the voxel or, where both R² are below 0, mislead "
        "less. Tested by flipping the signs of the differences by test category, "
        f"FDR {percent(analysis.fdr)} over the voxels of a map. "
        + ("Full colour: significant; pale: not. " if cortex else "Means over an area, below them voxels that differ. ")
        + "Each row is one training, so this compares trained models, not recipes. Stimulus-driven states do not "
        "depend on the row, so there is no such map of them."
    )
    unit = "difference of encoding R² (row minus reference)"
    if cortex is None:
        area = analysis.cortex["roi"].astype(str).map(maps.area_of)
        lines = [table.assign(run=run, side=side, area=area[table["voxel"]].to_numpy()) for run, side, table in found]
        figure = area_differences(pd.concat(lines), maps.area_order(list(area)), unit)
    else:
        panels = [
            difference.table.assign(row=index // 4, column=index % 4, title=_title(difference))  # two runs a line
            for index, difference in enumerate(found)
        ]
        hidden = "not significant, or not tested"
        figure = figures.cortex_maps(cortex.flat, pd.concat(panels, ignore_index=True), unit, True, hidden)
    return draw.Drawing("differences", "differences", f"Differences from {title}", caption, figure)


def _title(difference: Difference) -> str:
    run, side, table = difference
    result = f"{int(table['shown'].sum())} differ" if table["q"].notna().any() else "not tested"
    return f"{shorten(run, 16, placeholder='…')}, {side}: {result}"


def area_differences(differences: pd.DataFrame, order: list[str], unit: str) -> Figure:
    """Mean difference of every area, a line for each run and a panel for each side; below it the voxels that differ.

    Args:
        differences: columns run, side, area, value, q, shown; a line a voxel.
        order: areas from left to right.
    """
    runs, sides = (list(dict.fromkeys(differences[name])) for name in ("run", "side"))
    means = differences.groupby(["side", "run", "area"])[["value", "q", "shown"]].agg(
        {"value": "mean", "q": "count", "shown": "sum"}
    )
    top = float(means["value"].abs().max()) or 1.0
    cmap, norm = mpl.colormaps["RdBu_r"].resampled(figures.N_COLORS), Normalize(-top, top)
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(9.9, len(sides) * (0.45 * len(runs) + 0.9) + 1.0))
        axes_of = figure.subplots(len(sides), 1, squeeze=False, sharex=True)[:, 0]
        for side, axes in zip(sides, axes_of, strict=True):
            table = means.loc[side]
            axes.imshow(table["value"].unstack().loc[runs, order], cmap=cmap, norm=norm, aspect="auto")
            for y, run in enumerate(runs):
                for x, cell in enumerate(table.loc[run].loc[order].itertuples()):
                    told = f"{cell.value:+.3f}".replace("-", "−") + (f"\n{cell.shown:.0f}" if cell.q else "")
                    color = "white" if abs(cell.value) > 0.6 * top else figures.INK
                    axes.text(x, y, told, ha="center", va="center", fontsize=7, color=color)
            axes.set_yticks(range(len(runs)), runs)
            axes.set_title(side)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        counts = differences[(differences["run"] == runs[0]) & (differences["side"] == sides[0])]["area"].value_counts()
        names = [f"{area or 'no area known'} ({counts[area]})" for area in order]
        axes_of[-1].set_xticks(range(len(order)), names, rotation=45, ha="right")
        bar = figure.colorbar(ScalarMappable(norm, cmap), ax=list(axes_of), location="bottom", shrink=0.5, aspect=42)
        bar.set_label(unit)
    return figure
