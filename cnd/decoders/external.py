"""Reconstructions that another program exported: read, matched to the test items by name, and scored like any other.

``path`` is a folder of PNG or JPEG files (its subfolders are not read), or an ``.npz`` file. In a folder, and for
arrays of an ``.npz`` by name:

    NAME.png                        the one reconstruction of the stimulus NAME
    NAME_0.png, NAME_1.png, ...     several of it, counted from 0

An ``.npz`` may instead hold ``images``, one entry an item, and their ``names``. Arrays are uint8: an image [h, w, 3],
[3, h, w], [h, w, 1] or [1, h, w], with an axis of samples before it where there are several; ``images`` has the axis of
items before both.

**Names** are compared after each character other than a letter, a digit, ``.``, ``_`` and ``-`` has become ``-``, and
without a suffix .png, .jpg or .jpeg: the stimuli ``barn 3``, ``item 3 (6)`` and ``a/b.jpg`` are ``barn-3.png``,
``item-3--6-.png`` and ``a-b.png``. Items that share a stimulus share its reconstructions.

Every test item needs the same number of samples. Where there are more than ``sampling.samples_per_item``, the first
ones count, not the best. Images must have the size of the stimuli; grey ones become RGB, and for grey stimuli RGB
becomes grey. Images of training stimuli, which with folds are another fold's test items, are left alone; any other is
an error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from cnd.data.pictures import images_in, pixels_of, size_of
from cnd.errors import UserError
from cnd.keys import files_hash
from cnd.protocols import Decoder, Fitted, Lab, Noise, Patterns, Reconstruction, Stimuli, TrainingSet

FEW = 3  # names in a message
ALONE = -1  # in place of a sample's number
NAMING = "name each file after its stimulus, NAME.png, or NAME_0.png, NAME_1.png, ... for samples"
LAYOUT = "a folder of PNG or JPEG files, or an .npz file; `pydoc cnd.decoders.external` describes both"


class ExternalDecoder(Decoder):
    """Reconstructions from files (see the top of this module)."""

    learns: ClassVar[bool] = False
    in_steps: ClassVar[bool] = False
    uses_generator: ClassVar[bool] = False
    kind: Literal["external"] = "external"
    path: Path | None = None

    def identity(self) -> Any:
        """Names and content of the files, wherever they lie."""
        return {"kind": self.kind, "files": "missing" if self.missing() else files_hash(self._files())}

    def missing(self) -> list[str]:
        """Whether there is anything."""
        if self.path is None:
            return [f"decoder.path is not set: kind external reads {LAYOUT}"]
        if not self.path.exists():
            return [f"{self.path}: no such file or folder (decoder.path); give {LAYOUT}"]
        if not self._files():
            return [f"{self.path}: holds no reconstructions; give {LAYOUT}"]
        return []

    def check(self) -> None:
        """Read every image once.

        Raises:
            UserError: some cannot be read.
        """
        assert self.path is not None  # told by :meth:`missing`
        check_readable(self.path, pictures(self.path))

    def missing_for(self, items: Stimuli, samples: int) -> list[str]:
        """What of the reconstructions is missing, too much, doubled, or of another size than the stimuli."""
        assert self.path is not None
        try:
            check_sizes(self.path, of_items(self.path, items.names, samples), items.shape[1:])
        except UserError as error:
            return [str(error)]
        return []

    def warnings(self) -> list[str]:
        """Nothing in an image tells how it was made."""
        return [
            "Reconstructions from files: another program made them; nothing here tells what it was trained on, whether "
            "it saw the test stimuli, or whether the best of several was picked."
        ]

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Nothing is learned.

        Raises:
            UserError: there are no reconstructions.
        """
        if problems := self.missing():
            raise UserError(problems[0])
        assert self.path is not None
        channels, height, width = train.items.images.shape[1:]
        return _External(self.path, train.items.stimulus, (channels, height, width) if channels else None)

    def _files(self) -> list[Path]:
        assert self.path is not None
        if self.path.is_dir():
            return images_in(self.path)
        return [self.path] if self.path.suffix == ".npz" else []


class _External:
    def __init__(self, path: Path, training: list[str], shape: tuple[int, int, int] | None) -> None:
        self.path, self.training, self.shape = path, training, shape

    def reconstruct(self, items: Patterns, noise: Noise) -> Reconstruction:
        """The images of the items' stimuli.

        Raises:
            UserError: some are missing, doubled, unreadable or of another size, or belong to no stimulus.
        """
        found = of_items(self.path, items.stimulus, noise.samples, self.training)
        check_sizes(self.path, found, self.shape[1:] if self.shape else None)
        used = list({picture.name: picture for samples in found.values() for picture in samples}.values())
        pixels = dict(zip([p.name for p in used], read_all(self.path, used), strict=True))
        images = np.stack([[pixels[p.name] for p in found[_plain(name)]] for name in items.stimulus])
        return Reconstruction(_grey(images) if self.shape and self.shape[0] == 1 else images)


