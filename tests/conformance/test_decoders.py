"""Every decoder keeps what :class:`cnd.protocols.Decoder` promises."""

from __future__ import annotations

import pytest
from decoder_suite import SMOKE, DecoderSuite

from cnd import registry
from cnd.decoders.mean_condition import MeanConditionDecoder
from cnd.decoders.nearest_training_image import NearestTrainingImageDecoder
from cnd.decoders.oracle import OracleDecoder
from cnd.decoders.random_class import RandomClassDecoder
from cnd.decoders.ridge import RidgeDecoder


class TestCnd(DecoderSuite):
    decoder = SMOKE.decoder

    @pytest.fixture(autouse=True)
    def _save_after_every_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that a kill meets the state of an unfinished training."""
        monkeypatch.setattr("cnd.decoders.training.StateFile.due", lambda self: self.path is not None)


class TestRidge(DecoderSuite):
    decoder = RidgeDecoder()


class TestOracle(DecoderSuite):
    decoder = OracleDecoder()
    pairs_matter = False


class TestMeanCondition(DecoderSuite):
    decoder = MeanConditionDecoder()
    pairs_matter = False


class TestRandomClass(DecoderSuite):
    decoder = RandomClassDecoder()
    pairs_matter = False


class TestNearestTrainingImage(DecoderSuite):
    decoder = NearestTrainingImageDecoder()
    seed_matters = False


def test_every_decoder_is_here() -> None:
    ours = {kind for kind, part in registry.classes("cnd.decoders").items() if part.__module__.startswith("cnd.")}
    assert ours == {suite.decoder.kind for suite in DecoderSuite.__subclasses__()}
