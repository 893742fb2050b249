"""Real fMRI: one subject sees figures and letters made of 10 x 10 patches (Miyawaki et al. 2008).

The file ``miyawaki_structured_28x28.mat`` (github.com/braindecoding/LDM) is a cut of the original data and may not be
passed on. It holds ``fmriTrn`` (107, 967), ``fmriTest`` (12, 967), ``stimTrn`` and ``stimTest`` (n, 784; stored
transposed, the patches enlarged to 28 x 28 pixels, 0 to 1), ``labelTrn`` and ``labelTest``: the run of each item, 21 to
32. Together they are 119 blocks of 12 runs, and 20 stimuli that were shown four to eight times each.

The published split is random over blocks: 10 of its 12 test stimuli are training stimuli too. Here all 119 blocks are
cross-validated, and ``split_by`` says over what. ``run``: one run is left out at a time, whose stimuli the other runs
have shown, so a decoder may recognise them. ``stimulus``: two stimuli are left out at a time with all their blocks, so
what is drawn of them was never trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from cnd.data.checks import expect_shape, require_keys
from cnd.data.files import FileSource, mat_content, one_file
from cnd.data.tables import some_vary, zscore
from cnd.errors import UserError
from cnd.protocols import Classes, FmriDataset, FmriSplit, Normalisation, Stimuli

SIGN = "miyawaki*.mat"
SETUP = """Figures and letters of Miyawaki et al. 2008 (miyawaki)
  file    miyawaki_structured_28x28.mat, data/ of github.com/braindecoding/LDM; it may not be passed on
  then    --set data.path=/path/to/miyawaki_structured_28x28.mat"""
HINT = "pass miyawaki_structured_28x28.mat with --set data.path="
SHAPES = {
    "fmriTrn": (107, 967), "fmriTest": (12, 967), "stimTrn": (107, 784), "stimTest": (12, 784),
    "labelTrn": (107, 1), "labelTest": (12, 1),
}  # fmt: skip
STIMULI = (
    "small frame", "square", "u thin", "r thin", "n thin", "o thin", "e thin", "u", "e", "r", "n", "o",
    "u wide", "r wide", "n wide", "o wide", "e wide", "plus", "cross", "large frame",
)  # fmt: skip
"""What the distinct stimuli show, in the order of their stored pixels: the letters of "neuron" in three sizes."""
HELD_OUT = 2  # stimuli that a fold leaves out
FOLD_SEED = 2008  # the folds belong to the data set: every row and every seed is judged on the same ones
REMARK = (
    "Voxels were z-scored over all blocks before the file was written, so the mean and scale of test blocks are not "
    "free of them; voxels were chosen by variance there too."
)


class MiyawakiData(FileSource):
    """Figures and letters of Miyawaki et al. 2008, real fMRI of visual cortex."""

    setup: ClassVar[str] = SETUP
    signs: ClassVar[tuple[str, ...]] = (SIGN,)
    kind: Literal["miyawaki"] = "miyawaki"
    path: Path | None = None  # miyawaki_structured_28x28.mat, or the folder that holds it
    split_by: Literal["run", "stimulus"] = "stimulus"  # what the test items of a fold have to themselves

    def folds(self) -> list[int]:
        """One a run, or one for each two stimuli."""
        return list(range(12 if self.split_by == "run" else len(STIMULI) // HELD_OUT))

    def files(self) -> list[Path]:
        """The file.

        Raises:
            UserError: no path was given, or nothing lies there.
        """
        return one_file(self.path, SIGN, self.kind, HINT)

    def classes(self) -> Classes:
        """Every stimulus is a class of its own."""
        return Classes(list(STIMULI), [], True)

    def test_stimuli(self) -> Stimuli:
        """All blocks."""
        stimulus = read(self)[2]
        return Stimuli([STIMULI[s] for s in stimulus], (1, 28, 28))

    def check_files(self) -> None:
        """Read the file once.

        Raises:
            UserError: missing, unreadable, incomplete, wrong-shaped or non-finite file.
        """
        read(self)

    def load(self, fold: int, images: Path | None = None) -> FmriDataset:
        """Training and test set of one fold; voxels are z-scored with the statistics of the training items."""
        fmri, pictures, stimulus, run = read(self)
        inside = fold_of_items(self, stimulus, run) == fold
        patterns = zscore(fmri, fmri[~inside])

        def split(rows: np.ndarray) -> FmriSplit:
            chosen = np.flatnonzero(rows)
            names = [STIMULI[s] for s in stimulus[chosen]]
            return FmriSplit(patterns[chosen], pictures[chosen], stimulus[chosen], names, run=run[chosen])

        return FmriDataset(
            train=split(~inside),
            test=split(inside),
            unlabelled=(),
            normalisation=Normalisation.of(fmri[~inside]),
            class_names=list(STIMULI),
            description=f"miyawaki: real fMRI, 119 blocks of 20 figures and letters, folds by {self.split_by}",
            simulated=False,
            remarks=[REMARK],
        )


def read(config: MiyawakiData) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All 119 blocks in the order of the experiment.

    Returns:
        fMRI float64 [119, 967], stimuli uint8 [119, 1, 28, 28] (upright), index into ``STIMULI`` int64 [119], run int64
        [119], 21 to 32.

    Raises:
        UserError: missing, unreadable, incomplete, wrong-shaped or non-finite file, or other stimuli.
    """
    (path,) = config.files()
    content = mat_content(path)
    require_keys(path, content, [*SHAPES, "train_indices", "test_indices"])
    for key, shape in SHAPES.items():
        expect_shape(path, key, content[key], shape)
    order = np.argsort(np.concatenate([content["train_indices"].ravel(), content["test_indices"].ravel()]))
    fmri, pixels, run = (
        np.concatenate([content[f"{key}Trn"], content[f"{key}Test"]])[order] for key in ("fmri", "stim", "label")
    )
    some_vary(path, "fmriTrn/fmriTest", fmri)
    distinct, stimulus = np.unique(pixels, axis=0, return_inverse=True)
    if len(distinct) != len(STIMULI) or not (pixels.min() >= 0 and 0 < pixels.max() <= 1):
        raise UserError(
            f"{path}: stimTrn/stimTest hold {len(distinct)} distinct stimuli from {pixels.min():g} to {pixels.max():g}"
            f", expected {len(STIMULI)} from 0 to 1; download the file again"
        )
    if sorted(set(run.ravel().tolist())) != list(range(21, 33)):
        raise UserError(f"{path}: labelTrn/labelTest are not the runs 21 to 32; download the file again")
    upright = pixels.reshape(-1, 1, 28, 28).transpose(0, 1, 3, 2)
    images = np.ascontiguousarray(np.round(255 * upright).astype(np.uint8))
    return fmri.astype(np.float64), images, stimulus.reshape(-1).astype(np.int64), run.ravel().astype(np.int64)


def fold_of_items(config: MiyawakiData, stimulus: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Fold of each item, int [119]: its run, or two stimuli at random."""
    if config.split_by == "run":
        return np.unique(run, return_inverse=True)[1].reshape(-1)
    fold = np.empty(len(STIMULI), dtype=int)
    fold[np.random.default_rng(FOLD_SEED).permutation(len(STIMULI))] = np.arange(len(STIMULI)) // HELD_OUT
    return fold[stimulus]