def n_samples(path: Path, names: Sequence[str]) -> int:
    """Reconstructions that there are of every stimulus; 1 where something is wrong with them."""
    if ExternalDecoder(path=path).missing():
        return 1
    try:
        return min(map(len, of_items(path, names, 1, cut=False).values()), default=1)
    except UserError:
        return 1


# ---------------------------------------------------------------- what is there


class Picture(NamedTuple):
    """One image.

    Attributes:
        name: of its file or array, for messages.
        stem: what is compared with the names of stimuli.
        size: gives height and width.
        pixels: gives uint8 [3, height, width].
    """

    name: str
    stem: str
    size: Callable[[], tuple[int, int]]
    pixels: Callable[[], np.ndarray]


def pictures(path: Path) -> list[Picture]:
    """Every image of a folder or an ``.npz`` file.

    Raises:
        UserError: the file cannot be read, or an array is no image.
    """
    if path.is_dir():
        return [Picture(p.name, p.stem, partial(size_of, p), partial(pixels_of, p)) for p in images_in(path)]
    status = path.stat()
    arrays = _arrays(path, status.st_mtime_ns, status.st_size)
    return [Picture(name, name, partial(_shape, image), partial(_rgb, image)) for name, image in arrays]


def _shape(image: np.ndarray) -> tuple[int, int]:
    return int(image.shape[1]), int(image.shape[2])


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.broadcast_to(image, (3, *image.shape[1:]))


@lru_cache(maxsize=4)  # the plan asks for every trial
def _arrays(path: Path, modified: int, size: int) -> list[tuple[str, np.ndarray]]:
    """Names as of files without suffix, and images [1 or 3, height, width]."""
    import zipfile
    import zlib

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not a readable .npz file ({str(error).splitlines()[0]}); write it again") from error
    if {"images", "names"} <= arrays.keys():
        images, names = arrays["images"], [str(name) for name in arrays["names"].ravel()]
        if images.ndim < 4 or len(images) != len(names):
            raise UserError(
                f"{path}: images has shape {images.shape} and there are {len(names)} names; expected images "
                "[n, h, w, 3] or [n, samples, h, w, 3] and n names"
            )
        entries = list(zip(names, images, strict=True))
    else:
        entries = list(arrays.items())
    return [named for name, array in entries for named in _images(path, name, array)]


