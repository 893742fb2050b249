"""One suite for every data source: what :class:`cnd.protocols.DataSource` and its data sets promise.

A source of your own inherits :class:`DataSourceConformance`, or :class:`FileSourceConformance` if it reads files.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from data_writers import (
    god_images,
    load,
    packed_god,
    store_of,
    write_bold5000,
    write_bold_images,
    write_digits69,
    write_folder,
    write_god_h5,
    write_god_tasks,
    write_image_files,
    write_miyawaki,
)
from safetensors.numpy import load_file

from cnd import registry
from cnd.data import digits69, validation
from cnd.data.bold5000 import Bold5000Data
from cnd.data.digits69 import Digits69Data
from cnd.data.folder import FolderData
from cnd.data.god import GodData
from cnd.data.hcp import HcpPool
from cnd.data.miyawaki import MiyawakiData
from cnd.data.simulated import SimulatedData
from cnd.data.splits import SplitConfig
from cnd.data.storage import load_dataset, save_dataset
from cnd.data.subject_pool import SubjectPool
from cnd.decoders.nearest_training_image import NearestTrainingImageDecoder
from cnd.errors import UserError
from cnd.experiment import Experiment
from cnd.keys import closure
from cnd.metrics.evaluation import EvaluationConfig
from cnd.metrics.pixels import PixelCorrelation
from cnd.protocols import DataSource, FmriDataset, Given
from cnd.workflow.cache import StageCache
from cnd.workflow.plan import given_of
from cnd.workflow.run import run

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = Experiment(name="any", data=SimulatedData())


def steps_of(source: DataSource) -> Given:
    """The steps of its first fold."""
    return given_of(EXPERIMENT, source, source.folds()[0])


def changed(source: DataSource, **settings: Any) -> DataSource:
    """A validated copy."""
    return type(source).model_validate(source.model_dump() | settings)


def same(one: FmriDataset, two: FmriDataset) -> None:
    """Both hold the same bytes."""
    for a, b in ((one.train, two.train), (one.test, two.test)):
        assert a.fmri.tobytes() == b.fmri.tobytes() and a.stimulus == b.stimulus
        for name in ("images", "category", "seen", "run"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("class_names", "description", "simulated", "roi", "wnid", "surface", "facts"):
        assert getattr(one, name) == getattr(two, name)
    for name in ("vertex", "xyz"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert (one.normalisation is None) == (two.normalisation is None)
    if one.normalisation is not None and two.normalisation is not None:
        assert one.normalisation.rule == two.normalisation.rule
        for name in ("mean", "std"):
            np.testing.assert_array_equal(getattr(one.normalisation, name), getattr(two.normalisation, name))
    assert [pool.tobytes() for pool in one.unlabelled] == [pool.tobytes() for pool in two.unlabelled]


class DataSourceConformance:
    """What holds for every source."""

    other: Any = None  # another subject that is there, where a source has several
    nobody: Any = 99  # a subject that is not

    def source_at(self, folder: Path) -> DataSource:
        """The source, after its files were written to a folder."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def stores(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("stores")

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("files")

    @pytest.fixture(scope="class")
    def source(self, folder: Path) -> DataSource:
        return self.source_at(folder)

    @pytest.fixture(scope="class")
    def dataset(self, source: DataSource, stores: Path) -> FmriDataset:
        return load(source, stores)

    # ------------------------------------------------------------ settings and files

    def test_settings_survive_a_file_and_nothing_is_missing(self, source: DataSource) -> None:
        assert type(source).model_validate(source.model_dump(mode="json")) == source
        source.check()
        assert source.missing() == []
        assert source.stores_images == (source.image_source() is not None)
        folds = source.folds()
        assert folds and len(set(folds)) == len(folds)

    def test_subjects(self, source: DataSource, dataset: FmriDataset, stores: Path) -> None:
        if self.other is None:
            with pytest.raises(UserError, match="has one subject"):
                source.of_subject(2)
            return
        other = source.of_subject(self.other)
        loaded = load(other, stores)
        assert other.identity() != source.identity() and other.of_subject(source.subject) == source
        assert loaded.train.fmri.shape[1] != dataset.train.fmri.shape[1]
        if source.stores_images:  # one store for all subjects
            keys = [step.needs["images"].key for step in (steps_of(source).data, steps_of(other).data)]
            assert keys[0] == keys[1] and len(list(stores.iterdir())) == 1
        image = {s: dataset.test.images[i].tobytes() for i, s in enumerate(dataset.test.stimulus)}
        common = [i for i, s in enumerate(loaded.test.stimulus) if s in image]
        assert common and all(loaded.test.images[i].tobytes() == image[loaded.test.stimulus[i]] for i in common)
        with pytest.raises(UserError, match=f"{self.nobody}"):
            load(source.of_subject(self.nobody), stores)

    def test_loading_again_gives_the_same_bytes(self, source: DataSource, dataset: FmriDataset, stores: Path) -> None:
        same(load(source, stores), dataset)

    def test_its_key_knows_nothing_of_other_parts(self, source: DataSource) -> None:
        others = {part.__module__ for part in registry.classes("cnd.data").values()} - {type(source).__module__}
        assert not closure([type(source).__module__]) & {"cnd.registry", *others}

    # ------------------------------------------------------------ what is loaded

    def test_shapes_and_types(self, dataset: FmriDataset) -> None:
        n_voxels = dataset.train.fmri.shape[1]
        for split in (dataset.train, dataset.test):
            assert split.fmri.dtype == np.float32 and split.fmri.shape == (len(split), n_voxels)
            assert split.images.dtype == np.uint8 and len(split.images.shape) == 4
            assert len(split) == len(split.images) == len(split.category) == len(split.stimulus) > 0
            for optional, dtype in ((split.seen, np.bool_), (split.run, np.int64)):
                assert optional is None or (optional.shape == (len(split),) and optional.dtype == dtype)
            assert split.category.dtype == np.int64
            assert split.category.min() >= 0 and split.category.max() < len(dataset.class_names)
        assert len(dataset.wnid) in (0, len(dataset.class_names)) and len(dataset.roi) in (0, n_voxels)
        assert dataset.vertex is None or len(dataset.vertex) == n_voxels
        assert dataset.xyz is None or (dataset.xyz.shape == (n_voxels, 3) and dataset.xyz.dtype == np.float32)

    def test_images_are_arrays_once_they_are_indexed(self, dataset: FmriDataset) -> None:
        images, rows = dataset.train.images, np.array([3, 0, 3])
        everything = np.asarray(images)
        assert everything.shape == images.shape and everything.dtype == np.uint8 and everything.size == images.size
        for at in (rows, slice(1, 4), 2):
            assert isinstance(images[at], np.ndarray)
            np.testing.assert_array_equal(images[at], everything[at])
        split = dataset.train.take(rows)
        np.testing.assert_array_equal(split.images, everything[rows])
        assert split.stimulus == [dataset.train.stimulus[i] for i in rows]
        assert not images.size or everything.std() > 0

    def test_voxels_are_z_scored_over_the_training_items(self, dataset: FmriDataset) -> None:
        for patterns in (dataset.train.fmri, dataset.test.fmri, *dataset.unlabelled):
            assert patterns.dtype == np.float32 and len(patterns) and np.isfinite(patterns).all()
        assert np.abs(dataset.train.fmri.mean(0)).max() < 2e-3  # simulated voxels are rounded to 1e-3
        spread = dataset.train.fmri.std(0)
        assert np.abs(spread[spread > 0] - 1).max() < 2e-3

    def test_its_normalisation_leads_to_these_patterns(self, dataset: FmriDataset) -> None:
        """Turned back into raw ones, patterns come out of it as they are; of whatever run, by the rule for others."""
        found = dataset.normalisation
        if found is None:
            return
        raw = dataset.test.fmri * found.std + found.mean
        np.testing.assert_allclose(found.apply(raw), np.where(found.std > 0, dataset.test.fmri, 0), atol=1e-4)

    def test_no_test_item_is_a_training_item(self, dataset: FmriDataset) -> None:
        assert not set(dataset.train.stimulus) & set(dataset.test.stimulus)
        known = {image.tobytes() for image in np.asarray(dataset.train.images) if image.size}
        assert not any(image.tobytes() in known for image in np.asarray(dataset.test.images))

    # ------------------------------------------------------------ what is scored in place of the test set

    @pytest.fixture(scope="class")
    def held_out(self, source: DataSource, stores: Path) -> FmriDataset:
        return validation.load(source, 0.1, source.folds()[0], store_of(source, stores))

    def test_validation_items_are_training_items(self, dataset: FmriDataset, held_out: FmriDataset) -> None:
        for check in (self.test_shapes_and_types, self.test_voxels_are_z_scored_over_the_training_items):
            check(held_out)
        self.test_no_test_item_is_a_training_item(held_out)
        tested = {image.tobytes() for image in np.asarray(dataset.test.images) if image.size}
        for part in (held_out.train, held_out.test):
            assert set(part.category) <= set(dataset.train.category)
            assert not set(part.stimulus) & (set(dataset.test.stimulus) - set(dataset.train.stimulus))
            assert not any(image.tobytes() in tested for image in np.asarray(part.images) if image.size)
        assert 0 < len(held_out.test) < len(held_out.train) < len(dataset.train)
        assert held_out.roi == dataset.roi and held_out.class_names == dataset.class_names
        (told,) = (line for line in held_out.remarks if line.startswith("Validation: "))
        assert "VALIDATION: " in held_out.description and f"{len(held_out.test)} items" in told

    def test_a_record_made_on_validation_holds_no_test_stimulus(
        self, source: DataSource, dataset: FmriDataset, held_out: FmriDataset, tmp_path: Path
    ) -> None:
        if "fold" in type(source).model_fields:
            source = changed(source, fold=source.folds()[0])
        whole = Experiment(
            name="any",
            data=source,
            split=SplitConfig(validation=0.1),
            decoder=NearestTrainingImageDecoder(),
            evaluation=EvaluationConfig(n_way=(), classifiers=(), metrics=(PixelCorrelation(),)),
        )
        if not dataset.train.images.size:
            return  # nothing that runs in a moment decodes labels
        record = run(whole, StageCache(tmp_path))
        items = pd.read_parquet(record / "items.parquet")
        first = (items["fold"] == items["fold"].iloc[0]).to_numpy()  # each fold holds out items of its own
        assert items["stimulus"][first].tolist() == held_out.test.stimulus
        stimuli = load_file(record / "images.safetensors")["stimuli"][first]
        np.testing.assert_array_equal(stimuli, np.asarray(held_out.test.images))
        summary = (record / "summary.json").read_text()
        assert "VALIDATION" in summary and not any(name in summary for name in dataset.test.stimulus if len(name) > 3)

    def test_it_is_the_same_after_storage(self, dataset: FmriDataset, stores: Path, tmp_path: Path) -> None:
        save_dataset(dataset, tmp_path)
        same(load_dataset(tmp_path, next(stores.iterdir(), None)), dataset)


