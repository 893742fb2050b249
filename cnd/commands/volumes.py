"""Maps of an analysis as NIfTI files, on the grid of the volume that the voxels come from."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from cnd.cortex.drawing.maps import QUANTITIES, SIDES, Analysis, read_analysis, voxel_maps
from cnd.errors import UserError

AXES = (None, "layer", "step")
NEAR = 0.1  # of a voxel: how far from its centre a place may lie


def write_volumes(tables: Path, grid: Path, into: Path) -> list[Path]:
    """Write the maps of every drive, side and quantity: the mean, and 4-D by layer and by denoising step.

    Voxels that are not in the analysis are 0; what is not significant stands as it is. The values along the fourth axis
    stand in ``maps.tsv``.

    Args:
        tables: folder of an analysis; see :mod:`cnd.cortex.tables`.
        grid: NIfTI image that the voxels' ``xyz`` lie on the grid of.

    Raises:
        UserError: the voxels have no places, or lie elsewhere.
    """
    import nibabel

    analysis = read_analysis(tables)
    image = nibabel.load(grid)
    index = voxel_index(analysis, np.asarray(image.affine), image.shape[:3], grid)
    into.mkdir(parents=True, exist_ok=True)
    written, lines = [], []
    for drive, quantity, by in product(analysis.drives, QUANTITIES, AXES):
        maps = voxel_maps(analysis.voxels, drive, by, quantity, analysis.fdr)  # type: ignore[arg-type]
        for side in SIDES:
            mine = maps[maps["side"] == side]
            if mine.empty:
                continue
            wide = mine.pivot(index="voxel", columns="at", values="value").sort_index()
            name = f"{drive}_{side}_{quantity.column}" + (f"_by_{by}" if by else "")
            values = np.zeros((*image.shape[:3], wide.shape[1]), np.float32)
            values[tuple(index[wide.index].T)] = wide.to_numpy()
            written.append(into / f"{name}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(values if by else values[..., 0], image.affine), written[-1])
            axis = " ".join(f"{at:g}" for at in wide.columns) if by else ""
            lines.append({"file": written[-1].name, "unit": quantity.unit, "fourth_axis": by or "", "at": axis})
    pd.DataFrame(lines).to_csv(into / "maps.tsv", sep="\t", index=False)
    return written


def voxel_index(analysis: Analysis, affine: np.ndarray, shape: tuple[int, ...], grid: Path) -> np.ndarray:
    """Place of every voxel in the volume, int64 [voxels, 3].

    Raises:
        UserError: a voxel has no place, or lies between those of the volume or outside.
    """
    xyz = analysis.cortex.sort_values("voxel")[["x", "y", "z"]].to_numpy(dtype=float)
    at = np.column_stack([xyz, np.ones(len(xyz))]) @ np.linalg.inv(affine).T[:, :3]
    index = np.round(at).astype(np.int64) if np.isfinite(at).all() else None
    if index is None or np.abs(at - index).max() > NEAR or (index < 0).any() or (index >= shape).any():
        raise UserError(
            f"{grid}: the voxels' xyz do not lie on its grid, so no maps are written; give the mask they came from, "
            "or take the file away"
        )
    return index
