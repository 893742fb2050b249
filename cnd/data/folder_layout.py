"""What the files of a :mod:`cnd.data.folder` hold: read, and checked key by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np

from cnd.data import tables
from cnd.data.tables import keys_of, matrix, read, read_parquet, vector
from cnd.errors import UserError, nearest
from cnd.json_files import read_json

if TYPE_CHECKING:
    from cnd.data.folder import FolderData

SETUP = """Your own data (folder)
  files   train.npz and test.npz (or .h5, or .parquet) with fmri [items, voxels] and labels, images or image_files;
          `pydoc cnd.data.folder` lists every key
  check   python -m cnd.data check FOLDER
  then    --set data.path=FOLDER (and data.subject=NAME where it holds several subjects)"""
HINT = "a folder with train and test as .npz, .h5 or .parquet; `pydoc cnd.data.folder` describes it"
ORIGIN, ORIGIN_HINT = "origin.json", 'write {"simulated": true}, or delete the file where the data were measured'
SUFFIXES = (".npz", ".h5", ".parquet")
ITEM_KEYS = ("fmri", "labels", "images", "image_files", "stimulus", "subject", "run")
NAMING_KEYS = ("image_files", "stimulus", "subject", "run")  # names of something, read as text
VOXEL_KEYS = ("roi", "vertex", "surface", "xyz")
N_VERTICES = {"fs_LR_32k": 59_412, "fsaverage5": 20_484}


class Table(NamedTuple):
    """One file: where it is, and its arrays by key, of one subject."""

    path: Path
    arrays: dict[str, np.ndarray]

    def names(self) -> list[str]:
        """A name for each item's stimulus."""
        for key in ("stimulus", "image_files"):
            if key in self.arrays:
                return [str(name) for name in self.arrays[key]]
        return [f"{self.path.stem} item {row}" for row in range(len(self.arrays["fmri"]))]


class Voxels(NamedTuple):
    """What is known of the voxels; None where nothing is."""

    roi: np.ndarray | None
    vertex: np.ndarray | None
    surface: Literal["fs_LR_32k", "fsaverage5"]
    xyz: np.ndarray | None


# ---------------------------------------------------------------- finding


def root(config: FolderData) -> Path:
    """The folder that holds train and test: ``data.path``, or below it the subject's own.

    Raises:
        UserError: no path was given, or it is no folder.
    """
    if config.path is None:
        raise UserError(f"data.path is not set: kind folder reads {HINT}")
    if not config.path.is_dir():
        raise UserError(f"{config.path}: no such folder (data.path); give {HINT}")
    own = config.path / str(config.subject)
    if not find(own, "train"):
        return config.path
    if (other := find(config.path, "train")) is not None:
        raise UserError(f"{own}: holds subject '{config.subject}', and {other} is there too; keep one of them")
    return own


def find(folder: Path, name: str) -> Path | None:
    """``name.npz``, ``name.h5`` or ``name.parquet`` in a folder.

    Raises:
        UserError: more than one of them is there.
    """
    found = [path for path in (folder / f"{name}{suffix}" for suffix in SUFFIXES) if path.is_file()]
    if len(found) > 1:
        others = " and ".join(path.name for path in found[1:])
        raise UserError(f"{found[0]}: {others} lies beside it, expected one {name} file; keep the one that counts")
    return found[0] if found else None


def beside(config: FolderData, name: str) -> list[Path]:
    """A file beside train and test, if it is there."""
    path = root(config) / name
    return [path] if path.is_file() else []


def subjects(path: Path) -> list[str]:
    """The subjects in a folder; empty where it names none.

    Raises:
        UserError: the training file is not readable.
    """
    train = find(path, "train")
    if train is None:
        return sorted(p.name for p in path.iterdir() if p.is_dir() and find(p, "train"))
    there = read(train, ["subject"])
    return sorted(set(tables.names(train, "subject", vector(there["subject"])).tolist())) if there else []


