"""Generic Object Decoding: five subjects, 1,200 training and 50 test photographs (Horikawa & Kamitani 2017).

Any of the public layouts will do (:mod:`cnd.data.god_layouts`). Items come in the order of the published lists, so that
item i is the same image for every subject.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from cnd.data.files import FileSource
from cnd.data.god_layouts import (
    LISTS,
    N_TEST,
    N_TRAIN,
    Recording,
    categories,
    image_list,
    in_ilsvrc,
    read_bdata,
    read_packed,
)
from cnd.data.images import ImageArchive, ImageFiles, StoredImages, find_images
from cnd.data.tables import zscore
from cnd.errors import UserError
from cnd.keys import files_hash
from cnd.protocols import Classes, FmriDataset, FmriSplit, ImageSource, Normalisation
from cnd.settings import Positive

AREAS = ("V1", "V2", "V3", "V4", "LOC", "FFA", "PPA", "LVC", "HVC", "VC")  # the first that holds a voxel names it
SPM_VOXELS = (4466, 4404, 4643, 4133, 4370)  # of VC, subjects 1 to 5: Subject1.h5 and sbj_1.npz
FMRIPREP_VOXELS = (3444, 4979, 5355, 4656, 6237)  # as a public reader of Subject1_ImageNetTraining.h5 counts them
LAYOUTS = (("Subject{}.h5",), ("Subject{}_ImageNetTraining.h5", "Subject{}_ImageNetTest.h5"), ("sbj_{}.npz",))

SETUP = """Generic Object Decoding (god)
  fMRI    Subject1_ImageNetTraining.h5 and Subject1_ImageNetTest.h5, likewise to 5 (fMRIPrep), or the earlier
          Subject1.h5 (SPM), from https://figshare.com/articles/dataset/Generic_Object_Decoding/7387130
          or sbj_1.npz .. sbj_5.npz (SPM; most published decoders use these) with images_256.npz, folder Kamitani/npz of
          https://figshare.com/s/94cd778e6afafb00946e; or with images_112.npz (112 pixels, --set data.images=) from
          https://github.com/WeizmannVision/SelfSuperReconst/releases/tag/v1
  images  on request by the form at https://forms.gle/ujvA34948Xg49jdn9 (not needed with images_256.npz)
  put     all in one folder: Subject1_ImageNetTraining.h5 ..., images/training/n01518878_10042.JPEG ..., images/test/...
          or sbj_1.npz ..., images_256.npz
  then    --set data.path=FOLDER (and data.images=FOLDER where the images lie elsewhere)"""
HINT = "`python -m cnd.data fetch god` says where to get it"


class GodData(FileSource):
    """Generic Object Decoding, Horikawa & Kamitani 2017: all public layouts."""

    setup: ClassVar[str] = SETUP
    signs: ClassVar[tuple[str, ...]] = ("Subject[1-5].h5", "Subject[1-5]_ImageNet*.h5", "sbj_[1-5].npz")
    stores_images: ClassVar[bool] = True
    kind: Literal["god"] = "god"
    path: Path | None = None  # folder with Subject{1..5}_ImageNet{Training,Test}.h5, Subject{1..5}.h5 or sbj_{1..5}.npz
    images: Path | None = None  # images_256.npz, or a folder with one image a stimulus id; by default beside ``path``
    image_size: Positive = 256
    subject: Annotated[int, Field(ge=1, le=5)] = 1
    roi: tuple[str, ...] = ("VC",)  # VC, V1..V4, LOC, FFA, PPA, LVC, HVC
    test_trials: Literal["averaged", "single"] = "averaged"  # over the 35 repetitions

    def identity(self) -> Any:
        """Settings, the content of the files, and the shipped lists that name items and classes."""
        return super().identity() | {"lists": files_hash(sorted(LISTS.glob("*.[ct]sv")))}

    def files(self) -> list[Path]:
        """The subject's fMRI files; see :func:`subject_files`."""
        return subject_files(self)

    def image_source(self) -> ImageSource:
        """The images; see :func:`image_source`."""
        return image_source(self)

    def classes(self) -> Classes:
        """The 200 synsets of the published list."""
        wnids, names = categories()
        return Classes(names, wnids, True)

    def check_files(self) -> None:
        """Read the fMRI once and look for the images.

        Raises:
            UserError: missing, unreadable, incomplete, wrong-shaped or non-finite file.
        """
        read(self)
        image_source(self).check()

    def load(self, fold: int, images: Path | None = None) -> FmriDataset:
        """One subject, z-scored with the statistics of the training items.

        Raises:
            UserError: as :meth:`check_files`.
        """
        return load(self, images or Path())


