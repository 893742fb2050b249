"""Trials through Ray, with a pipeline that computes nothing: failures stay alone, and a killed run goes on."""

from __future__ import annotations

import gc
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import weakref
from collections import Counter
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps import executor
from sweeps.live import Board, clock

ROOT = Path(__file__).resolve().parents[1]
DECOYS = ("cnd/__init__.py", "reports/__init__.py", "sweeps/__init__.py", "torch.py", "pandas.py", "ray.py")
DRIVER = "import sys; from sweeps.run import main; sys.exit(main(sys.argv[1:], 'fake_pipeline'))"


class Command:
    """``run.py ablation_table1`` on some rows, in a process of its own, into one output folder.

    It starts in that folder, where packages and a module lie that must not be imported instead of those of the command.
    """

    def __init__(self, output: Path, rows: str, *more: str) -> None:
        self.output, self.errors = output, output / "stderr.txt"
        self.cache = output / "cache"
        self.cache.mkdir()
        for name in DECOYS:
            (output / name).parent.mkdir(exist_ok=True)
            (output / name).write_text("raise SystemExit('imported from the working directory')\n")
        self.folder = output / "sweeps" / "ablation_table1-smoke"
        words = ["ablation_table1", "--experiment", "smoke", "--rows", rows, "--max-concurrent", "2", "--json", *more]
        self.words = [sys.executable, "-P", "-c", DRIVER, *words, "--output", str(output)]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}

    def start(self) -> subprocess.Popen[str]:
        with self.errors.open("w") as errors:
            return subprocess.Popen(
                self.words, env=self.environment, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=self.output,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where pytest runs behind "&"
            )  # fmt: skip

    def run(self) -> tuple[int, dict[str, dict[str, Any]]]:
        process = self.start()
        out, _ = process.communicate(timeout=300)
        assert out, f"exit {process.returncode}:\n{self.errors.read_text()}"
        trials = json.loads(out)["trials"]
        return process.returncode, {trial["row"]: trial for trial in trials}

    def wait_until(self, condition: Any) -> None:
        for _ in range(3000):
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError(f"it never happened:\n{self.errors.read_text()}")

    def state(self, row: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / "trials" / f"{row}-seed0.json").read_text()))
        except OSError:
            return {"state": "pending", "run_id": None}

    def built(self) -> Counter[str]:
        """How often each stage was built."""
        return Counter((self.cache / "built.txt").read_text().split("\n")[:-1])

    def tracked(self) -> list[tuple[str, str]]:
        """(name, status) of every run of the sweep in MLflow."""
        with sqlite3.connect(self.output / "mlflow.db") as database:
            runs = database.execute(
                "select t.value, r.status from runs r join experiments e using (experiment_id) "
                "join tags t on t.run_uuid = r.run_uuid and t.key = 'cnd.name' where e.name like 'abl%'"
            )
            return sorted(runs.fetchall())


