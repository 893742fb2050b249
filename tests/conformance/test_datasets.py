"""One suite for every data set: what :class:`cnd.protocols.FmriDataset` promises."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from data_writers import (
    god_images,
    packed_god,
    write_bold5000,
    write_bold_images,
    write_folder,
    write_god_h5,
    write_god_tasks,
    write_image_files,
)
from scipy.io import loadmat, savemat

from cnd import data
from cnd.data import digits69
from cnd.data.bold5000 import Bold5000Data
from cnd.data.digits69 import Digits69Data
from cnd.data.folder import FolderData
from cnd.data.god import GodData
from cnd.data.hcp import HcpPool
from cnd.data.simulated import SimulatedData
from cnd.data.storage import load_dataset, save_dataset
from cnd.data.subject_pool import SubjectPool
from cnd.errors import UserError
from cnd.protocols import DataConfig, FmriDataset
from cnd.workflow.cache import StageCache

SMALL = dict(n_voxels=128, images_per_category=1, test_images_per_category=1, test_repetitions=2, n_unlabelled=32)
ROOT = Path(__file__).resolve().parents[2]

# ---------------------------------------------------------------- what is tested: writers of synthetic files


def _simulated(folder: Path, shift: float) -> DataConfig:
    return SimulatedData(**SMALL)


def _digits69(folder: Path, shift: float) -> DataConfig:
    """A stand-in of the original layout: the real file may not be here, and this suite needs no real fMRI."""
    rng = np.random.default_rng(0)
    content = {
        k: rng.standard_normal(s) if k.startswith("fmri") else rng.integers(0, 256, s, dtype=np.uint8)
        for k, s in digits69.SHAPES.items()
    } | {"labelTrn": np.tile([[1], [2]], (45, 1)), "labelTest": np.tile([[1], [2]], (5, 1))}
    config = Digits69Data(path=folder / "d.mat")
    savemat(folder / "d.mat", content)
    if shift:
        inside = digits69.fold_of_items(config, digits69.read(config)[2]) == 0
        content["fmriTrn"][inside[:90]] += shift
        content["fmriTest"][inside[90:]] += shift
        savemat(folder / "d.mat", content)
    return config


def _real_digits69(folder: Path, shift: float) -> DataConfig:
    path = ROOT.parent / "shared" / "data" / "digit69" / "digit69_28x28.mat"
    if not path.is_file():
        pytest.skip("digits69: digit69_28x28.mat is not here (it cannot be shipped)")
    content = {k: v for k, v in loadmat(path).items() if k[0] != "_"}
    if shift:
        pytest.skip("the stand-in tests this")
    savemat(folder / "d.mat", content)
    return Digits69Data(path=folder / "d.mat")


def _god_h5(folder: Path, shift: float) -> DataConfig:
    write_god_h5(folder / "Subject1.h5", test_shift=shift)
    write_god_h5(folder / "Subject2.h5", subject=2, n_voxels=15, test_shift=shift)
    write_image_files(folder / "images")
    return GodData(path=folder, image_size=8)


def _god_tasks(folder: Path, shift: float) -> DataConfig:
    write_god_tasks(folder, test_shift=shift)
    write_god_tasks(folder, subject=2, n_voxels=15, test_shift=shift)
    write_image_files(folder / "images")
    return GodData(path=folder, image_size=8)


def _god_npz(folder: Path, shift: float) -> DataConfig:
    np.savez(folder / "sbj_1.npz", **packed_god(test_shift=shift))
    np.savez(folder / "sbj_2.npz", **packed_god(subject=2, n_voxels=15, test_shift=shift))
    np.savez(folder / "images_256.npz", **god_images())
    return GodData(path=folder, image_size=8)


def _god_trials(folder: Path, shift: float) -> DataConfig:
    return _god_npz(folder, shift).model_copy(update={"test_trials": "single", "roi": ("V1", "HVC")})


def _bold5000(folder: Path, shift: float) -> DataConfig:
    for subject, n_voxels in ((1, 3), (4, 5)):
        write_bold5000(folder, subject, n_voxels, test_shift=shift)
    write_bold_images(folder)
    return Bold5000Data(path=folder, image_size=8)


def _bold5000_trials(folder: Path, shift: float) -> DataConfig:
    return _bold5000(folder, shift).model_copy(update={"test_trials": "single", "roi": ("LOC",)})


def _folder(folder: Path, shift: float) -> DataConfig:
    write_folder(folder, pictures=True, test_shift=shift)
    return FolderData(path=folder, image_size=8)


def _folder_labels(folder: Path, shift: float) -> DataConfig:
    write_folder(folder, pictures=False, test_shift=shift)
    return FolderData(path=folder)


KINDS: dict[str, Callable[[Path, float], DataConfig]] = {
    "simulated": _simulated,
    "digits69": _digits69,
    "digits69_real": _real_digits69,
    "god_h5": _god_h5,
    "god_tasks": _god_tasks,
    "god_npz": _god_npz,
    "god_trials": _god_trials,
    "bold5000": _bold5000,
    "bold5000_trials": _bold5000_trials,
    "folder": _folder,
    "folder_labels": _folder_labels,
}


@dataclass(frozen=True)
class Case:
    kind: str
    config: DataConfig
    dataset: FmriDataset
    cache: StageCache

    def load(self, config: DataConfig) -> FmriDataset:
        return data.load(config, data.folds(config)[0], self.cache)


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory) -> Case:
    folder, cache = tmp_path_factory.mktemp("files"), StageCache(tmp_path_factory.mktemp("cache"))
    config = KINDS[request.param](folder, 0)
    return Case(request.param, config, data.load(config, data.folds(config)[0], cache), cache)


# ---------------------------------------------------------------- the suite


def test_shapes_and_types(case):
    dataset = case.dataset
    for split in (dataset.train, dataset.test):
        assert split.fmri.dtype == np.float32 and split.fmri.ndim == 2
        assert split.images.dtype == np.uint8 and len(split.images.shape) == 4
        assert split.category.dtype == np.int64
        assert len(split.fmri) == len(split.images) == len(split.category) == len(split.stimulus) > 0
        for optional in (split.seen, split.run):
            assert optional is None or optional.shape == (len(split),)
        assert split.run is None or split.run.dtype == np.int64
        assert split.seen is None or split.seen.dtype == np.bool_
    assert dataset.train.fmri.shape[1] == dataset.test.fmri.shape[1]
    assert all(pool.dtype == np.float32 and pool.ndim == 2 and len(pool) for pool in dataset.unlabelled)


def test_images_are_arrays_once_they_are_indexed(case):
    images = case.dataset.train.images
    everything = np.asarray(images)
    assert everything.shape == images.shape and everything.dtype == np.uint8 and everything.size == images.size
    rows = np.array([3, 0, 3])
    for part, expected in (
        (images[rows], everything[rows]),
        (images[1:4], everything[1:4]),
        (images[2], everything[2]),
    ):
        assert isinstance(part, np.ndarray) and part.dtype == np.uint8
        np.testing.assert_array_equal(part, expected)
    split = case.dataset.train.take(rows)
    np.testing.assert_array_equal(split.images, everything[rows])
    assert split.stimulus == [case.dataset.train.stimulus[i] for i in rows]
    assert images.size == 0 if case.kind == "folder_labels" else everything.std() > 0


def test_values_are_finite_and_normalised_by_training_statistics(case):
    dataset = case.dataset
    for patterns in (dataset.train.fmri, dataset.test.fmri, *dataset.unlabelled):
        assert np.isfinite(patterns).all()
    assert np.abs(dataset.train.fmri.mean(0)).max() < 2e-3  # rounding of the simulated voxels is 1e-3
    varying = dataset.train.fmri.std(0) > 0
    assert np.abs(dataset.train.fmri.std(0)[varying] - 1).max() < 2e-3


def test_test_fmri_decides_nothing_about_the_training_set(case, tmp_path: Path):
    if case.kind == "simulated":
        pytest.skip("there is no file to change")
    shifted = case.load(KINDS[case.kind](tmp_path, 3.0))
    assert shifted.train.fmri.tobytes() == case.dataset.train.fmri.tobytes()
    change = shifted.test.fmri - case.dataset.test.fmri
    assert change.min() > 0.1  # so the statistics are not those of the test items either


def test_no_test_item_is_a_training_item(case):
    train, test = case.dataset.train, case.dataset.test
    known = {image.tobytes() for image in np.asarray(train.images) if image.size}
    assert not any(image.tobytes() in known for image in np.asarray(test.images))
    assert not set(train.stimulus) & set(test.stimulus)


def test_categories_index_the_class_names(case):
    dataset = case.dataset
    for split in (dataset.train, dataset.test):
        assert split.category.min() >= 0 and split.category.max() < len(dataset.class_names)
    assert len(dataset.wnid) in (0, len(dataset.class_names))


def test_voxel_annotations_are_aligned(case):
    dataset = case.dataset
    n_voxels = dataset.train.fmri.shape[1]
    assert len(dataset.roi) in (0, n_voxels)
    assert dataset.vertex is None or len(dataset.vertex) == n_voxels
    assert dataset.xyz is None or (dataset.xyz.shape == (n_voxels, 3) and dataset.xyz.dtype == np.float32)


def test_same_config_gives_the_same_bytes(case):
    again, dataset = case.load(case.config), case.dataset
    assert again.train.fmri.tobytes() == dataset.train.fmri.tobytes()
    assert again.test.fmri.tobytes() == dataset.test.fmri.tobytes()
    assert np.asarray(again.test.images).tobytes() == np.asarray(dataset.test.images).tobytes()
    assert again.test.stimulus == dataset.test.stimulus and again.description == dataset.description


def test_it_is_the_same_after_storage(case, tmp_path: Path):
    dataset = case.dataset
    save_dataset(dataset, tmp_path)
    again = load_dataset(tmp_path, data.image_store(case.config, case.cache))
    for one, two in ((dataset.train, again.train), (dataset.test, again.test)):
        np.testing.assert_array_equal(one.images, two.images)
        for name in ("fmri", "category", "seen", "run"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert one.stimulus == two.stimulus
    for name in ("class_names", "description", "simulated", "roi", "wnid", "surface", "facts"):
        assert getattr(again, name) == getattr(dataset, name)
    np.testing.assert_array_equal(again.xyz, dataset.xyz)


def test_check_passes_and_nothing_is_missing(case):
    data.check(case.config)
    assert data.missing(case.config) is None


def test_fingerprint_changes_with_the_data_and_not_with_its_place(case, tmp_path: Path):
    assert data.fingerprint(case.config) == data.fingerprint(case.config.model_copy())
    if isinstance(case.config, SimulatedData):
        assert data.fingerprint(case.config) != data.fingerprint(case.config.model_copy(update={"brain_seed": 9}))
        return
    (tmp_path / "same").mkdir()
    assert data.fingerprint(KINDS[case.kind](tmp_path / "same", 0))["images"] == data.fingerprint(case.config)["images"]
    if case.kind != "digits69_real":
        (tmp_path / "other").mkdir()
        assert (
            data.fingerprint(KINDS[case.kind](tmp_path / "other", 1.0))["files"]
            != (data.fingerprint(case.config)["files"])
        )


# ---------------------------------------------------------------- several subjects, pools, plans


@pytest.fixture(params=["god_h5", "god_npz", "bold5000"])
def two_subjects(request, tmp_path: Path) -> tuple[DataConfig, DataConfig]:
    (tmp_path / "files").mkdir()
    config = KINDS[request.param](tmp_path / "files", 0)
    return config, config.model_copy(update={"subject": 4 if request.param == "bold5000" else 2})


def test_subjects_share_one_image_file(two_subjects, tmp_path: Path):
    cache = StageCache(tmp_path / "cache")
    first, second = (data.load(config, 0, cache) for config in two_subjects)
    assert first.train.fmri.shape[1] != second.train.fmri.shape[1]
    assert len(list((cache.root / "images").glob("*/images.npy"))) == 1
    common = sorted(set(first.test.stimulus) & set(second.test.stimulus))
    assert common
    for name in common:
        one, two = (d.test.images[d.test.stimulus.index(name)] for d in (first, second))
        np.testing.assert_array_equal(one, two)
    save_dataset(first, tmp_path)
    n_images = sum(d.images.size for d in (first.train, first.test))
    sizes = (tmp_path / "arrays.safetensors").stat().st_size, first.train.fmri.nbytes + first.test.fmri.nbytes
    assert sizes[0] - sizes[1] < n_images / 4  # the images themselves are not in it


def test_pools_of_another_subject_and_of_hcp(two_subjects, tmp_path: Path):
    target, other = two_subjects
    rest = 5 + np.random.default_rng(0).standard_normal((40, 33)).astype(np.float32)
    np.save(tmp_path / "rest.npy", rest)
    np.save(tmp_path / "copy.npy", rest)
    np.save(tmp_path / "changed.npy", rest[::-1])
    subject = SubjectPool(subject=other.subject)

    def with_pool(path: str) -> DataConfig:
        pools = (HcpPool(path=tmp_path / path), subject)
        return target.model_copy(update={"unlabelled": pools})

    cache = StageCache(tmp_path / "cache")
    dataset = data.load(with_pool("rest.npy"), 0, cache)
    assert dataset.unlabelled[0].shape == (40, 33)
    np.testing.assert_array_equal(dataset.unlabelled[1], data.load(other, 0, cache).train.fmri)
    for pool in dataset.unlabelled:
        np.testing.assert_allclose(pool.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(pool.std(0), 1, atol=1e-3)
    prints = [data.pool_fingerprint(with_pool(path)) for path in ("rest.npy", "copy.npy", "changed.npy")]
    assert prints[0] != prints[2] and prints[0][1] == prints[2][1]
    assert data.pool_fingerprint(target) == [] and data.fingerprint(with_pool("rest.npy"))["pools"] == prints[0]
    data.check(with_pool("rest.npy"))


def test_digits69_takes_pools_but_has_no_other_subject(tmp_path: Path):
    np.save(tmp_path / "rest.npy", np.random.default_rng(0).standard_normal((20, 9)))
    config = _digits69(tmp_path, 0).model_copy(update={"unlabelled": (HcpPool(path=tmp_path / "rest.npy"),)})
    assert data.load(config, 1, StageCache(tmp_path / "cache")).unlabelled[0].shape == (20, 9)
    with pytest.raises(UserError, match="digits69 has one subject"):
        data.fingerprint(config.model_copy(update={"unlabelled": (SubjectPool(subject=2),)}))


def test_the_target_is_no_pool(two_subjects):
    config = two_subjects[0].model_copy(update={"unlabelled": (SubjectPool(subject=two_subjects[0].subject),)})
    with pytest.raises(UserError, match="is the target itself"):
        data.fingerprint(config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (GodData(path=Path("/nowhere")), ("/nowhere: no such folder", "figshare", "forms.gle", "Subject1_Im", "put")),
        (Bold5000Data(path=Path("/nowhere")), ("/nowhere: no such folder", "figshare", "dropbox", "Stimuli", "put")),
        (Digits69Data(), ("data.path is not set", "digit69_28x28.mat")),
        (FolderData(), ("data.path is not set",)),
        (GodData(unlabelled=(HcpPool(path=Path("/no-pool")),)), ("data.path is not set", "/no-pool: no such file")),
    ],
)
def test_a_plan_needs_no_files_and_what_is_missing_is_told(config: DataConfig, words: tuple[str, ...]):
    told = data.missing(config)
    assert told is not None and all(word in told for word in words)
    with pytest.raises(UserError):
        data.fingerprint(config)
    planned = data.fingerprint(config, planning=True)
    assert planned["files"] == "missing" and planned["kind"] == config.kind
    assert planned != data.fingerprint(config.model_copy(update={"image_size": 8, "n_folds": 3}), planning=True)


def test_a_plan_loads_no_heavy_library(tmp_path: Path):
    (tmp_path / "files").mkdir()
    config = _god_h5(tmp_path / "files", 0)
    code = """if True:
        import sys
        from cnd import data
        from cnd.data.god import GodData
        from cnd.data.subject_pool import SubjectPool
        config = GodData(path=sys.argv[1], unlabelled=(SubjectPool(subject=2),))
        assert data.fingerprint(config)["files"] != "missing" and data.missing(config) is None
        print([name for name in ("torch", "pandas", "scipy", "h5py", "PIL", "pyarrow") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(config.path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
