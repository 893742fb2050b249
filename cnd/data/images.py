"""Stimulus images, held once: every subject and every trial reads one memory-mapped file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from cnd.data.checks import readable
from cnd.errors import UserError, nearest
from cnd.protocols import ImageSource

STORE = "images.npy"  # name of the file that holds them
DARK = 32  # of 255: among several photographs some pixel is brighter
BATCH = 16  # images in memory while a store is written: 25 MB of float64 at 256x256
SUFFIXES = {".jpeg", ".jpg", ".png"}
PLAIN = {"1", "L", "P", "RGB", "CMYK", "YCbCr"}  # modes of PIL that it converts to RGB itself
ALPHA = {"LA", "PA", "RGBA"}
DEEP = {"I;16", "I;16L", "I;16B", "I"}  # of a PNG all mean 16 bits of grey


class StoredImages:
    """Rows of a store, uint8 [n, 3, size, size], read when they are indexed (:class:`cnd.protocols.ImageArray`)."""

    def __init__(self, path: Path, rows: np.ndarray):
        self.path, self.rows = path, rows

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *_mapped(self.path).shape[1:])

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        return np.array(_mapped(self.path)[self.rows[rows]])  # a copy: it stays valid and may be written to

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.uint8, copy=False)


@lru_cache(maxsize=8)
def _mapped(path: Path) -> np.ndarray:
    """One mapping a process: the resident size would count a second one again."""
    images: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return images


@dataclass(frozen=True)
class ImageFiles:
    """One file an image, in this order; cropped to the central square and resized."""

    files: list[Path]
    size: int

    def __len__(self) -> int:
        return len(self.files)

    def check(self) -> None:
        """Read the heads of the files, and whole those with transparency.

        Raises:
            UserError: a file is no image, or one that :func:`eight_bit` refuses.
        """
        from PIL import Image

        for path in self.files:
            with readable(path, "image"), Image.open(path) as image:
                _expect_plain(path, image)

    def batches(self) -> Iterator[np.ndarray]:
        """uint8 [1, 3, size, size] of each file.

        Raises:
            UserError: a file is no readable image.
        """
        from PIL import Image

        for path in self.files:
            with readable(path, "image"), Image.open(path) as image:
                yield _square(eight_bit(path, image), self.size)[None]


@dataclass(frozen=True)
class ImageArchive:
    """An ``.npz`` file with arrays [n, height, width, 3]: uint8, or floats from 0 to 1 or from 0 to 255.

    This is ``images_256.npz`` with ``train_images`` and ``test_images``, as github.com/WeizmannVision/SelfSuperReconst
    (utils/datasets.py) and github.com/zjc062/mind-vis (code/dataset.py) read it.
    """

    path: Path
    counts: dict[str, int]  # images expected under each key, in this order
    size: int

    @property
    def files(self) -> list[Path]:
        return [self.path]

    def __len__(self) -> int:
        return sum(self.counts.values())

    def check(self) -> None:
        """Raises:
        UserError: unreadable file, missing key, wrong shape or type.
        """
        with readable(self.path, ".npz file"), zipfile.ZipFile(self.path) as archive:
            for key in self.counts:
                with self._open(archive, key) as file:
                    self._header(file, key)

    def batches(self) -> Iterator[np.ndarray]:
        """uint8 [k, 3, size, size]; a few at a time, since the float64 arrays in use need 2 GB together.

        Raises:
            UserError: unreadable file, missing key, wrong shape or type, values out of range.
        """
        with readable(self.path, ".npz file"), zipfile.ZipFile(self.path) as archive:
            for key, count in self.counts.items():
                with self._open(archive, key) as file:
                    shape, dtype = self._header(file, key)
                    scale = None
                    for start in range(0, count, BATCH):
                        n = min(BATCH, count - start)
                        block = np.frombuffer(_exactly(file, n * int(np.prod(shape)) * dtype.itemsize), dtype)
                        pixels, scale = self._to_uint8(block.reshape(n, *shape), key, scale)
                        yield self._resized(pixels)

    def _open(self, archive: zipfile.ZipFile, key: str) -> IO[bytes]:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if key not in names:
            raise UserError(f"{self.path}: key '{key}' is missing{nearest(key, names)}")
        return archive.open(f"{key}.npy")

    def _header(self, file: IO[bytes], key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape of one image and type of the pixels."""
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
        count = self.counts[key]
        if len(shape) != 4 or shape[0] != count or shape[3] != 3 or fortran_order:
            raise UserError(
                f"{self.path}: {key} has shape {shape}, expected ({count}, height, width, 3) in C order; "
                "bring the axes into this order, or download the file again"
            )
        if dtype.kind not in "fu":
            raise UserError(f"{self.path}: {key} has type {dtype}, expected uint8 or float; convert it to uint8")
        return shape[1:], dtype

    def _to_uint8(self, block: np.ndarray, key: str, scale: float | None) -> tuple[np.ndarray, float]:
        """The block in 0..255, and the factor that the first block of floats settles: photographs reach above 1."""
        if block.dtype == np.uint8 and (scale or block.max() >= DARK):
            return block, 1.0
        low, high = float(block.min()), float(block.max())
        darkest = 0 if scale else DARK  # skimage.transform.resize gives 0 to 1: a public script divides that by 255
        scale = scale or (255.0 if high <= 1 and block.dtype != np.uint8 else 1.0)
        if not (low >= 0 and darkest <= high * scale <= 255):  # NaN fails too
            raise UserError(
                f"{self.path}: {key} ranges from {low:g} to {high:g}, expected 0 to 1 or 0 to 255 without NaN; "
                "rescale it"
            )
        return np.round(block * scale).astype(np.uint8), scale

    def _resized(self, block: np.ndarray) -> np.ndarray:
        if block.shape[1:3] == (self.size, self.size):
            return block.transpose(0, 3, 1, 2)
        from PIL import Image

        return np.stack([_square(Image.fromarray(image), self.size) for image in block])