def both_paths(config: FolderData) -> list[Path]:
    """Training and test file.

    Raises:
        UserError: no path was given, or a file is missing.
    """
    folder = root(config)
    found = {name: find(folder, name) for name in ("train", "test")}
    missing = [name for name, path in found.items() if path is None]
    if not missing:
        return [path for path in found.values() if path]
    below = subjects(folder) if found["train"] is None else []
    if below:
        other = "" if config.subject is None else f", none named '{config.subject}'"
        raise UserError(
            f"{folder}: holds subjects {', '.join(below)}{other}; choose one with --set data.subject={below[0]}"
        )
    if (folder / "recipe.yaml").is_file():
        raise UserError(
            f"{folder}: holds a recipe and no items; make them with 'python -m cnd.data prepare nifti {folder} "
            f"--output NEW_FOLDER', and set data.path to that folder"
        )
    listed = sorted(p.name for p in folder.iterdir())[:8]
    raise UserError(
        f"{folder}: no {missing[0]} file; expected {' or '.join(missing[0] + suffix for suffix in SUFFIXES)}, "
        f"found {listed}; give {HINT}"
    )


def simulated(config: FolderData) -> bool:
    """Whether ``origin.json`` says that nothing was measured.

    Raises:
        UserError: it says something else.
    """
    for path in beside(config, ORIGIN):
        try:
            content = read_json(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); {ORIGIN_HINT}") from error
        told = content.get("simulated") if isinstance(content, dict) and len(content) == 1 else None
        if not isinstance(told, bool):
            raise UserError(f"{path}: expected one key, simulated, with true or false; {ORIGIN_HINT}")
        return told
    return False


# ---------------------------------------------------------------- reading


def read_both(config: FolderData) -> tuple[Table, Table]:
    """Training and test file, cut down to the subject; they agree in their voxels and in what they hold.

    Raises:
        UserError: a file is missing or malformed, or the two disagree.
    """
    train, test = (_read(path, config) for path in both_paths(config))
    widths = [table.arrays["fmri"].shape[1] for table in (train, test)]
    if widths[0] != widths[1]:
        raise UserError(
            f"{test.path}: fmri has {widths[1]} voxels, expected {widths[0]} as in {train.path.name}; cut both alike"
        )
    for keys in ({"labels"}, {"images", "image_files"}):
        has = [bool(keys & table.arrays.keys()) for table in (train, test)]
        if has[0] != has[1]:
            without = train if has[1] else test
            raise UserError(f"{without.path}: no {' or '.join(sorted(keys))}, expected as the other file has; add them")
    if len(train.arrays["fmri"]) < 2:
        raise UserError(f"{train.path}: {len(train.arrays['fmri'])} items, expected 2 or more to train on; add some")
    both = set(train.names()) & set(test.names())
    if both and not config.shared_stimuli:
        raise UserError(
            f"{test.path}: stimulus '{min(both)}' is also in {train.path.name} ({len(both)} are), expected each in one "
            f"file; a test item must not be trained on: take it out of one, or allow it with data.shared_stimuli=true; "
            f"every report then says so"
        )
    return train, test


def same_voxels(train: Table, test: Table) -> None:
    """Voxels and classes are told by the training file; where the test file tells them too, it must say the same.

    Raises:
        UserError: it does not.
    """
    for key in (*VOXEL_KEYS, "class_names"):
        here, there = train.arrays.get(key), test.arrays.get(key)
        if here is not None and there is not None and not np.array_equal(here, there):
            raise UserError(
                f"{test.path}: {key} differs from that of {train.path.name}, expected the same voxels and classes in "
                f"the same order; write both files alike"
            )


def _read(path: Path, config: FolderData) -> Table:
    arrays = read(path, [*ITEM_KEYS, *VOXEL_KEYS, "class_names"])
    arrays = {key: a if key in ("fmri", "images", "xyz") else vector(a) for key, a in arrays.items()}
    if "fmri" not in arrays:
        hint = nearest("fmri", keys_of(path))
        raise UserError(f"{path}: key 'fmri' is missing; expected fmri [items, voxels]{hint}; rename or add it")
    n, n_voxels = matrix(path, "fmri", arrays["fmri"], "[items, voxels]").shape
    for key in ITEM_KEYS:
        of_items = arrays.get(key, np.zeros(n))
        if not of_items.ndim or len(of_items) != n or (key in NAMING_KEYS and of_items.ndim > 1):
            turned = "fmri looks transposed (MATLAB's order?): save fmri.T" if of_items.shape[:1] == (n_voxels,) else ""
            raise UserError(
                f"{path}: {key} has shape {of_items.shape}, expected one entry for each of the {n} rows of fmri; "
                f"{turned or 'write both from the same items'}"
            )
    arrays |= {key: tables.names(path, key, arrays[key]) for key in NAMING_KEYS if key in arrays}
    if "roi" in arrays:
        arrays["roi"] = tables.names(path, "roi", arrays["roi"], empty=True)
    if not {"labels", "images", "image_files"} & arrays.keys():
        hint = nearest("labels", keys_of(path))
        raise UserError(f"{path}: neither labels nor images; expected labels, images or image_files{hint}; add one")
    return Table(path, _of_subject(path, config, arrays))


