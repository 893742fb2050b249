"""Every metric keeps what :class:`cnd.protocols.Metric` promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from decoder_suite import SMOKE
from metric_suite import MetricSuite
from safetensors import safe_open

from cnd import registry
from cnd.data.simulated import SimulatedData
from cnd.experiment import override
from cnd.generators.embedded import EmbeddedGenerator
from cnd.json_files import read_json
from cnd.metrics.accuracy import Accuracy
from cnd.metrics.evaluation import best_of_samples, mean_scores, score_table
from cnd.metrics.features.comparison import FeatureDistance, Retrieval, TwoWayIdentification
from cnd.metrics.identification import Identification
from cnd.metrics.nway import NWay
from cnd.metrics.pixels import PixelCorrelation, StructuralSimilarity
from cnd.protocols import FmriDataset, FmriSplit, Truth
from cnd.workflow.cache import StageCache
from cnd.workflow.run import run


class TestNWay(MetricSuite):
    metric = NWay(n=10, top_k=2)


class TestNWayAmongClasses(MetricSuite):
    metric = NWay(n=3, classes=tuple(range(0, 40, 3)))


class TestNWayAmongTheDatasClasses(MetricSuite):
    metric = NWay(n=3, candidates="dataset")


class TestAccuracy(MetricSuite):
    metric = Accuracy()


class TestPixelCorrelation(MetricSuite):
    metric = PixelCorrelation()


class TestIdentification(MetricSuite):
    metric = Identification(n=5)


class TestStructuralSimilarity(MetricSuite):
    metric = StructuralSimilarity()


class TestTwoWayIdentification(MetricSuite):
    metric = TwoWayIdentification()


class TestTwoWayIdentificationByCategory(MetricSuite):
    metric = TwoWayIdentification(accept="category")


class TestFeatureDistance(MetricSuite):
    metric = FeatureDistance()


class TestRetrieval(MetricSuite):
    metric = Retrieval(pool=10)


class TestBackwardRetrieval(MetricSuite):
    metric = Retrieval(direction="backward", pool=10)


def test_every_metric_is_here() -> None:
    ours = {kind for kind, part in registry.classes("cnd.metrics").items() if part.__module__.startswith("cnd.")}
    assert ours == {suite.metric.kind for suite in MetricSuite.__subclasses__()}


def test_a_metric_that_is_defined_nowhere_has_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that compares pixels, where the data has labels only."""
    monkeypatch.setattr(NWay, "score", lambda self, stimuli, images, truth: np.full(images.shape[:2], np.nan))
    images, metric = np.zeros((3, 2, 1, 4, 4), dtype=np.uint8), NWay(n=2)
    scores = score_table([metric], images[:, 0], images, Truth(["a", "b", "c"], np.arange(3), ["a", "b", "c"]))
    assert len(scores) == 6 and mean_scores(scores) == best_of_samples(scores, [metric]) == {}


def two_items(source: SimulatedData, fold: int, images: Path | None = None) -> FmriDataset:
    """A fold with two items for training and two for the test, of the classes ``fold`` and ``fold + 1``."""
    rng = np.random.default_rng(fold)

    def split() -> FmriSplit:
        pictures = rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
        return FmriSplit(
            rng.standard_normal((2, 9), dtype=np.float32), pictures, np.array([fold, fold + 1]), ["a", "b"]
        )

    return FmriDataset(split(), split(), (), EmbeddedGenerator().class_names(), "two folds", simulated=True)


def test_folds_are_scored_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric sees the items of all folds at once, as retrieval among them needs."""
    monkeypatch.setattr(SimulatedData, "folds", lambda self: [0, 1])
    monkeypatch.setattr(SimulatedData, "load", two_items)
    asked, score = [], NWay.score
    monkeypatch.setattr(NWay, "score", lambda self, *given: asked.append(len(given[1])) or score(self, *given))
    edits = {"decoder.kind": "nearest_training_image", "evaluation.truth": "label", "evaluation.n_way": [2, 5]}
    record = run(override(SMOKE, edits, "test"), StageCache(tmp_path))
    items = pd.read_parquet(record / "items.parquet")
    assert asked == [4, 4]  # of 2 and of 5 ways
    assert list(items["fold"]) == [0, 0, 1, 1] and list(items["item"]) == [0, 1, 2, 3]
    assert list(items["truth"]) == list(items["category"]) == [0, 1, 1, 2]
    with safe_open(record / "pairings.safetensors", framework="numpy") as kept:
        assert kept.metadata() == {"metric": "nway2_top1"}
        item, target, pairs = (kept.get_tensor(name) for name in ("item", "target", "scores"))
    assert list(item) == [0, 1, 2, 3] and list(target) == [0, 1, 1, 2] and pairs.dtype == np.float32
    scores = pd.read_parquet(record / "scores.parquet").query("metric == 'nway2_top1'").groupby("item")["value"].mean()
    np.testing.assert_allclose(pairs[item, target], scores, rtol=1e-6)


def test_the_classes_of_the_data_set_are_the_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all folds together: 0, 1 and 2 of the judge's 200. Scores and chance are counted by hand from what it says."""
    monkeypatch.setattr(SimulatedData, "folds", lambda self: [0, 1])
    monkeypatch.setattr(SimulatedData, "load", two_items)
    edits = {"decoder.kind": "nearest_training_image", "evaluation.truth": "label", "evaluation.n_way": [2, 3]}
    edits |= {"evaluation.candidates": "dataset", "evaluation.metrics": [{"kind": "nway", "n": 2}]}
    config = override(SMOKE, edits, "test")
    record = run(config, StageCache(tmp_path))
    facts = {metric["name"]: metric for metric in read_json(record / "summary.json")["metrics"]}
    own, judge = "the 3 classes of the data set", "the 200 classes of judge 'embedded'"
    names = ["nway2_top1_of_dataset", "nway3_top1_of_dataset", "accuracy", "nway2_top1"]
    assert [(name, facts[name]["among"]) for name in facts] == list(zip(names, [own, own, own, judge], strict=True))
    assert facts["accuracy"]["chance"] == pytest.approx(1 / 3)
    with safe_open(record / "images.safetensors", framework="numpy") as kept:
        drawn = kept.get_tensor("reconstructions")[:, 0]
    said = config.evaluation.classifiers[0].of(config.generator).load().probabilities(drawn)
    label = pd.read_parquet(record / "items.parquet")["truth"].to_numpy()
    assert list(label) == [0, 1, 1, 2]
    scores = pd.read_parquet(record / "scores.parquet").pivot(index="item", columns="metric", values="value")
    below = (said[:, :3] < said[np.arange(4), label][:, None]).sum(1)
    np.testing.assert_array_equal(scores["accuracy"], below == 2)
    np.testing.assert_array_equal(scores["nway3_top1_of_dataset"], scores["accuracy"])
    np.testing.assert_allclose(scores["nway2_top1_of_dataset"], below / 2)
    ranks = pd.read_parquet(record / "ranks.parquet")
    assert set(ranks["n_classes"]) == {3} and list(ranks["above"]) == list(2 - below)
