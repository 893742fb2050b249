"""The 1000 classes of ImageNet-1K (ILSVRC-2012): index, WordNet id, name. As timm ships them; loads no torch.

The index is the position of the WordNet id in alphabetical order, which classifiers, cin256-v2 and DiT share.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path


@cache
def wnids() -> tuple[str, ...]:
    """WordNet id of each class, e.g. ``n01440764``."""
    return tuple(_lines("imagenet_synsets.txt"))


@cache
def class_names() -> tuple[str, ...]:
    """Name of each class, its first lemma (``tench``); where two classes share it, the WordNet id stands behind it."""
    lemmas = dict(line.split("\t", 1) for line in _lines("imagenet_synset_to_lemma.txt"))
    short = [lemmas[wnid].partition(",")[0] for wnid in wnids()]
    count = Counter(short)
    return tuple(name if count[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(short, wnids(), strict=True))


def class_indices(ids: Iterable[str]) -> list[int | None]:
    """Class of each WordNet id; None for a synset outside ImageNet-1K, as most of GOD's are."""
    index = {wnid: i for i, wnid in enumerate(wnids())}
    return [index.get(wnid) for wnid in ids]


def _lines(name: str) -> list[str]:
    spec = importlib.util.find_spec("timm")  # where it lies, without the seconds of importing it
    assert spec is not None and spec.origin is not None  # a dependency
    return (Path(spec.origin).parent / "data" / "_info" / name).read_text(encoding="utf-8").splitlines()
