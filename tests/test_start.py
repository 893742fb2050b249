"""What a new sweep begins with: ``new`` writes one that runs, ``schema`` the schemas that editors know keys by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # Ray brings it

from sweeps.run import main
from sweeps.start import schemas

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = sorted([*(ROOT / "sweeps").glob("*.yaml"), *(ROOT / "experiments").glob("*.yaml")])
SMOKE = ["--experiment", "smoke", "--output", "runs", "--json"]


def test_a_new_sweep_runs_as_written_and_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine"]) == 0 and capsys.readouterr().out == "mine.yaml\n"
    assert main(["plan", "mine.yaml", *SMOKE]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [t["row"] for t in plan["trials"]] == ["paper", "shallow", "half"] and len(plan["controls"]) == 3
    text = (tmp_path / "mine.yaml").read_text()
    assert "sweeps/run.py mine.yaml --experiment smoke" in text
    (tmp_path / "mine.yaml").write_text("edited")
    assert main(["new", "mine"]) == 2 and "mine.yaml: is there already" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == "edited"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["new", "mask_ratio"], "is a sweep that ships"),
        (["new", "a-b"], "use letters, digits, '_' and '.'"),
        (["new", "no/where"], "no/where.yaml: cannot be written"),
        (["new"], "expected a name"),
        (["schema"], "expected a folder"),
        (["schema", "/proc/here"], "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_told(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2 and not list(tmp_path.iterdir())
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


@pytest.fixture(scope="module")
def validators() -> dict[str, Any]:
    for content in schemas().values():
        Draft202012Validator.check_schema(content)
    return {name: Draft202012Validator(content) for name, content in schemas().items()}


def kind(path: Path) -> str:
    content = yaml.safe_load(path.read_text())
    return "experiment" if "data" in content else "search" if "space" in content else "sweep"


def test_every_file_that_ships_is_valid(validators: dict[str, Any]) -> None:
    wrong = {}
    for path in SHIPPED:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        wrong[path.name] = [error.json_path for error in validators[kind(path)].iter_errors(content)]
    assert len(wrong) > 20 and not any(wrong.values()), wrong


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sweep", "{name: a, title: b, reference: r, rows: [{id: r, sett: {}}]}"),
        ("sweep", "{name: a, title: b}"),
        ("sweep", "{name: a, title: b, grid: {decoder.phase1.mask_ratio: 0.5}}"),
        ("search", "{name: a, title: b, space: {lr: {kind: flaot, low: 0, high: 1}}}"),
        ("experiment", "{data: {kind: simulated, snrr: 1}}"),
        ("experiment", "{data: {kind: simulated}, decoder: {kind: cnd, phase1: {mask_ratio: 2}}}"),
    ],
)
def test_what_the_command_would_refuse_is_marked(validators: dict[str, Any], name: str, content: str) -> None:
    assert not validators[name].is_valid(yaml.safe_load(content))


def test_they_are_written_as_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", str(tmp_path / "schemas")]) == 0
    written = [Path(line) for line in capsys.readouterr().out.split()]
    assert {path.stem: json.loads(path.read_text()) for path in written} == schemas()
