"""BOLD5000: four subjects see 4,916 photographs, 113 of them several times (Chang et al. 2019; release 2.0).

The fMRI are GLMsingle betas by area, ``CSIx_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_{LH,RH}{area}.npy`` [trials,
voxels]; their rows follow the sorted lists ``Stimuli_Presentation_Lists/CSIx/CSIx_sess01/CSI_sess01_run01.txt``, as in
github.com/zjc062/mind-vis (code/dataset.py). CSI1 to CSI3 have 15 sessions and 5,254 trials, CSI4 9 and 3,108
(github.com/BOLD5000-dataset/BOLD5000). The repeated images are the test set.

Files of CSI2 and CSI3 may spell some areas as their masks at OpenNeuro (ds001499, derivatives/spm) do: LHLO, RHLO, and
for CSI2 RHRRSC. Code that looks for ``LOC`` in a name loses that area without a word.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from cnd.data.checks import expect_shape, readable
from cnd.data.files import FileSource
from cnd.data.images import ImageFiles, StoredImages, find_images
from cnd.data.tables import read_npy, some_vary, zscore
from cnd.errors import UserError
from cnd.protocols import Classes, FmriDataset, FmriSplit, ImageSource, Normalisation
from cnd.settings import Positive

AREAS = ("EarlyVis", "LOC", "OPA", "PPA", "RSC")
OTHER_SPELLING = {"LHLOC": "LHLO", "RHLOC": "RHLO", "RHRSC": "RHRRSC"}
BETAS_ZIP, STIMULI_ZIP = "BOLD5000_GLMsingle_ROI_betas", "BOLD5000_Stimuli"  # unpacked, by Windows within another
BETAS = (".", "py", f"{BETAS_ZIP}/py", BETAS_ZIP, f"{BETAS_ZIP}/{BETAS_ZIP}/py")
UNPACKED = ("", f"{STIMULI_ZIP}/", f"{STIMULI_ZIP}/{STIMULI_ZIP}/")
LISTS = tuple(f"{place}Stimuli_Presentation_Lists" for place in UNPACKED)
STIMULI = (*(f"{place}Scene_Stimuli" for place in UNPACKED), "../Scene_Stimuli")
REPEATED = ("repeated_stimuli_113_list.txt", "Presented_Stimuli/repeated_stimuli_113_list.txt")

SETUP = """BOLD5000 (bold5000)
  fMRI    BOLD5000_GLMsingle_ROI_betas.zip from https://figshare.com/articles/dataset/BOLD5000_Release_2_0/14456124
  images  and presentation lists: BOLD5000_Stimuli.zip from https://www.dropbox.com/s/5ie18t4rjjvsl47/BOLD5000_Stimuli.zip?dl=1
          (linked from https://bold5000-dataset.github.io/website/download.html)
  put     both unpacked in one folder: BOLD5000_GLMsingle_ROI_betas/py/CSI1_GLMbetas-TYPED-...npy,
          BOLD5000_Stimuli/Stimuli_Presentation_Lists/CSI1/..., BOLD5000_Stimuli/Scene_Stimuli/Presented_Stimuli/...
  then    --set data.path=FOLDER (and data.images=FOLDER where the images lie elsewhere)"""
HINT = "`python -m cnd.data fetch bold5000` says where to get it"


class Bold5000Data(FileSource):
    """BOLD5000, Chang et al. 2019: GLMsingle betas by area."""

    setup: ClassVar[str] = SETUP
    signs: ClassVar[tuple[str, ...]] = ("CSI*_GLMbetas*.npy", "py/CSI*.npy", "BOLD5000_*/")
    stores_images: ClassVar[bool] = True
    kind: Literal["bold5000"] = "bold5000"
    path: Path | None = None  # folder with CSIx_GLMbetas-...npy and Stimuli_Presentation_Lists/
    images: Path | None = None  # folder with the presented images; by default Scene_Stimuli beside ``path``
    image_size: Positive = 256
    subject: Annotated[int, Field(ge=1, le=4)] = 1  # CSI4 has fewer sessions
    roi: tuple[str, ...] = ("EarlyVis", "LOC", "OPA", "PPA", "RSC")
    test_trials: Literal["averaged", "single"] = "averaged"  # of the 113 repeated images

    def files(self) -> list[Path]:
        """Betas of the subject and the presentation lists of all, checked to be there.

        Raises:
            UserError: a file is missing.
        """
        repeated = _repeated_list(self)
        lists = list_files(self, f"CSI{self.subject}") and list_files(self, "*")
        return [*beta_files(self).values(), *lists, *([repeated] if repeated else [])]

    def image_source(self) -> ImageSource:
        """The images; see :func:`image_source`."""
        return image_source(self)

    def classes(self) -> Classes:
        """Synsets, COCO and kinds of scenes; see :func:`load`."""
        names = class_names(self)
        return Classes(names, [name if _is_synset(name) else "" for name in names], True)

    def check_files(self) -> None:
        """Read betas and lists once and look for the images.

        Raises:
            UserError: missing, unreadable, wrong-shaped or non-finite file.
        """
        read(self)
        image_source(self).check()

    def load(self, fold: int, images: Path | None = None) -> FmriDataset:
        """One subject; see :func:`load`."""
        return load(self, images or Path())


class Presentation(NamedTuple):
    """What was shown in each trial: name of the image without ``rep_``, session and run, counted from 0 in order."""

    names: list[str]
    session: np.ndarray
    run: np.ndarray


class Trials(NamedTuple):
    """Betas float32 [trials, voxels] in percent signal change, area of each voxel, number of voxels left out."""

    betas: np.ndarray
    areas: list[str]
    shown: Presentation
    n_absent: int


# ---------------------------------------------------------------- files


def _folder(config: Bold5000Data, candidates: tuple[str, ...], what: str) -> Path:
    """The first of several usual places below ``data.path``."""
    if config.path is None:
        raise UserError(f"data.path is not set: bold5000 reads files that cannot be shipped; {HINT}")
    if not config.path.is_dir():
        raise UserError(f"{config.path}: no such folder (data.path); {HINT}")
    for place in candidates:
        if (config.path / place).is_dir():
            return config.path / place
    raise UserError(f"{config.path}: no folder {' or '.join(candidates)} ({what}); {HINT}")


def beta_files(config: Bold5000Data) -> dict[str, Path]:
    """File of each area of ``config.roi``, left then right, by area name such as ``L_LOC``.

    Raises:
        UserError: unknown area, or a file is missing.
    """
    unknown = [area for area in config.roi if area not in AREAS]
    if unknown:
        raise UserError(f"data.roi: '{unknown[0]}' is no area of BOLD5000; valid: {', '.join(AREAS)}")
    start = f"CSI{config.subject}_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_"
    _folder(config, (".",), "fMRI")  # tells a missing data.path first
    assert config.path is not None
    folders = [config.path / place for place in BETAS if (config.path / place).is_dir()]
    found = {}
    for area in config.roi:
        for hemisphere in ("LH", "RH"):
            usual = f"{hemisphere}{area}"
            names = [f"{start}{spelt}.npy" for spelt in (usual, OTHER_SPELLING.get(usual)) if spelt]
            there = [folder / name for name in names for folder in folders if (folder / name).is_file()]
            if not there:
                others = sorted(p.name for folder in folders for p in folder.glob("CSI*.npy"))
                listed = f"found {len(others)} others, e.g. {others[0]}" if others else "found no CSI*.npy"
                raise UserError(f"{config.path}: {names[0]} is missing in it and in {BETAS[2]}; {listed}; {HINT}")
            found[f"{hemisphere[0]}_{area}"] = there[0]
    return found


def list_files(config: Bold5000Data, subject: str) -> list[Path]:
    """Presentation lists in order of presentation; ``subject`` is ``CSI1`` .. ``CSI4`` or ``*``.

    Raises:
        UserError: there are none.
    """
    folder = _folder(config, LISTS, "presentation lists")
    found = sorted(folder.glob(f"{subject}/[!.]*/[!.]*.txt"))  # macOS leaves files that begin with a dot
    if not found:
        raise UserError(f"{folder}: no {subject}/*/*.txt (presentation lists); {HINT}")
    return found


def _stimuli(config: Bold5000Data) -> Path:
    return config.images or _folder(config, STIMULI, "images")


def _repeated_list(config: Bold5000Data) -> Path | None:
    return next((_stimuli(config) / name for name in REPEATED if (_stimuli(config) / name).is_file()), None)


def image_source(config: Bold5000Data) -> ImageSource:
    """The images of all subjects' lists, sorted by name.

    Raises:
        UserError: an image is missing.
    """
    presented = _stimuli(config) / "Presented_Stimuli"
    folder = presented if presented.is_dir() else _stimuli(config)
    return ImageFiles(find_images(folder, [Path(name).stem for name in all_names(config)]), config.image_size)


# ---------------------------------------------------------------- content


def _lines(path: Path) -> list[str]:
    with readable(path, "text file"):
        text = path.read_text(encoding="utf-8-sig")
    return [line.strip().removeprefix("rep_") for line in text.splitlines() if line.strip()]


def presentation(config: Bold5000Data) -> Presentation:
    """The subject's trials in order.

    Raises:
        UserError: there are no lists, or one is not readable.
    """
    paths = list_files(config, f"CSI{config.subject}")
    shown = [_lines(path) for path in paths]
    sessions = sorted({path.parent for path in paths})
    lengths = [len(names) for names in shown]
    session = np.repeat([sessions.index(path.parent) for path in paths], lengths)
    return Presentation([n for names in shown for n in names], session, np.repeat(np.arange(len(paths)), lengths))


def all_names(config: Bold5000Data) -> list[str]:
    """Every image that any subject with lists saw, sorted: the order of the image store."""
    return sorted({name for path in list_files(config, "*") for name in _lines(path)})


def class_names(config: Bold5000Data) -> list[str]:
    """Of all images that any subject saw; see :func:`load`."""
    return sorted({category_of(name) for name in all_names(config)})


def test_names(config: Bold5000Data) -> set[str]:
    """The repeated images: the published list of 113, or without it what any one subject saw more than once.

    Raises:
        UserError: there are none.
    """
    path = _repeated_list(config)
    if path is not None:
        return set(_lines(path))
    found: set[str] = set()
    for folder in sorted({path.parent.parent for path in list_files(config, "*")}):
        names = [name for path in sorted(folder.glob("*/*.txt")) for name in _lines(path)]
        unique, counts = np.unique(names, return_counts=True)
        found |= set(unique[counts > 1].tolist())
    return found


def read(config: Bold5000Data) -> Trials:
    """Betas of the areas, less the voxels without any, and what was shown.

    Raises:
        UserError: missing, unreadable, wrong-shaped or non-finite file; betas and lists do not fit each other.
    """
    shown, tested = presentation(config), test_names(config)
    is_training = np.array([name not in tested for name in shown.names])
    rows = f"the array, with a row for each trial in {list_files(config, f'CSI{config.subject}')[0].parents[1]},"
    parts, areas, n_absent = [], [], 0
    for area, path in beta_files(config).items():
        part = read_npy(path)
        expect_shape(path, rows, part, (len(shown.names), None), finite=False)
        measured = _measured(part, is_training)
        expect_shape(path, rows, part[:, measured], (len(shown.names), None))
        parts.append(part[:, measured].astype(np.float32))
        areas += [area] * parts[-1].shape[1]
        n_absent += int((~measured).sum())
    betas = np.concatenate(parts, axis=1)
    some_vary(beta_files(config)[areas[0]], "the array", betas[is_training])
    repeated = tested & set(shown.names)
    if not repeated or len(repeated) == len(set(shown.names)):
        what = "no image is repeated" if not repeated else "every image is repeated"
        where = _repeated_list(config) or list_files(config, "*")[0].parents[2]
        raise UserError(f"{where}: {what}, so there is no test or no training set; {HINT}")
    return Trials(betas, areas, shown, n_absent)


def _measured(betas: np.ndarray, is_training: np.ndarray) -> np.ndarray:
    """bool [voxels]: all but those that are NaN in every training trial, if others remain.

    Betas are divided by the voxel's mean signal, so one without signal has none. No such voxel is known in the released
    areas; test trials have no say, and NaN in some trials only is a fault of the file.
    """
    if betas.dtype.kind != "f":
        return np.ones(betas.shape[1], bool)
    measured: np.ndarray = ~np.isnan(betas[is_training]).all(0)
    return measured | ~measured.any()


def normalised(betas: np.ndarray, session: np.ndarray, is_training: np.ndarray) -> np.ndarray:
    """Z-scores within each session, as the data's authors advise, with the statistics of its training trials only.

    A session with fewer than two training trials takes the statistics of all of them.
    """
    result = np.empty_like(betas)
    for number in np.unique(session):
        rows = session == number
        reference = rows & is_training if (rows & is_training).sum() > 1 else is_training
        result[rows] = zscore(betas[rows], betas[reference])
    return result


def category_of(name: str) -> str:
    """``n01440764`` for an image of ImageNet, ``coco`` for COCO, else the scene's name, e.g. ``kitchen``."""
    if re.match(r"n\d{8}_", name):
        return name[:9]
    if name.startswith("COCO_"):
        return "coco"
    scene = re.match(r"[A-Za-z_]*[A-Za-z]", name)
    return scene.group() if scene else "scene"


# ---------------------------------------------------------------- data set


def load(config: Bold5000Data, images: Path) -> FmriDataset:
    """One subject. A class is a synset of ImageNet, all of COCO, or a kind of scene, so labels mean little here.

    ``seen`` marks the test images from ImageNet: which of them generator and judge were trained on is not published,
    and none of the other images were.

    Args:
        images: store of :func:`image_source`.

    Raises:
        UserError: as :func:`read`.
    """
    betas, areas, shown, n_absent = read(config)
    voxels = f"{betas.shape[1]} voxels" + (f" ({n_absent} without betas left out)" if n_absent else "")
    repeated = test_names(config)
    is_test = np.array([name in repeated for name in shown.names])
    patterns = normalised(betas, shown.session, ~is_test)
    store_row = {name: i for i, name in enumerate(all_names(config))}
    classes = class_names(config)
    single = config.test_trials == "single"

    def split(fmri: np.ndarray, names: list[str], run: np.ndarray | None) -> FmriSplit:
        found = [category_of(name) for name in names]
        return FmriSplit(
            fmri=fmri,
            images=StoredImages(images, np.array([store_row[name] for name in names])),
            category=np.array([classes.index(c) for c in found], dtype=np.int64),
            stimulus=[Path(name).stem for name in names],
            seen=np.array([_is_synset(c) for c in found]),
            run=run,
        )

    trials: dict[str, list[int]] = {name: [] for name in sorted(repeated & set(shown.names))}
    for i in np.flatnonzero(is_test):
        trials[shown.names[i]].append(int(i))
    in_order = [i for rows in trials.values() for i in rows]
    averages = np.stack([patterns[rows].mean(0, dtype=np.float64) for rows in trials.values()]).astype(np.float32)
    train = np.flatnonzero(~is_test)
    return FmriDataset(
        train=split(patterns[train], [shown.names[i] for i in train], shown.run[train]),
        test=split(patterns[in_order], [shown.names[i] for i in in_order], shown.run[in_order])
        if single
        else split(averages, list(trials), None),
        unlabelled=(),
        normalisation=Normalisation.of(betas[~is_test], "run"),  # a session is the run of this rule
        class_names=classes,
        description=f"BOLD5000 CSI{config.subject}: real fMRI, {'+'.join(config.roi)}, {voxels}, "
        f"{len(set(shown.session.tolist()))} sessions; {len(trials)} repeated test images, "
        f"{'as single trials' if single else 'averaged'}",
        simulated=False,
        roi=areas,
        wnid=[c if _is_synset(c) else "" for c in classes],
        facts={"test_repetitions": float(np.median([len(rows) for rows in trials.values()]))},
    )


def _is_synset(category: str) -> bool:
    return re.fullmatch(r"n\d{8}", category) is not None
