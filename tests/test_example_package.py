"""A package of a user's adds a decoder, a metric and a data source, and nothing of this repository is edited."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnd.keys import content_hash, read_and_hash

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "tests" / "example_package"


def state() -> str:
    """Hash of the names and the content of all files that a part could be entered in."""
    files = [path for suffix in ("py", "yaml", "toml") for path in ROOT.rglob(f"*.{suffix}")]
    return content_hash({str(path): read_and_hash(path) for path in files if ".venv" not in path.parts})


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a process that has the package, installed without network."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "my_package")  # building leaves files there
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", folder, source], check=True)
    path = [str(folder), str(ROOT), str(ROOT / "tests" / "conformance")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def test_kinds_of_an_installed_package_are_there_at_once(installed: dict[str, str]) -> None:
    code = """
import sys
from cnd import registry
kinds = ("cnd.decoders", "neighbours"), ("cnd.metrics", "pixel_error"), ("cnd.data", "stripes")
print(*(registry.find(*each).__name__ for each in kinds), registry.BROKEN)
import cnd.workflow.plan
assert not {"torch", "sklearn"} & set(sys.modules), "the plan must be quick"
"""
    done = subprocess.run([sys.executable, "-c", code], env=installed, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["NeighboursDecoder", "PixelError", "StripesData", "{}"]


def test_the_parts_conform_and_run_together(installed: dict[str, str]) -> None:
    before = state()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "conformance.py")]
    done = subprocess.run(command, env=installed, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert state() == before


def test_they_stand_in_a_sweep(installed: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "sweeps/run.py", str(EXAMPLE / "neighbours.yaml"), "--experiment", "smoke", "--json"]
    command += ["--set", "data.kind=stripes", "--set", "evaluation.metrics=[{kind: pixel_error}]"]
    command += ["--analysis", "none", "--output", str(tmp_path)]
    done = subprocess.run(command, env=installed, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trials = {trial["row"]: trial for trial in json.loads(done.stdout)["trials"]}
    assert {trial["state"] for trial in trials.values()} == {"complete"} and set(trials) == {"ridge", "k3", "shuffled"}
    report = (tmp_path / "reports" / "neighbours-smoke.html").read_text(encoding="utf-8")
    assert "pixel error" in report and "shuffled pairs" in report


def test_readme_shows_them_whole() -> None:
    readme = (ROOT / "cnd" / "decoders" / "README.md").read_text(encoding="utf-8")
    for name in ("decoder", "metric", "data"):
        assert (EXAMPLE / "my_package" / f"{name}.py").read_text(encoding="utf-8") in readme
