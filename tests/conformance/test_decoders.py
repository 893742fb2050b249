"""Every decoder keeps what :class:`cnd.protocols.Decoder` promises."""

from __future__ import annotations

import pytest
from decoder_suite import SMOKE, DecoderSuite

from cnd import registry


class TestCnd(DecoderSuite):
    settings = SMOKE.decoder.model_dump()

    @pytest.fixture(autouse=True)
    def _save_after_every_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that a kill meets the state of an unfinished training."""
        monkeypatch.setattr("cnd.decoders.training.StateFile.due", lambda self: self.path is not None)


class TestRidge(DecoderSuite):
    settings = {"kind": "ridge"}


class TestOracle(DecoderSuite):
    settings = {"kind": "oracle"}
    pairs_matter = False


class TestMeanCondition(DecoderSuite):
    settings = {"kind": "mean_condition"}
    pairs_matter = False


class TestRandomClass(DecoderSuite):
    settings = {"kind": "random_class"}
    pairs_matter = False


class TestNearestTrainingImage(DecoderSuite):
    settings = {"kind": "nearest_training_image"}
    seed_matters = False


def test_every_decoder_is_here() -> None:
    ours = {kind for kind, part in registry.classes("cnd.decoders").items() if part.__module__.startswith("cnd.")}
    assert ours == {suite.settings["kind"] for suite in DecoderSuite.__subclasses__()}
