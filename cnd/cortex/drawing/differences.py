"""What differs between two runs of a sweep: maps and pictures of their encoding R^2, row minus reference."""

from __future__ import annotations

from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cnd.cortex.drawing import draw, figures, maps
from cnd.cortex.drawing.captions import percent
from cnd.cortex.drawing.maps import Analysis
from cnd.errors import UserError
from cnd.statistics import sampling_units, sign_flip_p

N_FLIPS = 4999  # random sign patterns of a difference map's test, above 14 units; the smallest p is then 1 / 5000


def difference_map(row: Analysis, reference: Analysis, drive: str, side: str, seed: int = 0) -> pd.DataFrame:
    """Encoding R^2 of each voxel in ``row`` minus that in ``reference``, tested where errors per test item exist.

    If the two runs predicted a voxel equally well, the difference of its errors on a test category would be as likely
    with either sign. Signs are flipped for all voxels at once, category by category (items where there are fewer than
    ten categories), and p-values corrected over voxels (Benjamini-Hochberg). Both runs are single trainings: the test
    generalises over test categories, not over training seeds.

    Returns:
        voxel, value (difference), p, q (NaN where it was not tested), shown (q within the reference's rate).

    Raises:
        UserError: the runs have other voxels, layers, steps or test items, or were not analysed with this drive.
    """
    if list(row.cortex["roi"]) != list(reference.cortex["roi"]):
        raise UserError(
            f"a difference map needs the same voxels in both runs; found {len(row.cortex)} and {len(reference.cortex)} "
            "voxels, or other areas; compare rows with the same data"
        )
    cells = [_cells(analysis.states, drive) for analysis in (row, reference)]
    if not cells[0] or cells[0] != cells[1]:
        raise UserError(
            f"a difference map needs drive '{drive}', layers and steps that both runs were analysed with; "
            "analyse them again with the same settings"
        )
    key = f"{drive}.{side}"
    if not row.item_errors or not reference.item_errors or key not in row.item_errors or row.items is None:
        return _untested(row, reference, drive, side)
    assert reference.items is not None
    if list(row.items["stimulus"]) != list(reference.items["stimulus"]):
        raise UserError("a difference map needs the same test items in both runs; compare rows with the same data")
    gain = reference.item_errors[key].astype(np.float64) - row.item_errors[key]  # less error is more R^2
    units = sampling_units(row.items["category"], np.arange(len(gain)))
    p = _p_values(gain, units, seed)
    q = maps.q_values(p)
    table = {"voxel": np.arange(gain.shape[1]), "value": gain.mean(0), "p": p, "q": q}
    return pd.DataFrame(table | {"shown": np.nan_to_num(q, nan=1.0) <= reference.fdr})


def _cells(states: pd.DataFrame, drive: str) -> set[tuple[Any, ...]]:
    mine = states[states["drive"] == drive]
    return set(mine[["side", "layer", "step"]].itertuples(index=False, name=None))


def _untested(row: Analysis, reference: Analysis, drive: str, side: str) -> pd.DataFrame:
    means = []
    for analysis in (row, reference):
        mine = analysis.voxels[(analysis.voxels["drive"] == drive) & (analysis.voxels["side"] == side)]
        means.append(mine.groupby("voxel")["encoding_r2"].mean())
    value = means[0] - means[1]
    return pd.DataFrame({"voxel": value.index, "value": value.to_numpy(), "p": np.nan, "q": np.nan, "shown": False})


def _p_values(gain: NDArray[np.float64], units: NDArray[Any], seed: int) -> NDArray[np.float64]:
    """:func:`sign_flip_p` of each voxel of [item, voxel]; NaN where an error is not finite."""
    tested = np.isfinite(gain).all(axis=0)
    p = np.full(gain.shape[1], np.nan)
    if tested.any():
        p[tested] = sign_flip_p(gain[:, tested], units, N_FLIPS, seed)
    return p


# ---------------------------------------------------------------- several runs, drawn


class Difference(NamedTuple):
    """A run's title, encoder or decoder, and its :func:`difference_map` from the reference."""

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
            tables = [difference_map(analysis, reference, "reconstruction", side) for side in sides]
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
        means = pd.concat([_area_means(difference, area) for difference in found])
        figure = figures.area_heatmap(means, maps.area_order(list(area)), unit, signed=True)
    else:
        panels = [
            difference.table.assign(row=index // 4, column=index % 4, title=_title(difference))  # two runs a line
            for index, difference in enumerate(found)
        ]
        hidden = "not significant, or not tested"
        figure = figures.cortex_maps(cortex.flat, pd.concat(panels, ignore_index=True), unit, True, hidden)
    return draw.Drawing("differences", "differences", f"Differences from {title}", caption, figure)


def _area_means(difference: Difference, area: pd.Series) -> pd.DataFrame:
    """Mean difference and number of voxels of each area, and what is written there."""
    groups = difference.table.groupby(area[difference.table["voxel"]].to_numpy())
    means = groups.agg(
        value=("value", "mean"), n_voxels=("value", "size"), tested=("q", "count"), differ=("shown", "sum")
    )
    said = [f"{m.value:+.3f}" + (f"\n{m.differ}" if m.tested else "") for m in means.itertuples()]
    return means.assign(line=difference.run, side=difference.side, said=said).rename_axis("area").reset_index()


def _title(difference: Difference) -> str:
    run, side, table = difference
    result = f"{int(table['shown'].sum())} differ" if table["q"].notna().any() else "not tested"
    return f"{shorten(run, 16, placeholder='…')}, {side}: {result}"