def subject_files(config: GodData) -> list[Path]:
    """The fMRI files of the subject, in the first layout that is complete.

    Raises:
        UserError: no path was given, or the folder holds none.
    """
    if config.path is None:
        raise UserError(f"data.path is not set: god reads files that cannot be shipped; {HINT}")
    if not config.path.is_dir():
        raise UserError(f"{config.path}: no such folder (data.path); {HINT}")
    layouts = [[config.path / name.format(config.subject) for name in names] for names in LAYOUTS]
    for paths in layouts:
        if all(path.is_file() for path in paths):
            return paths
    for first, second in (paths for paths in layouts if len(paths) == 2):
        if first.is_file() or second.is_file():
            gone, there = (first, second) if second.is_file() else (second, first)
            raise UserError(f"{gone}: no such file, expected beside {there.name}; {HINT}")
    wanted = ", nor ".join(" with ".join(path.name for path in paths) for paths in layouts)
    found = sorted(path.name for path in config.path.iterdir())
    listed = f"found {', '.join(found[:6])}{' ...' if found[6:] else ''}" if found else "the folder is empty"
    raise UserError(f"{config.path}: neither {wanted} (subject {config.subject}); {listed}; {HINT}")


def image_source(config: GodData) -> ImageSource:
    """The images: 1,200 for training, then 50 for testing, in order of the published lists.

    Raises:
        UserError: there are none, or not all.
    """
    folder = subject_files(config)[0].parent
    usual = [folder / f"images_{config.image_size}.npz", folder / "images_256.npz", folder / "images"]
    path = config.images or next((p for p in usual if p.exists()), None)
    if path is None:
        others = ", ".join(sorted(p.name for p in folder.glob("images*"))) or "nothing like them"
        raise UserError(
            f"{folder}: neither images_256.npz nor a folder 'images'; found {others}; set data.images; {HINT}"
        )
    if path.suffix == ".npz" and path.is_file():
        return ImageArchive(path, {"train_images": N_TRAIN, "test_images": N_TEST}, config.image_size)
    return ImageFiles(find_images(path, image_list("training")[1] + image_list("test")[1]), config.image_size)


def read(config: GodData) -> Recording:
    """The subject's recording, restricted to the areas of ``config.roi``.

    Raises:
        UserError: missing, unreadable, incomplete, wrong-shaped or non-finite file.
    """
    paths = subject_files(config)
    return read_bdata(paths, config) if paths[0].suffix == ".h5" else read_packed(paths[0], config)


def load(config: GodData, images: Path) -> FmriDataset:
    """One subject, z-scored with the statistics of the training items.

    Args:
        images: store of :func:`image_source`.

    Raises:
        UserError: as :func:`read`.
    """
    recording = read(config)
    train, test = (zscore(part, recording.train) for part in (recording.train, recording.test))
    wnids, names = categories()
    train_names, test_names = image_list("training")[1], image_list("test")[1]
    shown = recording.test_image
    repetitions = int(recording.facts["test_repetitions"])
    trials = f"averaged over {repetitions} trials" if config.test_trials == "averaged" else "as single trials"
    packed = subject_files(config)[0].suffix == ".npz"
    scaled = "; scaled before it was packed, test runs perhaps by their own statistics" if packed else ""

    def category(stimuli: list[str]) -> np.ndarray:
        return np.array([wnids.index(name.partition("_")[0]) for name in stimuli], dtype=np.int64)

    return FmriDataset(
        train=FmriSplit(
            train, StoredImages(images, np.arange(N_TRAIN)), category(train_names), train_names, run=recording.train_run
        ),
        test=FmriSplit(
            test,
            StoredImages(images, N_TRAIN + shown),
            category(test_names)[shown],
            [test_names[i] for i in shown],
            in_ilsvrc()[shown],
            recording.test_run,
        ),
        unlabelled=(),
        normalisation=Normalisation.of(recording.train),
        class_names=names,
        description=f"GOD subject {config.subject}: real fMRI, {'+'.join(config.roi)}, {train.shape[1]} voxels, "
        f"{preprocessing(config.subject, recording.n_visual)}; test items {trials}{scaled}",
        simulated=False,
        roi=_area_of_voxels(recording.masks, train.shape[1]),
        xyz=recording.xyz,
        wnid=wnids,
        facts=recording.facts,
        remarks=_other_layouts(config),
    )


def _other_layouts(config: GodData) -> list[str]:
    """That the folder holds the subject in another form too, which is not read."""
    read = subject_files(config)
    assert config.path is not None
    names = {name.format(config.subject) for layout in LAYOUTS for name in layout}
    others = sorted(name for name in names - {path.name for path in read} if (config.path / name).is_file())
    return [f"{' and '.join(path.name for path in read)} is read; {', '.join(others)} beside it is not."] * bool(others)


def preprocessing(subject: int, n_visual: int) -> str:
    """Which release the number of visual-cortex voxels points to."""
    releases = {"SPM": SPM_VOXELS[subject - 1], "fMRIPrep": FMRIPREP_VOXELS[subject - 1]}
    for name, expected in releases.items():
        if n_visual == expected:
            return f"recognised as the {name} release (VC has {n_visual} voxels)"
    known = ", ".join(f"{name} {expected}" for name, expected in releases.items())
    return f"not a known release (VC has {n_visual} voxels; {known})"


def _area_of_voxels(masks: dict[str, np.ndarray], n_voxels: int) -> list[str]:
    area = ["" for _ in range(n_voxels)]
    for name in reversed([*AREAS, *sorted(set(masks) - set(AREAS))]):
        for i in np.flatnonzero(masks.get(name, ())):
            area[i] = name
    return area
