"""Generic Object Decoding: what its two layouts hold, and every kind of broken file."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_writers import (
    REPETITIONS,
    god_images,
    god_trials,
    load,
    packed_god,
    write_god_h5,
    write_god_h5_by_bdpy,
    write_god_tasks,
    write_image_files,
)

from cnd.data import god
from cnd.data.god import GodData
from cnd.data.god_layouts import N_TEST, N_TRAIN, image_list, in_ilsvrc, match_ids
from cnd.errors import UserError
from cnd.protocols import FmriDataset


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("h5")
    write_god_h5(folder / "Subject1.h5")
    write_image_files(folder / "images")
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("npz")
    np.savez(folder / "sbj_1.npz", **packed_god())
    np.savez(folder / "images_256.npz", **god_images())
    return folder


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stores")


def _load(stores: Path, path: Path, **settings: object) -> FmriDataset:
    return load(GodData(path=path, image_size=8, **settings), stores)


# ---------------------------------------------------------------- content


def test_items_follow_the_image_lists_and_test_trials_are_averaged(original: Path, stores: Path):
    trials = god_trials(1, 12)
    dataset = _load(stores, original)
    train = trials["train"][np.argsort(trials["train_image"])]
    test = np.stack([trials["test"][trials["test_image"] == i].mean(0) for i in range(N_TEST)])
    np.testing.assert_allclose(dataset.train.fmri, (train - train.mean(0)) / train.std(0), atol=1e-5)
    np.testing.assert_allclose(dataset.test.fmri, (test - train.mean(0)) / train.std(0), atol=1e-5)
    assert dataset.train.stimulus == image_list("training")[1] and dataset.test.stimulus == image_list("test")[1]
    assert dataset.train.run is not None and dataset.test.run is None
    np.testing.assert_array_equal(dataset.train.run, (np.arange(N_TRAIN) // 50 + 1)[np.argsort(trials["train_image"])])


def test_single_trials(original: Path, stores: Path):
    averaged, single = _load(stores, original), _load(stores, original, test_trials="single")
    assert len(single.test) == N_TEST * REPETITIONS
    np.testing.assert_allclose(single.test.fmri.reshape(N_TEST, REPETITIONS, -1).mean(1), averaged.test.fmri, atol=1e-5)
    assert single.test.stimulus[REPETITIONS] == averaged.test.stimulus[1]
    np.testing.assert_array_equal(single.test.images[REPETITIONS], averaged.test.images[1])
    assert single.test.run is not None and len(single.test.run) == len(single.test)


def test_both_layouts_hold_the_same(original: Path, packed: Path, stores: Path):
    for settings in ({}, {"test_trials": "single"}, {"roi": ("V1", "HVC")}):
        one, two = _load(stores, original, **settings), _load(stores, packed, **settings)
        np.testing.assert_allclose(one.train.fmri, two.train.fmri, atol=1e-5)
        for name in ("category", "seen"):
            np.testing.assert_array_equal(getattr(one.test, name), getattr(two.test, name))
        assert one.roi == two.roi and one.test.stimulus == two.test.stimulus
        if settings != {"test_trials": "single"}:  # the order among the trials of one image may differ
            np.testing.assert_allclose(one.test.fmri, two.test.fmri, atol=1e-5)
    assert _load(stores, packed).facts["noise_ceiling_test_average"] == 0.5
    assert "scaled before it was packed" in _load(stores, packed).description
    assert "scaled" not in _load(stores, original).description


def test_a_voxel_without_noise_ceiling_is_only_reported_less(packed: Path, stores: Path, tmp_path: Path):
    content = packed_god()
    content["arr_5"][:4], content["arr_6"][:] = np.nan, np.inf
    np.savez(tmp_path / "sbj_1.npz", **content)
    dataset = _load(stores, tmp_path, images=packed / "images_256.npz")
    assert dataset.facts["noise_ceiling_test_average"] == 0.5 and "median_snr" not in dataset.facts


def test_legacy_spelling(original: Path, stores: Path, tmp_path: Path):
    write_god_h5(tmp_path / "Subject1.h5", legacy=True)
    legacy = _load(stores, tmp_path, images=original / "images")
    np.testing.assert_array_equal(legacy.test.fmri, _load(stores, original).test.fmri)


def test_a_file_written_by_bdpy(original: Path, stores: Path, tmp_path: Path):
    pytest.importorskip("bdpy", reason="bdpy is not installed (it needs Python < 3.12)")
    write_god_h5_by_bdpy(tmp_path / "Subject1.h5")
    by_bdpy, ours = _load(stores, tmp_path, images=original / "images"), _load(stores, original)
    assert by_bdpy.train.fmri.tobytes() == ours.train.fmri.tobytes()
    assert by_bdpy.test.fmri.tobytes() == ours.test.fmri.tobytes()
    assert by_bdpy.roi == ours.roi and by_bdpy.description == ours.description
    np.testing.assert_array_equal(by_bdpy.xyz, ours.xyz)


@pytest.mark.parametrize("key", ["stimulus_name", "stimulus_number"])
def test_one_file_a_task(key: str, original: Path, stores: Path, tmp_path: Path):
    write_god_tasks(tmp_path, key=key)
    for settings in ({}, {"test_trials": "single"}, {"roi": ("V1", "HVC")}):
        tasks = _load(stores, tmp_path, images=original / "images", **settings)
        one = _load(stores, original, **settings)
        assert tasks.train.fmri.tobytes() == one.train.fmri.tobytes()
        assert tasks.test.fmri.tobytes() == one.test.fmri.tobytes() and tasks.test.stimulus == one.test.stimulus
        np.testing.assert_array_equal(tasks.train.run, one.train.run)
        np.testing.assert_array_equal(tasks.xyz, one.xyz)
        assert tasks.roi == one.roi and tasks.facts == one.facts


def test_areas_and_coordinates(original: Path, stores: Path):
    dataset = _load(stores, original, roi=("V2", "V1"))
    assert dataset.roi == ["V1"] * 4 + ["V2"] * 3  # in order of the file, each voxel once
    np.testing.assert_array_equal(dataset.xyz, 3.0 * np.arange(7)[:, None] + [ord(a) for a in "xyz"])
    assert _load(stores, original).roi == ["V1"] * 4 + ["V2"] * 3 + ["HVC"] * 5


def test_categories_and_which_test_images_were_seen(original: Path, stores: Path):
    dataset = _load(stores, original)
    assert len(dataset.class_names) == 200 and len(set(dataset.wnid)) == 200
    assert [dataset.wnid[c] for c in dataset.test.category] == [s[:9] for s in dataset.test.stimulus]
    assert dataset.class_names[dataset.test.category[0]] == "goldfish, Carassius auratus"
    assert not set(dataset.train.category.tolist()) & set(dataset.test.category.tolist())
    assert dataset.test.seen is not None and dataset.test.seen.sum() == 20
    assert in_ilsvrc()[dataset.test.stimulus.index("n02690373_7713")]  # the image is in, though its synset is not


def test_the_release_is_recognised_by_its_voxels():
    assert "recognised as the SPM release" in god.preprocessing(1, 4466)
    assert "recognised as the SPM release" in god.preprocessing(5, 4370)
    assert "recognised as the fMRIPrep release" in god.preprocessing(3, 5355)
    assert "not a known release (VC has 4466 voxels; SPM 4404, fMRIPrep 4979)" in god.preprocessing(2, 4466)


def test_ids_are_matched_by_nearest_value():
    ids = image_list("test")[0]
    shuffled = np.random.default_rng(0).permutation(50)
    np.testing.assert_array_equal(match_ids(ids[shuffled] + 3e-8, "test", Path("f")), shuffled)
    with pytest.raises(UserError, match="is none of the 50 test images"):
        match_ids(ids + 1e-6, "test", Path("f"))


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("kind", ["unit", "float", "uint8", "large", "wide"])
def test_image_archives_of_every_kind(kind: str, packed: Path, stores: Path, tmp_path: Path):
    arrays = {key: np.round(images * 255) for key, images in god_images().items()}
    expected = arrays["test_images"][3].transpose(2, 0, 1)
    if kind == "unit":
        arrays = {k: a / 255 for k, a in arrays.items()}
    elif kind == "uint8":
        arrays = {k: a.astype(np.uint8) for k, a in arrays.items()}
    elif kind == "large":
        arrays = {k: a.repeat(2, 1).repeat(2, 2) for k, a in arrays.items()}
    elif kind == "wide":  # the central square is kept
        arrays = {k: np.pad(a, ((0, 0), (0, 0), (3, 3), (0, 0))) for k, a in arrays.items()}
    np.savez_compressed(tmp_path / "pictures.npz", **arrays)
    images = _load(stores, packed, images=tmp_path / "pictures.npz").test.images[3]
    if kind == "large":
        assert np.corrcoef(images.ravel(), expected.ravel())[0, 1] > 0.95
    else:
        np.testing.assert_array_equal(images, expected)


def test_image_files_are_cropped_and_resized(original: Path, stores: Path):
    dataset = _load(stores, original)
    grey = np.array([[i % 200 + 20, i // 200 * 30 + 20, 90] for i in range(N_TRAIN)])
    found = np.asarray(dataset.train.images)
    assert found.shape == (N_TRAIN, 3, 8, 8)
    np.testing.assert_allclose(found.mean((2, 3)), grey, atol=4)  # JPEG


# ---------------------------------------------------------------- broken files


def _edit_h5(change: Callable[[h5py.File], None], name: str = "Subject1.h5") -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        with h5py.File(folder / name, "r+") as file:
            change(file)

    return edit


def _drop(key: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file.pop(key)

    return change


def _as_group(key: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file.pop(key)
        file.create_group(key)

    return change


def _rename_metadata(old: str, new: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        keys = [new if k.decode() == old else k.decode() for k in file["metadata/key"][()]]
        del file["metadata/key"]
        file["metadata/key"] = [k.encode() for k in keys]

    return change


def _replace(key: str, values: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        new = values(file[key][()])
        del file[key]
        file[key] = new

    return change


def _with(rows: object, column: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def values(table: np.ndarray) -> np.ndarray:
        table[rows, column] = value  # type: ignore[index]
        return table

    return values


def _cut(name: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return cut


def _packed(change: Callable[[dict[str, np.ndarray]], object], name: str = "sbj_1.npz") -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = dict(np.load(folder / name))
        change(content)
        np.savez(folder / name, **content)

    return edit


BROKEN_H5 = {
    "renamed": (lambda f: (f / "Subject1.h5").rename(f / "subject_1.h5"), ["neither Subject1.h5", "found images_256"]),
    "truncated": (_cut("Subject1.h5"), ["Subject1.h5", "not a readable BData file", "download"]),
    "no HDF5": (lambda f: (f / "Subject1.h5").write_text("hello"), ["Subject1.h5", "not a readable BData file"]),
    "no dataset": (_edit_h5(_drop("dataset")), ["key 'dataset' is missing or no dataset", "['metadata']"]),
    "a group for the table": (_edit_h5(_as_group("dataset")), ["Subject1.h5: key 'dataset' is missing or no dataset"]),
    "one key": (_edit_h5(_replace("metadata/key", lambda k: k[0])), ["metadata/value has shape (12, 15)"]),
    "no metadata values": (_edit_h5(_drop("metadata/value")), ["key 'value' is missing", "description"]),
    "no area": (_edit_h5(_rename_metadata("ROI_VC", "ROI_VX")), ["key 'ROI_VC' is missing", "data.roi", "HVC"]),
    "no data type": (_edit_h5(_rename_metadata("DataType", "Kind")), ["key 'DataType' is missing"]),
    "no labels": (_edit_h5(_rename_metadata("stimulus_id", "image")), ["key 'stimulus_id' is missing"]),
    "columns cut off": (_edit_h5(_replace("dataset", lambda d: d[:, :-1])), ["metadata/value has shape", "dataset"]),
    "trials cut off": (_edit_h5(_replace("dataset", lambda d: d[500:])), ["training", "(1200, any)"]),
    "no test trials": (_edit_h5(_replace("dataset", lambda d: d[:1200])), ["0 of 50 test images", "incomplete"]),
    "NaN": (_edit_h5(_replace("dataset", _with(7, 9, np.nan))), ["training", "1 NaN or infinite", "drop"]),
    "other ids": (_edit_h5(_replace("dataset", _with(3, 2, 42.5))), ["42.500000 is none of the 1200 training"]),
    "ids rounded": (_edit_h5(_replace("dataset", lambda d: d.astype("f4"))), ["such as 1518878.010042, in float64"]),
    "an image twice": (
        _edit_h5(_replace("dataset", _with([0, 1], 2, 1518878.010042))), ["of 1200 training images", "each once"],
    ),
}  # fmt: skip

BROKEN_IMAGES = {
    "no images": (lambda f: shutil.rmtree(f / "images"), ["neither images_256.npz nor", "data.images"]),
    "an image missing": (
        lambda f: (f / "images/test/n01443537_22563.JPEG").unlink(), ["images: 1 of 1250", "n01443537_22563"],
    ),
    "an image twice there": (
        lambda f: shutil.copy(f / "images/test/n01443537_22563.JPEG", f / "images"), ["is there 2 times", "keep one"],
    ),
    "a folder for an image": (
        lambda f: [(f / "images/test/n01443537_22563.JPEG").unlink(), (f / "images/test/n01443537_22563.JPEG").mkdir()],
        ["images: 1 of 1250", "n01443537_22563"],
    ),
    "an image broken": (
        lambda f: (f / "images/test/n01443537_22563.JPEG").write_text("x"), ["n01443537_22563.JPEG: not a readable"],
    ),
}  # fmt: skip

TRAINING, TEST = "Subject1_ImageNetTraining.h5", "Subject1_ImageNetTest.h5"


def _other_places(file: h5py.File) -> None:
    file["metadata/value"][...] += file["metadata/value"][...] > 1  # coordinates, not marks


BROKEN_TASKS = {
    "no test": (lambda f: (f / TEST).unlink(), [f"{TEST}: no such file, expected beside {TRAINING}"]),
    "no training": (lambda f: (f / TRAINING).unlink(), [f"{TRAINING}: no such file, expected beside {TEST}"]),
    "swapped": (lambda f: shutil.copy(f / TRAINING, f / TEST), [f"{TEST}: stimulus id", "none of the 50 test images"]),
    "trials cut off": (_edit_h5(_replace("dataset", lambda d: d[:600]), TRAINING), [TRAINING, "(1200, any)"]),
    "no stimuli": (
        _edit_h5(_rename_metadata("stimulus_name", "name"), TEST),
        [f"{TEST}: metadata key 'stimulus_id' is missing (or Label, stimulus_name, stimulus_number)"],
    ),
    "voxels elsewhere": (_edit_h5(_other_places, TEST), [TEST, "12 voxels", "at the same places", "same release"]),
    "NaN": (_edit_h5(_replace("dataset", _with(7, 9, np.nan)), TEST), [TEST, "test trials", "1 NaN or infinite"]),
}


def _npy(folder: Path) -> None:
    np.save(folder / "one.npy", np.zeros(3))
    (folder / "one.npy").replace(folder / "sbj_1.npz")


def _add_text(folder: Path) -> None:
    with zipfile.ZipFile(folder / "sbj_1.npz", "a") as archive:
        archive.writestr("readme.txt", "hello")


IMAGES = "images_256.npz"
BROKEN_NPZ = {
    "truncated": (_cut("sbj_1.npz"), ["sbj_1.npz", "not a readable .npz file"]),
    "no array": (_packed(lambda c: c.pop("arr_3")), ["key 'arr_3' is missing", "did you mean"]),
    "no area": (_packed(lambda c: c.pop("VC")), ["key 'VC' is missing", "data.roi"]),
    "an .npy renamed": (_npy, ["sbj_1.npz: holds one array without a name", "np.savez"]),
    "something else in it": (_add_text, ["sbj_1.npz: 'readme.txt' in it is no array"]),
    "pickled": (_packed(lambda c: c.update(arr_3=np.array([{}] * 3))), ["sbj_1.npz", "pickle"]),
    "wrong shape": (_packed(lambda c: c.update(arr_2=c["arr_2"][:49])), ["arr_2 has shape (49, 12)", "(50, 12)"]),
    "mask of another subject": (_packed(lambda c: c.update(VC=np.ones(11, bool))), ["VC has shape (11,)", "(12,)"]),
    "empty area": (_packed(lambda c: c.update(VC=np.zeros(12, bool))), ["VC marks no voxel", "data.roi"]),
    "a number for the table": (_packed(lambda c: c.update(arr_0=np.array(3.0))), ["arr_0 has shape ()", "(1200, any)"]),
    "text": (_packed(lambda c: c.update(arr_6=np.array(["a"] * 12))), ["arr_6 has type <U1, expected numbers"]),
    "infinite": (_packed(lambda c: c["arr_0"].__setitem__((2, 3), np.inf)), ["arr_0 holds 1 NaN or infinite"]),
    "counted from 1": (_packed(lambda c: c.update(arr_3=c["arr_3"] + 1)), ["training images are numbered 1 to 1200"]),
    "images renamed": (_packed(lambda c: c.update(test=c.pop("test_images")), IMAGES), ["key 'test_images'", "mean"]),
    "images cut off": (
        _packed(lambda c: c.update(train_images=c["train_images"][:9]), IMAGES), ["has shape (9, 8, 8, 3)"],
    ),
    "images truncated": (_cut(IMAGES), [f"{IMAGES}: not a readable .npz file"]),
    "images divided twice": (
        _packed(lambda c: c.update({key: images / 255 for key, images in c.items()}), IMAGES),
        ["train_images ranges from 0 to 0.00392157, expected 0 to 1 or 0 to 255"],
    ),
    "images out of range": (
        _packed(lambda c: c["train_images"].__setitem__((1, 2, 3, 0), np.nan), IMAGES), ["ranges from nan"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def one_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    write_god_h5(folder / "Subject1.h5")
    np.savez(folder / IMAGES, **god_images())
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    write_god_tasks(folder)
    np.savez(folder / IMAGES, **god_images())
    return folder


@pytest.mark.parametrize("what", BROKEN_H5)
def test_broken_original_files_are_explained(what: str, one_file: Path, tmp_path: Path):
    _expect_explanation(one_file, tmp_path, *BROKEN_H5[what])


@pytest.mark.parametrize("what", BROKEN_IMAGES)
def test_broken_image_files_are_explained(what: str, original: Path, tmp_path: Path):
    _expect_explanation(original, tmp_path, *BROKEN_IMAGES[what])


@pytest.mark.parametrize("what", BROKEN_TASKS)
def test_broken_task_files_are_explained(what: str, tasks: Path, tmp_path: Path):
    _expect_explanation(tasks, tmp_path, *BROKEN_TASKS[what])


@pytest.mark.parametrize("what", BROKEN_NPZ)
def test_broken_packed_files_are_explained(what: str, packed: Path, tmp_path: Path):
    _expect_explanation(packed, tmp_path, *BROKEN_NPZ[what])


def _expect_explanation(good: Path, tmp_path: Path, damage: Callable[[Path], object], words: list[str]) -> None:
    """Breaking a copy of good files gives one line, whether they are checked or loaded."""
    folder = tmp_path / "files"
    shutil.copytree(good, folder)
    damage(folder)
    config = GodData(path=folder, image_size=8)
    with pytest.raises(UserError) as caught:
        config.check()
        load(config, tmp_path)
    told = str(caught.value)
    assert str(folder) in told and "\n" not in told and all(word in told for word in words), told
