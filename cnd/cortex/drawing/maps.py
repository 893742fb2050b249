"""From the tables of an analysis to what is drawn: maps of Figures 5 and 6, area means, differences of two runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cnd.cortex import tables
from cnd.errors import UserError
from cnd.statistics import benjamini_hochberg

Drive = Literal["reconstruction", "stimulus"]
SIDES = ("encoder", "decoder")
HIERARCHY = [
    "V1",
    "V2",
    "V3",
    "V4",
    "V3A",
    "V3B",
    "V6",
    "V7",
    "LO1",
    "LO2",
    "LO3",
    "V4t",
    "MT",
    "MST",
    "FST",
    "PIT",
    "V8",
    "VMV1",
    "VMV2",
    "VMV3",
    "VVC",
    "FFC",
    "IPS1",
    "MIP",
    "PGi",
]  # the order in which areas are listed, roughly from early to late


class Quantity(NamedTuple):
    """What a map shows: a column of voxels.parquet. ``masked`` greys out voxels that are not significant."""

    column: str
    title: str
    unit: str
    masked: bool


WEIGHT = Quantity("weight", "raw weight", "mean |W|, units of the hidden state per SD of the voxel", False)
PATTERN = Quantity(
    "pattern", "Haufe pattern", "mean |pattern|, covariance (SD of the voxel × units of the hidden state)", False
)
ENCODING = Quantity("encoding_r2", "encoding R²", "held-out R² of the voxel, predicted from the hidden state", True)
QUANTITIES = (WEIGHT, PATTERN, ENCODING)


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Analysis:
    """The tables of one analysis folder; see :mod:`cnd.cortex.tables`. What was not written is None.

    Attributes:
        item_errors: by ``<drive>.<side>``, float32 [test item, voxel]: squared error of the encoding model over the
            voxel's variance, averaged over layers and steps; its mean over items is 1 - R^2.
        items: one line a test item, in the same order: stimulus, category.
    """

    states: pd.DataFrame
    voxels: pd.DataFrame
    rois: pd.DataFrame
    cortex: pd.DataFrame
    summary: dict[str, Any]
    areas: pd.DataFrame | None = None
    items: pd.DataFrame | None = None
    item_errors: dict[str, NDArray[np.float32]] | None = None

    @property
    def drives(self) -> list[str]:
        return [drive for drive in ("reconstruction", "stimulus") if drive in set(self.states["drive"])]

    @property
    def fdr(self) -> float:
        """The false discovery rate that the analysis was asked to keep."""
        return float(self.summary.get("fdr", 0.05))

    @property
    def simulated(self) -> bool:
        return bool(self.summary.get("simulated", False))


def read_analysis(folder: Path) -> Analysis:
    """Read an analysis folder.

    Raises:
        UserError: a table is missing, unreadable or lacks a column.
    """
    errors, items = folder / "item_errors.safetensors", folder / "items.parquet"
    try:
        return Analysis(
            **{name: tables.read(folder, name) for name in ("states", "voxels", "rois", "cortex")},
            summary=tables.read_summary(folder),
            areas=tables.read(folder, "areas") if (folder / "areas.parquet").exists() else None,
            items=pd.read_parquet(items) if errors.exists() else None,
            item_errors=load_file(errors) if errors.exists() else None,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: analysis cannot be read ({error}); run it again (python -m cnd analyse)") from error


# ---------------------------------------------------------------- Figures 5 and 6


def voxel_maps(
    voxels: pd.DataFrame, drive: str, by: Literal["layer", "step"] | None, quantity: Quantity, fdr: float = 0.05
) -> pd.DataFrame:
    """Maps of the paper's Figure 5 (``by="layer"``: mean over steps) or 6 (``by="step"``: mean over layers).

    Args:
        by: None takes the mean over both.

    Returns:
        One line per side, value of ``by`` (0 for None) and voxel: side, at, voxel, value, shown. ``shown`` is False
        for voxels of a masked quantity that are not significant at the rate ``fdr``.
    """
    mine = voxels[voxels["drive"] == drive]
    groups = mine.assign(at=mine[by] if by else 0).groupby(["side", "at", "voxel"], sort=True)
    p = combined_p(groups["p"].min(), groups["p"].count())
    maps = pd.DataFrame({"value": groups[quantity.column].mean(), "p": p, "shown": True}).reset_index()
    if quantity.masked:
        for _, rows in maps.groupby(["side", "at"]).groups.items():
            maps.loc[rows, "shown"] = q_values(maps.loc[rows, "p"].to_numpy()) <= fdr
    return maps.drop(columns="p")


def combined_p(smallest: pd.Series, n: pd.Series) -> pd.Series:
    """p-value of "predicted in none of n cells" from the smallest of the cells' p-values (Bonferroni).

    It holds whatever the dependence; layers and steps share voxels, items and network, so nothing sharper may be
    assumed.
    """
    return (n * smallest).clip(upper=1.0)


def q_values(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Benjamini-Hochberg over the voxels that were tested; NaN (constant voxels) stays NaN."""
    q = np.full(len(p), np.nan)
    tested = np.isfinite(p)
    if tested.any():
        q[tested] = benjamini_hochberg(p[tested])
    return q


