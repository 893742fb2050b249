"""One suite for every judge: what :class:`cnd.protocols.Judge` and its settings promise."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cnd import registry
from cnd.generators.embedded import EmbeddedGenerator
from cnd.metrics.evaluation import EvaluationConfig
from cnd.metrics.judges.embedded import EmbeddedClassifier
from cnd.metrics.judges.networks import ImageClassifier
from cnd.metrics.judges.timm import TimmClassifier
from cnd.protocols import GeneratorChoice, Judge, JudgeChoice

import timm  # isort: skip  # importable since the lines above


class JudgeSuite:
    """Inherit it, and give the settings of two judges, beside their generators, with weights that differ."""

    channels = 3

    @pytest.fixture(scope="class")
    def two(self, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[JudgeChoice, GeneratorChoice]]:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def choice(self, two: list[tuple[JudgeChoice, GeneratorChoice]]) -> JudgeChoice:
        choice, generator = two[0]
        return choice.of(generator)

    @pytest.fixture(scope="class")
    def judge(self, choice: JudgeChoice) -> Judge:
        return choice.load()

    def images(self, channels: int) -> np.ndarray:
        size = (5, channels, 64, 64)
        return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)

    def test_its_settings_survive_json(self, two: list[tuple[JudgeChoice, GeneratorChoice]]) -> None:
        config = EvaluationConfig(classifiers=(two[0][0],))
        assert EvaluationConfig.model_validate(json.loads(config.model_dump_json())) == config

    def test_it_gives_probabilities_of_all_its_classes(
        self, judge: Judge, two: list[tuple[JudgeChoice, GeneratorChoice]]
    ) -> None:
        choice, generator = two[0]
        found = judge.probabilities(self.images(self.channels))
        assert found.shape == (5, choice.n_classes(generator)) and found.dtype == np.float64
        assert (found > 0).all() and len(np.unique(found)) > 1
        np.testing.assert_allclose(found.sum(1), 1)

    def test_it_judges_each_image_by_itself_and_always_alike(self, judge: Judge) -> None:
        images = self.images(self.channels)
        together = judge.probabilities(images)
        assert np.array_equal(judge.probabilities(images), together)
        np.testing.assert_allclose(judge.probabilities(images[2:3]), together[2:3], rtol=1e-4)

    def test_batches_do_not_change_the_result(self, judge: ImageClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
        together = judge.probabilities(self.images(self.channels))
        monkeypatch.setattr(judge, "batch", 2)
        np.testing.assert_allclose(judge.probabilities(self.images(self.channels)), together, rtol=1e-4)

    def test_its_features_are_of_each_image_in_any_batch(
        self, judge: ImageClassifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And they are what the last layer makes the classes of: a second batch has its own."""
        images = self.images(self.channels)
        features = judge.features(images)
        assert features.ndim == 2 and len(features) == 5 and features.dtype == np.float32
        monkeypatch.setattr(judge, "batch", 2)
        np.testing.assert_allclose(judge.features(images), features, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            by_hand = judge.network.get_classifier()(torch.from_numpy(features).to(next(judge.network.parameters())))
        np.testing.assert_allclose(by_hand.double().softmax(1).cpu(), judge.probabilities(images), rtol=1e-3)

    def test_grey_images_are_their_rgb_copies(self, judge: Judge) -> None:
        grey = self.images(1)
        np.testing.assert_allclose(judge.probabilities(grey), judge.probabilities(grey.repeat(3, 1)), rtol=1e-5)

    def test_its_name_is_what_scores_are_kept_by(
        self, judge: Judge, two: list[tuple[JudgeChoice, GeneratorChoice]]
    ) -> None:
        assert judge.name == two[0][0].label

    def test_it_is_identified_by_its_weights(self, two: list[tuple[JudgeChoice, GeneratorChoice]]) -> None:
        found = [choice.of(generator) for choice, generator in two]
        first, other = (json.dumps(choice.identity()) for choice in found)
        assert first != other and first == json.dumps(found[0].identity())
        assert found[0].missing() == []


class TestEmbedded(JudgeSuite):
    @pytest.fixture(scope="class")
    def two(self) -> list[tuple[JudgeChoice, GeneratorChoice]]:
        return [(EmbeddedClassifier(), EmbeddedGenerator(name=name)) for name in ("simulated", "digits")]


class TestTimm(JudgeSuite):
    @pytest.fixture(scope="class")
    def two(self, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[JudgeChoice, GeneratorChoice]]:
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("weights")
        for name in ("first", "other"):
            save_file(timm.create_model("test_vit").state_dict(), folder / f"{name}.safetensors")
        choices = (TimmClassifier(name="test_vit", weights=folder / f"{n}.safetensors") for n in ("first", "other"))
        return [(choice, EmbeddedGenerator()) for choice in choices]


def test_every_judge_is_here() -> None:
    assert len(registry.classes("cnd.judges")) == len(JudgeSuite.__subclasses__())
