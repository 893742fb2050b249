"""Your own data: one folder with a training and a test file, ``.npz``, ``.h5`` (HDF5) or ``.parquet``.

::

    my_data/
      train.npz  test.npz      or train.h5, test.h5, or train.parquet, test.parquet
      voxels.parquet           optional: roi, vertex, x, y, z, surface of each voxel (instead of arrays in train.*)
      class_names.json         optional: the classes in their order, a list of strings
      origin.json              optional: {"simulated": true} where nothing was measured; plan, table and report say so
      mask.nii.gz              optional: a volume on whose grid xyz lies, so that maps are written back as NIfTI
      stimuli/...              optional: images that image_files names

Several subjects: one folder each, ``my_data/<subject>/train.npz``, which allows different voxel counts, or a key
``subject`` in the files; ``data.subject`` chooses one. What the files hold (Parquet: columns), for n items, V voxels:

=============== ===================== ================================================================================
``fmri``        [n, V] real           one pattern an item: a beta, or an average over trials. Required
``labels``      [n] integer or string class of the item; an integer counts in ``class_names`` where these are given
``images``      uint8                 [n, h, w, 3], [n, 3, h, w], or grey [n, h, w], which keeps its one channel
``image_files`` [n] string            instead of ``images``: names relative to the file's folder; read as RGB
``stimulus``    [n] name              name of the stimulus; by default its image file, else its row
``subject``     [n] name              see above
``run``         [n] name              run or session of the item
``roi``         [V] name              area of the voxel, e.g. ``L_V1`` (in the training file, or in voxels.parquet);
                                      ``""`` where it lies in none
``vertex``      [V] integer           its vertex on ``surface``
``surface``     one string            ``fs_LR_32k`` (default; vertices 0..59411) or ``fsaverage5`` (0..20483)
``xyz``         [V, 3] real           its place in millimetres, for voxels of a volume (columns x, y, z in Parquet)
``class_names`` [C] string            as class_names.json
=============== ===================== ================================================================================

A name is text, a whole number or a date; NaN and other missing values are refused. Whole numbers may be stored as
floats, as MATLAB does. A list may be a matrix of one row or one column. Files of MATLAB's ``-v7.3`` are read in
MATLAB's own order of axes (``h5write`` leaves no trace of it: transpose there yourself). Of ``train`` and ``test`` one
file each must be there, whatever its form, and what several files say of the voxels or classes must agree. How image
files become RGB is told at :func:`cnd.data.images.eight_bit`.

Labels or images are needed, the same of them in both files. Labels without images work: scores are then by class.
Images without labels make every stimulus its own class. Class names are the sorted labels of both files unless they
are given; a name that the generator knows (``goldfish``) is its class. Images are cropped to a square and resized.

Normalisation uses training items only. Where ``run`` is given, the mean of a run's own training items is taken from its
items, because baselines differ between runs; a run with fewer than 8 training items, as one of test items only, takes
the mean of all training items (its own would use test fMRI). Then each voxel is scaled to mean 0 and variance 1 over
the training items. Test items that share a stimulus are averaged after that where ``data.test_trials`` says so. No
stimulus may be in both files unless ``data.shared_stimuli`` allows it, as a split by run needs; reports then say so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from cnd.data.files import FileSource
from cnd.data.folder_layout import (
    ORIGIN,
    SETUP,
    Table,
    beside,
    both_paths,
    classes,
    kept,
    read_both,
    same_voxels,
    simulated,
    subjects,
    voxels,
)
from cnd.data.images import ImageFiles
from cnd.data.tables import keys_of, names, read, some_vary, vector, zscore
from cnd.errors import UserError
from cnd.protocols import Classes, FmriDataset, FmriSplit, Normalisation
from cnd.protocols.normalisation import FEWEST
from cnd.settings import Positive

SIMULATED = "Simulated: no brain was scanned (origin.json); nothing here is a measurement."
MIN_RUN = FEWEST  # training items that make a run's own mean worth removing


class FolderData(FileSource):
    """Your own data in one documented folder (see the top of this module)."""

    setup: ClassVar[str] = SETUP
    signs: ClassVar[tuple[str, ...]] = ("train.*", "*/train.*")
    kind: Literal["folder"] = "folder"
    path: Path | None = None  # train.npz and test.npz (or .parquet, .h5)
    image_size: Positive = 256
    subject: str | None = None  # needed where the files hold several
    roi: tuple[str, ...] = ()  # keep these areas only; empty keeps every voxel
    test_trials: Literal["averaged", "single"] = "single"  # of a stimulus that test items share
    shared_stimuli: bool = False  # whether test stimuli may be training stimuli, as in a split by run

    def subjects(self) -> list[str]:
        """Those in the folder, where none is chosen and there are any.

        Raises:
            UserError: the training file is not readable.
        """
        return [] if self.subject or self.path is None or not self.path.is_dir() else subjects(self.path)

    def of_subject(self, subject: Any) -> Self:
        """The same for another subject, whose name is text here."""
        return super().of_subject(str(subject))

    @property
    def simulated(self) -> bool:
        """Whether ``origin.json`` says so.

        Raises:
            UserError: it says something else; or as :meth:`files`.
        """
        return simulated(self)

    def files(self) -> list[Path]:
        """Training file, test file, what lies beside them, and the images that they name.

        Raises:
            UserError: no path was given, or a file is missing or malformed.
        """
        tables = both_paths(self)
        names = ("voxels.parquet", "class_names.json", ORIGIN)
        descriptions = [path for name in names for path in beside(self, name)]
        images = {path for table in tables for path in _image_paths(Table(table, _names_of_images(table)))}
        return tables + descriptions + sorted(images)

    def classes(self) -> Classes:
        """Those that the labels of both files name, or ``class_names`` where they are given."""
        tables = read_both(self)
        pictured = bool({"images", "image_files"} & tables[0].arrays.keys())
        found, category = classes(self, tables)
        return Classes(found, [], pictured, occurring=[int(c) for c in np.unique(np.concatenate(category))])

    def volume(self) -> Path | None:
        """``mask.nii.gz`` beside the files."""
        return next(iter(beside(self, "mask.nii.gz")), None)

    def check_files(self) -> None:
        """Read everything once.

        Raises:
            UserError: a file is missing or malformed, or the two files disagree.
        """
        load(self)

    def load(self, fold: int, images: Path | None = None) -> FmriDataset:
        """The data set of one subject; the split is that of the files, so there is one fold.

        Raises:
            UserError: as :meth:`check_files`.
        """
        return load(self)


def _names_of_images(path: Path) -> dict[str, np.ndarray]:
    """``image_files`` of a file where they count, without reading the rest."""
    found = read(path, ["image_files"])
    return {} if "images" in keys_of(path) else {k: names(path, k, vector(a)) for k, a in found.items()}


def load(config: FolderData) -> FmriDataset:
    """The data set of one subject.

    Raises:
        UserError: a file is missing or malformed, or the two files disagree.
    """
    tables = read_both(config)
    made = simulated(config)
    class_names, category = classes(config, tables)
    known = voxels(config, tables[0])
    same_voxels(*tables)
    keep = kept(config, tables[0], known.roi)
    runs = [table.arrays.get("run") for table in tables]
    some_vary(tables[0].path, "fmri", tables[0].arrays["fmri"][:, keep])
    fmri = normalise(*(table.arrays["fmri"][:, keep] for table in tables), *runs)
    numbers = _run_numbers(*runs)
    train, test = (
        FmriSplit(fmri[i], _images(table, config.image_size), category[i], table.names(), run=numbers[i])
        for i, table in enumerate(tables)
    )
    if config.test_trials == "averaged":
        test = averaged(tables[1].path, test)
    subject = f", subject {config.subject}" if config.subject else ""
    return FmriDataset(
        train=train,
        test=test,
        unlabelled=(),
        normalisation=normalisation(tables[0].arrays["fmri"][:, keep], runs[0]),
        class_names=class_names,
        description=f"your own data{subject}, {fmri[0].shape[1]} voxels",
        simulated=made,
        remarks=[SIMULATED] if made else [],
        roi=[] if known.roi is None else known.roi[keep].tolist(),
        vertex=None if known.vertex is None else known.vertex[keep],
        surface=known.surface,
        xyz=None if known.xyz is None else known.xyz[keep].astype(np.float32),
    )


# ---------------------------------------------------------------- values


def normalise(
    train: np.ndarray, test: np.ndarray, train_run: np.ndarray | None = None, test_run: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Patterns of both splits, float32, z-scored with training items only; see the top of this module for runs.

    Args:
        train: [n, voxels], and likewise ``test``.
        train_run: run of each training item, and likewise ``test_run``; None where runs are unknown.
    """
    if train_run is not None:
        parts = (train, train_run), (test, test_run)
        train, test = (_centred(part, run, train, train_run) for part, run in parts)
    return zscore(train), zscore(test, train)


