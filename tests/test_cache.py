"""The stage cache: nothing half-written is ever found, one process builds a key, damage is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cnd.errors import UserError
from cnd.keys import content_hash, file_hash
from cnd.workflow.cache import StageCache

ROOT = Path(__file__).resolve().parents[1]


def _write(text: str):
    def make(folder: Path) -> None:
        (folder / "parts").mkdir()
        (folder / "parts" / "result.txt").write_text(text)

    return make


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path / "cache")


def test_a_result_is_built_once_and_found_with_its_description(cache: StageCache) -> None:
    assert cache.find("phase1", "k") is None and not cache.has("phase1", "k")
    first = cache.build("phase1", "k", {"seed": 3}, _write("one"))
    again = cache.build("phase1", "k", {"seed": 3}, _write("two"))
    assert first == again == cache.find("phase1", "k") and cache.has("phase1", "k")
    assert (first / "parts" / "result.txt").read_text() == "one"
    assert '"seed": 3' in (first / "stage.json").read_text()


def test_others_may_read_what_the_umask_lets_them(cache: StageCache) -> None:
    def make(folder: Path) -> None:
        save_file({"x": np.zeros(3)}, folder / "x.safetensors")
        (folder / "x.safetensors").chmod(0o600)  # as newer versions of safetensors do

    before = os.umask(0o027)
    try:
        result = cache.build("phase1", "k", {}, make)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in result.iterdir()} == {0o640}


@pytest.mark.parametrize("damage", ["change", "truncate", "delete", "manifest"])
def test_a_damaged_result_is_moved_aside_and_made_again(cache: StageCache, damage: str) -> None:
    folder = cache.build("phase1", "k", {}, _write("one"))
    file = folder / "parts" / "result.txt"
    if damage == "change":
        file.write_text("eno")
    elif damage == "truncate":
        file.write_text("o")
    elif damage == "delete":
        file.unlink()
    else:
        (folder / "manifest.json").write_text("{")
    assert cache.problem("phase1", "k")
    with pytest.warns(UserWarning, match="will be made again"):
        assert cache.find("phase1", "k") is None
    assert len(list(folder.parent.glob("k.damaged-*"))) == 1
    cache.build("phase1", "k", {}, _write("two"))
    assert file.read_text() == "two" and cache.problem("phase1", "k") is None


def test_a_failed_build_leaves_nothing_but_its_scratch(cache: StageCache) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        (cache.scratch("phase1", "k") / "state").write_text("step 7")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        cache.build("phase1", "k", {}, fail)
    assert cache.find("phase1", "k") is None
    assert not list((cache.root / "phase1").glob(".k.tmp-*"))

    def resume(folder: Path) -> None:
        (folder / "all").write_text((cache.scratch("phase1", "k") / "state").read_text())

    assert (cache.build("phase1", "k", {}, resume) / "all").read_text() == "step 7"
    assert not list((cache.root / "phase1").glob("*.scratch"))


_BUILDER = """
import sys, time
from pathlib import Path
from cnd.workflow.cache import StageCache
root, seconds, name = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
def make(folder):
    (folder / "half").write_text(name)
    (root / f"inside-{name}").touch()
    time.sleep(seconds)
StageCache(root / "cache").build("phase1", "k", {}, make)
"""


def _builder(root: Path, seconds: float, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _BUILDER, str(root), str(seconds), name]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})


def _wait_for(path: Path) -> None:
    for _ in range(1000):
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never appeared")


def test_one_of_two_processes_builds_and_the_other_waits(tmp_path: Path) -> None:
    first = _builder(tmp_path, 0.8, "first")
    _wait_for(tmp_path / "inside-first")
    second = _builder(tmp_path, 0.0, "second")
    assert first.wait(30) == second.wait(30) == 0
    assert not (tmp_path / "inside-second").exists()
    found = StageCache(tmp_path / "cache").find("phase1", "k")
    assert found is not None and (found / "half").read_text() == "first"


def test_a_result_that_another_machine_was_first_with_is_taken(cache: StageCache) -> None:
    """A shared file system may show it late, even to the lock's holder: the rename finds it."""
    other = StageCache(cache.root.with_name("other")).build("phase1", "k", {}, _write("theirs"))

    def make(folder: Path) -> None:
        _write("ours")(folder)
        other.rename(cache.path("phase1", "k"))

    found = cache.build("phase1", "k", {}, make)
    assert (found / "parts" / "result.txt").read_text() == "theirs" and cache.problem("phase1", "k") is None
    assert not list(found.parent.glob(".k.tmp-*"))


def test_removing_takes_the_result_and_its_scratch(cache: StageCache) -> None:
    cache.build("phase1", "k", {}, _write("one"))
    cache.scratch("phase1", "k")
    assert cache.remove("phase1", "k") and not cache.remove("phase1", "k")
    assert not cache.has("phase1", "k") and not list((cache.root / "phase1").glob("*.scratch"))


def test_names_that_would_leave_the_cache_are_refused(cache: StageCache) -> None:
    for name in ["..", "a/b", "", ".hidden"]:
        with pytest.raises(ValueError, match="cannot name"):
            cache.path("phase1", name)


def test_a_url_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="must be a folder"):
        StageCache("s3://bucket/cache")


def test_content_hash_sees_values_and_not_the_order_of_keys() -> None:
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": [1, 2], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2}) != content_hash({"a": "2"})
    assert len(content_hash(None)) == 32
    with pytest.raises(ValueError, match="JSON"):
        content_hash(float("nan"))


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "x").write_bytes(b"abcd")
    assert file_hash(tmp_path / "x").startswith("88d4266fd4e6338d13b845fcf289579d")