def _of_subject(path: Path, config: FolderData, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if "subject" not in arrays:
        if config.subject is not None and path.parent == config.path:
            raise UserError(
                f"{path}: no key 'subject', but data.subject asks for '{config.subject}'; add it, or drop data.subject"
            )
        return arrays
    subject = arrays["subject"]
    there = sorted(set(subject.tolist()))
    if config.subject is None and len(there) == 1:
        return arrays
    if config.subject not in there:
        chosen = "several subjects" if config.subject is None else f"no subject '{config.subject}'"
        raise UserError(f"{path}: {chosen}; found {', '.join(there)}; choose one with --set data.subject={there[0]}")
    rows = subject == config.subject
    return {key: values[rows] if key in ITEM_KEYS else values for key, values in arrays.items()}


# ---------------------------------------------------------------- classes


def classes(config: FolderData, both: tuple[Table, Table]) -> tuple[list[str], list[np.ndarray]]:
    """Class names, and the class index of each item of each table, int64.

    Raises:
        UserError: labels of another type, or that ``class_names`` does not know.
    """
    names = _given_names(config, both[0])
    if "labels" in both[0].arrays:
        labels = [_labels(table) for table in both]
    else:
        labels = [np.array(table.names()) for table in both]
    if labels[0].dtype.kind != labels[1].dtype.kind:
        raise UserError(
            f"{both[1].path}: labels are {labels[1].dtype}, expected {labels[0].dtype} as in training; use one type"
        )
    if names is None:
        distinct = np.unique(np.concatenate(labels))
        return [str(value) for value in distinct], [np.searchsorted(distinct, values) for values in labels]
    index = (
        {name: i for i, name in enumerate(names)} if labels[0].dtype.kind == "U" else {i: i for i in range(len(names))}
    )
    return names, [_look_up(table, values, index, names) for table, values in zip(both, labels, strict=True)]


def _look_up(table: Table, labels: np.ndarray, index: dict[str, int] | dict[int, int], names: list[str]) -> np.ndarray:
    values = labels.tolist()
    unknown = next((value for value in values if value not in index), None)
    if unknown is not None:
        wanted = f"0 to {len(names) - 1}" if isinstance(unknown, int) else "one of them"
        hint = "" if isinstance(unknown, int) else nearest(unknown, names[:20])
        raise UserError(
            f"{table.path}: label '{unknown}' is not known to the {len(names)} class_names, expected {wanted}{hint}; "
            f"add a name or correct the label"
        )
    return np.array([index[value] for value in values], dtype=np.int64)


def _given_names(config: FolderData, train: Table) -> list[str] | None:
    where, names = f"{train.path}: class_names", train.arrays.get("class_names")
    for path in beside(config, "class_names.json"):
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not readable as JSON ({error}); expected a list of strings") from error
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise UserError(f"{path}: expected a list of strings, one a class; found {str(listed)[:60]}")
        if names is not None and names.tolist() != listed:
            raise UserError(f"{path}: differs from class_names in {train.path.name}; keep one of them")
        where, names = str(path), np.array(listed, dtype=str)
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind != "U":
        raise UserError(f"{where}: {names.dtype} of shape {names.shape}, expected a list of strings; write one a class")
    listed = tables.names(train.path, "class_names", names).tolist()
    if twice := sorted({name for name in listed if listed.count(name) > 1}):
        raise UserError(
            f"{where}: class '{twice[0]}' is there {listed.count(twice[0])} times, expected once; rename one"
        )
    return listed


def _labels(table: Table) -> np.ndarray:
    labels = table.arrays["labels"]
    if labels.ndim == 1 and labels.dtype.kind == "U":
        return tables.names(table.path, "labels", labels)
    is_whole = labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and bool((labels % 1 == 0).all()))
    if labels.ndim != 1 or not is_whole:
        raise UserError(
            f"{table.path}: labels are {labels.dtype} of shape {labels.shape}, expected one integer or string an item; "
            f"convert them, e.g. labels.astype(int)"
        )
    return tables.whole(table.path, "labels", labels)


