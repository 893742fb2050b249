"""Every decoder keeps what :class:`cnd.protocols.Decoder` promises."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from decoder_suite import N_TEST, SMOKE, DecoderSuite, First, reconstruct

from cnd import registry
from cnd.decoders.external import ExternalDecoder
from cnd.decoders.free_condition import FreeConditionDecoder
from cnd.decoders.icgan.decoder import IcGanDecoder
from cnd.decoders.linear_contrastive import LinearContrastiveDecoder
from cnd.decoders.mean_condition import MeanConditionDecoder
from cnd.decoders.nearest_training_image import NearestTrainingImageDecoder
from cnd.decoders.oracle import OracleDecoder
from cnd.decoders.random_class import RandomClassDecoder
from cnd.decoders.ridge import RidgeDecoder
from cnd.decoders.ridge_latents import RidgeLatentsDecoder
from cnd.decoders.ridge_pixels import RidgePixelsDecoder
from cnd.decoders.ss_ae.decoder import SsAeDecoder
from cnd.decoders.stimulus import StimulusDecoder
from cnd.experiment import override


class TestCnd(DecoderSuite):
    decoder = SMOKE.decoder

    @pytest.fixture(autouse=True)
    def _save_after_every_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that a kill meets the state of an unfinished training."""
        monkeypatch.setattr("cnd.decoders.training.StateFile.due", lambda self: self.path is not None)


class TestCndOnDrawnImages(DecoderSuite):
    """Phase 2 aims at images that the generator draws of the item's class, and at the class's condition."""

    target: ClassVar = {"stimuli": 0.5, "generated": 1, "embedding": 0.1, "n_generated": 2}
    decoder = override(SMOKE, {"decoder.phase2.target": target}, "test").decoder


class TestDcLdm(DecoderSuite):
    short: ClassVar = {"decoder.phase2.max_steps": 2, "decoder.phase2.n_checkpoints": 1, "decoder.phase2.lr": 1e-2}
    decoder = override(SMOKE, {"decoder.kind": "dc_ldm", **short}, "test").decoder


class TestRidge(DecoderSuite):
    decoder = RidgeDecoder()


class TestRidgeLatents(DecoderSuite):
    decoder = RidgeLatentsDecoder(strength=0.5)

    def test_from_noise_alone_it_is_ridge(self, first: First) -> None:
        images = reconstruct(self.experiment(decoder__strength=1), first.cache)
        assert np.array_equal(images, reconstruct(self.experiment(decoder={"kind": "ridge"}), first.cache))
        assert not np.array_equal(images, first.images)


class TestRidgePixels(DecoderSuite):
    decoder = RidgePixelsDecoder()
    seed_matters = False


class TestLinearContrastive(DecoderSuite):
    decoder = LinearContrastiveDecoder(alphas=(100.0, 10.0), n_splits=2)


class TestOracle(DecoderSuite):
    decoder = OracleDecoder()
    pairs_matter = False


class TestFreeCondition(DecoderSuite):
    decoder = FreeConditionDecoder(timestep_range=(300, 700), context_tokens=2, per_class=2, max_steps=16)
    pairs_matter = False


class TestStimulus(DecoderSuite):
    decoder = StimulusDecoder(autoencoded=True)
    seed_matters = False
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


class TestSsAe(DecoderSuite):
    decoder = SsAeDecoder(
        encoding={"width": 2, "grid": 4, "max_steps": 3, "batch_size": 4},
        decoding={"channels": (4, 4, 2, 2), "max_steps": 4, "batch_size": 4, "n_checkpoints": 2, "pools": True},
    )

    @pytest.fixture(autouse=True)
    def _save_after_every_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that a kill meets the state of an unfinished training."""
        monkeypatch.setattr("cnd.decoders.training.StateFile.due", lambda self: self.path is not None)


class TestIcGan(DecoderSuite):
    decoder = IcGanDecoder(inversion={"dense_steps": 1, "feature_loss": 0}, alphas=(1e2, 1e4), n_splits=2)
    seed_matters = False


class TestExternal(DecoderSuite):
    decoder = ExternalDecoder()
    seed_matters = False
    pairs_matter = False

    @pytest.fixture(scope="class", autouse=True)
    def _reconstructions_of_another_program(
        self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        images = np.random.default_rng(0).integers(0, 256, (N_TEST, 2, 64, 64, 3), dtype=np.uint8)
        path = tmp_path_factory.mktemp("external") / "theirs.npz"
        np.savez(path, images=images, names=SMOKE.data.load(0).test.stimulus[:N_TEST])
        request.cls.decoder = ExternalDecoder(path=path)


def test_every_decoder_is_here() -> None:
    ours = {kind for kind, part in registry.classes("cnd.decoders").items() if part.__module__.startswith("cnd.")}
    assert ours == {suite.decoder.kind for suite in DecoderSuite.__subclasses__()}