# ---------------------------------------------------------------- areas


def area_of(roi: str) -> str:
    """``L_V1`` to ``V1``."""
    return roi[2:] if roi[:2] in ("L_", "R_") else roi


def area_order(areas: list[str]) -> list[str]:
    """Early areas first; unknown ones by name at the end."""
    rank = {area: position for position, area in enumerate(HIERARCHY)}
    return sorted(set(areas), key=lambda area: (rank.get(area, len(rank)), area))


def area_means(rois: pd.DataFrame, drive: str) -> pd.DataFrame:
    """Means over layers, steps and both hemispheres (weighted by voxels), one line per side and area.

    Returns:
        side, area, n_voxels, the columns of ``tables.MAPS``, share_significant; areas in :func:`area_order`.
    """
    values = [*tables.MAPS, "share_significant"]
    mine = rois[rois["drive"] == drive].groupby(["side", "roi"], sort=False)[["n_voxels", *values]].mean().reset_index()
    mine["area"] = mine["roi"].astype(str).map(area_of)
    lines = []
    for (side, area), rows in mine.groupby(["side", "area"], sort=False):
        means = {value: float(np.average(rows[value], weights=rows["n_voxels"])) for value in values}
        lines.append({"side": side, "area": area, "n_voxels": int(rows["n_voxels"].sum())} | means)
    table = pd.DataFrame(lines)
    order = {area: position for position, area in enumerate(area_order(list(table["area"])))}
    return table.sort_values("area", key=lambda column: column.map(order), kind="stable", ignore_index=True)


def area_maps(rois: pd.DataFrame, drive: str, by: Literal["layer", "step"], quantity: Quantity) -> pd.DataFrame:
    """Figure 5 (``by="layer"``) or 6 (``by="step"``) by area: means over the rest, the hemispheres and the voxels.

    Returns:
        One line per side, value of ``by`` and area: side, at, area, value, n_voxels.
    """
    mine = rois[rois["drive"] == drive]
    mine = mine.assign(area=mine["roi"].astype(str).map(area_of), total=mine[quantity.column] * mine["n_voxels"])
    sums = mine.groupby(["side", by, "area"])[["total", "n_voxels"]].sum()
    table = (sums["total"] / sums["n_voxels"]).rename("value").reset_index().rename(columns={by: "at"})
    counts = mine.drop_duplicates("roi").groupby("area")["n_voxels"].sum()
    return table.assign(n_voxels=table["area"].map(counts))


def agreement(voxels: pd.DataFrame, drive: str, fdr: float = 0.05) -> pd.DataFrame:
    """Whether weights and patterns point at voxels that carry a signal: within each layer and step, then averaged.

    Returns:
        One line per side: side; weight_rho, pattern_rho (Spearman's correlation over voxels with encoding R^2);
        weight_empty, pattern_empty (share of the top tenth of voxels that are not significant at the rate ``fdr``).
    """
    lines = []
    for (side, *_), cell in voxels[voxels["drive"] == drive].groupby(["side", "layer", "step"]):
        signal, line = cell["encoding_r2"].rank(), {"side": side}
        for name in ("weight", "pattern"):
            line[f"{name}_rho"] = signal.corr(cell[name].rank())
            top = cell.nlargest(max(1, len(cell) // 10), name)
            line[f"{name}_empty"] = float((~(top["q"] <= fdr)).mean())
        lines.append(line)
    means = pd.DataFrame(lines).groupby("side").mean()
    return means.loc[[side for side in SIDES if side in means.index]].reset_index()
