"""The interactive view of an analysis: one HTML file that holds cortex and maps and fetches nothing."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from cnd.cortex.drawing.figures import EMPTY, HIDDEN
from cnd.cortex.drawing.sheets import OUTLINED
from cnd.cortex.drawing.surface import Placement, Side

N_COLORS = 16


class NamedMap(NamedTuple):
    """A map of the chooser: columns voxel, value, shown; drawn from 0 to ``top``."""

    title: str
    unit: str
    top: float
    table: pd.DataFrame


def cortex_page(
    placements: dict[Side, Placement],
    maps: list[NamedMap],
    n_voxels: int,
    title: str,
    notes: list[str],
    simulated: bool,
) -> str:
    """The page as a string; the first map is shown first.

    Args:
        n_voxels: of the analysis, with or without a vertex.
        notes: sentences below the picture.
    """
    areas = sorted({str(name) for placement in placements.values() for name in placement.area})
    arrays = {"values": _values(maps, n_voxels)}
    for side, placement in placements.items():
        arrays |= {f"{name}_{side}": array for name, array in _arrays(placement, areas).items()}
    packed, layout = _pack(arrays)
    colors = mpl.colormaps["YlOrRd"](np.linspace(0, 1, N_COLORS))[:, :3].round(4).tolist()
    listed = [{"title": m.title, "unit": m.unit, "top": m.top, "row": row} for row, m in enumerate(maps)]
    meta = {"layout": layout, "areas": areas, "maps": listed, "n_voxels": n_voxels, "colors": colors}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("cortex.html").render(
        meta=meta | {"hidden": HIDDEN, "empty": EMPTY}, packed=packed, title=title, notes=notes, simulated=simulated,
        hidden=HIDDEN, empty=EMPTY,
    )  # fmt: skip


def _values(maps: list[NamedMap], n_voxels: int) -> NDArray[np.float32]:
    """[maps, voxels]; NaN where a voxel is not shown."""
    values = np.full((len(maps), n_voxels), np.nan, dtype=np.float32)
    for row, entry in enumerate(maps):
        shown = entry.table[entry.table["shown"].astype(bool)]
        values[row, shown["voxel"].to_numpy()] = shown["value"]
    return values


def _arrays(placement: Placement, areas: list[str]) -> dict[str, NDArray[Any]]:
    hemisphere = placement.hemisphere
    area = np.searchsorted(areas, placement.area)
    edge = np.zeros(len(area), dtype=np.uint8)
    outlined = np.where(np.isin(placement.area, OUTLINED), area, -1)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        start, end = hemisphere.faces[:, a], hemisphere.faces[:, b]
        for one, other in ((start, end), (end, start)):
            edge[one[outlined[one] > outlined[other]]] = 1  # on one side of the border only: a line one vertex wide
    return {
        "points": (100 * hemisphere.inflated).round().astype(np.int16),
        "faces": hemisphere.faces.astype(np.uint16),  # both meshes have fewer than 65,536 vertices a hemisphere
        "voxel": placement.voxel.astype(np.int32),
        "area": area.astype(np.uint16),
        "edge": edge,
        "sulcus": (hemisphere.sulcal_depth > 0).astype(np.uint8),
        "own": placement.measured.astype(np.uint8),
    }


def _pack(arrays: dict[str, NDArray[Any]]) -> tuple[str, list[tuple[str, str, int, int]]]:
    """Base64 of the gzipped arrays one after the other, and name, type, start (bytes) and length of each."""
    layout, parts, start = [], [], 0
    for name, array in arrays.items():
        content = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        content += b"\0" * (-len(content) % 4)  # typed arrays must start at a multiple of their size
        layout.append((name, array.dtype.name, start, array.size))
        parts.append(content)
        start += len(content)
    return base64.b64encode(gzip.compress(b"".join(parts), mtime=0)).decode("ascii"), layout
