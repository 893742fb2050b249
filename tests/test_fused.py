"""Several runs with one UNet between them, against the same runs alone."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from tiny_generator import tiny_generator

from cnd.decoders.cnd.phase2.step import MODULE
from cnd.experiment import Experiment, load_experiment, override
from cnd.generators.latent_diffusion import LatentDiffusion
from cnd.generators.shared import Meeting, Seat, SharedRunError
from cnd.json_files import read_json
from cnd.protocols import Condition, Generator
from cnd.workflow import run as workflow
from cnd.workflow.cache import StageCache
from cnd.workflow.plan import steps
from cnd.workflow.progress import Progress
from cnd.workflow.run import run_together, together

SMOKE = load_experiment(Path(__file__).resolve().parents[1] / "experiments" / "smoke.yaml")


def edited(**edits: Any) -> Experiment:
    return override(SMOKE, {name.replace("__", "."): value for name, value in edits.items()}, "test")


def folders(cache: StageCache, experiment: Experiment) -> dict[str, Path]:
    return {step.name: cache.path(step.name, step.key) for step in steps(experiment)}


def outcomes(experiments: dict[str, Experiment], cache: StageCache) -> dict[str, Path | Exception]:
    counted = Counter((step.name, step.key) for e in experiments.values() for step in steps(e))
    events = run_together(experiments, cache, frozenset(step for step, n in counted.items() if n == 1))
    return {name: event for name, event in events if not isinstance(event, Progress)}


ROWS = {"plain": edited(seed=5), "deep": edited(seed=5, phase2__concept_depth=2), "other": edited(seed=6)}


def test_fused_runs_are_the_single_ones_but_for_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are compared where Adam does not turn rounding of gradients near zero into steps: losses, images."""
    rows: list[int] = []
    predict = LatentDiffusion.predict_noise
    monkeypatch.setattr(LatentDiffusion, "predict_noise", lambda s, z, *a: rows.append(len(z)) or predict(s, z, *a))
    fused, single = StageCache(tmp_path / "fused"), StageCache(tmp_path / "single")
    found = outcomes(ROWS, fused)
    assert found == {name: folders(fused, e)["record"] for name, e in ROWS.items()}
    assert rows[0] == 24 and 45 in rows  # three trials of 8 items, and those held out
    assert sum(n == 24 for n in rows) == SMOKE.decoder.phase2.max_steps
    assert max(rows) == 3 * 50  # sampling, too
    for experiment in ROWS.values():
        workflow.run(experiment, single)
        ours, alone = folders(fused, experiment), folders(single, experiment)
        history, expected = (pd.read_parquet(f["record"] / "history.parquet") for f in (ours, alone))
        assert history.drop(columns="value").equals(expected.drop(columns="value"))
        np.testing.assert_allclose(history["value"], expected["value"], rtol=1e-5)
        images, same = (load_file(f["sample"] / "samples.safetensors") for f in (ours, alone))
        difference = np.abs(images["reconstructions"].astype(int) - same["reconstructions"])
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-2
        np.testing.assert_allclose(images["attention"], same["attention"], rtol=1e-4)
        np.testing.assert_array_equal(*(load_file(f["phase1"] / "model.safetensors")["encoder.class_token"]
                                        for f in (ours, alone)))  # fmt: skip
        assert read_json(ours["phase2"] / "info.json")["fused"] == 3
        assert read_json(ours["sample"] / "info.json")["fused"] == 3
        assert all("fused" not in read_json(f / "info.json") for f in (ours["phase1"], alone["phase2"]))


def test_the_same_fused_runs_give_the_same_bytes(tmp_path: Path) -> None:
    weights = []
    for name in ("first", "second"):
        cache = StageCache(tmp_path / name)
        outcomes({name: ROWS[name] for name in ("plain", "deep")}, cache)
        weights.append([(folders(cache, ROWS[name])["phase2"] / MODULE).read_bytes() for name in ("plain", "deep")])
    assert weights[0] == weights[1]


def test_a_row_that_fails_leaves_the_others(
    smoke_cache: StageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN enters the UNet beside another trial's rows, and the trial stops; the other is as it is alone."""
    bad = edited(seed=7, phase2__lr=1e30)
    good = edited(seed=8)
    found = outcomes({"bad": bad, "good": good}, tmp_cache := StageCache(tmp_path / "cache"))
    assert isinstance(found["bad"], FloatingPointError) and isinstance(found["good"], Path)
    workflow.run(good, smoke_cache)
    ours, alone = (folders(c, good)["record"] / "history.parquet" for c in (tmp_cache, smoke_cache))
    np.testing.assert_allclose(pd.read_parquet(ours)["value"], pd.read_parquet(alone)["value"], rtol=1e-5)


def test_a_failure_of_the_joint_run_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(self: LatentDiffusion, noisy: torch.Tensor, *rest: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(LatentDiffusion, "predict_noise", predict)
    found = outcomes({name: ROWS[name] for name in ("plain", "deep")}, StageCache(tmp_path))
    assert all(isinstance(error, SharedRunError) and "out of memory" in str(error) for error in found.values())


def test_who_may_run_together() -> None:
    assert together(SMOKE) == together(ROWS["deep"]) is not None
    assert together(SMOKE) != together(edited(phase2__batch_size=4))
    assert together(edited(phase2__train_unet_cross_attention=True)) is None
    assert together(edited(decoder__kind="ridge")) is None


# ---------------------------------------------------------------- gradients


def conditions(n: int, seed: int) -> Condition:
    rng = torch.Generator().manual_seed(seed)
    return Condition(*(torch.randn(n, *shape, generator=rng).requires_grad_() for shape in ((3, 8), (8,))))


def one_step(generator: Generator, condition: Condition, n: int, seed: int) -> list[torch.Tensor]:
    """Gradients of a loss that depends on the condition through the UNet and beside it."""
    noisy = torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(100 + seed))
    scaled = Condition(*(part * 2 for part in condition))
    predicted = generator.predict_noise(noisy, torch.arange(n) * 100, scaled)
    generator.backward(predicted.square().mean() * (1 + seed) + scaled.pooled.square().sum() * 0.1)
    return [part.grad for part in condition]


def test_gradients_do_not_mix() -> None:
    sizes, meeting, found = (4, 4, 2), Meeting(present=3), {}
    generator = tiny_generator()

    def trial(seat: int, n: int) -> None:
        with meeting.attend():
            found[seat] = one_step(Seat(meeting, seat).share(generator), conditions(n, seat), n, seat)

    threads = [threading.Thread(target=trial, args=place) for place in enumerate(sizes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for seat, n in enumerate(sizes):
        expected = one_step(generator, conditions(n, seat), n, seat)
        for ours, alone in zip(found[seat], expected, strict=True):
            torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-7)
