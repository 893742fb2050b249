"""What every decoder promises (:class:`cnd.protocols.Decoder`), as a suite to inherit.

    class TestMine(DecoderSuite):
        decoder = MyDecoder()

It takes seconds, on a part of the data of ``experiments/smoke.yaml``. A test outside this repository finds it with
``tests/conformance`` on its path.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from cnd.data.storage import load_dataset
from cnd.errors import UserError
from cnd.experiment import Experiment, load_experiment, override, parse_experiment
from cnd.generators.sampling import draw
from cnd.protocols import DataSource, Decoder, FmriDataset, FmriSplit, Noise
from cnd.workflow.bench import Workbench
from cnd.workflow.cache import StageCache
from cnd.workflow.lab import Laboratory
from cnd.workflow.plan import all_folds, can_be_analysed, has_interventions
from cnd.workflow.progress import Listener, Progress, ignore
from cnd.workflow.record import SAMPLES
from cnd.workflow.run import intervene, run
from cnd.workflow.samples import patterns

N_TRAIN, N_TEST = 50, 12  # items
SMOKE = load_experiment(Path(__file__).resolve().parents[2] / "experiments" / "smoke.yaml")


class First(NamedTuple):
    """A run of the decoder, which the other runs are compared with."""

    cache: StageCache
    images: np.ndarray
    progress: list[Progress]


class Killed(BaseException):
    """Stands for the end of the process."""


class DecoderSuite:
    """Inherit it, and say which decoder is meant."""

    decoder: ClassVar[Decoder]
    seed_matters: ClassVar[bool] = True  # False: it neither learns by chance nor draws
    pairs_matter: ClassVar[bool] = True  # False: it does not learn which fMRI goes with which label or image

    def experiment(self, **edits: Any) -> Experiment:
        """Two samples of each item; a double underscore stands for a dot."""
        changed = {name.replace("__", "."): value for name, value in edits.items()}
        return override(SMOKE, {"decoder": self.decoder.model_dump(), "sampling.samples_per_item": 2} | changed, "test")

    @pytest.fixture(scope="class")
    def first(self, tmp_path_factory: pytest.TempPathFactory) -> First:
        cache = StageCache(tmp_path_factory.getbasetemp() / "decoders")  # data and latents are common to all
        progress: list[Progress] = []
        experiment = self.experiment()
        whole = type(experiment.data).load

        def few(source: DataSource, fold: int, images: Path | None = None) -> FmriDataset:
            dataset = whole(source, fold, images)
            train, test = dataset.train.take(np.arange(N_TRAIN)), dataset.test.take(np.arange(N_TEST))
            return replace(dataset, train=train, test=test)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(experiment.data), "load", few)
            run(experiment, cache, progress.append)
        return First(cache, reconstruct(experiment, cache), progress)

    @pytest.fixture
    def empty(self, first: First, tmp_path: Path) -> StageCache:
        """A cache that has nothing of the decoder's own."""
        for name in ("data", "latents"):
            if (first.cache.root / name).exists():
                shutil.copytree(first.cache.root / name, tmp_path / name, copy_function=os.link)
        return StageCache(tmp_path)

    # ------------------------------------------------------------ settings

    def test_its_settings_survive_json(self) -> None:
        experiment = self.experiment()
        assert experiment.decoder == self.decoder
        content = json.loads(json.dumps(experiment.model_dump(mode="json")))
        assert parse_experiment(content, "record") == experiment

    def test_bad_settings_are_told_in_one_line(self) -> None:
        for name in {*type(self.decoder).model_fields, "no_such_setting"} - {"kind"}:
            with pytest.raises(UserError, match=name) as told:
                self.experiment(**{f"decoder__{name}": {"no": "such value"}})
            assert "\n" not in str(told.value)

    def test_it_misses_nothing_and_warns_in_sentences(self) -> None:
        self.decoder.check()
        assert self.decoder.missing() == []
        assert all(": " in warning and "\n" not in warning for warning in self.decoder.warnings())

    # ------------------------------------------------------------ reconstructions

    def test_every_item_and_sample_has_an_image(self, first: First) -> None:
        dataset = data_of(self.experiment(), first.cache)
        assert first.images.dtype == np.uint8
        assert first.images.shape == (N_TEST, 2, *dataset.test.images.shape[1:])

    def test_the_same_seed_gives_the_same_bytes(self, first: First, empty: StageCache) -> None:
        assert np.array_equal(reconstruct(self.experiment(), empty), first.images)

    def test_another_seed_gives_others(self, first: First) -> None:
        other = reconstruct(self.experiment(seed=1), first.cache)
        assert np.array_equal(other, first.images) is not self.seed_matters

    def test_it_never_sees_the_truth(self, first: First, empty: StageCache, monkeypatch: pytest.MonkeyPatch) -> None:
        """Labels and images of test items change nothing, unless it declares that it needs them."""
        experiment = self.experiment()

        def lie(items: FmriSplit) -> FmriSplit:
            return replace(items, images=255 - np.asarray(items.images), category=np.roll(items.category, 7))

        edit_data(monkeypatch, experiment, first.cache, lambda dataset: replace(dataset, test=lie(dataset.test)))
        shutil.rmtree(empty.root / "data")
        images = reconstruct(experiment, empty)
        assert np.array_equal(images, first.images) is not self.decoder.needs_truth

    def test_it_learns_from_the_pairs_that_it_is_given(self, first: First) -> None:
        shuffled = reconstruct(self.experiment(split__shuffle_pairs=True), first.cache)
        assert np.array_equal(shuffled, first.images) is not self.pairs_matter

    def test_what_it_decodes_steers_the_generator(self, first: First) -> None:
        """Where it declares a condition, drawing under it gives its reconstructions."""
        experiment = self.experiment()
        if not can_be_analysed(experiment):
            return
        (fold,), bench = all_folds(experiment), Workbench(first.cache)
        lab = Laboratory(bench, fold.given, fold.given.classes, experiment.generator)
        fitted: Any = self.decoder.fit(bench.value(fold.given.training), lab)
        test = bench.value(fold.given.data).test
        condition = fitted.condition(patterns(self.decoder, lab, test))
        assert len(condition.context) == len(condition.pooled) == len(test)
        assert condition.context.isfinite().all() and condition.pooled.isfinite().all()
        noise = Noise(experiment.seed, 2).latents(len(test), fitted.generator.latent_shape)
        images = draw(experiment.sampling, fitted.generator, condition.to(lab.device), noise)
        assert np.array_equal(images, first.images)

    def test_what_it_exports_has_its_condition(self, first: First, tmp_path: Path) -> None:
        """Where it declares a condition: the exported pipeline gives the same one. Else it is refused in one line."""
        from cnd.generators.pipeline import CndPipeline

        experiment = self.experiment()
        (fold,), bench = all_folds(experiment), Workbench(first.cache)
        lab = Laboratory(bench, fold.given, fold.given.classes, experiment.generator)
        test = bench.value(fold.given.data).test
        content = experiment.model_dump(mode="json")
        if not (self.decoder.learns and can_be_analysed(experiment)):
            with pytest.raises(UserError, match="cannot be exported"):
                self.decoder.export(lab, test.fmri.shape[1], content, tmp_path / "out")
            return
        try:
            self.decoder.export(lab, test.fmri.shape[1], content, tmp_path / "out")
        except UserError as refusal:  # of a package of the user's
            assert "cannot be exported" in str(refusal) and not type(self.decoder).__module__.startswith("cnd.")
            return
        pipeline = CndPipeline.from_pretrained(tmp_path / "out")
        fitted: Any = self.decoder.fit(bench.value(fold.given.training), lab)
        expected = fitted.condition(patterns(self.decoder, lab, test))
        with torch.no_grad():
            found = pipeline.condition(torch.from_numpy(test.fmri))
        for ours, theirs in zip(expected, found, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_what_it_names_as_replaceable_can_be_replaced(self, first: First) -> None:
        """Where it declares interventions: scores of every variant, and of the decoder as it is."""
        experiment = self.experiment()
        if not has_interventions(experiment):
            return
        folder = intervene(experiment, first.cache)
        scores = (
            pd.read_parquet(folder / "scores.parquet").set_index(["variant", "metric", "item"])["value"].sort_index()
        )
        summary = json.loads((folder / "summary.json").read_text())
        metric = experiment.evaluation.all_metrics()[0].name
        assert len(summary["scores"]) > 1 and summary["if_equal"].keys() <= summary["scores"].keys()
        assert all(len(scores[variant, metric]) == N_TEST for variant in summary["scores"])
        assert all(np.isfinite(value) for value in summary["measures"].values())
        record = run(experiment, first.cache)
        kept = pd.read_parquet(record / "scores.parquet").query("metric == @metric and sample == 0")
        assert scores["normal", metric].to_list() == kept.sort_values("item")["value"].to_list()

    # ------------------------------------------------------------ behaviour

    def test_progress_only_grows(self, first: First) -> None:
        fractions = [at.fraction for at in first.progress]
        assert fractions[0] >= 0 and fractions[-1] == 1 and fractions == sorted(fractions)
        assert sum(self.decoder.shares.values()) < 1
        assert {at.phase for at in first.progress} <= {"data", *self.decoder.shares, "sample", "evaluate", "done"}

    def test_a_killed_run_goes_on_to_the_same_bytes(self, first: First, empty: StageCache) -> None:
        """Killed again and again, each time after half of what was left."""
        experiment = self.experiment()
        left = len([at for at in first.progress if at.phase not in ("data", "evaluate", "done")])
        while (left := left // 2) > 0:
            with pytest.raises(Killed):
                reconstruct(experiment, empty, kill_after(left))
        assert np.array_equal(reconstruct(experiment, empty), first.images)

    @pytest.mark.parametrize("bad", ["labels without images", "a single training item"])
    def test_odd_data_is_decoded_or_refused_in_one_line(
        self, bad: str, first: First, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        experiment = self.experiment()
        monkeypatch.setattr("cnd.workflow.latents.DRAWN_STEPS", 1)  # of images that the data does not have
        few = np.arange(1 if bad == "a single training item" else 12)

        def edit(dataset: FmriDataset) -> FmriDataset:
            train, test = dataset.train.take(few), dataset.test.take(np.arange(4))
            if bad == "labels without images":
                train, test = (
                    replace(items, images=np.zeros((len(items), 0, 0, 0), np.uint8)) for items in (train, test)
                )
            return replace(dataset, train=train, test=test)

        edit_data(monkeypatch, experiment, first.cache, edit)
        try:
            images = reconstruct(experiment, StageCache(tmp_path))
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert images.shape == (4, 2, *first.images.shape[2:])


def reconstruct(experiment: Experiment, cache: StageCache, listener: Listener = ignore) -> np.ndarray:
    """Images of the test items, uint8 [item, sample, c, h, w], without scoring them."""
    bench = Workbench(cache, listener)
    folders = [bench.folder(fold.sample) for fold in all_folds(experiment)]
    return np.concatenate([load_file(folder / SAMPLES)["reconstructions"] for folder in folders])


def data_of(experiment: Experiment, cache: StageCache) -> FmriDataset:
    """The data set of the first fold, from the cache."""
    step = all_folds(experiment)[0].given.data
    return load_dataset(cache.path(step.name, step.key))


def edit_data(
    monkeypatch: pytest.MonkeyPatch,
    experiment: Experiment,
    cache: StageCache,
    edit: Callable[[FmriDataset], FmriDataset],
) -> None:
    """Have the data source give another data set."""
    edited = edit(data_of(experiment, cache))
    monkeypatch.setattr(type(experiment.data), "load", lambda self, fold, images=None: edited)


def kill_after(reports: int) -> Listener:
    """A listener that ends the process at the decoder's n-th report."""
    left = iter(range(reports - 1))

    def listen(progress: Progress) -> None:
        if progress.phase != "data" and next(left, None) is None:
            raise Killed

    return listen
