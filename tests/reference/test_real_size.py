"""The benchmark at real size: its cases run, and its large networks are the published ones."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "real_size.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_size", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_case_runs_small(script: ModuleType) -> None:
    for name in script.CASES:
        found = script.measure(name, quick=True, steps=1)
        assert found["seconds"] > 0 and 0.1 < found["peak"] < 10 and found["what"].startswith("batch 8"), name


def test_unet_has_the_published_size(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """cin256-v2's UNet has 400.92 M parameters; LDM prints it."""
    monkeypatch.setattr(script, "device", lambda: torch.device("meta"))
    with torch.device("meta"):
        unet = script.random_generator(script.REAL, quick=False).unet
    assert sum(p.numel() for p in unet.parameters()) / 1e6 == pytest.approx(400.92, abs=0.01)


def test_each_case_is_measured_in_a_process_of_its_own(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "measure", lambda *a: pytest.fail("measured in the process of the command"))
    only = ["--quick", "--steps", "1", "--only", "phase1, bfloat16, check"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *only])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "fastest of 1 steps" in lines[0]
    assert lines[1].startswith("phase1, bfloat16, checkpointing") and "s/step" in lines[1] and "GB" in lines[1]


@pytest.mark.parametrize(
    ("code", "stderr", "outcome"),
    [
        (-9, "", None),
        (1, "RuntimeError: not enough memory", None),
        (1, "Traceback\nMemoryError", None),
        (1, "TypeError: a fault", SystemExit),
        (1, "  x.to(memory_format=f)\nTypeError: a fault", SystemExit),
    ],
)
def test_too_little_memory_is_told_from_a_fault(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, code: int, stderr: str, outcome: Any
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess([], code, "", stderr))
    options = argparse.Namespace(quick=True, steps=1, memory=None)
    if outcome is None:
        assert script.run_apart("phase1, float32", options) is None
    else:
        with pytest.raises(outcome, match="a fault"):
            script.run_apart("phase1, float32", options)


def test_the_cpu_is_measured_beside_a_gpu(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def run(command: list[str], env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append((env.get("CUDA_VISIBLE_DEVICES"), "--memory" in command))
        return subprocess.CompletedProcess([], -9, "", "")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(script, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--only", "phase1, float32, m", "--memory", "16"])
    script.main()
    assert seen == [("", True), (None, False)]  # on the GPU without the limit, which CUDA would not survive
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()[::2]] == [
        "CPU",
        "a GPU; fastest of 2 steps",
    ]


def test_no_such_case_is_told(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--only", "phase3"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "--only phase3: no case has this in its name" in capsys.readouterr().err