class FileSourceConformance(DataSourceConformance):
    """What also holds for a source that reads the user's files below ``path``."""

    def write(self, folder: Path, test_shift: float = 0.0) -> DataSource:
        """Write files whose test fMRI, and nothing else, is shifted; the source that reads them."""
        raise NotImplementedError

    def source_at(self, folder: Path) -> DataSource:
        return self.write(folder)

    def test_the_content_of_files_counts_and_not_their_place(
        self, source: DataSource, dataset: FmriDataset, folder: Path, stores: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(folder, tmp_path / "copy")
        copy = changed(source, path=tmp_path / "copy" / source.path.relative_to(folder))
        assert copy.identity() == source.identity()
        assert steps_of(copy).data.key == steps_of(source).data.key
        same(load(copy, stores), dataset)
        held_out = validation.load(source, 0.1, source.folds()[0], store_of(source, stores))
        (tmp_path / "edited").mkdir()
        edited = self.write(tmp_path / "edited", 3.0)
        assert edited.identity()["files"] != source.identity()["files"]
        assert edited.identity()["images"] == source.identity()["images"] or not source.stores_images
        assert steps_of(edited).data.key != steps_of(source).data.key
        shifted = load(edited, stores)  # test items decide nothing about the training set, nor about their own scale
        assert shifted.train.fmri.tobytes() == dataset.train.fmri.tobytes()
        assert (shifted.test.fmri - dataset.test.fmri).min() > 0.1
        same(validation.load(edited, 0.1, edited.folds()[0], store_of(edited, stores)), held_out)  # nor about that

    def test_a_plan_needs_no_files_and_says_what_is_missing(self, source: DataSource, tmp_path: Path) -> None:
        for path, told in ((None, "data.path is not set"), (tmp_path / "nowhere", f"{tmp_path / 'nowhere'}: no such")):
            gone = changed(source, path=path)
            assert gone.identity()["files"] == "missing" and steps_of(gone).data.key != steps_of(source).data.key
            (first, *_) = gone.missing()
            assert first.startswith(told) and source.setup and source.setup in first
            for look in (gone.check, lambda gone=gone: gone.load(gone.folds()[0])):
                with pytest.raises(UserError, match=told):
                    look()

    def test_what_arrives_later_is_found(self, folder: Path, source: DataSource, tmp_path: Path) -> None:
        later = changed(source, path=tmp_path / "later" / source.path.relative_to(folder))
        assert later.missing() and later.identity() != source.identity()
        shutil.copytree(folder, tmp_path / "later")
        assert later.missing() == [] and later.identity() == source.identity()

    def test_pools(self, source: DataSource, stores: Path, tmp_path: Path) -> None:
        assert steps_of(source).pools is None
        rest = 5 + np.random.default_rng(0).standard_normal((40, 33)).astype(np.float32)
        for name, series in (("rest", rest), ("copy", rest), ("other", rest[::-1])):
            (tmp_path / name).mkdir()
            np.save(tmp_path / name / "rest.npy", series)
        subject = [] if self.other is None else [SubjectPool(subject=self.other)]

        def pools(name: str) -> Any:
            pooled = changed(source, unlabelled=[HcpPool(path=tmp_path / name), *subject])
            pooled.check()
            assert pooled.missing() == [] and pooled.identity() == source.identity()
            return steps_of(pooled).pools

        step = pools("rest")
        assert step.key == pools("copy").key != pools("other").key
        made = step.make(None, **step.arguments)
        assert made[0].shape == (40, 33)
        for pool in made:
            np.testing.assert_allclose(pool.mean(0), 0, atol=1e-5)
            np.testing.assert_allclose(pool.std(0), 1, atol=1e-3)
        if subject:
            np.testing.assert_array_equal(made[1], load(source.of_subject(self.other), stores).train.fmri)
        gone = changed(source, unlabelled=[HcpPool(path=tmp_path / "no-pool")])
        assert any("no-pool: no such file" in line for line in gone.missing())

    def test_the_target_is_no_pool(self, source: DataSource) -> None:
        pooled = changed(source, unlabelled=[SubjectPool(subject=getattr(source, "subject", 2))])
        told = "is the target itself" if self.other else "has one subject"
        assert any(told in line for line in pooled.missing())
        with pytest.raises(UserError, match=told):
            pooled.check()


# ---------------------------------------------------------------- the sources


class TestSimulated(DataSourceConformance):
    other = 2

    def source_at(self, folder: Path) -> DataSource:
        small = dict(images_per_category=1, test_images_per_category=1, test_repetitions=2, n_unlabelled=32)
        return SimulatedData(n_voxels=128, **small)

    def test_settings_are_its_identity_and_its_pool_comes_with_it(self, source: DataSource) -> None:
        assert changed(source, brain_seed=9).identity() != source.identity()
        given = steps_of(source)
        dataset = SimpleNamespace(unlabelled=("patterns",))
        assert given.pools.make(SimpleNamespace(value=lambda step: dataset), **given.pools.arguments) == ("patterns",)
        assert steps_of(changed(source, n_unlabelled=0)).pools is None


class TestDigits69(FileSourceConformance):
    def write(self, folder: Path, test_shift: float = 0.0) -> DataSource:
        source = Digits69Data(path=folder / "digit69_28x28.mat")
        write_digits69(source.path)
        inside = digits69.fold_of_items(source, digits69.read(source)[2]) == source.folds()[0]
        write_digits69(source.path, inside, test_shift)
        return source


class TestRealDigits69(DataSourceConformance):
    @pytest.fixture(scope="class")
    def source(self, digits69_file: Path | None) -> DataSource:
        if digits69_file is None:
            pytest.skip("digits69: digit69_28x28.mat is not here (it cannot be shipped)")
        return Digits69Data(path=digits69_file)


class TestMiyawaki(FileSourceConformance):
    def write(self, folder: Path, test_shift: float = 0.0) -> DataSource:
        source = MiyawakiData(path=folder / "miyawaki_structured_28x28.mat")
        write_miyawaki(source.path)
        write_miyawaki(source.path, source.load(0).test.stimulus, test_shift)
        return source


class TestGodH5(FileSourceConformance):
    other = 2

    def write(self, folder: Path, test_shift: float = 0.0) -> DataSource:
        write_god_h5(folder / "Subject1.h5", test_shift=test_shift)
        write_god_h5(folder / "Subject2.h5", subject=2, n_voxels=15, test_shift=test_shift)
        write_image_files(folder / "images")
        return GodData(path=folder, image_size=8)


class TestGodTasks(FileSourceConformance):
    other = 2

    def write(self, folder: Path, test_shift: float = 0.0) -> DataSource:
        write_god_tasks(folder, test_shift=test_shift)
        write_god_tasks(folder, subject=2, n_voxels=15, test_shift=test_shift)
        np.savez(folder / "images_256.npz", **god_images())
        return GodData(path=folder, image_size=8)


class TestGodPackedTrials(FileSourceConformance):
    other = 2

    def write(self, folder: Path, test_shift: float = 0.0) -> DataSource:
        np.savez(folder / "sbj_1.npz", **packed_god(test_shift=test_shift))
        np.savez(folder / "sbj_2.npz", **packed_god(subject=2, n_voxels=15, test_shift=test_shift))
        np.savez(folder / "images_256.npz", **god_images())
        return GodData(path=folder, image_size=8, test_trials="single", roi=("V1", "HVC"))


class TestBold5000(FileSourceConformance):
    other = 4

    def write(self, folder: Path, test_shift: float = 0.0) -> DataSource:
        for subject, n_voxels in ((1, 3), (4, 5)):
            write_bold5000(folder, subject, n_voxels, test_shift=test_shift)
        write_bold_images(folder)
        return Bold5000Data(path=folder, image_size=8)


class TestBold5000Trials(TestBold5000):
    def write(self, folder: Path, test_shift: float = 0.0) -> DataSource:
        return changed(super().write(folder, test_shift), test_trials="single", roi=("LOC",))


class TestFolder(FileSourceConformance):
    def write(self, folder: Path, test_shift: float = 0.0) -> DataSource:
        write_folder(folder, pictures=True, test_shift=test_shift)
        return FolderData(path=folder, image_size=8)

    test_the_target_is_no_pool = None  # the subject is the folder's only one and has no name

    def test_subjects(self, source: DataSource, dataset: FmriDataset, stores: Path) -> None:
        assert source.subjects() == []
        with pytest.raises(UserError, match=r"no key 'subject', but data\.subject asks for '2'"):
            load(source.of_subject(2), stores)


class TestFolderOfSubjects(FileSourceConformance):
    other, nobody = "S2", "S3"

    def write(self, folder: Path, test_shift: float = 0.0) -> DataSource:
        for subject, n_voxels in (("S1", 7), ("S2", 9)):
            (folder / subject).mkdir()
            write_folder(folder / subject, pictures=False, test_shift=test_shift, n_voxels=n_voxels)
        assert FolderData(path=folder).subjects() == ["S1", "S2"]
        return FolderData(path=folder, subject="S1")


# ---------------------------------------------------------------- the plan


def test_a_plan_loads_no_heavy_library(tmp_path: Path) -> None:
    for subject in (1, 2):
        write_god_h5(tmp_path / f"Subject{subject}.h5", subject)
    np.savez(tmp_path / "images_256.npz", **god_images())
    code = """if True:
        import sys
        from cnd import registry
        sources = registry.classes("cnd.data")
        source = sources["god"](path=sys.argv[1], unlabelled=[{"kind": "subject", "subject": 2}])
        assert source.identity()["files"] != "missing" and source.missing() == []
        print([n for n in ("torch", "pandas", "scipy", "h5py", "nibabel", "PIL", "pyarrow") if n in sys.modules])
    """
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
