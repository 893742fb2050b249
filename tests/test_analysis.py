"""The analysis from end to end, on a tiny generator with random weights."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from tiny_generator import tiny_generator

from cnd.cortex import tables
from cnd.cortex.compute.analyse import FoldInputs, analyse
from cnd.cortex.settings import AnalysisConfig
from cnd.errors import UserError
from cnd.protocols import FmriDataset, FmriSplit, SamplingConfig

CONFIG = AnalysisConfig(layers=(4, 14), steps=(0.0, 1.0), n_components=8, n_permutations=19, n_splits=3)
SAMPLING = SamplingConfig(steps=3, guidance=2.0)
N_ITEMS, N_VOXELS = 36, 60


@pytest.fixture(scope="module")
def folds() -> list[Callable[[], FoldInputs]]:
    """Three folds over 36 items of 12 classes; 10 voxels read the class, those of V1 are noise."""
    rng = np.random.default_rng(0)
    generator = tiny_generator()
    category = np.arange(N_ITEMS) % 12
    fmri = rng.standard_normal((N_ITEMS, N_VOXELS)).astype(np.float32)
    fmri[:, :10] += 3 * rng.standard_normal((12, 10))[category]
    latents = torch.from_numpy(rng.standard_normal((N_ITEMS, *generator.latent_shape)).astype(np.float32))

    def split(rows: np.ndarray) -> FmriSplit:
        images = np.zeros((len(rows), 3, 4, 4), np.uint8)
        return FmriSplit(fmri[rows], images, category[rows], [f"item {row:02d}" for row in rows])

    def load(index: int) -> FoldInputs:
        parts = [rows := np.flatnonzero(np.arange(N_ITEMS) // 12 != index), np.setdiff1d(np.arange(N_ITEMS), rows)]
        roi = ["L_FFC"] * 10 + ["L_V1"] * 25 + ["R_V1"] * 25
        dataset = FmriDataset(
            split(parts[0]), split(parts[1]), (), [str(k) for k in range(12)], "test", False, roi=roi,
            xyz=np.ones((N_VOXELS, 3), np.float32),
        )  # fmt: skip
        classes = tuple(category[rows] for rows in parts)
        conditions = tuple(generator.class_condition(torch.from_numpy(part)) for part in classes)
        return FoldInputs(dataset, generator, conditions, classes, tuple(latents[rows] for rows in parts))

    return [lambda index=index: load(index) for index in range(3)]


def test_all_tables_are_written_and_agree(folds: list[Callable[[], FoldInputs]], tmp_path: Path):
    seen: list[float] = []
    analyse(CONFIG, SAMPLING, 0, folds, tmp_path, lambda fraction, *_: seen.append(fraction))
    assert seen == sorted(seen) and seen[-1] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*(f"{name}.parquet" for name in (*tables.COLUMNS, "items")), "item_errors.safetensors", "summary.json"]
    )  # the raw states are gone
    states, targets, voxels, rois, areas, cortex = (tables.read(tmp_path, name) for name in tables.COLUMNS)
    cells = 2 * 4 * 2  # drives, places, steps
    assert len(states) == cells and len(targets) == states["n_components"].sum()
    assert len(voxels) == cells * N_VOXELS and len(rois) == cells * 3 and areas.empty and len(cortex) == N_VOXELS
    by_target = targets.assign(found=targets["q"] <= CONFIG.fdr).groupby(["drive", "side", "layer", "step"])["found"]
    expected = states.set_index(["drive", "side", "layer", "step"])["n_significant"]
    assert by_target.sum().to_dict() == expected[by_target.sum().index].to_dict()
    one = (
        (voxels["drive"] == "stimulus")
        & (voxels["side"] == "decoder")
        & (voxels["layer"] == 14)
        & (voxels["step"] == 1)
    )
    left = voxels[one & voxels["voxel"].between(10, 34)]
    line = rois[
        (rois["drive"] == "stimulus") & (rois["side"] == "decoder") & (rois["layer"] == 14) & (rois["step"] == 1)
    ]
    line = line.set_index("roi").loc["L_V1"]
    assert line["n_voxels"] == 25 and line["weight"] == pytest.approx(left["weight"].mean())
    assert line["share_significant"] == pytest.approx((left["q"] <= CONFIG.fdr).mean())
    assert (cortex["vertex"] == -1).all() and (cortex["x"] == 1).all()
    errors, items = load_file(tmp_path / "item_errors.safetensors"), pd.read_parquet(tmp_path / "items.parquet")
    assert list(items.columns) == ["item", "stimulus", "category"] and len(items) == 36
    for (drive, side), mine in voxels.groupby(["drive", "side"]):  # their mean over items is what R^2 lacks to one
        expected_error = 1 - mine.groupby("voxel")["encoding_r2"].mean()
        np.testing.assert_allclose(errors[f"{drive}.{side}"].mean(0), expected_error, rtol=1e-3, atol=1e-3)


def test_voxels_that_read_the_class_explain_the_class_driven_states(
    folds: list[Callable[[], FoldInputs]], tmp_path: Path
):
    analyse(CONFIG, SAMPLING, 0, folds, tmp_path)
    driven = tables.read(tmp_path, "states").query("drive == 'reconstruction'")
    assert (driven["r2"] > 0.05).all() and (driven["r2"] > driven["r2_null_95"]).all()
    assert (driven["r2_p"] == 1 / 20).all()
    rois = tables.read(tmp_path, "rois").query("drive == 'reconstruction'").groupby("roi").mean(numeric_only=True)
    assert rois.loc["L_FFC", "share_significant"] > 0.4 and rois.loc["L_V1", "share_significant"] < 0.2
    assert rois.loc["L_FFC", "pattern"] > 2 * rois.loc["L_V1", "pattern"]
    summary = tables.read_summary(tmp_path)
    assert (summary["n_train"], summary["n_test"], summary["n_folds"]) == (24, 36, 3)
    assert summary["surface"] is None and summary["modules"]["encoder 4"] == "down_blocks.0.resnets.0"
    assert any("circular" in note for note in summary["notes"])
    assert not any("categories:" in note for note in summary["notes"])


def test_two_categories_can_show_little_and_the_analysis_says_so(folds: list[Callable[[], FoldInputs]], tmp_path: Path):
    inputs = folds[0]()
    train, test = (replace(part, category=part.category % 2) for part in (inputs.dataset.train, inputs.dataset.test))
    two = replace(inputs, dataset=replace(inputs.dataset, train=train, test=test))
    analyse(CONFIG.model_copy(update={"layers": (9,), "drives": ("stimulus",)}), SAMPLING, 0, [lambda: two], tmp_path)
    assert any(note.startswith("Only 2 categories:") for note in tables.read_summary(tmp_path)["notes"])


def test_the_same_seed_gives_the_same_bytes(folds: list[Callable[[], FoldInputs]], tmp_path: Path):
    config = CONFIG.model_copy(update={"drives": ("stimulus",), "layers": (9,)})
    contents = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        analyse(config, SAMPLING, 0, folds[:1], folder)
        contents.append([(folder / f"{table}.parquet").read_bytes() for table in tables.COLUMNS])
    assert contents[0] == contents[1]


def test_without_images_there_is_no_drive_by_stimulus(folds: list[Callable[[], FoldInputs]], tmp_path: Path):
    bare = replace(folds[0](), latents=None)
    analyse(CONFIG.model_copy(update={"layers": (9,)}), SAMPLING, 0, [lambda: bare], tmp_path)
    assert set(tables.read(tmp_path, "states")["drive"]) == {"reconstruction"}
    assert any("no images" in note for note in tables.read_summary(tmp_path)["notes"])
    with pytest.raises(UserError, match=r"analysis.drives: .*add 'reconstruction'"):
        analyse(CONFIG.model_copy(update={"drives": ("stimulus",)}), SAMPLING, 0, [lambda: bare], tmp_path)


def test_a_state_that_nothing_drives_has_no_r2(folds: list[Callable[[], FoldInputs]], tmp_path: Path):
    config = CONFIG.model_copy(update={"modules": ("conv_in", "up_blocks.0.resnets.0"), "drives": ("reconstruction",)})
    analyse(config, SAMPLING, 0, folds[:1], tmp_path)
    states = tables.read(tmp_path, "states").set_index(["side", "step"])
    assert states.loc[("encoder", 0.0), "n_components"] == 0 and np.isnan(states.loc[("encoder", 0.0), "r2"])
    assert states.loc[("encoder", 1.0), "n_components"] > 0
    first = tables.read(tmp_path, "voxels").query("side == 'encoder' and step == 0")
    assert (first["weight"] == 0).all() and (first["q"] == 1).all()
    assert any("1 of 4 states" in note for note in tables.read_summary(tmp_path)["notes"])


def test_the_benchmark_compares_like_with_like(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    script = Path(__file__).parents[1] / "experiments" / "benchmarks" / "linear_decoding.py"
    monkeypatch.setattr("sys.argv", [str(script), "--quick"])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert "same penalties         120 of 120" in printed
    difference = re.search(r"at most (\S+) of their norm", printed)
    assert difference is not None and float(difference[1]) < 1e-3
