"""The benchmarks of speed: every part runs, small; what a straightforward script computes is what we compute."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    yield importlib.import_module
    for name in {"full_size", "gpu", "phase1", "real_size"} & (set(sys.modules) - before):
        del sys.modules[name]


@pytest.fixture
def full_size(load: Any) -> ModuleType:
    module: ModuleType = load("full_size")
    return module


def test_every_part_runs_small(
    full_size: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["full_size.py", "--quick", "--repeats", "1"])
    full_size.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["phase1"] * 4 + ["phase2"] * 3 + ["sampling"] * 2 + ["fused"] * 2
    assert all("ratio" in line for line in lines)


def test_the_script_and_we_compute_the_same_loss(full_size: ModuleType) -> None:
    """With dropped masks and noise set equal, by phase1.py's own two steps."""
    small, size = full_size.small, full_size.real_size.QUICK
    model = full_size.MaskedAutoencoder(size["encoder"], size["voxels"])
    plain = full_size.copy.deepcopy(model)
    fmri, config = torch.randn(4, size["voxels"]), full_size.Phase1Config(batch_size=4)
    script, ours = small.naive_step(plain, fmri, config, 0), small.our_step(model, fmri, config, 0)
    torch.testing.assert_close(script, ours, rtol=1e-4, atol=1e-5)


def test_every_part_of_the_gpu_benchmark_runs_small(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU; compiling, which takes minutes, is left out, and one part fails without taking the rest along."""
    gpu = load("gpu")
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    parts = gpu.Parts(torch.device("cpu"), quick=True)
    sampling = parts.sampling

    def short_of_memory(precision: str, compiled: bool) -> Any:
        if precision == "bfloat16":
            raise torch.OutOfMemoryError("CUDA out of memory.\nmore")
        return sampling(precision, compiled)

    monkeypatch.setattr(parts, "sampling", short_of_memory)
    lines = list(gpu.measure(parts, "", repeats=1))
    assert [line.split()[0] for line in lines] == ["phase1"] * 4 + ["phase2"] * 4 + ["sampling"] * 4 + ["fused"] * 8
    failed = [line for line in lines if "failed" in line]
    assert len(failed) == 2 and all(line.endswith("failed: OutOfMemoryError: CUDA out of memory.") for line in failed)
    assert len(compiled) == 2 * 2 + 2 + 1


def test_without_a_gpu_it_says_so(
    load: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = load("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    gpu.main()
    assert "no GPU here" in capsys.readouterr().out
