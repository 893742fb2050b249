"""Which test items of a report's trials are the same stimulus: by name, category and picture, never by item number."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Mapping, Set
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open


class Picture(NamedTuple):
    """What a record keeps of a stimulus, as far as it can be compared."""

    size: tuple[int, ...]
    digest: str


class Catalogue:
    """Numbers stimuli in the order in which they are met: equal numbers mean equal stimuli.

    Stimuli are the same where name, category and picture are. Pictures of different sizes tell nothing of each other:
    such stimuli are the same by name and category. Of several equal ones in one trial, the first is that of the first.
    """

    def __init__(self) -> None:
        self._pictures: dict[tuple[str, str], list[dict[tuple[int, ...], str]]] = {}
        self._numbers: dict[tuple[tuple[str, str], int, int], int] = {}

    def numbers(self, items: pd.DataFrame, folder: Path | None) -> dict[int, int]:
        """The number of each item's stimulus, by item.

        Args:
            items: of one trial, a line an item: item, stimulus, category_name.
            folder: its record.
        """
        pictures = read_pictures(folder)
        met: Counter[tuple[tuple[str, str], int]] = Counter()
        found: dict[int, int] = {}
        ordered = items.sort_values("item", kind="stable")
        columns = (ordered[name] for name in ("item", "stimulus", "category_name"))
        for item, name, category in zip(*columns, strict=True):
            named = str(name), str(category)
            own = named, self._which(named, pictures[item] if 0 <= item < len(pictures) else None)
            found[int(item)] = self._numbers.setdefault((*own, met[own]), len(self._numbers))
            met[own] += 1
        return found

    def _which(self, named: tuple[str, str], picture: Picture | None) -> int:
        """Which of the pictures of one name it is; the first that it does not contradict."""
        known = self._pictures.setdefault(named, [])
        fits = (i for i, sizes in enumerate(known) if picture is None or agrees(sizes, picture))
        which = next(fits, len(known))
        if which == len(known):
            known.append({})
        if picture is not None:
            known[which][picture.size] = picture.digest
        return which


def agrees(sizes: Mapping[tuple[int, ...], str], picture: Picture) -> bool:
    """Whether a picture may be the one of which the digests by size are known."""
    return sizes.get(picture.size, picture.digest) == picture.digest


def read_pictures(folder: Path | None) -> tuple[Picture, ...]:
    """Of each item of a record; empty where it holds none."""
    if folder is None:
        return ()
    path = folder / "images.safetensors"
    try:
        told = path.stat()
        return _read(path, told.st_mtime_ns, told.st_size)
    except (OSError, SafetensorError):
        return ()


@lru_cache(maxsize=4096)
def _read(path: Path, changed: int, size: int) -> tuple[Picture, ...]:
    with safe_open(path, framework="numpy") as file:
        pictures = np.ascontiguousarray(file.get_tensor("stimuli"))
    for known, told in _lately:
        if np.array_equal(known, pictures):
            return told
    told = tuple(Picture(p.shape, hashlib.sha256(p.tobytes()).hexdigest()) for p in pictures)
    _lately.append((pictures, told))
    return told


_lately: deque[tuple[NDArray[np.uint8], tuple[Picture, ...]]] = deque(maxlen=4)
"""Stimuli of records: most trials were shown the same, which are sooner compared than hashed."""


def shared(one: Set[int], two: Set[int]) -> float:
    """Share of the stimuli of the side that has more, that the other has too."""
    return len(one & two) / max(1, len(one), len(two))
