"""Real fMRI: one subject sees 100 handwritten sixes and nines (van Gerven et al. 2010).

The file ``digit69_28x28.mat`` is not redistributable and is given by path. It holds ``fmriTrn`` (90, 3092),
``fmriTest`` (10, 3092), ``stimTrn`` and ``stimTest`` (n, 784; stored transposed), ``labelTrn`` and ``labelTest``
(1: six, 2: nine). The published split has ten test items, too few to compare anything, so all 100 items are
cross-validated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from cnd.data.files import FileSource, mat_content, one_file
from cnd.data.tables import some_vary, zscore
from cnd.errors import UserError
from cnd.protocols import Classes, FmriDataset, FmriSplit, Normalisation

WHOLE = "bring the original digit69_28x28.mat"
SIGN = "digit69*.mat"
SETUP = """Handwritten sixes and nines (digits69)
  file    digit69_28x28.mat, which may not be passed on (cnd/data/README.md)
  then    --set data.path=/path/to/digit69_28x28.mat"""
HINT = "pass digit69_28x28.mat with --set data.path="
SHAPES = {"fmriTrn": (90, 3092), "fmriTest": (10, 3092), "stimTrn": (90, 784), "stimTest": (10, 784)}
FOLD_SEED = 69  # the folds belong to the data set: every row and every seed is judged on the same ones


class Digits69Data(FileSource):
    """Handwritten sixes and nines, real fMRI of visual cortex."""

    setup: ClassVar[str] = SETUP
    signs: ClassVar[tuple[str, ...]] = (SIGN,)
    kind: Literal["digits69"] = "digits69"
    path: Path | None = None  # digit69_28x28.mat, which is not redistributable, or the folder that holds it
    n_folds: Annotated[int, Field(ge=2, le=50)] = 10  # cross-validation over all 100 items
    fold: Annotated[int, Field(ge=0)] | None = None  # None pools every fold, a number runs that one

    @model_validator(mode="after")
    def _fold_exists(self) -> Digits69Data:
        if self.fold is not None and self.fold >= self.n_folds:
            raise ValueError(f"fold {self.fold} does not exist: there are {self.n_folds} folds, counted from 0")
        return self

    def folds(self) -> list[int]:
        """Every fold, or the one that was chosen."""
        return list(range(self.n_folds)) if self.fold is None else [self.fold]

    def files(self) -> list[Path]:
        """The file.

        Raises:
            UserError: no path was given, or nothing lies there.
        """
        return one_file(self.path, SIGN, self.kind, HINT)

    def classes(self) -> Classes:
        """The ten digits, of which two occur."""
        return Classes([str(d) for d in range(10)], [], True, occurring=[6, 9])

    def check_files(self) -> None:
        """Read the file once.

        Raises:
            UserError: missing, unreadable, incomplete, wrong-shaped or non-finite file.
        """
        read(self)

    def load(self, fold: int, images: Path | None = None) -> FmriDataset:
        """Training and test set of one fold; voxels are z-scored with the statistics of the training items."""
        fmri, pictures, digit = read(self)
        inside = fold_of_items(self, digit) == fold
        patterns = zscore(fmri, fmri[~inside])

        def split(rows: np.ndarray) -> FmriSplit:
            chosen = np.flatnonzero(rows)
            names = [f"item {i} ({digit[i]})" for i in chosen]
            return FmriSplit(patterns[chosen], pictures[chosen], digit[chosen], names)

        return FmriDataset(
            train=split(~inside),
            test=split(inside),
            unlabelled=(),
            normalisation=Normalisation.of(fmri[~inside]),
            class_names=self.classes().names,
            description=f"digits69: real fMRI, 100 handwritten sixes and nines, {self.n_folds}-fold cross-validation",
            simulated=False,
        )


def read(config: Digits69Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All 100 items: fMRI float64 [100, 3092], stimuli uint8 [100, 1, 32, 32] (upright), digit int64 [100].

    Raises:
        UserError: missing, unreadable, incomplete, wrong-shaped or non-finite file.
    """
    (path,) = config.files()
    content = mat_content(path)
    for key, shape in SHAPES.items():
        if key not in content:
            found = sorted(k for k in content if k[0] != "_")
            raise UserError(f"{path}: key '{key}' is missing; found {found}; {WHOLE}")
        if content[key].shape != shape:
            raise UserError(f"{path}: {key} has shape {content[key].shape}, expected {shape}; {WHOLE}")
        if content[key].dtype.kind not in "fiu":
            raise UserError(f"{path}: {key} has type {content[key].dtype}, expected real numbers; {WHOLE}")
    fmri = np.concatenate([content["fmriTrn"], content["fmriTest"]]).astype(np.float64)
    if not np.isfinite(fmri).all():
        raise UserError(f"{path}: fmriTrn/fmriTest hold NaN or infinite values, expected none; {WHOLE}")
    some_vary(path, "fmriTrn/fmriTest", fmri)
    pixels = np.concatenate([content["stimTrn"], content["stimTest"]])
    upright = pixels.reshape(-1, 1, 28, 28).transpose(0, 1, 3, 2)
    images = np.pad(_to_uint8(path, upright), ((0, 0), (0, 0), (2, 2), (2, 2)))
    return fmri, images, _digits(path, content)


def _to_uint8(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Grey levels from 0 to 255, or from 0 to 1, rounded to whole ones."""
    scaled = pixels if pixels.max() > 1 else pixels * 255.0
    if not (scaled.min() >= 0 and 1 < scaled.max() <= 255):  # NaN fails too
        low, high = pixels.min(), pixels.max()
        raise UserError(
            f"{path}: stimTrn/stimTest go from {low:g} to {high:g}, expected 0 to 255 or 0 to 1, not all black; {WHOLE}"
        )
    return np.round(scaled).astype(np.uint8)


def _digits(path: Path, content: dict[str, np.ndarray]) -> np.ndarray:
    found = [key for key in content if key.lower().startswith("label")]
    train = [k for k in found if k.lower().endswith(("trn", "train"))]
    test = [k for k in found if k.lower().endswith("test")]
    if not train or not test:
        raise UserError(f"{path}: no labels; expected labelTrn and labelTest, found {found}; {WHOLE}")
    labels = np.concatenate([content[train[0]].ravel(), content[test[0]].ravel()])
    if len(labels) != 100 or not np.isin(labels, (1, 2)).all():
        raise UserError(f"{path}: {len(labels)} labels, expected 100 values of 1 (six) or 2 (nine); {WHOLE}")
    return np.where(labels == 1, 6, 9).astype(np.int64)


def fold_of_items(config: Digits69Data, digit: np.ndarray) -> np.ndarray:
    """Fold of each item, int [100]: random within a digit, so that every fold has both."""
    rng = np.random.default_rng(FOLD_SEED)
    fold = np.empty(len(digit), dtype=int)
    for value in np.unique(digit):
        rows = rng.permutation(np.flatnonzero(digit == value))
        fold[rows] = np.arange(len(rows)) % config.n_folds
    return fold
