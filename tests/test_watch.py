"""``status --watch``: each change once, until no process runs the sweep."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeps import watch
from sweeps.options import parse
from sweeps.run import Request, define, main

WORDS = ["ablation_table1", "--experiment", "smoke", "--rows", "10,oracle"]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Runs ``status --watch`` while a sweep runs, which ends when it has been looked at a few times."""
    monkeypatch.setattr(watch, "SECONDS", 0.02)
    (tmp_path / "cache").mkdir()
    request = Request(parse([*WORDS, "--output", str(tmp_path)]), "fake_pipeline")
    ready, looked = threading.Event(), threading.Semaphore(0)
    steps = [("pending", "pending"), ("running", "pending"), ("failed", "running"), ("failed", "pruned")]

    def run() -> None:
        with request.folder.locked():
            define(request, request.chosen())
            for states in steps:
                for trial, state in zip(request.chosen(), states, strict=True):
                    request.folder.write(trial, state=state)
                ready.set()
                for _ in range(3):
                    looked.acquire(timeout=10)

    in_use = request.folder.in_use

    def look() -> bool:
        looked.release()
        return in_use()

    monkeypatch.setattr("cnd.store.folder.SweepFolder.in_use", lambda folder: look())

    def command(*words: str) -> int:
        thread = threading.Thread(target=run)
        thread.start()
        assert ready.wait(10)
        code = main(["status", *WORDS, "--watch", *words, "--output", str(tmp_path)], "fake_pipeline")
        thread.join()
        return code

    yield command


def test_each_change_is_a_line(sweep: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep() == 1  # one failed
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines[:2]) == ["10-seed0  pending", "oracle-seed0  pending"]
    assert sorted(lines[2:]) == [
        "10-seed0  failed", "10-seed0  running", "oracle-seed0  pruned", "oracle-seed0  running"
    ]  # fmt: skip


def test_programs_get_the_whole_at_each_change(sweep: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("--json") == 1
    told = [json.loads(line)["trials"] for line in capsys.readouterr().out.splitlines()]
    assert {trial["name"]: trial["state"] for trial in told[-1]} == {"10-seed0": "failed", "oracle-seed0": "pruned"}


def test_a_terminal_shows_the_table_as_it_is(
    sweep: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert sweep() == 1
    out = capsys.readouterr().out
    assert "1 failed, 1 pruned, watched for 0:0" in out and "converged" in out


def test_only_states_are_watched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "ablation_table1", "--watch"]) == 2
    assert "--watch: belongs to status" in capsys.readouterr().err
