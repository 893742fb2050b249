"""The whole pipeline at reduced size on synthetic files in each original layout.

Its generator is shaped like cin256 and its judges are timm models of 1000 classes, all with random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from data_writers import (
    write_bold5000,
    write_bold_images,
    write_folder,
    write_god_h5,
    write_god_tasks,
    write_image_files,
)
from safetensors.torch import save_file
from tiny_ldm import write_ldm

from cnd._compat import make_torchvision_importable
from cnd.experiment import Experiment, load_experiment, override
from cnd.workflow import run as pipeline
from cnd.workflow.cache import StageCache

make_torchvision_importable()

import timm  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
JUDGE = "test_resnet.r160_in1k"  # timm's own model for tests, 1000 classes


def _god_h5(folder: Path) -> dict[str, Any]:
    write_god_h5(folder / "Subject1.h5")
    write_god_tasks(folder, subject=2, n_voxels=15)
    write_image_files(folder / "images")
    return {"kind": "god", "unlabelled": [{"kind": "subject", "subject": 2}, _pool(folder)]}


def _bold5000(folder: Path) -> dict[str, Any]:
    write_bold5000(folder)
    write_bold_images(folder)
    return {"kind": "bold5000", "unlabelled": [_pool(folder)]}


def _folder(folder: Path) -> dict[str, Any]:
    write_folder(folder, pictures=True)
    return {"kind": "folder"}


def _pool(folder: Path) -> dict[str, Any]:
    """A packed HCP file with another number of voxels than any subject."""
    rng = np.random.default_rng(9)
    areas = {f"V{i}": rng.standard_normal((20, 4 + i)).astype(np.float32) for i in (1, 2, 3, 4)}
    np.savez(folder / "HCP_visual_voxel.npz", **areas)
    return {"kind": "hcp", "path": str(folder / "HCP_visual_voxel.npz")}


LAYOUTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "god_h5": _god_h5,
    "bold5000": _bold5000,
    "folder": _folder,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A generator with the 1000 classes of ImageNet, and a judge."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    write_ldm(folder / "ldm")
    save_file({"weight": torch.randn(1001, 16)}, folder / "ldm" / "class_embedding.safetensors")
    save_file(timm.create_model(JUDGE, pretrained=False).state_dict(), folder / "judge.safetensors")
    return folder


def experiment(kind: str, folder: Path, models: Path) -> Experiment:
    """``smoke`` on a real layout."""
    data = LAYOUTS[kind](folder) | {"path": str(folder), "image_size": 16}
    judge = {"kind": "timm", "name": JUDGE, "weights": str(models / "judge.safetensors")}
    edits: dict[str, Any] = {
        "data": data,
        "generator": {"kind": "ldm", "path": str(models / "ldm")},
        "evaluation": {"n_way": [50], "classifiers": [judge, judge | {"name": "test_resnet"}]},
        "decoder.encoder.patch_size": 4,
        "analysis.n_components": 5,
        "analysis.n_permutations": 19,
        "sampling.samples_per_item": 2,
    }
    return override(load_experiment(ROOT / "experiments" / "smoke.yaml"), edits, "test")


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_whole_pipeline_runs(kind: str, tmp_path: Path, models: Path) -> None:
    e, cache = experiment(kind, tmp_path, models), StageCache(tmp_path / "cache")
    pipeline.check(e)
    assert pipeline.missing(e) == []
    record = pipeline.run(e, cache)
    items, scores = (pd.read_parquet(record / f"{name}.parquet") for name in ("items", "scores"))
    assert {"nway50_top1", "nway50_top1/test_resnet"} <= set(scores["metric"])
    for _, metric in scores[scores["metric"].str.startswith("nway")].groupby("metric"):
        assert len(metric) == 2 * len(items) and metric["value"].between(0, 1).all()
    if kind.startswith("god"):  # GOD's lists say which test images ImageNet's training set holds
        assert len(items) == 50 and 0 < items["seen"].mean() < 1
        return  # 1,200 items make the analysis long, and the other layouts hold all that it reads
    analysis, figures = pipeline.analyse(e, cache)
    assert any(path.suffix == ".png" for path in figures.iterdir())
    assert pd.read_parquet(analysis / "states.parquet")["r2"].notna().any()


def test_the_controls_find_classes_by_the_stimuli(tmp_path: Path, models: Path) -> None:
    e, cache = experiment("bold5000", tmp_path, models), StageCache(tmp_path / "cache")
    for kind in ("ridge", "oracle"):
        record = pipeline.run(override(e, {"decoder.kind": kind}, "test"), cache)
        assert len(pd.read_parquet(record / "items.parquet"))