# ---------------------------------------------------------------- voxels


def voxels(config: FolderData, train: Table) -> Voxels:
    """Area, vertex, surface and place of the voxels, from the training file or from ``voxels.parquet``.

    Raises:
        UserError: another number of voxels, an unknown surface, or a vertex that it does not have.
    """
    where, arrays = train.path, train.arrays
    for where in beside(config, "voxels.parquet"):
        if told := [key for key in VOXEL_KEYS if key in arrays]:
            raise UserError(f"{where}: {train.path.name} holds {told[0]} too; take the voxels out of one of them")
        arrays = read_parquet(where, ["roi", "vertex", "surface", "x", "y", "z"])
        if axes := [axis for axis in "xyz" if axis in arrays]:
            if len(axes) < 3:
                raise UserError(f"{where}: has {' and '.join(axes)} only, expected x, y and z; add the rest")
            arrays["xyz"] = np.column_stack([arrays[axis] for axis in "xyz"])
    n_voxels = train.arrays["fmri"].shape[1]
    for key, shape in {"roi": (n_voxels,), "vertex": (n_voxels,), "xyz": (n_voxels, 3)}.items():
        if key in arrays and arrays[key].shape != shape:
            raise UserError(
                f"{where}: {key} has shape {arrays[key].shape}, expected {shape}, one entry a voxel of fmri; "
                f"write both from the same voxels"
            )
    named = sorted({str(name) for name in np.ravel(arrays.get("surface", "fs_LR_32k"))})
    if len(named) > 1:
        raise UserError(f"{where}: surface is {' and '.join(named)}, expected one for all voxels; write one file each")
    surface = (named or [""])[0]
    if surface not in N_VERTICES:
        raise UserError(f"{where}: surface '{surface}' is unknown{nearest(surface, N_VERTICES)}; map the voxels to one")
    vertex = tables.whole(where, "vertex", arrays["vertex"]) if "vertex" in arrays else None
    if vertex is not None:
        _check_vertex(where, vertex, surface)
    roi = tables.names(where, "roi", arrays["roi"], empty=True) if "roi" in arrays else None
    if "xyz" in arrays:
        matrix(where, "xyz", arrays["xyz"], "[voxels, 3]")
    known = cast(Literal["fs_LR_32k", "fsaverage5"], surface)
    return Voxels(roi, vertex, known, arrays.get("xyz"))


def _check_vertex(where: Path, vertex: np.ndarray, surface: str) -> None:
    last = N_VERTICES[surface] - 1
    outside = vertex[(vertex < 0) | (vertex > last)]
    if len(outside):
        raise UserError(
            f"{where}: vertex {outside[0]} is out of range, expected 0 to {last}, both hemispheres of {surface}; "
            f"count the right hemisphere on from the left, or name the surface"
        )


def kept(config: FolderData, train: Table, roi: np.ndarray | None) -> np.ndarray:
    """The voxels of ``data.roi``, bool [voxels]; ``V1`` keeps ``L_V1`` and ``R_V1`` too.

    Raises:
        UserError: an area that no voxel lies in.
    """
    if not config.roi:
        return np.ones(train.arrays["fmri"].shape[1], bool)
    if roi is None:
        raise UserError(
            f"{train.path}: no roi, but data.roi asks for {', '.join(config.roi)}; add roi, or drop data.roi"
        )
    bare = np.array([str(name).removeprefix("L_").removeprefix("R_") for name in roi])
    for wanted in config.roi:
        if not ((roi == wanted) | (bare == wanted)).any():
            raise UserError(f"{train.path}: roi '{wanted}' (data.roi) is not there{nearest(wanted, set(roi.tolist()))}")
    return np.isin(roi, config.roi) | np.isin(bare, config.roi)
