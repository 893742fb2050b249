"""Data: patterns and stimuli of one subject, and what a data source must offer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self

import numpy as np
from pydantic import ValidationError

from cnd.errors import UserError
from cnd.protocols.normalisation import Normalisation
from cnd.settings import Part

if TYPE_CHECKING:
    from cnd.steps import Step


class ImageArray(Protocol):
    """uint8 images [n, channels, height, width]: an array, or a file of which only the rows asked for are read.

    Indexing gives arrays; ``np.asarray`` reads everything, so take large sets in chunks.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def size(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Any: ...
    def __array__(self, dtype: Any = None, /) -> np.ndarray: ...


@dataclass(frozen=True)
class FmriSplit:
    """Aligned patterns and stimuli.

    Attributes:
        fmri: float32 [n, voxels], z-scored with training statistics.
        images: uint8 [n, channels, height, width]; [n, 0, 0, 0], of size 0, where there are labels only.
        category: int64 [n], index into the data set's ``class_names``.
        stimulus: name of each item; single trials of one stimulus share it.
        seen: bool [n], True where generator and judge have probably been trained on the very stimulus; None: nowhere.
        run: int64 [n], the run each item was measured in; None where items are averages or it is unknown.
        repeated: of training items float32 [n, voxels], the same items measured as often as test items are, for their
            scores along a training, never for the training itself; None where they were measured once.
    """

    fmri: np.ndarray
    images: ImageArray
    category: np.ndarray
    stimulus: list[str]
    seen: np.ndarray | None = None
    run: np.ndarray | None = None
    repeated: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.fmri)

    def take(self, rows: np.ndarray) -> FmriSplit:
        """The items at integer positions ``rows``."""
        names = [self.stimulus[i] for i in rows]
        more = (None if a is None else a[rows] for a in (self.seen, self.run, self.repeated))
        return FmriSplit(self.fmri[rows], self.images[rows], self.category[rows], names, *more)


@dataclass(frozen=True)
class FmriDataset:
    """One training / test partition of one subject (a fold, where there is cross-validation).

    Attributes:
        unlabelled: pools for pre-training, each float32 [m, voxels of the pool]: of this subject's voxels or of others.
        wnid: WordNet id of each class, e.g. ``n01443537``; "" for a class that is no synset, empty where none is.
        roi: area of each voxel, e.g. ``L_V1``.
        vertex: index of each voxel in the cortical vertices of ``surface`` (fs_LR 32k: 0..59411, both hemispheres
            without the medial wall; fsaverage5: 0..20483, left then right), or None for voxels of a volume.
        surface: mesh that ``vertex`` counts in.
        xyz: float32 [voxels, 3], millimetres, for voxels of a volume; None where it is unknown.
        normalisation: of raw patterns to these; None where they came z-scored, or the source does not tell.
        facts: numbers worth reporting, e.g. the noise ceiling.
        remarks: what only the source knows and a reader must know too, a sentence each.
    """

    train: FmriSplit
    test: FmriSplit
    unlabelled: tuple[np.ndarray, ...]
    class_names: list[str]
    description: str
    simulated: bool
    roi: list[str] = field(default_factory=list)
    vertex: np.ndarray | None = None
    surface: Literal["fs_LR_32k", "fsaverage5"] = "fs_LR_32k"
    xyz: np.ndarray | None = None
    wnid: list[str] = field(default_factory=list)
    normalisation: Normalisation | None = None
    facts: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingSet:
    """The training items as the experiment wants them paired, and which of them are held out for validation.

    Attributes:
        items: all of them. A decoder that validates by cross-validation of its own learns from all.
        held: int64, positions of the items held out: whole categories, where there are enough.
    """

    items: FmriSplit
    held: np.ndarray

    @property
    def fitting(self) -> np.ndarray:
        """Positions of the items that are not held out, int64."""
        return np.setdiff1d(np.arange(len(self.items)), self.held)


@dataclass(frozen=True)
class Patterns:
    """What a decoder is asked to reconstruct: it sees no label and no image.

    Attributes:
        fmri: float32 [n, voxels].
        stimulus: name of each item.
        truth: int64 [n], the generator's class of each item, only for a decoder that declares ``needs_truth``.
        images: uint8 [n, channels, height, width], the stimuli, of size 0 where there are labels only; as ``truth``.
    """

    fmri: np.ndarray
    stimulus: list[str]
    truth: np.ndarray | None = None
    images: ImageArray | None = None

    def __len__(self) -> int:
        return len(self.fmri)


class Stimuli(NamedTuple):
    """What is known of all test items of a data source before anything is loaded.

    Attributes:
        names: of their stimuli.
        shape: channels, height and width of a stimulus.
    """

    names: list[str]
    shape: tuple[int, int, int]


