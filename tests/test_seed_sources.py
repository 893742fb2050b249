"""Every source of chance of a training follows the trial's seed: what is drawn, where, and with which numbers."""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import cnd
from cnd.experiment import load_experiment, override
from cnd.steps import upstream
from cnd.workflow.bench import Workbench
from cnd.workflow.cache import StageCache
from cnd.workflow.plan import all_folds

PACKAGE = Path(cnd.__file__).parent
SMOKE = load_experiment(PACKAGE.parent / "experiments" / "smoke.yaml")
DRAWING = ("rand", "normal_", "uniform_", "bernoulli", "multinomial", "dropout")  # how names of what draws begin
MADE_ONCE = {"data", "latents", "images", "pools", "drawn"}  # common to all seeds
Draws = dict[str, list[str]]

INITIAL = "cnd/phase1/model.py initialise"
PHASE1 = {
    INITIAL: "initial weights",
    "cnd/phase1/training.py fit": "order of the patterns",
    "cnd/phase1/model.py random_mask": "masks",
}
PHASE2 = {
    "cnd/phase2/training.py fit": "order of the items",
    "cnd/phase2/training.py train_step": "noise and time-steps",
}
MEASURED = "validation_loss"  # with the same noise at every call and for every seed: it only measures


class Listener(TorchFunctionMode):
    """Notes what torch draws, as hashes by the place in the library that asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: Draws = defaultdict(list)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "").startswith(DRAWING) and isinstance(result, torch.Tensor):
            content = result.detach().cpu().contiguous().numpy().tobytes()
            self.draws[_asked_by()].append(hashlib.sha256(content).hexdigest())
        return result


def _asked_by() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE).as_posix().removeprefix('decoders/')} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


@contextmanager
def _listening() -> Iterator[Draws]:
    with Listener() as ears:
        yield ears.draws


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> StageCache:
    return StageCache(tmp_path_factory.mktemp("seeds"))


def _trained(cache: StageCache, seed: int, **edits: Any) -> tuple[Draws, np.ndarray]:
    """What the trainings of a decoder draw, and the items held out for validation."""
    experiment = override(SMOKE, {**{k.replace("__", "."): v for k, v in edits.items()}, "seed": seed}, "test")
    (fold,), bench = all_folds(experiment), Workbench(cache)
    for step in upstream(fold.sample):
        if step.name in MADE_ONCE:
            bench.value(step)
    with _listening() as draws:
        for step in upstream(fold.sample):
            if step.name in fold.own and step.name not in MADE_ONCE:
                bench.value(step)
    return draws, bench.value(fold.given.training).held


def test_show(common: StageCache) -> None:
    import time

    for kind in ({}, {"decoder__kind": "dc_ldm"}, {"decoder__kind": "ss_ae"}, {"decoder__kind": "free_condition"}):
        t = time.time()
        draws, held = _trained(common, 0, **kind)
        print(kind, {k: len(v) for k, v in draws.items()}, held, time.time() - t)
    assert 0
