"""What a data set holds that is allowed but seldom meant, and test items whose stimulus is trained on too.

Stimuli are compared by name, by their pixels, and by thumbnails of 16 x 16 pixels in colour, whose correlation finds
near-duplicates: copies that were encoded anew, resized, or made a little brighter. Crops and mirror images it misses.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from cnd.protocols import FmriDataset, FmriSplit, ImageArray

THUMBNAIL = 16  # pixels a side
ALIKE = 0.98  # correlation from which images count as one; different ones of real data sets had .95 at most, copies .98
AT_ONCE = 64  # images in memory while they are compared
WORDS = {"name": "by name", "pixels": "pixel by pixel", "near": "as a near-duplicate"}


class Twin(NamedTuple):
    """A test item whose stimulus is a training item's too.

    Attributes:
        item: its position among the test items.
        how: what tells: equal names, equal pixels, or images that are nearly equal.
        train: name of the training stimulus.
    """

    item: int
    how: Literal["name", "pixels", "near"]
    train: str


class Findings(NamedTuple):
    """What is to be known of one train / test partition.

    Attributes:
        stimulus: name of each test item.
        twins: test items whose stimulus is trained on too.
        remarks: what is allowed but seldom meant, a sentence each.
        classes: indices of those that its items have.
    """

    stimulus: list[str]
    twins: list[Twin]
    remarks: list[str]
    classes: list[int]

    @classmethod
    def of(cls, twins: list[list[Any]], **rest: Any) -> Findings:
        """From JSON values."""
        return cls(twins=[Twin(*twin) for twin in twins], **rest)


def findings(dataset: FmriDataset) -> Findings:
    """All there is to say of a data set; remarks of its source stand first."""
    found = twins(dataset.train, dataset.test)
    classes = np.unique(np.concatenate([dataset.train.category, dataset.test.category])).tolist()
    return Findings(dataset.test.stimulus, found, [*dataset.remarks, *remarks(dataset)], classes)


class Prints(NamedTuple):
    """What images are recognised by: digest of the pixels [n], and thumbnails float32 [n, values] of norm 1; 0 where
    the image is of one colour."""

    digests: list[bytes]
    thumbnails: np.ndarray


# ---------------------------------------------------------------- stimuli in training and test


def twins(train: FmriSplit, test: FmriSplit) -> list[Twin]:
    """The test items whose stimulus is a training item's too: the surest sign of each, with the first such item."""
    by_name = {name: i for i, name in reversed(list(enumerate(train.stimulus)))}
    found = [Twin(i, "name", name) for i, name in enumerate(test.stimulus) if name in by_name]
    if not len(train) or not train.images.size or not test.images.size:
        return found
    known, asked = prints(train.images), prints(test.images)
    by_pixels = {digest: i for i, digest in reversed(list(enumerate(known.digests)))}
    alike = asked.thumbnails @ known.thumbnails.T
    nearest = alike.argmax(1)
    for i in sorted(set(range(len(test))) - {twin.item for twin in found}):
        if (same := by_pixels.get(asked.digests[i])) is not None:
            found.append(Twin(i, "pixels", train.stimulus[same]))
        elif alike[i, nearest[i]] >= ALIKE:
            found.append(Twin(i, "near", train.stimulus[nearest[i]]))
    return sorted(found)


def prints(images: ImageArray) -> Prints:
    """Digests and thumbnails of uint8 images [n, channels, height, width]."""
    digests, thumbnails = [], []
    for image in _one_by_one(images):
        digests.append(hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest())
        thumbnails.append(_thumbnail(image))
    flat = np.stack(thumbnails).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    return Prints(digests, np.where(norm > 1e-3, flat / np.maximum(norm, 1e-3), 0))


def _one_by_one(images: ImageArray) -> Iterator[np.ndarray]:
    for start in range(0, len(images), AT_ONCE):
        yield from np.asarray(images[start : start + AT_ONCE])


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """Mean colours of 16 x 16 fields of one image [channels, height, width]; a grey one has three equal channels."""
    from PIL import Image

    size = (THUMBNAIL, THUMBNAIL)
    fields = [np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BOX)).ravel() for c in image]
    return np.concatenate(fields if len(fields) == 3 else 3 * fields[:1])


def twins_told(tests: Sequence[Sequence[str]], found: Sequence[Sequence[Twin]]) -> str | None:
    """One sentence on the test items of all folds together, to stand above scores; None where there is no twin.

    Args:
        tests: names of the test stimuli of each fold.
        found: :func:`twins` of each fold.
    """
    named = [(names[twin.item], twin) for names, fold in zip(tests, found, strict=True) for twin in fold]
    if not named:
        return None
    counts = Counter(str(twin.how) for _, twin in named)
    signs = ", ".join(f"{counts[how]} {words}" for how, words in WORDS.items() if counts[how])
    stimulus, first = named[0]
    pair = f"'{stimulus}'" if first.how == "name" else f"'{stimulus}' is '{first.train}'"
    return (
        f"Test stimuli in training: {len(named)} of {sum(map(len, tests))} test items show a stimulus of the "
        f"training set ({signs}; {pair}), so scores say in part how well known images are recognised."
    )


# ---------------------------------------------------------------- remarks


def remarks(dataset: FmriDataset) -> list[str]:
    """What is allowed but seldom meant, a sentence each."""
    train, test = dataset.train, dataset.test
    if not len(train):
        return []
    found = []
    if constant := int((train.fmri.std(0) == 0).sum()):
        found.append(f"{constant} of {train.fmri.shape[1]} voxels are constant in training and stand as 0.")
    spread = float(np.median(test.fmri.std(0))) if len(test) > 1 else 1.0
    if not 1 / 10 < spread < 3:  # averages of 35 presentations have a sixth of it
        found.append(f"Test fMRI has {spread:.3g} times the spread of training: is it scaled the same way?")
    if shared := len(_digests(train.fmri) & _digests(test.fmri)):
        found.append(f"{shared} patterns of fMRI are in both training and test.")
    for name, split in (("training", train), ("test", test)):
        if flat := sum(_is_flat(image) for image in _one_by_one(split.images)) if split.images.size else 0:
            found.append(f"{flat} of {len(split)} {name} images are of one colour.")
    if len(np.unique(train.category)) == 1:
        found.append(f"All training items are of one class, '{dataset.class_names[train.category[0]]}'.")
    names = {tuple(row) for row in zip(train.stimulus, train.category.tolist(), strict=True)}
    if len(names) > len(set(train.stimulus)):
        found.append("A training stimulus has several classes.")
    return found


def one_of_a_kind(sentences: Iterable[str]) -> list[str]:
    """Of sentences that differ in their numbers alone, as those of folds do, the first."""
    first = {re.sub(r"\d[\d.,e+-]*", "#", sentence): sentence for sentence in reversed(list(sentences))}
    return list(reversed(first.values()))


def _is_flat(image: np.ndarray) -> bool:
    """Whether an image [channels, height, width] is of one colour."""
    return bool((image == image[:, :1, :1]).all())


def _digests(rows: np.ndarray) -> set[bytes]:
    return {hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest() for row in rows}
