"""Data and images as steps: loaded once for all rows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnd.data.images import STORE, write_store
from cnd.protocols import Bench, DataSource, FmriDataset
from cnd.settings import Config
from cnd.steps import Step


class StoredImagesOf(Config):
    """The images of a data source, whoever of its subjects saw them."""

    source: DataSource

    def identity(self) -> Any:
        whole = self.source.identity()
        return {"images": whole["images"], "size": whole.get("image_size")}


def store_images(bench: Bench, folder: Path, images: StoredImagesOf) -> None:
    """Write the images of a data source once for all of its subjects."""
    source = images.source.image_source()
    assert source is not None  # declared by ``stores_images``
    write_store(source, folder / STORE)


def stored_images(bench: Bench, folder: Path, images: StoredImagesOf) -> Path:
    """The file of the store."""
    return folder / STORE


def make_data(bench: Bench, folder: Path, source: DataSource, fold: int, images: Step | None) -> None:
    """Load one fold and write it."""
    from cnd.data.storage import save_dataset

    bench.report("data", 0.0, 0, {})
    store = None if images is None else bench.value(images)
    with every_core():
        save_dataset(source.load(fold, store), folder)


def load_data(bench: Bench, folder: Path, source: DataSource, fold: int, images: Step | None) -> FmriDataset:
    """Read what :func:`make_data` wrote."""
    from cnd.data.storage import load_dataset

    return load_dataset(folder, None if images is None else bench.value(images))


@contextlib.contextmanager
def every_core() -> Iterator[None]:
    """Let torch use all cores for a step that the other trials wait for; trials themselves use one each.

    The number of threads is the same whoever builds the step, so its bytes are too.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
