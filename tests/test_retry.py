"""Trials that are run again: those short of memory, and those that failed."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import fake_pipeline
import numpy as np
import pandas as pd
import pytest
import serial_executor
import torch

from cnd.experiment import load_experiment
from cnd.generators.latent_diffusion import LatentDiffusion
from cnd.generators.shared import SharedRunError
from cnd.json_files import read_json
from cnd.protocols import SamplingConfig
from cnd.workflow.cache import StageCache
from cnd.workflow.run import run
from cnd.workflow.splitting import in_parts
from sweeps import retry, session
from sweeps.executor import Job, Resources
from sweeps.run import main

ROOT = Path(__file__).resolve().parents[1]
SMOKE = load_experiment(ROOT / "experiments" / "smoke.yaml")


# ---------------------------------------------------------------- in parts


def test_a_run_without_room_for_its_batch_is_the_same_in_parts(
    smoke_cache: StageCache, smoke_record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The UNet has room for four items that are learned from, of a batch of eight; Phase 1 was done before."""
    predict = LatentDiffusion.predict_noise

    def limited(self: LatentDiffusion, noisy: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(noisy) > 4 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return predict(self, noisy, *rest)

    monkeypatch.setattr(LatentDiffusion, "predict_noise", limited)
    cache = StageCache(tmp_path)
    for done in ("data", "latents", "findings", "pretrain", "phase1"):
        shutil.copytree(smoke_cache.root / done, tmp_path / done)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        run(SMOKE, cache)
    assert retry.lacked_memory(raised.value)
    found = run(SMOKE, cache, micro_batches=2)
    assert found.name == smoke_record.name  # the key
    expected, summary = (read_json(folder / "summary.json") for folder in (smoke_record, found))
    assert summary["micro_batches"] == {"phase2": 2} and expected["micro_batches"] == {}
    assert "Short of memory: batches of phase2 in 2 parts." in summary["remarks"][-1]
    assert not any("memory" in remark for remark in expected["remarks"])
    ours, theirs = (pd.read_parquet(folder / "history.parquet") for folder in (found, smoke_record))
    assert ours.drop(columns="value").equals(theirs.drop(columns="value"))
    np.testing.assert_allclose(ours["value"], theirs["value"], rtol=1e-5)


def test_only_what_is_in_memory_at_once_is_divided() -> None:
    phase1, phase2 = SMOKE.decoder.phase1, SMOKE.decoder.phase2
    assert in_parts(phase1, 2) == phase1.model_copy(update={"micro_batch_size": 16})
    assert in_parts(phase2, 3) == phase2.model_copy(update={"micro_batch_size": 3})
    assert in_parts(phase2.model_copy(update={"micro_batch_size": 2}), 4).micro_batch_size == 1
    assert in_parts(SamplingConfig(), 8) == SamplingConfig(batch_size=7)
    for other in (SMOKE.decoder, SMOKE.evaluation, None, 3):  # a decoder's steps would have other keys
        assert in_parts(other, 2) is other


# ---------------------------------------------------------------- what is tried


def caused(by: Exception) -> Exception:
    error = RuntimeError("in a layer")
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "lacked"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (caused(torch.OutOfMemoryError("CUDA out of memory.")), True),
        (SharedRunError("the joint run"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (FloatingPointError("loss is nan"), False),
    ],
)
def test_what_counts_as_too_little_memory(error: Exception, lacked: bool) -> None:
    assert retry.lacked_memory(error) is lacked


@pytest.mark.parametrize(("most", "parts"), [(retry.MOST_PARTS, [1, 2, 4, 8]), (retry.MOST_AFTER_DEATH, [1, 2])])
def test_first_alone_then_in_ever_more_parts(most: int, parts: list[int]) -> None:
    job: Job | None = Job("a", {}, Path(), "")
    tried = []
    while (job := retry.again(job, most)) is not None:
        tried.append(job.parts)
    assert tried == parts


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        (Resources(4), Resources(1)),
        (Resources(8, 0.5), Resources(4, 1.0)),
        (Resources(1, 0.25), Resources(1, 1.0)),
        (Resources(2, 2.0), Resources(2, 2.0)),
        (Resources(None, 0.5, "head:6379"), Resources(None, 1.0, "head:6379")),
    ],
)
def test_alone_is_with_whole_devices(given: Resources, whole: Resources) -> None:
    assert retry.whole_devices(given) == whole


# ---------------------------------------------------------------- in a later command


class Quiet:
    """Stands for the tracking."""

    error, uri = None, "sqlite:///none.db"

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: False


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "run_jobs", serial_executor.run_jobs)
    monkeypatch.setattr(session, "Scribe", Quiet)
    monkeypatch.setattr("reports.build.build_report", lambda output, *_, **__: output)
    monkeypatch.setattr("reports.build.result_table", lambda *_: [])
    monkeypatch.setattr("sweeps.run.result_text", lambda *_: "")
    monkeypatch.setattr("sweeps.headline.tell_table", lambda *_: None)


def command(output: Path, *words: str) -> int:
    rows = ["ablation_table1", "--experiment", "smoke", "--rows", "8,10,ridge", "--analysis", "none"]
    return main([*rows, "--interventions", "none", "--output", str(output), *words], pipeline="fake_pipeline")


@pytest.mark.usefixtures("quick")
def test_what_will_fail_again_runs_again_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").mkdir()
    cause = tmp_path / "cache" / "fail-2"
    cause.touch()
    ran: list[int] = []
    depth, computed = fake_pipeline._depth, fake_pipeline.run
    monkeypatch.setattr(fake_pipeline, "run", lambda e, *given: ran.append(depth(e)) or computed(e, *given))
    assert command(tmp_path) == 1 and sorted(ran) == [2, 4, 4]
    capsys.readouterr()
    assert command(tmp_path) == 1 and len(ran) == 3  # nothing runs, and it is still no success
    told = capsys.readouterr().err
    assert "1 failed before and would fail again; --retry-failed runs them all the same" in told
    assert "failed: 8-seed0: FloatingPointError: loss is nan at step 2" in told
    cause.unlink()
    assert command(tmp_path, "--retry-failed") == 0 and sorted(ran) == [2, 2, 4, 4]


def test_only_a_failure_that_follows_from_the_key_recurs() -> None:
    failed = {"state": "failed", "key": "k", "error": "FloatingPointError: loss is nan"}
    assert retry.recurs(failed, "k") and not retry.recurs(failed, "other")
    for change in ({"state": "complete"}, {"error": retry.told(Job("a", {}, Path(), "", parts=1), "its process died")}):
        assert not retry.recurs(failed | change, "k")
