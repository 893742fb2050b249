"""What the command shows and leaves behind: any terminal, any temporary folder, failures told once."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from data_writers import write_folder

from cnd import terminal
from cnd.data.tools.command import main as data_main
from cnd.errors import UserError
from sweeps import ray_folder as folders
from sweeps.live import Board
from sweeps.run import failures
from sweeps.session import Session
from sweeps.text import columns, wrapped

# ---------------------------------------------------------------- lines and letters


def test_lines_break_between_words() -> None:
    text = "row 10 is the reference, with double self-contrast\nshort\n"
    assert wrapped(text, None) == text
    broken = wrapped(text, 20)
    assert max(map(len, broken.splitlines())) <= 20 and broken.split() == text.split()
    lines = [
        ["row", "", "done"],
        ["10", "the whole method as the paper states it in full", "1/1"],
        ["11", "short", "0/1"],
    ]
    assert columns(lines) == columns(lines, 200)
    shown = columns(lines, 40).splitlines()
    assert max(map(len, shown)) <= 40 and len(shown) == 4
    assert shown[1].startswith("10   the whole method") and shown[1].endswith("1/1") and "full" in shown[2]


def test_letters_that_an_encoding_lacks_do_not_end_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    terminal.any_encoding()
    print("α_S = 1", flush=True)
    assert buffer.getvalue() == b"?_S = 1\n"
    assert terminal.width(sys.stdout) is None


def test_the_plan_is_printed_in_any_encoding(tmp_path: Path) -> None:
    words = [sys.executable, "sweeps/run.py", "plan", "ablation_table1", "--experiment", "smoke", "--rows", "10"]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "HOME": "/nonexistent", "TMPDIR": "/nonexistent"}
    root = Path(__file__).parents[1]
    done = subprocess.run([*words, "--output", str(tmp_path)], capture_output=True, env=environment, cwd=root)
    assert done.returncode == 0 and b"?_S" in done.stdout and b"Traceback" not in done.stderr


# ---------------------------------------------------------------- Ray's folder


def test_rays_folder_is_short_and_goes_when_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_asked_for", lambda: str(tmp_path / ("x" * 120)))
    (tmp_path / ("x" * 120)).mkdir()
    with folders.ray_folder() as folder:
        assert folder.is_dir() and len(os.fsencode(folder)) <= folders.LONGEST and tmp_path not in folder.parents
        (folder / "session").mkdir()
    assert not folder.exists() and list((tmp_path / ("x" * 120)).iterdir()) == []


def test_what_killed_commands_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, others = tmp_path / f"cnd-ray-{ended.pid}-abc", tmp_path / f"cnd-ray-{os.getpid()}-abc"
    for folder in (left, others, tmp_path / "ray" / "first"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(folders, "_asked_for", lambda: str(tmp_path))
    monkeypatch.setattr(folders, "LONGEST", 300)
    folders.remove_left(tmp_path)
    assert not left.exists() and others.exists() and not (tmp_path / "ray").exists()
    with folders.ray_folder() as folder:
        assert folder.parent == tmp_path
    monkeypatch.setattr(folders, "LONGEST", 3)
    with pytest.raises(UserError, match=rf"TMPDIR {tmp_path}: Ray needs a temporary folder .* set TMPDIR to one"):
        folders.ray_folder().__enter__()


# ---------------------------------------------------------------- failures and time left


class Silent:
    """In the place of a session's folder, proposer and scribe."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def session(keep_going: bool, stream: io.StringIO) -> Session:
    names = [f"{row}-seed0" for row in "abcde"]
    made = Session(Silent(), Silent(), Silent(), Board("", names, 1, 1.0, stream), Silent(), keep_going=keep_going)  # type: ignore[arg-type]
    made.trials = {name: SimpleNamespace(name=name) for name in names}  # type: ignore[misc]
    return made


def test_an_identical_failure_of_the_first_trials_is_told_once_and_stops_the_rest() -> None:
    stream = io.StringIO()
    stopping = session(False, stream)
    for name in ("a-seed0", "b-seed0"):
        stopping.failed(name, f"{name}: no such layer")
        assert stopping.gave_up == ""
    stopping.failed("c-seed0", "c-seed0: no such layer")
    assert stopping.gave_up == "a-seed0: no such layer" and stopping.next_group() is None
    assert stream.getvalue().count("no such layer") == 1 and "c-seed0  failed  as a-seed0" in stream.getvalue()

    going = session(True, io.StringIO())
    differing = session(False, io.StringIO())
    for name in ("a-seed0", "b-seed0", "c-seed0"):
        going.failed(name, "no such layer")
        differing.failed(name, "no such layer" if name < "c" else "out of memory")
    assert going.gave_up == differing.gave_up == ""


def test_failures_are_gathered_by_what_went_wrong() -> None:
    known = [{"name": n, "state": "failed", "error": f"{n}: no such layer"} for n in ("0-seed0", "10-seed0")]
    known += [{"name": "c", "state": "failed", "error": "out of memory"}, {"name": "d", "state": "complete"}]
    assert failures(known) == {"0-seed0: no such layer": ["0-seed0", "10-seed0"], "out of memory": ["c"]}


def test_the_time_left_holds_what_follows_the_trials() -> None:
    board = Board("", ["a", "b"], 1, 100.0, io.StringIO())
    assert board.left() == 200
    board.expect({"a": 2.5}, after=30.0)
    assert board.left() == 100 * 2.5 + 100 + 30
    for name in ("a", "b"):
        board.finished(name, "1 %", 10.0)
    assert board.left() == 30


# ---------------------------------------------------------------- python -m cnd.data check


def test_check_writes_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    write_folder(tmp_path / "mine", pictures=True)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert data_main(["check", "mine"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert "--output FOLDER writes a page" in capsys.readouterr().err
