"""CnD from Python: the examples of its docstring and guide, its errors, and that importing it is quick."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import cnd
from cnd import api
from cnd.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ORACLE = {"decoder.kind": "oracle"}
FLAGS = doctest.NORMALIZE_WHITESPACE


@pytest.fixture
def runs(smoke_cache: Any, smoke_record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose ``runs`` has the results of ``smoke``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(smoke_cache.root.parent)
    return smoke_record


def test_the_guide_runs_as_written(runs: Path) -> None:
    failed, tried = doctest.testfile(str(ROOT / "cnd" / "README.md"), module_relative=False, optionflags=FLAGS)
    assert (failed, tried > 7) == (0, True)


def test_the_docstring_runs_as_written(runs: Path) -> None:
    finder = doctest.DocTestFinder().find(api.run, "run", globs={"output": "runs"})
    assert doctest.DocTestRunner(optionflags=FLAGS).run(finder[0]).failed == 0


def test_stderr_tells_what_runs_unless_it_is_to_be_quiet(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, told in ((False, "smoke: done  100 %\n"), (True, "")):
        cnd.run("smoke", quiet=quiet)
        assert capsys.readouterr().err == told


def test_results_are_those_of_a_trial_and_kept_as_its(runs: Path) -> None:
    """Found by name, path and content."""
    path = ROOT / "experiments" / "smoke.yaml"
    for given in ("smoke", path, str(path), {"name": "smoke"} | yaml.safe_load(path.read_text())):
        assert cnd.run(given).path.resolve() == runs.resolve()


@pytest.mark.parametrize(
    ("given", "edits", "told"),
    [
        ("smok", {}, "unknown experiment 'smok'; did you mean 'smoke'"),
        ("no/where.yaml", {}, "there is no such file"),
        ({"data": {"kind": "simulated", "voxels": 3}}, {}, "experiment: unknown key 'data.voxels'"),
        ("smoke", {"data.snrr": 1}, "set: unknown key 'data.snrr'"),
        ("digits69", {"data.path": "nowhere.mat"}, "nowhere.mat"),
    ],
)
def test_bad_input_is_told_in_one_line_before_anything_runs(
    given: Any, edits: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        cnd.run(given, set=edits, output=tmp_path / "runs")
    assert told in str(error.value) and not (tmp_path / "runs").exists()


def test_importing_it_is_quick() -> None:
    code = "import cnd, sys; assert 'pydantic' not in sys.modules; cnd.run; print({'torch', 'pandas'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    with pytest.raises(AttributeError):
        _ = cnd.walk
