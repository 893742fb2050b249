"""Checkpoints are read without running what they hold, whatever that is; damaged ones are told in one line."""

from __future__ import annotations

import argparse
import collections
import functools
import os
import random
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cnd.checkpoint_files import Inert, open_checkpoint
from cnd.errors import UserError

WEIGHT = torch.arange(3.0)


def foreign(base: type = object) -> Any:
    """An object of a class that cannot be imported when the file is read."""
    module = ModuleType("trainer_of_others")
    module.Settings = type("Settings", (base,), {"__module__": module.__name__})  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    return module.Settings()


def written(path: Path, **more: Any) -> Path:
    torch.save({"state_dict": OrderedDict(weight=WEIGHT)} | more, path)
    sys.modules.pop("trainer_of_others", None)
    return path


class Calling:
    """Unpickled as Python does, it calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def lightning() -> dict[str, Any]:
    """What PyTorch Lightning and torch keep beside weights: callbacks by their class, schedulers, arrays."""
    settings = foreign()
    settings.lr = np.float64(1e-4)
    return {
        "callbacks": {type(settings): {"best_model_score": np.float32(0.1), "best_model_path": Path("a")}},
        "optimizer_states": [{"state": {0: {"exp_avg": WEIGHT, "step": 3}}, "param_groups": [{"betas": (0.9, 0.95)}]}],
        "hyper_parameters": argparse.Namespace(settings=settings, widths=frozenset([1]), call=functools.partial(max)),
        "losses": np.arange(3.0),
        "epoch": 3,
    }


def test_everything_but_weights_becomes_inert(tmp_path: Path) -> None:
    content, names = open_checkpoint(written(tmp_path / "a.ckpt", **lightning()), "state_dict")
    assert torch.equal(content["state_dict"]["weight"], WEIGHT) and content["epoch"] == 3
    assert {"trainer_of_others.Settings", "argparse.Namespace", "functools.partial"} <= set(names)
    settings = content["hyper_parameters"].settings
    assert type(settings) is Inert and type(settings.lr) is Inert
    assert "trainer_of_others" not in sys.modules


@pytest.mark.parametrize("function", [eval, exec, subprocess.Popen, Path.touch, os.mkdir, os.system])
def test_nothing_is_run(tmp_path: Path, function: Any) -> None:
    target = tmp_path / "was_run"
    argument = f"open({str(target)!r}, 'w')" if function in (eval, exec) else str(target)
    argument = f"touch {target}" if function is os.system else argument
    path = written(tmp_path / "a.ckpt", hidden=Calling(function, argument))
    try:
        content, _ = open_checkpoint(path, "state_dict")
    except UserError as error:  # torch bars some modules whatever stands for them
        assert "nothing was run" in str(error) and "['state_dict']" in str(error)
    else:
        assert type(content["hidden"]) is Inert
    assert not target.exists()


@pytest.mark.parametrize("value", [foreign(dict), foreign(list), collections.deque([1])])
def test_containers_of_other_kinds_are_refused_with_a_remedy(tmp_path: Path, value: Any) -> None:
    sys.modules["trainer_of_others"] = ModuleType("trainer_of_others")
    if type(value).__name__ == "Settings":
        sys.modules["trainer_of_others"].Settings = type(value)  # type: ignore[attr-defined]
        value.update(a=1) if isinstance(value, dict) else value.append(1)
    with pytest.raises(UserError, match=r"nothing was run.*\['model'\], NEW\)") as raised:
        open_checkpoint(written(tmp_path / "a.ckpt", value=value), "model")
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_pickles_are_told_and_never_a_traceback(tmp_path: Path) -> None:
    """Random bytes of the pickle are replaced; the archive's checksum is made to fit, as a crafted file's would be."""
    with zipfile.ZipFile(written(tmp_path / "a.ckpt", **lightning())) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    rng, told = random.Random(0), 0
    for _ in range(200):
        with zipfile.ZipFile(tmp_path / "b.ckpt", "w") as archive:
            for name, part in parts.items():
                damaged = bytearray(part)
                if name.endswith("data.pkl"):
                    damaged[rng.randrange(len(damaged))] = rng.randrange(256)
                archive.writestr(name, bytes(damaged))
        try:
            open_checkpoint(tmp_path / "b.ckpt", "state_dict")
        except UserError as error:
            told += 1
            assert "b.ckpt: " in str(error) and "\n" not in str(error)
    assert told > 50


def test_safetensors_and_what_is_not(tmp_path: Path) -> None:
    save_file({"weight": WEIGHT}, tmp_path / "a.safetensors")
    content, names = open_checkpoint(tmp_path / "a.safetensors", "state_dict")
    assert torch.equal(content["weight"], WEIGHT) and names == []
    for name in ("b.safetensors", "b.ckpt"):
        (tmp_path / name).write_bytes(b"<!DOCTYPE html>")
        with pytest.raises(UserError, match=rf"{name}: expected a checkpoint of tensors .*download or export it again"):
            open_checkpoint(tmp_path / name, "state_dict")
    with pytest.raises(OSError):
        open_checkpoint(tmp_path, "state_dict")