class Classes(NamedTuple):
    """What is known of the classes of a data source before its fMRI is loaded.

    Attributes:
        names: of all classes, in their order.
        wnids: their WordNet ids, "" for a class that is no synset; empty where none is.
        pictured: whether there are images of the items.
        occurring: indices of those that items have; None: all.
    """

    names: list[str]
    wnids: list[str]
    pictured: bool
    occurring: list[int] | None = None


class ImageSource(Protocol):
    """Images in files of their own, which are held once for all subjects."""

    @property
    def size(self) -> int: ...
    @property
    def files(self) -> list[Path]: ...
    def __len__(self) -> int: ...
    def check(self) -> None: ...
    def batches(self) -> Iterator[np.ndarray]:
        """uint8 [k, 3, size, size], in order.

        Raises:
            UserError: an image is missing or malformed.
        """
        ...


class DataSource(Part):
    """Where fMRI and stimuli come from. A new source must write :meth:`load`; everything else has a default."""

    kind: Any
    setup: ClassVar[str] = ""  # how to get the files, for people
    signs: ClassVar[tuple[str, ...]] = ()  # names of files that tell such data, as patterns below ``path``
    has_fmri: ClassVar[bool] = True  # False: images alone, all of them test items, whose fMRI is [n, 0]
    stores_images: ClassVar[bool] = False  # whether there is an :meth:`image_source`

    @property
    def simulated(self) -> bool:
        """Whether nothing of it was measured, which plan, table and report say."""
        return False

    def load(self, fold: int, images: Path | None = None) -> FmriDataset:
        """One train / test partition; voxels are z-scored with the statistics of its training items.

        Args:
            fold: one of :meth:`folds`.
            images: the store of :meth:`image_source`, where there is one.

        Raises:
            UserError: a file is missing or malformed.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how it is loaded")

    def load_validation(self, share: float, fold: int, images: Path | None = None) -> FmriDataset | None:
        """As :meth:`load`, with training categories in place of the test items, where a source can show them anew.

        Args:
            share: of the training categories.

        Returns:
            None: training items are taken (:mod:`cnd.data.validation`), as for every source that was measured.
        """
        return None

    def folds(self) -> list[int]:
        """Indices of the train / test partitions to run; one where the split is fixed."""
        return [0]

    def files(self) -> list[Path]:
        """The files that are read, checked to be there; their content is part of every key.

        Raises:
            UserError: one is missing; the message says how to get it.
        """
        return []

    def image_source(self) -> ImageSource | None:
        """Images that lie in files of their own, None where they come with the data.

        Raises:
            UserError: one is missing.
        """
        return None

    def subjects(self) -> list[str]:
        """The subjects among which one must be chosen; empty where the settings choose one anyway."""
        return []

    def test_stimuli(self) -> Stimuli | None:
        """The test items of all folds; None where that takes loading the data.

        Raises:
            UserError: a file is missing or malformed.
        """
        return None

    def classes(self) -> Classes | None:
        """The classes; None where that takes loading the data.

        Raises:
            UserError: a file is missing or malformed.
        """
        return None

    def of_subject(self, subject: Any) -> Self:
        """The same source for another subject.

        Raises:
            UserError: there is none.
        """
        if "subject" not in type(self).model_fields:
            raise UserError(f"data: {self.kind} has one subject; leave the subject out")
        try:
            return type(self).model_validate(self.model_dump() | {"subject": subject})
        except ValidationError as error:
            told = error.errors()[0]["msg"].replace("Input should be", "must be")
            raise UserError(f"data.subject = {subject}: {told}") from error

    def volume(self) -> Path | None:
        """A NIfTI image on whose grid ``xyz`` lies, so that maps can be written back; None: there is none."""
        return None

    def pool_identity(self) -> Any:
        """As :meth:`identity`, of the training fMRI alone: what another subject takes as a pool."""
        return self.identity()

    def pools(self, data: Step) -> Step | None:
        """A step that gives unlabelled patterns for pre-training, a tuple of float32 [m, voxels]; None: there are none.

        Args:
            data: the step of the data set itself.
        """
        return None

    def notes(self) -> list[str]:
        """What a reader must know of the data besides its description."""
        return []


class Pool(Part):
    """fMRI without stimuli that the user adds to a data source, for pre-training in Phase 1 (sec. 3.2)."""

    kind: Any
    setup: ClassVar[str] = ""  # as of a data source
    signs: ClassVar[tuple[str, ...]] = ()

    def patterns(self) -> np.ndarray:
        """float32 [n, voxels], each voxel z-scored.

        Raises:
            UserError: a file is missing or malformed.
        """
        raise NotImplementedError

    def of(self, source: DataSource) -> Pool:
        """The pool beside a data source, from which it may take what it does not say itself."""
        return self

    def describe(self) -> str | None:
        """What was done to the patterns, in one line."""
        return None
