"""Every source of chance of a training follows the trial's seed: what is drawn while a decoder learns is heard."""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import cnd
from cnd.experiment import load_experiment, override
from cnd.protocols import Noise
from cnd.steps import upstream
from cnd.workflow.bench import Workbench
from cnd.workflow.cache import StageCache
from cnd.workflow.plan import all_folds

PACKAGE = Path(cnd.__file__).parent
SMOKE = load_experiment(PACKAGE.parent / "experiments" / "smoke.yaml")
DRAWING = ("rand", "normal_", "uniform_", "bernoulli", "dropout")  # in the names of torch's functions that draw
FEWEST = 8  # numbers of a draw that is compared: fewer may be equal by chance
Draws = dict[str, list[str]]

SOURCES = {
    "cnd": {
        "cnd/phase1/model.py initialise": "initial weights of the autoencoder",
        "cnd/phase1/training.py fit": "order of the patterns",
        "cnd/phase1/model.py random_order": "masks",
        "cnd/phase1/losses.py sparsify": "voxels set to zero",
        "cnd/phase2/training.py fit": "order of the items",
        "cnd/phase2/training.py train_step": "noise and time-steps",
    },
    "ss_ae": {
        "ss_ae/model.py __init__": "initial weights",
        "ss_ae/training.py drawn_rows": "items and images of a batch",
        "ss_ae/training.py shifted": "shifts of the images",
    },
    "free_condition": {
        "cnd/phase2/free.py _losses": "noise and time-steps",
    },
}
MEASURED = {"cnd/phase1/training.py validation_loss", "cnd/phase2/training.py validation_loss"}
SAME = MEASURED | {  # measured with the same masks and noise at every call
    "cnd/phase1/model.py __init__",  # what layers draw when built: `initialise` draws it again
    "ss_ae/model.py __init__",  # of the frozen encoder, before it gets its trained weights
    "ss_ae/model.py <genexpr>",
}


class Listener(TorchFunctionMode):
    """Notes what torch draws, as hashes, by the place in the library that asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: Draws = defaultdict(list)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        off = "dropout" in name and torch.equal(result, args[0])
        if any(word in name for word in DRAWING) and isinstance(result, torch.Tensor) and not off:
            content = result.detach().cpu().contiguous().numpy().tobytes()
            asked = self.draws[_asked_by()]
            if result.numel() >= FEWEST:
                asked.append(hashlib.sha256(content).hexdigest())
        return result


def _asked_by() -> str:
    """The innermost function of the library, or the measurement that it is part of."""
    asking, frame = [], sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            asking.append(f"{path.relative_to(PACKAGE).as_posix().removeprefix('decoders/')} {frame.f_code.co_name}")
        frame = frame.f_back
    return next((place for place in asking if place in MEASURED), asking[0])


def _learned(cache: StageCache, kind: str, seed: int) -> tuple[Draws, np.ndarray]:
    """What a decoder draws while it learns, and which items are held out for validation."""
    short = {"decoder.phase1.pretrain_epochs": 0, "decoder.phase1.tune_epochs": 1, "decoder.phase2.max_steps": 2}
    edits = {"decoder.kind": kind, **(short if kind == "cnd" else {}), "seed": seed}
    if kind == "free_condition":
        edits |= {"decoder.max_steps": 2, "decoder.per_class": 1}
    experiment = override(SMOKE, edits, "test")
    (fold,), bench = all_folds(experiment), Workbench(cache)
    trained = [step for step in fold.own.values() if step.kept]
    for step in {step.key: step for own in trained for step in upstream(own)}.values():
        if step.key not in {own.key for own in trained}:
            bench.value(step)  # data and the like, common to all seeds
    with Listener() as ears:
        for step in trained:
            bench.value(step)
    return ears.draws, bench.value(fold.given.training).held


@pytest.mark.parametrize("kind", SOURCES)
def test_all_that_a_training_draws_follows_the_seed(kind: str, smoke_cache: StageCache) -> None:
    (first, held), (second, others) = (_learned(smoke_cache, kind, seed) for seed in (101, 102))
    assert set(SOURCES[kind]) <= set(first), f"not drawn: {set(SOURCES[kind]) - set(first)}; drawn: {set(first)}"
    assert all(set(first[place]) - set(second[place]) for place in SOURCES[kind])
    same = {place for place in first if set(first[place]) & set(second[place])}
    assert same <= SAME, f"the same for two seeds: {same - SAME}"
    assert not np.array_equal(held, others)  # the validation split


def test_the_noise_of_sampling_is_that_of_the_seed_whatever_the_row() -> None:
    noise = Noise(101, 2).latents(3, (4, 8, 8))
    assert torch.equal(noise, Noise(101, 2).latents(3, (4, 8, 8)))
    assert not torch.isclose(noise, Noise(102, 2).latents(3, (4, 8, 8))).any()
    steps = [all_folds(override(SMOKE, {"decoder.kind": kind, "seed": 101}, "test"))[0].sample for kind in SOURCES]
    assert [step.settings["seed"] for step in steps] == [101] * len(SOURCES)
