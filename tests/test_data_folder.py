"""Bring your own data: every form of the files, what becomes of it, and every kind of broken input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cnd.data import folder
from cnd.data.findings import twins
from cnd.data.folder import FolderData
from cnd.data.folder_layout import subjects
from cnd.errors import UserError

N_TRAIN, N_TEST, N_VOXELS = 24, 6, 10
Content = dict[str, Any]


def content(n: int = N_TRAIN, seed: int = 0) -> Content:
    rng = np.random.default_rng(seed)
    return {
        "fmri": rng.normal(100, 5, (n, N_VOXELS)).astype(np.float32),
        "labels": np.array(["tiger", "goldfish", "castle"])[np.arange(n) % 3],
        "images": rng.integers(0, 256, (n, 12, 16, 3), dtype=np.uint8),
        "roi": np.array(["L_V1", "R_V1"] * (N_VOXELS // 2)),
        "vertex": np.arange(N_VOXELS) * 5000,
        "xyz": np.random.default_rng(7).normal(size=(N_VOXELS, 3)),  # the same voxels in both files
    }


def write(path: Path, arrays: Content) -> None:
    """One file in the form of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for key, values in arrays.items():
                values = np.asarray(values)
                file[key] = values.astype(object) if values.dtype.kind == "U" else values
    else:
        pq.write_table(pa.table({k: list(v) for k, v in arrays.items()}), path)


def write_both(
    path: Path, train: Content | None = None, test: Content | None = None, suffix: str = ".npz"
) -> FolderData:
    write(path / f"train{suffix}", content() if train is None else train)
    write(path / f"test{suffix}", content(N_TEST, 1) if test is None else test)
    return FolderData(path=path, image_size=8)


# ---------------------------------------------------------------- what is read


def test_arrays_become_a_data_set(tmp_path):
    config = write_both(tmp_path / "mine")
    dataset = config.load(0)
    assert dataset.train.fmri.shape == (N_TRAIN, N_VOXELS) and dataset.train.fmri.dtype == np.float32
    assert dataset.test.images.shape == (N_TEST, 3, 8, 8) and dataset.test.images.dtype == np.uint8
    assert dataset.class_names == ["castle", "goldfish", "tiger"]
    assert dataset.train.category[:3].tolist() == [2, 1, 0] and dataset.train.category.dtype == np.int64
    assert dataset.roi[:2] == ["L_V1", "R_V1"] and dataset.surface == "fs_LR_32k"
    assert dataset.vertex is not None and dataset.vertex.tolist() == [5000 * i for i in range(N_VOXELS)]
    assert dataset.xyz is not None and dataset.xyz.dtype == np.float32
    assert dataset.description == "your own data, 10 voxels" and not dataset.simulated
    assert [path.name for path in config.files()] == ["train.npz", "test.npz"]


def test_normalised_with_training_statistics(tmp_path):
    train, test = content(), content(N_TEST, 1)
    train["fmri"][:, 3] = test["fmri"][:, 3] = 7  # constant
    dataset = write_both(tmp_path, train, test).load(0)
    mean, std = train["fmri"].mean(0), train["fmri"].std(0)
    keep = std > 0
    np.testing.assert_allclose(
        dataset.test.fmri[:, keep], ((test["fmri"] - mean) / np.where(keep, std, 1))[:, keep], atol=1e-4
    )
    assert not dataset.test.fmri[:, 3].any() and not dataset.train.fmri[:, 3].any()


@pytest.mark.parametrize("suffix", [".h5", ".parquet"])
def test_other_forms_hold_the_same(tmp_path, suffix):
    train, test = content(), content(N_TEST, 1)
    for part in (train, test):
        del part["images"]
    voxels = {key: train.pop(key) for key in ("roi", "vertex", "xyz")}
    del test["roi"], test["vertex"], test["xyz"]
    plain = write_both(tmp_path / "npz", train | voxels, test).load(0)
    if suffix == ".h5":
        config = write_both(tmp_path / "other", train | voxels, test, suffix)
    else:
        config = write_both(tmp_path / "other", train, test, suffix)
        axes = dict(zip("xyz", voxels.pop("xyz").T, strict=True))
        write(tmp_path / "other" / "voxels.parquet", voxels | axes)
    other = config.load(0)
    assert other.train.fmri.tobytes() == plain.train.fmri.tobytes()
    assert other.test.category.tolist() == plain.test.category.tolist()
    assert other.class_names == plain.class_names and other.roi == plain.roi
    np.testing.assert_array_equal(other.vertex, plain.vertex)
    np.testing.assert_array_equal(other.xyz, plain.xyz)