def _exactly(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise EOFError("it ends too early")
    return content


def eight_bit(path: Path, image: Any) -> Any:
    """An opened image as RGB, by these rules: pixels are taken as they are stored, whatever profile, gamma or
    orientation (EXIF) stands beside them; of 16 bits the upper eight count, as PIL does it for colours; CMYK becomes
    RGB by PIL's formula. What is partly transparent is refused, since nobody knows what was shown behind it.

    Args:
        path: its file, for errors.

    Returns:
        PIL image of mode RGB.

    Raises:
        UserError: transparent, several frames, or numbers that are no grey levels.
    """
    from PIL import Image

    _expect_plain(path, image)
    if image.mode in DEEP:
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _expect_plain(path: Path, image: Any) -> None:
    """Raises:
    UserError: an opened image that cannot become RGB by a rule.
    """
    if image.mode not in PLAIN | ALPHA and not (image.mode in DEEP and image.format == "PNG"):
        raise UserError(f"{path}: is an image of mode {image.mode}, expected grey or RGB of 8 or 16 bits; convert it")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # of an MPO the first frame is the photograph
        raise UserError(f"{path}: holds {image.n_frames} frames, expected one image; save the one that was shown")
    may_shine_through = image.mode in ALPHA or "transparency" in image.info
    if may_shine_through and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise UserError(f"{path}: is partly transparent; save it as RGB, on the background that was shown")


def _square(image: Any, size: int) -> np.ndarray:
    """Central square of a PIL image, resized: uint8 [3, size, size]."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    if side != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(square).transpose(2, 0, 1)


def find_images(folder: Path, names: list[str]) -> list[Path]:
    """The file of each name (without suffix) anywhere below a folder.

    Raises:
        UserError: no folder; an image is missing or there twice.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (data.images); give the folder with the stimulus images")
    found: dict[str, list[Path]] = {name: [] for name in names}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.stem in found and path.is_file():
            found[path.stem].append(path)
    missing = [name for name in names if not found[name]]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(names)} stimulus images are missing, the first is {missing[0]}; "
            f"expected a file of that name ({', '.join(sorted(SUFFIXES))}): complete the folder or set data.images"
        )
    for name, paths in found.items():
        if len(paths) > 1:
            raise UserError(f"{folder}: {name} is there {len(paths)} times ({paths[0]}, {paths[1]}); keep one")
    return [found[name][0] for name in names]


def write_store(source: ImageSource, path: Path) -> None:
    """Write all images of a source as one array that can be memory-mapped: uint8 [n, 3, size, size].

    Raises:
        UserError: the source is malformed.
    """
    shape = (len(source), 3, source.size, source.size)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for batch in source.batches():
            file.write(batch.tobytes())
