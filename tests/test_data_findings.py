"""The same stimuli in training and test: found by name, pixels and near-duplicates, and told from plan to MLflow."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from report_records import ROWS, finished_sweep
from test_data_folder import N_TEST, N_TRAIN, content, write_both

from cnd.data.digits69 import Digits69Data
from cnd.data.findings import Twin, findings, one_of_a_kind, remarks, twins, twins_told
from cnd.protocols import FmriDataset, FmriSplit
from cnd.steps import Step
from cnd.workflow.findings import load_findings, make_findings, told
from cnd.workflow.record import _items
from reports.build import build_report
from sweeps.run import main

RNG = np.random.default_rng(0)


def photographs(n: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth random images with structure at several scales, uint8 [n, 3, size, size]."""
    rng = np.random.default_rng(seed)
    total = np.zeros((n, 3, size, size))
    for cells in (2, 4, 8, 16):
        coarse = rng.standard_normal((n, 3, cells, cells))
        total += coarse.repeat(size // cells, 2).repeat(size // cells, 3) / cells**0.5
    total -= total.min((1, 2, 3), keepdims=True)
    return (255 * total / total.max((1, 2, 3), keepdims=True)).astype(np.uint8)


def split(images: np.ndarray, name: str = "item", fmri: np.ndarray | None = None) -> FmriSplit:
    n = len(images)
    patterns = np.random.default_rng(len(name)).standard_normal((n, 5)).astype(np.float32) if fmri is None else fmri
    return FmriSplit(patterns, images, np.arange(n) % 3, [f"{name} {i}" for i in range(n)])


def data_set(train: FmriSplit, test: FmriSplit) -> FmriDataset:
    return FmriDataset(train, test, (), ["a", "b", "c"], "made up", simulated=True)


def as_jpeg(image: np.ndarray, quality: int, size: int | None = None) -> np.ndarray:
    picture = Image.fromarray(image.transpose(1, 2, 0))
    if size:
        picture = picture.resize((size, size)).resize(picture.size, Image.Resampling.BICUBIC)
    picture.save(file := io.BytesIO(), "JPEG", quality=quality)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


# ---------------------------------------------------------------- finding


def test_each_sign_finds_its_twins_and_nothing_else():
    known = photographs(200)
    asked = photographs(12, seed=1)
    asked[3] = known[7]
    asked[4] = as_jpeg(known[8], quality=85)
    asked[5] = as_jpeg(known[9], quality=90, size=48)
    asked[6] = np.clip(known[10] * 0.95 + 10, 0, 255)
    asked[7] = known[11]
    test = split(asked, "test")
    test.stimulus[7] = test.stimulus[8] = "train 11"
    assert twins(split(known, "train"), test) == [
        Twin(3, "pixels", "train 7"),
        Twin(4, "near", "train 8"),
        Twin(5, "near", "train 9"),
        Twin(6, "near", "train 10"),
        Twin(7, "name", "train 11"),
        Twin(8, "name", "train 11"),
    ]


def test_images_of_one_colour_and_grey_ones_are_compared_too():
    flat = np.full((3, 3, 16, 16), [[[[10]]], [[[90]]], [[[200]]]], np.uint8)
    assert twins(split(flat[:2], "a"), split(flat[[2, 1]], "b")) == [Twin(1, "pixels", "a 1")]
    grey = photographs(20)[:, :1]
    assert twins(split(grey[:15], "a"), split(grey[10:], "b"))[0] == Twin(0, "pixels", "a 10")
    labels_only = np.zeros((2, 0, 0, 0), np.uint8)
    assert twins(split(labels_only, "a"), split(labels_only, "b")) == []
    assert twins(split(labels_only, "a"), split(labels_only, "a")) == [Twin(0, "name", "a 0"), Twin(1, "name", "a 1")]


def test_different_digits_are_no_twins(digits69_file: Path | None):
    if digits69_file is None:
        pytest.skip("digits69: digit69_28x28.mat is not here (it cannot be shipped)")
    for fold in (0, 9):
        dataset = Digits69Data(path=digits69_file).load(fold)
        assert twins(dataset.train, dataset.test) == []  # its source says: 100 different stimuli


def test_real_figures_shown_again_are_found(digits69_file: Path | None):
    """All twelve test items show one of the 20 figures and letters that training items show too."""
    path = None if digits69_file is None else digits69_file.parents[1] / "miyawaki" / "miyawaki_structured_28x28.mat"
    if path is None or not path.is_file():
        pytest.skip("miyawaki_structured_28x28.mat is not here (it cannot be shipped)")
    from scipy.io import loadmat

    found = loadmat(path)
    train, test = (
        np.round(255 * found[key]).astype(np.uint8).reshape(-1, 1, 28, 28) for key in ("stimTrn", "stimTest")
    )
    again = twins(split(train, "train"), split(test, "test"))
    assert len(again) == 12 and {twin.how for twin in again} == {"pixels"}
    figures = np.unique(np.concatenate([train, test]), axis=0)
    assert len(figures) == 20 and twins(split(figures[:10], "a"), split(figures[10:], "b")) == []


# ---------------------------------------------------------------- remarks


def test_remarks_say_what_is_constant_or_of_another_scale():
    images = photographs(20)
    images[:4] = 7
    train, test = split(images, "train"), split(photographs(6, seed=2), "test")
    assert remarks(data_set(split(photographs(20), "train"), test)) == []
    train.fmri[:, 2] = 0
    test.fmri[:] = 40 * test.fmri
    test.fmri[1] = train.fmri[1]
    found = " | ".join(remarks(data_set(replace(train, category=np.zeros(20, int)), test)))
    for expected in (
        "1 of 5 voxels are constant in training and stand as 0.",
        "times the spread of training",
        "1 patterns of fMRI are in both training and test.",
        "4 of 20 training images are of one colour.",
        "All training items are of one class, 'a'.",
    ):
        assert expected in found
    nothing = FmriSplit(np.zeros((0, 0), np.float32), images[:0], np.zeros(0, int), [])
    assert remarks(data_set(nothing, test)) == []


def test_of_folds_each_kind_of_remark_is_told_once():
    assert one_of_a_kind(["3 of 10 voxels.", "4 of 10 voxels.", "x is y.", "x is z."]) == [
        "3 of 10 voxels.",
        "x is y.",
        "x is z.",
    ]


# ---------------------------------------------------------------- from the data step to the reader


def shared() -> FmriDataset:
    train, test = split(photographs(20), "train"), split(photographs(4, seed=3), "test")
    test.images[1] = train.images[5]
    train.fmri[:, 2] = 0
    return replace(data_set(train, test), remarks=["Of the source."])


def test_what_was_found_is_kept(tmp_path):
    step = Step("data", shared)
    make_findings(SimpleNamespace(value=lambda asked: shared()), tmp_path, data=step)
    kept = load_findings(SimpleNamespace(), tmp_path, data=step)
    assert kept == findings(shared()) and kept.twins == [Twin(1, "pixels", "train 5")]
    assert kept.remarks == ["Of the source.", "1 of 5 voxels are constant in training and stand as 0."]


def test_a_record_says_of_each_item_whether_it_is_trained_on():
    other = data_set(split(photographs(20), "train"), split(photographs(4, seed=9), "test"))
    parts = [{"dataset": dataset, "findings": findings(dataset)} for dataset in (shared(), other)]
    assert _items(parts, ["0", "1"])["in_training"].tolist() == ["", "pixels", "", "", "", "", "", ""]
    warnings, noted = told([part["findings"] for part in parts])
    assert noted == parts[0]["findings"].remarks and warnings == [
        "Test stimuli in training: 1 of 8 test items show a stimulus of the training set (1 pixel by pixel; 'test 1' "
        "is 'train 5'), so scores say in part how well known images are recognised."
    ]
    assert told([findings(other)]) == ([], [])
    named = twins_told([["x", "y"]], [[Twin(0, "name", "x"), Twin(1, "near", "z")]])
    assert named is not None and "2 of 2 test items" in named and "(1 by name, 1 as a near-duplicate; 'x')" in named


def test_the_report_shouts_it(tmp_path):
    sweep_dir = finished_sweep(tmp_path, ROWS[:2])
    warnings, _ = told([findings(shared())])
    for row in ROWS[:2]:
        record = tmp_path / "cache" / "record" / f"{row['id']}-0"
        summary = json.loads((record / "summary.json").read_text())
        (record / "summary.json").write_text(json.dumps(summary | {"warnings": warnings}))
    page = build_report(tmp_path, sweep_dir).read_text()
    assert "TEST STIMULI IN TRAINING" in page and "1 of 4 test items show a stimulus of the training set" in page


def folder_with_a_twin(folder: Path) -> list[str]:
    train, test = content(), content(N_TEST, 1)
    train["labels"] = test["labels"] = None
    train["labels"], test["labels"] = np.array(["3", "5"] * 12), np.array(["3", "5"] * 3)
    test["images"][2] = train["images"][5]
    train["fmri"][:, 3] = 7
    write_both(folder, train, test)
    edits = ["data.kind=folder", f"data.path={folder}", "generator.name=digits", "evaluation.n_way=[2]"]
    edits += ["evaluation.truth=label", "data.image_size=32"]
    return [word for edit in edits for word in ("--set", edit)]


def test_the_plan_tells_it_where_images_are_cheap_to_read(tmp_path, capsys):
    words = [*folder_with_a_twin(tmp_path / "mine"), "--output", str(tmp_path / "out"), "--rows", "0"]
    assert main(["plan", "ablation_table1", "--experiment", "smoke", "--json", *words]) == 0
    lines = json.loads(capsys.readouterr().out)["warnings"]
    assert sum("Test stimuli in training: 1 of 6 test items" in line for line in lines) == 1
    assert "Data: 1 of 10 voxels are constant in training and stand as 0." in lines
    assert N_TRAIN > N_TEST and not (tmp_path / "out").exists()


def test_a_malformed_file_is_told_by_the_plan(tmp_path, capsys):
    words = folder_with_a_twin(tmp_path / "mine")
    with np.load(tmp_path / "mine" / "train.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "mine" / "train.npz", **arrays | {"run": np.full(N_TRAIN, np.nan)})
    assert main(["plan", "ablation_table1", "--experiment", "smoke", *words, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "train.npz: run has no value in row 0" in error and error.count("\n") == 1


def test_mlflow_carries_it(tmp_path, monkeypatch):
    from cnd.store.tracking import Tracker

    tags: dict[str, str] = {}

    class Client:
        def set_tag(self, run: str, key: str, value: str) -> None:
            tags[key] = value

        def __getattr__(self, name: str):
            return lambda *args, **named: None

    finished_sweep(tmp_path, ROWS[:1])
    record = tmp_path / "cache" / "record" / f"{ROWS[0]['id']}-0"
    summary = json.loads((record / "summary.json").read_text())
    (record / "summary.json").write_text(json.dumps(summary | {"scores": {}, "warnings": ["A: b.", "C: d."]}))
    tracker = Tracker.__new__(Tracker)
    tracker.client, tracker.search = Client(), None
    tracker.record("run", record)
    assert tags["warnings"] == "A: b.\nC: d."