def _images(path: Path, name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The samples of one item, each [1 or 3, height, width]."""
    last = array.ndim in (3, 4) and array.shape[-1] in (1, 3)
    first = array.ndim in (3, 4) and array.shape[-3] in (1, 3)
    if array.dtype != np.uint8 or not (last or first) or not array.size:
        raise UserError(
            f"{path}: {name} is {array.dtype} {list(array.shape)}, expected uint8 from 0 to 255, [h, w, 3] or "
            "[3, h, w] with an axis of samples before it where there are several; convert it"
        )
    array = np.moveaxis(array, -1, -3) if last else array
    return [(name, array)] if array.ndim == 3 else [(f"{name}_{k}", image) for k, image in enumerate(array)]


# ---------------------------------------------------------------- whose it is


def of_items(
    path: Path, names: Iterable[str], samples: int, training: Iterable[str] = (), cut: bool = True
) -> dict[str, list[Picture]]:
    """The first ``samples`` pictures of each test item, or all, by the plain name of its stimulus.

    Args:
        training: names of stimuli whose pictures are left alone.

    Raises:
        UserError: one line with all that is wrong: missing, surplus, doubled, too few.
    """
    expected = _by_plain_name(path, names)
    owned, surplus = _owned(path, expected.keys() | {_plain(name) for name in training})
    of_all = {plain: owned.get(plain, {}) for plain in expected}
    problems = {
        f"of {len(expected)} stimuli have none": [expected[plain] for plain, own in of_all.items() if not own],
        "belong to no stimulus": surplus,
        "are doubled": [picture.name for own in of_all.values() for picture in _doubled(own)],
        "samples are missing": [
            f"{plain}_{k}" for plain, own in of_all.items() for k in range(max(own, default=0)) if k not in own
        ],
    }
    if told := "; ".join(f"{len(found)} {what} ({_few(found)})" for what, found in problems.items() if found):
        remedy = f"{NAMING}; other characters than letters, digits, '.', '_' and '-' count as '-'"
        raise UserError(f"{path}: reconstructions: {told}: {remedy}")
    found = {plain: [own[k][0] for k in sorted(own)] for plain, own in of_all.items()}
    _check_numbers(path, found, samples)
    return {plain: of_item[:samples] if cut else of_item for plain, of_item in found.items()}


def _owned(path: Path, known: set[str]) -> tuple[dict[str, dict[int, list[Picture]]], list[str]]:
    """Pictures by stimulus and number, ``ALONE`` for one without a number; and the names of those of no stimulus."""
    owned: dict[str, dict[int, list[Picture]]] = {}
    surplus = []
    for picture in pictures(path):
        plain = _plain(picture.stem)
        sample = re.fullmatch(r"(.+)_(\d+)", plain)
        if plain in known:
            owned.setdefault(plain, {}).setdefault(ALONE, []).append(picture)
        elif sample and sample[1] in known:
            owned.setdefault(sample[1], {}).setdefault(int(sample[2]), []).append(picture)
        else:
            surplus.append(picture.name)
    return owned, surplus


def _doubled(own: dict[int, list[Picture]]) -> list[Picture]:
    """Those of one number; all, where one without a number is among numbered ones."""
    mixed = ALONE in own and len(own) > 1
    return [picture for group in own.values() if mixed or len(group) > 1 for picture in group]


def _by_plain_name(path: Path, names: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        if (other := found.setdefault(_plain(name), name)) != name:
            raise UserError(
                f"{path}: reconstructions: the stimuli '{other}' and '{name}' would share the file "
                f"{_plain(name)}.png; rename one stimulus"
            )
    return found


def _plain(name: str) -> str:
    """A name as it is compared: see the top of this module."""
    stem = re.sub(r"\.(png|jpe?g)$", "", unicodedata.normalize("NFC", name), flags=re.IGNORECASE)
    return re.sub(r"[^\w.-]", "-", stem)


def _check_numbers(path: Path, found: dict[str, list[Picture]], samples: int) -> None:
    number = {plain: len(of_item) for plain, of_item in found.items()}
    most = max(number.values(), default=0)
    if few := [f"{plain} {n}" for plain, n in number.items() if n < most]:
        raise UserError(
            f"{path}: reconstructions: {len(few)} of {len(number)} stimuli have fewer samples than the {most} of "
            f"others ({_few(few)}); every stimulus needs the same number: add the missing ones, or remove those beyond"
        )
    if most < samples:
        raise UserError(
            f"{path}: reconstructions: {most} of each stimulus, and the experiment wants {samples}; set "
            f"sampling.samples_per_item to {most}"
        )


def check_sizes(path: Path, found: dict[str, list[Picture]], size: tuple[int, ...] | None) -> None:
    """Raises:
    UserError: some have another size (height, width) than the stimuli; where that is None, than the first.
    """
    sizes = {picture: _size(path, picture) for of_item in found.values() for picture in of_item}
    expected = tuple(size) if size else next(iter(sizes.values()), (0, 0))
    if wrong := [f"{picture.name} {w}x{h}" for picture, (h, w) in sizes.items() if (h, w) != expected]:
        what = "the stimuli" if size else "others"
        raise UserError(
            f"{path}: reconstructions: {len(wrong)} of {len(sizes)} have another size than {what}, "
            f"{expected[1]}x{expected[0]} ({_few(wrong)}); resize them, or the stimuli, as with data.image_size"
        )


def _size(path: Path, picture: Picture) -> tuple[int, int]:
    try:
        return picture.size()
    except UserError:
        return read_all(path, [picture])[0].shape[1:]  # tells what is wrong


def read_all(path: Path, found: Sequence[Picture]) -> list[np.ndarray]:
    """uint8 [3, height, width] of each.

    Raises:
        UserError: as :func:`check_readable`.
    """
    try:
        return [picture.pixels() for picture in found]
    except UserError:
        check_readable(path, found)
        raise


def check_readable(path: Path, found: Sequence[Picture]) -> None:
    """Read each and keep none.

    Raises:
        UserError: one line with those that cannot be read, and what is wrong with the first.
    """
    broken: dict[str, str] = {}
    for picture in found:
        try:
            picture.pixels()
        except UserError as error:
            broken[picture.name] = str(error).rpartition(f"{picture.name}: ")[2]
    if broken:
        unusable = f"{len(broken)} of {len(found)} cannot be used ({_few(list(broken))})"
        raise UserError(f"{path}: reconstructions: {unusable}: {next(iter(broken.values()))}")


def _grey(images: np.ndarray) -> np.ndarray:
    """uint8 [..., 3, h, w] to [..., 1, h, w] by the weights of ITU-R 601-2."""
    weights = np.array([0.299, 0.587, 0.114])[:, None, None]
    return np.round((images * weights).sum(-3, keepdims=True)).astype(np.uint8)


def _few(names: Sequence[str]) -> str:
    more = len(names) - FEW
    return ", ".join(names[:FEW]) + (f" and {more} more" if more > 0 else "")
