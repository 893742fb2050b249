"""Rows that a file does not write out, rows that differ in more than they say, and switches that do nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_pipeline
import pandas as pd
import pytest
import yaml

from cnd.errors import UserError
from cnd.experiment import load_experiment, override
from reports.noops import find
from sweeps.spec import Sweep, load_sweep
from sweeps.trials import resolve

ROOT = Path(__file__).resolve().parents[1]
BASE = load_experiment(ROOT / "experiments" / "smoke.yaml")
RATIO, DEPTH = "decoder.phase1.mask_ratio", "decoder.phase2.concept_depth"


def a_sweep(tmp_path: Path, **content: Any) -> Sweep:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "title": "Mine"} | content, sort_keys=False))
    return load_sweep(str(path))


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, grid={"phase1.mask_ratio": [0.25, 0.5], DEPTH: [2, 4]}, set={DEPTH: 9, "phase1.lr": 0.5})
    assert [row.id for row in sweep.rows] == ["0.25_2", "0.25_4", "0.5_2", "0.5_4"] and sweep.reference == "0.25_2"
    assert sweep.rows[3].set == {"phase1.lr": 0.5, "phase1.mask_ratio": 0.5, DEPTH: 4}
    assert [column.setting for column in sweep.columns] == [RATIO, DEPTH] and sweep.varies == (RATIO, DEPTH)
    trials = resolve(sweep, BASE, fake_pipeline.steps, None, 2, {})
    assert len(trials) == 8 and trials[0].settings["concept_depth"] == 2


def test_one_number_gives_a_curve_and_rows_may_be_added(tmp_path: Path) -> None:
    rows = [{"id": "off", "set": {"decoder.phase1.enabled": False}}]
    sweep = a_sweep(tmp_path, reference="0.5", grid={RATIO: [0.25, 0.5]}, rows=rows)
    assert [row.id for row in sweep.rows] == ["0.25", "0.5", "off"]
    assert [(f.x, f.rows) for f in sweep.factors] == [("mask_ratio", ["0.25", "0.5"])]
    assert sweep.where("off").endswith(", row off") and ":1" in sweep.where("off")
    assert len(resolve(sweep, BASE, fake_pipeline.steps, None, 1, {})) == 3


def test_one_part_less_in_each_row(tmp_path: Path) -> None:
    sweep = a_sweep(tmp_path, leave_one_out={DEPTH: 0, "decoder.phase1.enabled": False})
    assert [(row.id, row.set) for row in sweep.rows] == [
        ("full", {}), ("no_concept_depth", {DEPTH: 0}), ("no_enabled", {"decoder.phase1.enabled": False}),
    ]  # fmt: skip
    assert sweep.reference == "full"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"grid": {RATIO: 0.5}}, "must be a list of values"),
        ({"grid": {RATIO: [0.5]}, "leave_one_out": {DEPTH: 0}}, "give one of them"),
        ({"grid": {RATIO: [0.5, 0.5]}}, "row '0.5' appears twice"),
        ({"grid": [1]}, "must be a mapping"),
        ({"gird": {RATIO: [0.5]}}, "unknown key 'gird'"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        a_sweep(tmp_path, **content)
    assert "mine.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_row_that_differs_in_more_than_it_says_is_refused(tmp_path: Path) -> None:
    rows = [{"id": "a", "set": {RATIO: 0.25}}, {"id": "b", "set": {RATIO: 0.5, "phase2.lr": 0.5}}]
    sweep = a_sweep(tmp_path, reference="a", rows=rows, varies=["phase1.mask_ratio"])
    with pytest.raises(UserError, match=r"row b: differs from the reference in decoder\.phase2\.lr, which"):
        resolve(sweep, BASE, fake_pipeline.steps, None, 1, {})
    assert resolve(sweep, BASE, fake_pipeline.steps, ["a"], 1, {})
    wider = a_sweep(tmp_path, reference="a", rows=rows, varies=["decoder.phase1", "decoder.phase2.lr"])
    assert len(resolve(wider, BASE, fake_pipeline.steps, None, 1, {})) == 2
    assert len(resolve(a_sweep(tmp_path, reference="a", rows=rows), BASE, fake_pipeline.steps, None, 1, {})) == 2


def _record(path: Path, edits: dict[str, Any], losses: list[float]) -> str:
    path.mkdir()
    content = override(BASE, edits, "test").model_dump(mode="json")
    (path / "experiment.json").write_text(json.dumps(content))
    lines = [("phase2", 0, i, "loss", loss) for i, loss in enumerate(losses)]
    table = pd.DataFrame(lines, columns=["phase", "fold", "samples_seen", "name", "value"])
    table.to_parquet(path / "history.parquet")
    return path.name


def test_a_switch_that_does_nothing_is_flagged(tmp_path: Path) -> None:
    losses = [0.5, 0.25]
    records = {
        "reference": _record(tmp_path / "r0", {}, losses),
        "idle": _record(tmp_path / "r1", {RATIO: 0.5}, losses),
        "works": _record(tmp_path / "r2", {DEPTH: 2}, [0.5, 0.25 + 1e-16 * 2]),
        "drawn": _record(tmp_path / "r3", {"sampling.steps": 3}, losses),  # no training is meant to move
        "untrained": _record(tmp_path / "r4", {"decoder.kind": "ridge"}, []),
    }
    trained = {(row, None, 0): tmp_path / record for row, record in records.items()}
    (told,) = find(trained | {("idle", None, 1): tmp_path / "r1"}, "reference")
    assert told.startswith("row idle: its training losses equal those of row reference") and RATIO in told