def normalisation(train: np.ndarray, run: np.ndarray | None) -> Normalisation:
    """What :func:`normalise` does to patterns of further runs, from the training items and their runs."""
    if run is None:
        return Normalisation.of(train)
    rest = Normalisation.of(_centred(train, run, train, run))
    return Normalisation(train.mean(0, dtype=np.float64) + rest.mean, rest.std, "run mean")


def _centred(part: np.ndarray, run: np.ndarray | None, train: np.ndarray, train_run: np.ndarray) -> np.ndarray:
    """Patterns without the mean of their run's training items, or of all where there are few."""
    means = np.tile(train.mean(0, dtype=np.float64), (len(part), 1))
    runs, counts = np.unique(train_run, return_counts=True)
    for name in runs[counts >= MIN_RUN]:
        if run is not None:
            means[run == name] = train[train_run == name].mean(0, dtype=np.float64)
    return part - means


def averaged(path: Path, items: FmriSplit) -> FmriSplit:
    """One item a stimulus, in the order of their first: the mean pattern of those that share it.

    Raises:
        UserError: one stimulus has several classes or images.
    """
    _, first, member = np.unique(items.stimulus, return_index=True, return_inverse=True)
    member = member.reshape(-1)
    for place, name in enumerate(items.stimulus):
        same = first[member[place]]
        if items.category[place] != items.category[same] or (items.images[place] != items.images[same]).any():
            raise UserError(
                f"{path}: stimulus '{name}' has several labels or images, so its trials cannot be averaged "
                "(data.test_trials); correct them, or give each its own name"
            )
    order = np.argsort(first)
    means = np.stack([items.fmri[member == group].mean(0, dtype=np.float64) for group in order])
    return replace(items.take(first[order]), fmri=means.astype(np.float32), run=None)


