"""Installed, not cloned: what a wheel holds, and that it works where a user has folders of the same names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSIDE = ("sweeps", "reports", "experiments")
BUILD = """
import glob, os, shutil
import setuptools.build_meta as backend
shutil.unpack_archive("dist/" + backend.build_sdist("dist"), "unpacked")
os.chdir(*glob.glob("unpacked/*"))
backend.build_wheel(os.environ["WHEELS"])
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel lies unpacked, which was built from the source distribution of a copy."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("cnd", *INSIDE):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    environment = {**os.environ, "WHEELS": str(wheels)}
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = wheels.glob("cnd_decoding-*.whl")
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    return folder


def test_a_wheel_holds_every_file_that_is_needed_and_one_package(site: Path) -> None:
    """Code, sweeps, experiments, templates, lists and weights: all but guides and pictures."""

    def found(folder: Path, suffixes: tuple[str, ...]) -> set[str]:
        files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        return {path.relative_to(folder).as_posix() for path in files if path.suffix in suffixes or not suffixes}

    expected = {name for name in found(ROOT / "cnd", ()) if not name.endswith("README.md")}
    sweeps = (path for path in (ROOT / "sweeps").glob("*.*") if path.suffix in (".py", ".yaml"))
    expected |= {f"_app/sweeps/{path.name}" for path in sweeps}
    expected |= {f"_app/reports/{name}" for name in found(ROOT / "reports", (".py", ".html", ".js"))}
    expected |= {f"_app/experiments/{path.name}" for path in (ROOT / "experiments").glob("*.*") if path.suffix != ".md"}
    assert found(site / "cnd", ()) == expected
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"cnd", "cnd_decoding"}
    (points,) = site.glob("*.dist-info/entry_points.txt")
    assert "cnd = cnd.console:main" in points.read_text()


CONSOLE = """
import importlib.util, json, os, sys
from importlib.machinery import PathFinder
from cnd.console import main
code = main()
from sweeps.executor import PACKAGES, _import_path
found = {name: PathFinder.find_spec(name, _import_path()).origin for name in PACKAGES}
from sweeps.options import _parser
print(json.dumps(found | {"command": _parser().prog}), file=sys.stderr)
sys.exit(code)
"""


def test_it_plans_where_a_user_has_folders_of_the_same_names(site: Path, tmp_path: Path) -> None:
    """And the workers would import the same packages."""
    for name in INSIDE:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a stranger')")
    (tmp_path / "experiments" / "smoke.yaml").write_text("a stranger")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(tmp_path)])}
    command = [sys.executable, "-c", CONSOLE, "plan", "ablation_table1", "--experiment", "smoke", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["trials"]) == 16
    app = site / "cnd" / "_app"
    ours = {"cnd": site / "cnd", "reports": app / "reports", "sweeps": app / "sweeps"}
    assert json.loads(done.stderr) == {name: str(folder / "__init__.py") for name, folder in ours.items()} | {
        "command": "cnd"
    }
