"""The public layouts of Generic Object Decoding, read into one form; and its published image lists.

The ``.h5`` files are BData, the HDF5 form of github.com/KamitaniLab/bdpy (bdpy/bdata/bdata.py): a table ``dataset``
[trials, columns] and ``metadata`` whose rows say what a column holds (1) or not (NaN or 0). There are two releases:

- ``Subject{1..5}.h5``: visual cortex, all trials, told apart by ``DataType``; the stimulus is ``stimulus_id``, formerly
  ``Label`` (github.com/KamitaniLab/GenericObjectDecoding, code/python/analysis_FeaturePrediction.py).
- ``Subject{1..5}_ImageNetTraining.h5`` and ``_ImageNetTest.h5``, what figshare lists in 2026: the whole brain, one task
  a file, so no ``DataType``; the stimulus is ``stimulus_name`` or ``stimulus_number``, the same number in either (bdpy
  maps names by data/stimulus_ImageNet*.tsv of the same repository), and ``Label`` marks several columns.

``sbj_{1..5}.npz`` is the packed form of github.com/WeizmannVision/SelfSuperReconst (utils/datasets.py), which MinD-Vis
reads too. How its fMRI was scaled is not published; earlier code of its authors scales every run by itself, test runs
too (github.com/WeizmannVision/ssfmri2im, KamitaniData/kamitani_data_handler.py).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnd.data.checks import expect_shape, readable, require_keys
from cnd.data.tables import read_npz, some_vary, whole
from cnd.errors import UserError, nearest

if TYPE_CHECKING:
    from cnd.data.god import GodData

LISTS = Path(__file__).parent / "lists"
N_TRAIN, N_TEST = 1200, 50
ID_TOLERANCE = 5e-7  # ids have six decimals


@dataclass(frozen=True)
class Recording:
    """One subject's fMRI in raw units, whichever file it came from.

    Attributes:
        train: float32 [1200, voxels], in order of the training images.
        test: float32 [50, voxels] averaged, or [trials, voxels] sorted by image.
        test_image: int64, position of each test item's image in the list of 50.
        masks: bool [voxels], areas by name.
        n_visual: voxels of VC in the file, 0 where it has no such area.
    """

    train: np.ndarray
    test: np.ndarray
    test_image: np.ndarray
    masks: dict[str, np.ndarray]
    n_visual: int
    xyz: np.ndarray | None = None
    train_run: np.ndarray | None = None
    test_run: np.ndarray | None = None
    facts: dict[str, float] = field(default_factory=dict)


# ---------------------------------------------------------------- published lists


@lru_cache(maxsize=2)
def image_list(split: str) -> tuple[np.ndarray, list[str]]:
    """Stimulus ids float64 [n] and names such as ``n01518878_10042`` of the ``training`` or ``test`` images."""
    with (LISTS / f"imageID_{split}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return np.array([float(row[0]) for row in rows]), [row[1].removesuffix(".JPEG") for row in rows]


def categories() -> tuple[list[str], list[str]]:
    """WordNet ids and names of the 150 training and then the 50 test categories."""
    with (LISTS / "god_categories.tsv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [row["wnid"] for row in rows], [row["name"] for row in rows]


def in_ilsvrc() -> np.ndarray:
    """bool [50]: the test images that lie in the training set of ILSVRC-2012."""
    with (LISTS / "stimulus_info_ImageNetTest.csv").open(newline="", encoding="utf-8") as file:
        answer = {row["stimulus name"]: row["Image in ILSVRC 2012 Training"] == "Yes" for row in csv.DictReader(file)}
    return np.array([answer[name] for name in image_list("test")[1]])


def match_ids(ids: np.ndarray, split: str, path: Path) -> np.ndarray:
    """Position in the image list of each stimulus id, by nearest value.

    Raises:
        UserError: an id is near none of them.
    """
    known = image_list(split)[0]
    order = np.argsort(known)
    right = np.searchsorted(known[order], ids).clip(1, len(known) - 1)
    nearer_left = ids - known[order][right - 1] < known[order][right] - ids
    position = order[right - nearer_left]
    far = ~(np.abs(known[position] - ids) < ID_TOLERANCE)  # NaN is far
    if far.any():
        raise UserError(
            f"{path}: stimulus id {ids[far][0]:.6f} is none of the {len(known)} {split} images, expected numbers "
            f"such as {known[0]:.6f}, in float64; is this the Generic Object Decoding release?"
        )
    return position


# ---------------------------------------------------------------- BData

STIMULUS_KEYS = ("stimulus_id", "Label", "stimulus_name", "stimulus_number")


@dataclass(frozen=True)
class _Trials:
    """Some trials of a BData file: fmri float32 [n, voxels], ids float64 [n], run int64 [n]; the rest as above."""

    path: Path
    fmri: np.ndarray
    ids: np.ndarray
    run: np.ndarray | None
    masks: dict[str, np.ndarray]
    n_visual: int
    xyz: np.ndarray | None


def read_bdata(paths: list[Path], config: GodData) -> Recording:
    """One file with all trials, of which imagery (DataType 3) is left out, or a training and a test file.

    Raises:
        UserError: unreadable, incomplete, wrong-shaped or non-finite file; the two do not fit each other.
    """
    kinds = (1, 2) if len(paths) == 1 else (None, None)
    train, test = (_read_trials(path, kind, config) for path, kind in zip((paths[0], paths[-1]), kinds, strict=True))
    expect_shape(train.path, "dataset (training trials)", train.fmri, (N_TRAIN, None))
    expect_shape(test.path, "dataset (perception test trials)", test.fmri, (None, None))
    some_vary(train.path, "dataset (training trials)", train.fmri)
    here, there = (np.empty(0) if trials.xyz is None else trials.xyz for trials in (train, test))
    if train.fmri.shape[1] != test.fmri.shape[1] or not np.array_equal(here, there):
        raise UserError(
            f"{test.path}: {test.fmri.shape[1]} voxels, expected the {train.fmri.shape[1]} of {train.path.name} at the "
            "same places (voxel_x, voxel_y, voxel_z); download both from the same release"
        )
    train_image = match_ids(train.ids, "training", train.path)
    test_image = match_ids(test.ids, "test", test.path)
    _expect_every_image(train.path, "training", train_image)
    _expect_every_image(test.path, "test", test_image)
    order, test_order = np.argsort(train_image), np.argsort(test_image, kind="stable")
    single = config.test_trials == "single"
    return Recording(
        train=train.fmri[order],
        test=test.fmri[test_order] if single else _averaged(test.fmri, test_image),
        test_image=test_image[test_order] if single else np.arange(N_TEST),
        masks=train.masks,
        n_visual=train.n_visual,
        xyz=train.xyz,
        train_run=None if train.run is None else train.run[order],
        test_run=test.run[test_order] if single and test.run is not None else None,
        facts={"test_repetitions": float(np.bincount(test_image).min())},
    )


def _read_trials(path: Path, kind: int | None, config: GodData) -> _Trials:
    """The trials of one DataType, or all of the file."""
    import h5py  # not at the top: the plan asks this module for its files

    with readable(path, "BData file"), h5py.File(path, "r") as file:
        dataset = _member(path, file, h5py.Dataset, "dataset", "dataSet")
        metadata = _member(path, file, h5py.Group, "metadata", "metaData")
        spelt = np.atleast_1d(_member(path, metadata, h5py.Dataset, "key")[()])
        keys = [k.decode() if isinstance(k, bytes) else str(k) for k in spelt]
        value = np.asarray(_member(path, metadata, h5py.Dataset, "value"), dtype=float)
        checked_shape = (len(keys), dataset.shape[1] if dataset.ndim == 2 else None)
        if dataset.ndim != 2 or value.shape != checked_shape:
            raise UserError(
                f"{path}: metadata/value has shape {value.shape} and dataset {dataset.shape}, expected "
                "(keys, columns) and (trials, columns); download the file again"
            )
        rows = dict(zip(keys, value, strict=True))
        all_masks = {k.removeprefix("ROI_"): row == 1 for k, row in rows.items() if k.startswith("ROI_")}
        chosen = _chosen(path, all_masks, config.roi, "ROI_")
        columns = {k: np.flatnonzero(row == 1) for k, row in rows.items()}
        ids = _column(path, dataset, columns, *STIMULUS_KEYS)
        wanted = np.arange(len(ids))
        if kind is not None:
            wanted = np.flatnonzero(_column(path, dataset, columns, "DataType") == kind)
        run = whole(path, "Run", _column(path, dataset, columns, "Run")) if len(columns.get("Run", ())) else None
        fmri = _block(dataset, wanted, chosen)
    return _Trials(
        path=path,
        fmri=fmri,
        ids=ids[wanted],
        run=None if run is None else run[wanted],
        masks={name: mask[chosen] for name, mask in all_masks.items()},
        n_visual=int(all_masks["VC"].sum()) if "VC" in all_masks else 0,
        xyz=np.stack([rows[f"voxel_{a}"][chosen] for a in "xyz"], axis=1).astype(np.float32)
        if all(f"voxel_{a}" in rows for a in "xyz")
        else None,
    )


def _member(path: Path, group: Any, kind: type, *names: str) -> Any:
    """The first of several spellings in an HDF5 group, a group or a data set."""
    for name in names:
        if isinstance(group.get(name), kind):
            return group[name]
    what = kind.__name__.lower()
    raise UserError(f"{path}: key '{names[0]}' is missing or no {what}; found {sorted(group)}; is this a BData file?")


def _column(path: Path, dataset: Any, columns: dict[str, np.ndarray], *names: str) -> np.ndarray:
    """The column [trials] of the first of these keys that marks exactly one."""
    for name in names:
        if len(columns.get(name, ())) == 1:
            return np.asarray(dataset[:, int(columns[name][0])], dtype=np.float64)
    others = f" (or {', '.join(names[1:])})" if names[1:] else ""
    raise UserError(
        f"{path}: metadata key '{names[0]}' is missing{others}, or marks not one column{nearest(names[0], columns)}"
    )


def _block(dataset: Any, trials: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """float32 [trials, columns] of an HDF5 table, some trials at a time: the whole table in float64 is large."""
    block = np.empty((len(trials), len(columns)), dtype=np.float32)
    for start in range(0, len(trials), 128):
        rows = trials[start : start + 128]
        block[start : start + len(rows)] = dataset[rows[0] : rows[-1] + 1][:, columns][rows - rows[0]]
    return block


# ---------------------------------------------------------------- the packed form


def read_packed(path: Path, config: GodData) -> Recording:
    """``sbj_{1..5}.npz``: arr_0 training, arr_1 test trials, arr_2 their averages, arr_3 and arr_4 the image of each,
    arr_5 noise ceiling, arr_6 SNR, and a mask an area.

    Raises:
        UserError: unreadable, incomplete, wrong-shaped or non-finite file.
    """
    single = config.test_trials == "single"
    keys = ["arr_0", "arr_1" if single else "arr_2", "arr_3", "arr_4", "arr_5", "arr_6"]
    content = read_npz(path)
    require_keys(path, content, keys)
    areas = [name for name in content if not name.startswith("arr_")]
    expect_shape(path, "arr_0", content["arr_0"], (N_TRAIN, None))
    n_voxels = content["arr_0"].shape[1]
    shapes: dict[str, tuple[int | None, ...]] = {
        "arr_1": (None, n_voxels), "arr_2": (N_TEST, n_voxels), "arr_3": (N_TRAIN,), "arr_4": (None,),
        "arr_5": (n_voxels,), "arr_6": (n_voxels,),
    }  # fmt: skip
    for key in keys[1:]:  # a voxel may have no noise ceiling or SNR: both are only reported
        expect_shape(path, key, content[key], shapes[key], finite=key not in ("arr_5", "arr_6"))
    some_vary(path, "arr_0", content["arr_0"])
    for area in areas:
        expect_shape(path, area, content[area], (n_voxels,))
        if not np.isin(content[area], (0, 1)).all():
            raise UserError(f"{path}: {area} holds other values than 0 and 1, expected a mask; download the file again")
    all_masks = {area: content[area].astype(bool) for area in areas}
    chosen = _chosen(path, all_masks, config.roi, "")
    train_image, test_image = (whole(path, key, content[key]) for key in ("arr_3", "arr_4"))
    _expect_every_image(path, "training", train_image)
    _expect_every_image(path, "test", test_image)
    if single and len(test_image) != len(content["arr_1"]):
        raise UserError(
            f"{path}: arr_4 names {len(test_image)} trials, expected the {len(content['arr_1'])} of arr_1; "
            "download the file again"
        )
    measures = {"noise_ceiling_test_average": content["arr_5"][chosen], "median_snr": content["arr_6"][chosen]}
    test_order = np.argsort(test_image, kind="stable")
    return Recording(
        train=content["arr_0"][np.argsort(train_image)][:, chosen].astype(np.float32),
        test=(content["arr_1"][test_order] if single else content["arr_2"])[:, chosen].astype(np.float32),
        test_image=test_image[test_order] if single else np.arange(N_TEST),
        masks={name: mask[chosen] for name, mask in all_masks.items()},
        n_visual=int(all_masks["VC"].sum()) if "VC" in all_masks else 0,
        facts={"test_repetitions": float(np.bincount(test_image).min())}
        | {name: float(np.nanmedian(values)) for name, values in measures.items() if np.isfinite(values).any()},
    )


def _chosen(path: Path, masks: dict[str, np.ndarray], roi: tuple[str, ...], prefix: str) -> np.ndarray:
    """Columns that lie in any of the areas."""
    for area in roi:
        if area not in masks:
            known = ", ".join(sorted(masks)) or "none"
            raise UserError(f"{path}: key '{prefix}{area}' is missing; set data.roi to areas of this file: {known}")
        if not masks[area].any():
            raise UserError(f"{path}: {prefix}{area} marks no voxel, expected some; set data.roi to other areas")
    return np.flatnonzero(np.any([masks[area] for area in roi], axis=0))


def _averaged(trials: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Mean over the trials of each test image, float32 [50, voxels]."""
    return np.stack([trials[image == i].mean(0, dtype=np.float64) for i in range(N_TEST)]).astype(np.float32)


def _expect_every_image(path: Path, split: str, image: np.ndarray) -> None:
    """Raises:
    UserError: a training image is not shown exactly once, or a test image not at all.
    """
    n = N_TRAIN if split == "training" else N_TEST
    if len(image) and not 0 <= image.min() <= image.max() < n:
        raise UserError(
            f"{path}: {split} images are numbered {image.min()} to {image.max()}, expected 0 to {n - 1}; "
            "subtract the first number, or download the file again"
        )
    counts = np.bincount(image, minlength=n)
    if (counts < 1).any() or (split == "training" and (counts > 1).any()):
        raise UserError(
            f"{path}: {int((counts > 0).sum())} of {n} {split} images in {len(image)} trials, expected "
            f"{'each once' if split == 'training' else 'each at least once'}; the file is incomplete: download it again"
        )
