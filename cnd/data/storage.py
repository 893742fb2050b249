"""A data set as safetensors and JSON: the form in which the stage cache keeps it.

Images that lie in a store (:mod:`cnd.data.images`) are kept as its row numbers only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from cnd.data.images import StoredImages
from cnd.json_files import read_json, write_json
from cnd.protocols import FmriDataset, FmriSplit, ImageArray, Normalisation

SPLITS = ("train", "test")


def save_dataset(dataset: FmriDataset, folder: Path) -> None:
    """Write ``arrays.safetensors`` and ``meta.json``."""
    arrays = {f"unlabelled_{i}": pool for i, pool in enumerate(dataset.unlabelled)}
    for name, split in zip(SPLITS, (dataset.train, dataset.test), strict=True):
        arrays |= {f"{name}_fmri": split.fmri, f"{name}_category": split.category}
        more = (("seen", split.seen), ("run", split.run), ("repeated", split.repeated))
        arrays |= {f"{name}_{k}": a for k, a in more if a is not None}
        if isinstance(split.images, StoredImages):
            arrays[f"{name}_image_rows"] = split.images.rows.astype(np.int64)
        else:
            arrays[f"{name}_images"] = np.asarray(split.images)
    arrays |= {n: a for n, a in (("vertex", dataset.vertex), ("xyz", dataset.xyz)) if a is not None}
    if dataset.normalisation is not None:
        arrays |= {f"normalisation_{n}": getattr(dataset.normalisation, n) for n in ("mean", "std")}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / "arrays.safetensors")
    meta = dict(
        train_stimulus=dataset.train.stimulus,
        test_stimulus=dataset.test.stimulus,
        class_names=dataset.class_names,
        description=dataset.description,
        simulated=dataset.simulated,
        roi=dataset.roi,
        surface=dataset.surface,
        wnid=dataset.wnid,
        facts=dataset.facts,
        remarks=dataset.remarks,
        normalisation=None if dataset.normalisation is None else dataset.normalisation.rule,
    )
    write_json(folder / "meta.json", meta)


def load_dataset(folder: Path, images: Path | None = None) -> FmriDataset:
    """Read what :func:`save_dataset` wrote.

    Args:
        images: the store of the data set's images (:func:`cnd.data.images.write_store`), where it has one.
    """
    arrays = load_file(folder / "arrays.safetensors")
    meta = read_json(folder / "meta.json")

    def pictures(name: str) -> ImageArray:
        if f"{name}_images" in arrays:
            return arrays[f"{name}_images"]
        if images is None:
            raise ValueError(f"{folder}: the images lie in a store; pass it")
        return StoredImages(images, arrays[f"{name}_image_rows"])

    train, test = (
        FmriSplit(
            fmri=arrays[f"{n}_fmri"],
            images=pictures(n),
            category=arrays[f"{n}_category"],
            stimulus=meta.pop(f"{n}_stimulus"),
            seen=arrays.get(f"{n}_seen"),
            run=arrays.get(f"{n}_run"),
            repeated=arrays.get(f"{n}_repeated"),
        )
        for n in SPLITS
    )
    pools = tuple(arrays[f"unlabelled_{i}"] for i in range(sum(name.startswith("unlabelled_") for name in arrays)))
    if (rule := meta.pop("normalisation", None)) is not None:
        meta["normalisation"] = Normalisation(arrays["normalisation_mean"], arrays["normalisation_std"], rule)
    return FmriDataset(train, test, pools, vertex=arrays.get("vertex"), xyz=arrays.get("xyz"), **meta)
