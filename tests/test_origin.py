"""Workers run the command's code: where they import from, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fake_pipeline
import pytest

from cnd.experiment import load_experiment
from cnd.keys import code_hash
from cnd.workflow.origin import changes, commit, origin
from sweeps import executor

ROOT = Path(__file__).resolve().parents[1]
SMOKE = load_experiment(ROOT / "experiments" / "smoke.yaml")


def teller(tmp_path: Path, told: list[dict[str, Any]], key: str = "") -> executor.Teller:
    job = executor.Job("10-seed0", SMOKE.model_dump(mode="json"), tmp_path / "traceback.txt", key)
    return executor.Teller(asdict(job), lambda name, event: told.append({"name": name} | event))


def test_it_names_the_code_and_the_commit() -> None:
    found = origin()
    assert found.code == code_hash("cnd.workflow.run") and found.folder == str(ROOT / "cnd")
    assert found.described() == {"hash": found.code, "commit": found.commit}


def test_the_commit_is_that_of_a_repository_whose_top_the_package_lies_in(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "cnd"
    inner = tmp_path / "venv" / "cnd"  # as in an environment within a repository of something else
    for folder in (package, inner):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("x = 1\n")
    assert commit(package) is None
    git("init", "-q")
    git("add", "cnd")
    git("commit", "-q", "-m", "first")
    assert commit(package) == git("rev-parse", "HEAD")[:12] and commit(inner) is None
    (package / "__init__.py").write_text("x = 2\n")
    assert commit(package) == git("rev-parse", "HEAD")[:12] + " and changes"
    (package / "new.py").write_text("y = 3\n")
    (tmp_path / "elsewhere.py").write_text("no part of it\n")
    patch = changes(package)
    assert "-x = 1\n+x = 2\n" in patch and "+++ b/cnd/new.py\n" in patch and "elsewhere" not in patch
    git("stash", "-u", "-q")
    subprocess.run(["git", "-C", str(tmp_path), "apply"], input=patch, text=True, check=True)
    assert (package / "new.py").read_text() == "y = 3\n" and (package / "__init__.py").read_text() == "x = 2\n"


def test_the_import_path_of_workers_finds_what_the_command_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an editable installation found the packages, and whatever lies in the working directory."""
    for name in executor.PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "torch.py").touch()
    monkeypatch.chdir(tmp_path)
    others = [entry for entry in sys.path if entry and not (Path(entry) / "cnd").is_dir()]
    for path in ([str(ROOT), *others], others, [*others, "."]):
        monkeypatch.setattr(sys, "path", path)
        names = [*executor.PACKAGES, *(["torch"] if "." not in path else [])]
        code = f"import importlib.util as i, json; print(json.dumps([i.find_spec(n).origin for n in {names}]))"
        environment = {"PYTHONPATH": ":".join(executor._import_path()), "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        ours = json.loads(found)
        assert ours[:3] == [str(ROOT / name / "__init__.py") for name in executor.PACKAGES]
        assert all(str(tmp_path) not in file for file in ours)


def test_a_worker_of_other_code_refuses_every_trial(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    driver = asdict(origin("fake_pipeline"))
    assert executor.refuse_other_code({"10-seed0": teller(tmp_path, told)}, "fake_pipeline", driver) == [] == told
    other = driver | {"code": "0" * 32, "folder": "/somewhere/cnd"}
    (error,) = executor.refuse_other_code({"10-seed0": teller(tmp_path, told)}, "fake_pipeline", other)
    assert told == [{"name": "10-seed0", "error": f"UserError: {error}", "alone": False}]
    assert "/somewhere/cnd (code 000000000000" in str(error) and str(ROOT / "cnd") in str(error)
    unknown = {"folder": "/somewhere/cnd", "code": "", "commit": None, "more": 1}  # of a version that says more
    (error,) = executor.refuse_other_code({"10-seed0": teller(tmp_path, told)}, "fake_pipeline", unknown)
    assert "is not the command's in /somewhere/cnd" in str(error)


def test_no_result_is_put_under_the_key_of_another(tmp_path: Path) -> None:
    """As when a module, a data file or a package of the user's was edited after the plan."""
    told: list[dict[str, Any]] = []
    cache = tmp_path / "cache"
    planned = fake_pipeline.steps(SMOKE)[-1].key
    (error,) = executor._run({"10-seed0": teller(tmp_path, told, "f" * 32)}, cache, fake_pipeline)
    assert f"(key ffffffffffff, here {planned[:12]}); run the command again" in str(error)
    assert [event["alone"] for event in told] == [False] and not (cache / "record").exists()
    assert executor._run({"10-seed0": teller(tmp_path, told, planned)}, cache, fake_pipeline) == []
    assert told[-1]["record"] == str(cache / "record" / planned)


def test_an_origin_is_told_in_one_line() -> None:
    found = replace(origin(), commit="0123456789ab and changes")
    assert str(found) == f"{ROOT / 'cnd'} (code {found.code[:12]}, commit 0123456789ab and changes)"