def test_no_reference_of_ray_is_collected_while_ray_shuts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray 2.60 ends the process, exit code 1 and no report, when another thread frees an ObjectRef meanwhile."""

    class Reference:
        """In a cycle, as Tune leaves its own."""

        def __init__(self) -> None:
            self.cycle = self

    waiting = weakref.ref(Reference())
    seen: list[tuple[bool, bool]] = []
    ray = SimpleNamespace(shutdown=lambda: seen.append((gc.isenabled(), waiting() is None)))
    monkeypatch.setitem(sys.modules, "ray", ray)
    executor._stop_ray()
    assert seen == [(False, True)] and gc.isenabled()


def _names(*rows: str) -> list[tuple[str, str]]:
    return sorted([(f"{row}-seed0", "FINISHED") for row in rows] + [("sweep ablation_table1-smoke", "FINISHED")])


def test_a_failure_stops_no_other_trial_and_only_it_runs_again(tmp_path: Path) -> None:
    command = Command(tmp_path, "8,9,10,ridge")
    (command.cache / "fail-2").touch()  # row 8 raises
    (command.cache / "die-6").touch()  # the process of row 9 dies
    (command.cache / "memory-4").write_text("2")  # row 10 has room for half its batch
    code, trials = command.run()
    assert code == 1
    assert {row: t["state"] for row, t in trials.items()} == {
        "8": "failed", "9": "failed", "10": "complete", "ridge": "complete"
    }  # fmt: skip
    assert trials["8"]["error"] == "FloatingPointError: loss is nan at step 2"
    died = "its process died (out of memory, or killed)"
    assert trials["9"]["error"] == f"{died} (alone and with its batches in 2 parts, too)"
    told, short = command.errors.read_text(), "10-seed0  pending  MemoryError: no room; once more, alone,"
    assert f"9-seed0  pending  {died}; once more, alone, when the others have ended" in told
    assert f"{short} when the others have ended" in told and f"{short} with its batches in 2 parts" in told
    assert (command.cache / "attempts.txt").read_text() == "4 in 1\n" * 2 + "4 in 2\n"
    assert not (command.folder / "trials" / "10-seed0.traceback.txt").exists()
    assert "raise FloatingPointError" in (command.folder / "trials" / "8-seed0.traceback.txt").read_text()
    assert "failed: 8-seed0: FloatingPointError: loss is nan at step 2" in command.errors.read_text()
    assert dict(command.tracked())["8-seed0"] == "FAILED"
    worker = json.loads((tmp_path / trials["10"]["record"] / "summary.json").read_text())["worker"]
    # one thread a trial, no GPU that it did not ask for, and relative paths mean what they mean to the user
    assert worker == {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "folder": str(tmp_path)}

    (command.cache / "fail-2").unlink()
    (command.cache / "die-6").unlink()
    command.words.append("--retry-failed")
    code, again = command.run()
    assert code == 0 and {t["state"] for t in again.values()} == {"complete"}
    assert again["10"] == trials["10"]  # untouched
    assert again["8"]["run_id"] == trials["8"]["run_id"] and again["8"]["error"] is None
    assert set(command.built().values()) == {1} and command.tracked() == _names("8", "9", "10", "ridge")
    assert not (command.folder / "ray").exists()
    assert not (command.folder / "trials" / "8-seed0.traceback.txt").exists()


@pytest.mark.parametrize("trouble", ["", "fail-2", "die-6", "unfused"])
def test_fused_trials_stand_and_fall_by_themselves(tmp_path: Path, trouble: str) -> None:
    """A row that fails leaves its group; if the process dies, or the joint run fails, each is run once more, alone."""
    command = Command(tmp_path, "8,9,10,ridge", "--fuse", "3", "--analysis", "none", "--interventions", "all")
    if trouble:
        (command.cache / trouble).touch()
    code, trials = command.run()
    states = {row: t["state"] for row, t in trials.items()}
    failed = {"fail-2": "8", "die-6": "9"}.get(trouble)
    assert code == (failed is not None)
    assert states == {row: "failed" if row == failed else "complete" for row in ("8", "9", "10", "ridge")}
    groups = set((command.cache / "groups.txt").read_text().splitlines())
    assert {tuple(sorted(group.partition(":")[0].split())) for group in groups} == {("10-seed0", "8-seed0", "9-seed0")}
    assert {group.partition(": ")[2] for group in groups} == {
        "interventions " * 3 + "phase1 record record record"
    }  # 8 and 9 share Phase 1
    assert set(command.built().values()) == {1}
    assert dict(command.tracked())["10-seed0"] == "FINISHED"


# ---------------------------------------------------------------- the table of trials


def test_the_table_tells_each_change_once_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Board("title", ["a", "b"], 1, 10.0) as board:
        board.started("a")
        for fraction in (0.1, 0.2, 0.3):
            board.progressed("a", "phase1", fraction, {"phase1/loss": 1 - fraction})
        board.finished("a", "12.3 %", 61.0)
        board.started("b")
        board.failed("b", "ValueError: no")
    told = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert told == [
        "a  running", "a  running  phase1", "a  complete  12.3 %  in 1:01", "b  running", "b  failed  ValueError: no"
    ]  # fmt: skip
    assert board.lines["a"].loss == 0.7


def test_the_time_left_counts_what_runs_and_what_waits() -> None:
    board = Board("title", ["a", "b", "c", "d"], 2, 100.0)
    assert board.left() == 200  # four trials of 100 s, two at once
    board.finished("a", "1.0 %", 10.0)
    board.finished("b", "1.0 %", 30.0)
    assert board.left() == 20  # two trials of the 20 s that trials took
    assert "2 complete, 2 pending, about 0:20 left" in board.summary()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_table_and_a_low_one_what_runs_first() -> None:
    stream = Terminal()
    with Board("Some table", [f"t{i}" for i in range(60)], 1, 1.0, stream) as board:
        board.started("t59")
        board.failed("t58", "ValueError: [no]")
        shown = [str(cell) for cell in board.table(height=20).columns[0].cells]
    assert {"t58", "t59"} <= set(shown) and len(shown) == 13
    assert len(board.table(height=100).rows) == 60
    assert all(text in stream.getvalue() for text in ["Some table", "ValueError: [no]", "58 pending"])


def test_clock() -> None:
    assert [clock(s) for s in (0, 75, 3700.4)] == ["0:00", "1:15", "1:01:40"]