def test_image_files(tmp_path):
    train, test = content(), content(N_TEST, 1)
    for name, part in (("train", train), ("test", test)):
        pixels = part.pop("images")
        part["image_files"] = np.array([f"stimuli/{name}{i:02}.png" for i in range(len(pixels))])
        for file, image in zip(part["image_files"], pixels, strict=True):
            (tmp_path / "stimuli").mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / file)
    config = write_both(tmp_path, train, test)
    from_files = config.load(0)
    in_file = write_both(tmp_path / "b").load(0)
    np.testing.assert_array_equal(from_files.train.images, in_file.train.images)
    assert from_files.test.stimulus[0] == "stimuli/test00.png"
    assert len(config.files()) == 2 + N_TRAIN + N_TEST
    (tmp_path / "stimuli" / "test00.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"test00\.png: not a readable image"):
        config.check()
    (tmp_path / "stimuli" / "test00.png").unlink()
    with pytest.raises(UserError, match=r"test00\.png: no such image"):
        config.files()


def test_orders_of_image_axes(tmp_path):
    train, test = content(), content(N_TEST, 1)
    last = write_both(tmp_path / "last", train, test).load(0).test.images
    for part in (train, test):
        part["images"] = part["images"].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(write_both(tmp_path / "first", train, test).load(0).test.images, last)
    for part in (train, test):
        part["images"] = part["images"][:, 0]
    grey = write_both(tmp_path / "grey", train, test).load(0).test.images
    np.testing.assert_array_equal(grey[:, 0], last[:, 0])
    assert grey.shape == (N_TEST, 1, 8, 8)


def test_images_of_the_wanted_size_stay_as_they_are(tmp_path):
    config = write_both(tmp_path).model_copy(update={"image_size": 12})
    expected = content(N_TEST, 1)["images"][:, :, 2:14].transpose(0, 3, 1, 2)  # the central square
    np.testing.assert_array_equal(config.load(0).test.images, expected)


def test_labels_without_images(tmp_path):
    train, test = content(), content(N_TEST, 1)
    del train["images"], test["images"]
    dataset = write_both(tmp_path, train, test).load(0)
    assert dataset.train.images.shape == (N_TRAIN, 0, 0, 0) and len(dataset.test) == N_TEST


def test_images_without_labels(tmp_path):
    train, test = content(), content(N_TEST, 1)
    del train["labels"], test["labels"]
    dataset = write_both(tmp_path, train, test).load(0)
    assert len(dataset.class_names) == N_TRAIN + N_TEST
    assert dataset.class_names[dataset.test.category[1]] == dataset.test.stimulus[1] == "test item 1"


def test_given_class_names(tmp_path):
    train, test = content(), content(N_TEST, 1)
    train["labels"], test["labels"] = np.arange(N_TRAIN) % 3, np.arange(N_TEST) % 3
    config = write_both(tmp_path, train, test)
    assert config.load(0).class_names == ["0", "1", "2"]
    names = ["tench", "goldfish", "shark", "hammerhead"]
    (tmp_path / "class_names.json").write_text(json.dumps(names))
    dataset = config.load(0)
    assert dataset.class_names == names and dataset.test.category.tolist() == [0, 1, 2, 0, 1, 2]
    (tmp_path / "class_names.json").unlink()
    write(tmp_path / "train.npz", train | {"class_names": np.array(names)})
    assert config.load(0).class_names == names


def test_areas(tmp_path):
    config = write_both(tmp_path)
    one = config.model_copy(update={"roi": ("L_V1",)}).load(0)
    assert one.roi == ["L_V1"] * 5 and one.train.fmri.shape[1] == len(one.vertex) == len(one.xyz) == 5
    assert config.model_copy(update={"roi": ("V1",)}).load(0).train.fmri.shape[1] == N_VOXELS


def test_subjects_in_one_file(tmp_path):
    train, test = content(), content(N_TEST, 1)
    train["subject"], test["subject"] = np.arange(N_TRAIN) % 2 + 1, np.arange(N_TEST) % 2 + 1
    config = write_both(tmp_path, train, test)
    assert subjects(tmp_path) == ["1", "2"]
    dataset = config.model_copy(update={"subject": "2"}).load(0)
    assert len(dataset.train) == N_TRAIN // 2
    fmri = train["fmri"][1::2]
    np.testing.assert_allclose(dataset.train.fmri, (fmri - fmri.mean(0)) / fmri.std(0), atol=1e-4)


def test_subjects_of_different_voxel_counts(tmp_path):
    for subject, n_voxels in (("S1", 10), ("S2", 7)):
        parts = content(), content(N_TEST, 1)
        for part in parts:
            part["fmri"] = part["fmri"][:, :n_voxels]
            part |= {key: part[key][:n_voxels] for key in ("roi", "vertex", "xyz")}
        write_both(tmp_path / subject, *parts)
    config = FolderData(path=tmp_path, image_size=8, subject="S2")
    assert subjects(tmp_path) == ["S1", "S2"]
    assert config.load(0).train.fmri.shape == (N_TRAIN, 7)
    with pytest.raises(UserError, match=r"holds subjects S1, S2; choose one with --set data.subject=S1"):
        FolderData(path=tmp_path).load(0)


def test_baselines_of_runs_are_removed_without_test_items():
    rng = np.random.default_rng(0)
    baseline = np.array([0.0, 50.0, -20.0])
    train_run, test_run = np.repeat([0, 1], 20), np.array([0, 1, 1, 2])
    train = rng.standard_normal((40, 4)) + baseline[train_run, None]
    test = rng.standard_normal((4, 4)) + baseline[test_run, None]
    fitted, applied = folder.normalise(train, test, train_run, test_run)
    assert np.abs(fitted.mean(0)).max() < 1e-6 and np.abs(fitted.std(0) - 1).max() < 1e-6
    assert abs(fitted[:20].mean() - fitted[20:].mean()) < 1e-6 and np.abs(applied[:3]).max() < 5
    moved = test.copy()
    moved[1] += 1000  # of the same run as item 2
    _, again = folder.normalise(train, moved, train_run, test_run)
    np.testing.assert_array_equal(again[[0, 2, 3]], applied[[0, 2, 3]])


def test_a_run_of_few_training_items_takes_the_mean_of_all():
    train = np.random.default_rng(0).standard_normal((40, 4))
    run = np.array([0] * 36 + [1] * 4)
    centred = np.concatenate([train[:36] - train[:36].mean(0), train[36:] - train.mean(0)])
    expected = (centred - centred.mean(0)) / centred.std(0)
    np.testing.assert_allclose(folder.normalise(train, train[:1], run)[0], expected, atol=1e-5)


# ---------------------------------------------------------------- broken input


def change(**edits: Any) -> Callable[[Content, Content], None]:
    """Edit the training content; None removes a key."""

    def edit(train: Content, test: Content) -> None:
        for key, value in edits.items():
            train.pop(key) if value is None else train.update({key: value})

    return edit


def in_test(**edits: Any) -> Callable[[Content, Content], None]:
    return lambda train, test: change(**edits)(test, train)


def with_nan(train: Content, test: Content) -> None:
    train["fmri"][4, 2] = np.nan


FMRI = content()["fmri"]
ITEMS = ("fmri", "labels", "images")
BROKEN: dict[str, tuple[Callable[[Content, Content], None], str]] = {
    "renamed key": (change(fmri=None, fMRI=FMRI), "key 'fmri' is missing; expected fmri [items, voxels]; did you mean"),
    "wrong shape": (change(fmri=FMRI[:, 0]), f"fmri has shape ({N_TRAIN},), expected [items, voxels]"),
    "no items": (change(fmri=FMRI[:0]), f"fmri has shape (0, {N_VOXELS})"),
    "text for numbers": (change(fmri=FMRI.astype(str)), "expected real numbers; convert it to float32"),
    "NaN": (with_nan, f"fmri holds 1 NaN or infinite values (the first in row 4, column 2 of {N_TRAIN} x {N_VOXELS})"),
    "lengths differ": (change(labels=np.arange(5)), "labels has shape (5,), expected one entry for each of the 24"),
    "neither labels nor images": (change(labels=None, images=None, label=np.arange(24)), "did you mean 'label'"),
    "run of two columns": (change(run=np.zeros((24, 2))), "run has shape (24, 2), expected one entry for each of the"),
    "run unknown": (change(run=np.full(24, np.nan)), "run has no value in row 0 ('nan'), expected one; fill it"),
    "labels in one file": (in_test(labels=None), "no labels, expected as the other file has"),
    "labels of two types": (in_test(labels=np.arange(N_TEST)), "labels are int64, expected <U8 as in training"),
    "labels as floats": (change(labels=np.arange(24) / 2), "labels are float64 of shape (24,), expected one integer"),
    "voxels differ": (in_test(fmri=FMRI[:N_TEST, :9]), "fmri has 9 voxels, expected 10 as in train.npz"),
    "unknown label": (change(class_names=np.array(["tiger", "castle"])), "label 'goldfish' is not known to the 2"),
    "class twice": (change(class_names=np.array(["castle", "castle"])), "class 'castle' is there 2 times"),
    "vertex out of range": (change(vertex=np.arange(N_VOXELS) + 59_410), "vertex 59412 is out of range, expected 0 to"),
    "vertex as floats": (change(vertex=np.ones(N_VOXELS) / 2), "vertex is of type float64, expected integers"),
    "areas too short": (change(roi=np.array(["V1"] * 3)), "roi has shape (3,), expected (10,), one entry a voxel"),
    "unknown surface": (change(surface=np.array("fsaverage")), "'fsaverage' is unknown; did you mean 'fsaverage5'"),
    "no surface": (change(surface=np.array([], str)), "surface '' is unknown"),
    "images as floats": (change(images=np.zeros((24, 8, 8, 3))), "images are float64, expected uint8"),
    "images of 2 channels": (change(images=np.zeros((24, 8, 8, 2), np.uint8)), "images have shape (24, 8, 8, 2)"),
    "pickled": (change(labels=np.array(["a"] * 24, dtype=object)), "key 'labels' holds Python objects"),
    "one training item": (lambda a, b: a.update({k: a[k][:1] for k in ITEMS}), "1 items, expected 2"),
    "duplicate ids": (
        lambda a, b: (a.update(stimulus=np.arange(24)), b.update(stimulus=np.arange(23, 29))),
        "stimulus '23' is also in train.npz (1 are), expected each in one file",
    ),
    "several subjects": (
        lambda a, b: (a.update(subject=np.arange(24) % 2), b.update(subject=np.arange(6) % 2)),
        "several subjects; found 0, 1; choose one with --set data.subject=0",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "expected"), BROKEN.values(), ids=BROKEN)
def test_broken_input_is_explained(edit, expected: str, tmp_path):
    train, test = content(), content(N_TEST, 1)
    edit(train, test)
    explains(write_both(tmp_path, train, test), expected)


def explains(config: FolderData, expected: str) -> None:
    """The check fails with one line that names a file and says ``expected``."""
    with pytest.raises(UserError) as caught:
        config.check()
    message = str(caught.value)
    assert expected in message and str(config.path) in message and "\n" not in message


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_truncated_files_are_explained(suffix: str, tmp_path):
    parts = [{k: v for k, v in part.items() if k in ("fmri", "labels")} for part in (content(), content(N_TEST, 1))]
    config = write_both(tmp_path, *parts, suffix=suffix)
    path = tmp_path / f"test{suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    explains(config, f"test{suffix}: not a readable")


def test_broken_parquet_is_explained(tmp_path):
    rows = content()["fmri"].astype(float).tolist()
    config = write_both(tmp_path, {"fmri": rows, "labels": [1] * 24}, {"fmri": rows[:6], "labels": [1] * 6}, ".parquet")
    config.check()
    write(tmp_path / "train.parquet", {"fmri": [*rows[:5], rows[5][:3]], "labels": [1] * 6})
    explains(config, "fmri has 3 values in row 5, expected 10 as in row 0")
    write(tmp_path / "train.parquet", {"fmri": rows[:6], "labels": [1, None, 1, 1, 1, 1]})
    explains(config, "labels has no value in row 1")
    write(tmp_path / "train.parquet", {"fmri": [{"left": 1.0}] * 6, "labels": [1] * 6})
    explains(config, "key 'fmri' holds values of type dict, expected numbers or text")


def test_broken_descriptions_are_explained(tmp_path):
    config = write_both(tmp_path)
    (tmp_path / "class_names.json").write_text("{tiger")
    explains(config, "class_names.json: not readable as JSON")
    (tmp_path / "class_names.json").write_text("[1, 2]")
    explains(config, "expected a list of strings")
    (tmp_path / "class_names.json").unlink()
    plain = {key: value for key, value in content().items() if key in ("fmri", "labels", "images")}
    write(tmp_path / "train.npz", plain)
    write(tmp_path / "voxels.parquet", {"roi": ["V1"] * 4})
    explains(config, "voxels.parquet: roi has shape (4,), expected (10,)")


def test_missing_files_and_areas_are_explained(tmp_path):
    with pytest.raises(UserError, match=r"data.path is not set"):
        FolderData().files()
    explains(FolderData(path=tmp_path / "nowhere"), "no such folder (data.path)")
    explains(FolderData(path=tmp_path), "no train file; expected train.npz or train.h5 or train.parquet, found []")
    config = write_both(tmp_path)
    explains(config.model_copy(update={"roi": ("V2",)}), "roi 'V2' (data.roi) is not there; valid: L_V1, R_V1")
    train, test = content(), content(N_TEST, 1)
    train["subject"], test["subject"] = ["S1"] * N_TRAIN, ["S1"] * N_TEST
    explains(write_both(tmp_path, train, test).model_copy(update={"subject": "S3"}), "no subject 'S3'; found S1")
    other = write_both(tmp_path / "one").model_copy(update={"subject": "S3"})
    explains(other, "no key 'subject', but data.subject asks for 'S3'")
    del train["roi"]
    explains(write_both(tmp_path, train, test).model_copy(update={"roi": ("V1",)}), "no roi, but data.roi asks for V1")
    (tmp_path / "test.npz").unlink()
    explains(config, "no test file; expected test.npz")


# ---------------------------------------------------------------- repeated stimuli


def test_test_trials_of_a_stimulus_are_averaged_where_that_is_asked_for(tmp_path):
    test = content(N_TEST, 1) | {"stimulus": np.array(["b", "a", "b", "c", "a", "b"])}
    test["images"][:] = test["images"][0]
    test["labels"] = np.where(test["stimulus"] == "c", "castle", "tiger")
    single = write_both(tmp_path, None, test)
    trials = single.load(0)
    averaged = FolderData(path=tmp_path, image_size=8, test_trials="averaged").load(0)
    assert trials.test.stimulus == list("babcab") and averaged.test.stimulus == list("bac")
    wanted = [trials.test.fmri[np.array(trials.test.stimulus) == name].mean(0) for name in "bac"]
    np.testing.assert_allclose(averaged.test.fmri, wanted, atol=1e-6)
    assert averaged.train.fmri.tobytes() == trials.train.fmri.tobytes()
    assert [averaged.class_names[c] for c in averaged.test.category] == ["tiger", "tiger", "castle"]
    write_both(tmp_path, None, test | {"labels": np.array(["tiger", "castle"] * 3)})
    with pytest.raises(UserError, match="stimulus 'a' has several labels or images"):
        FolderData(path=tmp_path, image_size=8, test_trials="averaged").load(0)


def test_stimuli_may_be_shared_where_that_is_said(tmp_path):
    train, test = content() | {"stimulus": np.arange(N_TRAIN)}, content(N_TEST, 1) | {"stimulus": np.arange(N_TEST)}
    config = write_both(tmp_path, train, test)
    with pytest.raises(UserError, match=r"data\.shared_stimuli=true"):
        config.check()
    dataset = FolderData(path=tmp_path, image_size=8, shared_stimuli=True).load(0)
    assert len(twins(dataset.train, dataset.test)) == N_TEST
