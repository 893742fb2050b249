"""What every metric promises (:class:`cnd.protocols.Metric`), as a suite to inherit.

    class TestMine(MetricSuite):
        metric = MyMetric()

A test outside this repository finds it with ``tests/conformance`` on its path.
"""

from __future__ import annotations

import json
import re
from typing import ClassVar

import numpy as np
import pytest

from cnd.metrics.evaluation import EvaluationConfig, judge_all
from cnd.protocols import ImageArray, Metric, Truth

N_ITEMS, N_SAMPLES, N_CLASSES = 20, 3, 40


class ColourJudge:
    """Ranks classes by fixed random weights of the pixels."""

    name = "embedded"

    def probabilities(self, images: ImageArray) -> np.ndarray:
        """Softmax over classes, float64 [n, classes]."""
        flat = np.asarray(images).reshape(len(images), -1) / 255 - 0.5
        scores = flat @ np.random.default_rng(5).standard_normal((flat.shape[1], N_CLASSES))
        odds = np.exp(scores - scores.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    def features(self, images: ImageArray) -> np.ndarray:
        """Fixed random projections of the pixels, float32 [n, 30]."""
        flat = np.asarray(images).reshape(len(images), -1) / 255 - 0.5
        return (flat @ np.random.default_rng(6).standard_normal((flat.shape[1], 30))).astype(np.float32)


class MetricSuite:
    """Inherit it, and say which metric is meant."""

    metric: ClassVar[Metric]

    @pytest.fixture(scope="class")
    def stimuli(self) -> np.ndarray:
        """Smooth colour images, uint8 [item, 3, 32, 32]."""
        coarse = np.random.default_rng(0).integers(0, 256, (N_ITEMS, 3, 4, 4), dtype=np.uint8)
        return coarse.repeat(8, axis=2).repeat(8, axis=3)

    @pytest.fixture(scope="class")
    def images(self, stimuli: np.ndarray) -> np.ndarray:
        """Reconstructions, uint8 [item, sample, 3, 32, 32]: of each sample a worse one."""
        noise = np.random.default_rng(1).integers(0, 256, (N_ITEMS, N_SAMPLES, *stimuli.shape[1:]))
        share = np.linspace(0.3, 1, N_SAMPLES)[None, :, None, None, None]
        return ((1 - share) * stimuli[:, None] + share * noise).astype(np.uint8)

    def truth(self, stimuli: np.ndarray, images: np.ndarray) -> Truth:
        """All that a run knows of its test items."""
        judges = {"embedded": ColourJudge()}
        own = np.unique(judges["embedded"].probabilities(stimuli).argmax(1))
        judgements = judge_all(EvaluationConfig(), judges, stimuli, images, None, own)
        category = np.arange(len(stimuli)) // 2
        names = [f"stimulus {i}" for i in range(len(stimuli))]
        return Truth(names, category, [str(c) for c in set(category)], judgements, judges)

    def score(self, stimuli: np.ndarray, images: np.ndarray) -> np.ndarray:
        """[item, sample]."""
        return self.metric.score(stimuli, images, self.truth(stimuli, images))

    def test_it_describes_itself(self) -> None:
        told = json.loads(json.dumps(self.metric.describe()))
        assert re.fullmatch(r"[\w/. -]+", told["name"])  # MLflow refuses other characters
        assert told["title"] and told["low"] < told["high"] and isinstance(told["higher_is_better"], bool)
        assert told["chance"] is None or told["low"] <= told["chance"] <= told["high"]

    def test_what_it_decides_among_is_told_with_its_number(self, stimuli: np.ndarray, images: np.ndarray) -> None:
        told = self.metric.describe(self.truth(stimuli, images))
        assert told["among"] == "" or re.search(r"\d", told["among"])
        assert told["among"] or told["chance"] is None  # a chance level is that of a choice

    def test_its_settings_survive_json(self) -> None:
        config = EvaluationConfig(metrics=(self.metric,), truth="label" if self.metric.needs_labels else "classifier")
        assert EvaluationConfig.model_validate(json.loads(config.model_dump_json())) == config

    def test_scores_are_by_item_and_sample_within_bounds(self, stimuli: np.ndarray, images: np.ndarray) -> None:
        found = self.score(stimuli, images)
        assert found.shape == (N_ITEMS, N_SAMPLES) and found.dtype == np.float64
        low, high = self.metric.bounds
        defined = found[~np.isnan(found)]
        assert len(defined) and low <= defined.min() and defined.max() <= high
        assert np.array_equal(found, self.score(stimuli, images), equal_nan=True)

    def test_nothing_scores_better_than_the_stimulus_itself(self, stimuli: np.ndarray, images: np.ndarray) -> None:
        perfect = self.score(stimuli, np.repeat(stimuli[:, None], N_SAMPLES, axis=1))
        sign = 1 if self.metric.higher_is_better else -1
        best, found = sign * perfect, sign * self.score(stimuli, images)
        assert (best[~np.isnan(best)] >= np.nanmax(found) - 1e-9).all()
        assert np.nanmean(found[:, 0]) > np.nanmean(found[:, -1])  # nearer to the stimulus is better
        if (chance := self.metric.chance()) is not None:
            assert np.nanmean(best) > sign * chance

    def test_samples_of_an_item_are_scored_each_by_itself(self, stimuli: np.ndarray, images: np.ndarray) -> None:
        found = self.score(stimuli, images)
        alone = self.score(stimuli, images[:, 1:2])
        np.testing.assert_allclose(alone[:, 0], found[:, 1], rtol=1e-6)

    def test_pairings_are_the_scores_of_every_reconstruction_against_every_item(
        self, stimuli: np.ndarray, images: np.ndarray
    ) -> None:
        """By brute force: reconstructions moved on by one item after the other; unmoved, they are the scores."""
        found = self.metric.pairings(stimuli, images, self.truth(stimuli, images))
        if found is None:
            return
        assert found.scores.shape == (len(found.item), found.target.max() + 1)
        place = {int(item): row for row, item in enumerate(found.item)}
        for shift in range(N_ITEMS):
            scores = self.score(stimuli, np.roll(images, shift, axis=0)).mean(axis=1)
            assert set(np.flatnonzero(~np.isnan(scores))) == set(place)  # an item of no class has no score
            for item, row in place.items():
                if (of := (item - shift) % N_ITEMS) in place:
                    assert found.scores[place[of], found.target[row]] == pytest.approx(scores[item], abs=1e-6)
