"""A data set as safetensors and JSON: the form in which the stage cache keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from cnd.protocols import FmriDataset, FmriSplit


def save_dataset(dataset: FmriDataset, folder: Path) -> None:
    """Write ``arrays.safetensors`` and ``meta.json``."""
    arrays = {f"unlabelled_{i}": pool for i, pool in enumerate(dataset.unlabelled)}
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        arrays |= {f"{name}_fmri": split.fmri, f"{name}_images": split.images, f"{name}_category": split.category}
        if split.seen is not None:
            arrays[f"{name}_seen"] = split.seen
    arrays |= {n: a for n, a in (("vertex", dataset.vertex), ("xyz", dataset.xyz)) if a is not None}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / "arrays.safetensors")
    meta = dict(
        train_stimulus=dataset.train.stimulus,
        test_stimulus=dataset.test.stimulus,
        class_names=dataset.class_names,
        description=dataset.description,
        simulated=dataset.simulated,
        roi=dataset.roi,
        surface=dataset.surface,
        facts=dataset.facts,
    )
    (folder / "meta.json").write_text(json.dumps(meta))


def load_dataset(folder: Path) -> FmriDataset:
    """Read what :func:`save_dataset` wrote."""
    arrays = load_file(folder / "arrays.safetensors")
    meta = json.loads((folder / "meta.json").read_text())
    train, test = (
        FmriSplit(
            arrays[f"{n}_fmri"],
            arrays[f"{n}_images"],
            arrays[f"{n}_category"],
            meta.pop(f"{n}_stimulus"),
            arrays.get(f"{n}_seen"),
        )
        for n in ("train", "test")
    )
    pools = tuple(arrays[f"unlabelled_{i}"] for i in range(sum(name.startswith("unlabelled_") for name in arrays)))
    return FmriDataset(train, test, pools, vertex=arrays.get("vertex"), xyz=arrays.get("xyz"), **meta)
