"""Stimuli without fMRI: a folder of images, all of them test items, for reconstructions that other programs made.

::

    stimuli/                 or    stimuli/
      goldfish_1.png                 goldfish/a.png  goldfish/b.jpg
      barn 3.jpg                     barn/c.png

The name of a stimulus is that of its file without the suffix. Its class is the subfolder that holds it; where there are
no subfolders, every stimulus is a class of its own. PNG or JPEG; grey images become RGB. All must have the same size,
unless ``image_size`` says what to make of them: their central square, resized.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from cnd.data.images import ImageFiles
from cnd.data.pictures import images_in, pixels_of, size_of
from cnd.errors import UserError
from cnd.keys import content_hash, file_hash
from cnd.protocols import Classes, DataSource, FmriDataset, FmriSplit, Stimuli
from cnd.settings import Positive


class StimuliData(DataSource):
    """A folder of images, no fMRI (see the top of this module)."""

    has_fmri: ClassVar[bool] = False
    kind: Literal["stimuli"] = "stimuli"
    path: Path | None = None
    image_size: Positive | None = None  # crop to the central square and resize; None: all have one size, and keep it

    def identity(self) -> Any:
        """Size, names, classes and content of the images, wherever they lie."""
        try:
            content = [[name, path.name, file_hash(path)] for path, name in zip(*self._found(), strict=True)]
        except UserError:
            content = []
        return {"kind": self.kind, "image_size": self.image_size, "files": content_hash(content)}

    def files(self) -> list[Path]:
        """The images, by name.

        Raises:
            UserError: no folder, no images, or two of one name.
        """
        return self._found()[0]

    def missing(self) -> list[str]:
        """What is wrong with the folder, as far as names and sizes tell."""
        try:
            self.test_stimuli()
        except UserError as error:
            return [str(error)]
        return []

    def check(self) -> None:
        """Read every image once.

        Raises:
            UserError: one is not readable.
        """
        for path in self.files():
            pixels_of(path)

    def test_stimuli(self) -> Stimuli:
        """All of them.

        Raises:
            UserError: as :meth:`files`, or they differ in size.
        """
        files, _ = self._found()
        return Stimuli([path.stem for path in files], (3, *self._size(files)))

    def classes(self) -> Classes:
        """The subfolders, or every stimulus its own."""
        return Classes(sorted(set(self._found()[1])), [], True)

    def load(self, fold: int, images: Path | None = None) -> FmriDataset:
        """Test items only; their fMRI has no voxels."""
        files, classes = self._found()
        height, width = self._size(files)
        if self.image_size is None:
            pixels = [pixels_of(path)[None] for path in files]
        else:
            pixels = list(ImageFiles(files, self.image_size).batches())
        names = sorted(set(classes))
        category = np.array([names.index(name) for name in classes], dtype=np.int64)
        none = np.zeros((0, 3, height, width), np.uint8)
        return FmriDataset(
            train=FmriSplit(np.zeros((0, 0), np.float32), none, category[:0], []),
            test=FmriSplit(
                np.zeros((len(files), 0), np.float32), np.concatenate(pixels), category, [path.stem for path in files]
            ),
            unlabelled=(),
            class_names=names,
            description=f"{self._root().name}: images without fMRI",
            simulated=False,
        )

    def _root(self) -> Path:
        if self.path is None:
            raise UserError("data.path is not set: kind stimuli reads a folder of PNG or JPEG files, one a stimulus")
        if not self.path.is_dir():
            raise UserError(f"{self.path}: no such folder (data.path); give the folder with the stimulus images")
        return self.path

    def _found(self) -> tuple[list[Path], list[str]]:
        """Images by name, and the class of each."""
        root = self._root()
        folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
        direct, inside = images_in(root), [path for folder in folders for path in images_in(folder)]
        if direct and inside:
            raise UserError(
                f"{root}: has images beside a subfolder with images ({inside[0].parent.name}); subfolders are classes, "
                "so put all images into some, or none"
            )
        files = sorted(direct or inside, key=lambda path: path.stem)
        if not files:
            raise UserError(f"{root}: holds no PNG or JPEG files; give the folder with the stimulus images")
        for one, other in pairwise(files):
            if one.stem == other.stem:
                raise UserError(f"{root}: two stimuli are named {one.stem} ({one}, {other}); rename one")
        return files, [path.stem if direct else path.parent.name for path in files]

    def _size(self, files: list[Path]) -> tuple[int, int]:
        if self.image_size is not None:
            return self.image_size, self.image_size
        sizes = [size_of(path) for path in files]
        for path, size in zip(files, sizes, strict=True):
            if size != sizes[0]:
                raise UserError(
                    f"{path}: is {size[1]}x{size[0]}, and {files[0].name} {sizes[0][1]}x{sizes[0][0]}; bring all "
                    "stimuli to one size, or set data.image_size to crop them to squares and resize them"
                )
        return sizes[0]