def _run_numbers(*runs: np.ndarray | None) -> list[np.ndarray | None]:
    """Runs of both files counted in one order, int64."""
    known = sorted({str(run) for values in runs if values is not None for run in values})
    return [None if values is None else np.searchsorted(known, [str(run) for run in values]) for values in runs]


# ---------------------------------------------------------------- images


def _image_paths(table: Table) -> list[Path]:
    if "images" in table.arrays or "image_files" not in table.arrays:
        return []
    paths = [table.path.parent / str(name) for name in table.arrays["image_files"]]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such image; {table.path} names it in image_files; add it, or correct the name")
    return paths


def _images(table: Table, size: int) -> np.ndarray:
    """uint8 [n, channels, size, size]; [n, 0, 0, 0] where the file has labels only."""
    if "images" in table.arrays:
        return np.stack([_square(image, size) for image in _channels_last(table)]).transpose(0, 3, 1, 2)
    paths = _image_paths(table)
    if not paths:
        return np.zeros((len(table.arrays["fmri"]), 0, 0, 0), np.uint8)
    return np.concatenate(list(ImageFiles(paths, size).batches()))


def _channels_last(table: Table) -> np.ndarray:
    """uint8 [n, h, w, 1 or 3]."""
    images = table.arrays["images"]
    if images.dtype == np.uint8 and images.size and 0 < images.max() <= 1:
        raise UserError(
            f"{table.path}: images are uint8 and go from 0 to 1, expected 0 to 255; multiply them by 255, or they are "
            f"black"
        )
    if images.dtype != np.uint8:
        raise UserError(
            f"{table.path}: images are {images.dtype}, expected uint8 from 0 to 255; convert them, e.g. "
            f"(images * 255).round().astype('uint8') where they go from 0 to 1, (images >> 8).astype('uint8') where "
            f"they have 16 bits"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[-1] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise UserError(
            f"{table.path}: images have shape {table.arrays['images'].shape}, expected [n, h, w, 3], [n, 3, h, w] or "
            f"[n, h, w]; bring the axes into one of these orders"
        )
    return images


def _square(image: np.ndarray, size: int) -> np.ndarray:
    """Central square of [h, w, channels], resized: uint8 [size, size, channels]."""
    height, width, channels = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return square
    from PIL import Image

    pixels = Image.fromarray(square[..., 0] if channels == 1 else np.ascontiguousarray(square))
    return np.asarray(pixels.resize((size, size), Image.Resampling.BICUBIC)).reshape(size, size, channels)
