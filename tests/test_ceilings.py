"""The sweep ``ceilings``: learnt before a sweep, taken up by Table 1, told in its plan and its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports.ceilings import far_under
from sweeps.run import main

SMOKE = ["--experiment", "smoke"]


def test_a_ceiling_more_than_ten_points_under_the_best_is_told() -> None:
    (sentence,) = far_under({"oracle": 0.99, "loss": 0.34, "stimuli": 0.895})
    assert sentence.startswith("Low ceiling: 'loss' reaches 34.0 %, 65.0 points under 'oracle'; ")
    assert far_under({"oracle": 0.9, "loss": 0.8}) == far_under({}) == []


def test_what_the_sweep_found_stands_in_the_plan_of_table_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ceilings", *SMOKE, "--output", str(tmp_path)]) == 0
    page = (tmp_path / "reports" / "ceilings-smoke.html").read_text(encoding="utf-8")
    assert "a ceiling of its own" in page
    capsys.readouterr()
    assert main(["plan", "ablation_table1", *SMOKE, "--json", "--output", str(tmp_path)]) == 0
    plan = json.loads(capsys.readouterr().out)
    ceilings = {"oracle class", "the loss without fMRI", "the stimuli themselves", "stimuli through the autoencoder"}
    assert set(plan["ceilings"]) == ceilings and plan["ceilings"]["the stimuli themselves"] > 0.5
    assert {t["row"] for t in plan["controls"] if t["done"]} == {"oracle", "loss_ceiling", "stimuli", "autoencoded"}
    low = [warning for warning in plan["warnings"] if warning.startswith("Low ceiling")]
    assert low == far_under(plan["ceilings"])
    assert main(["plan", "ablation_table1", *SMOKE, "--output", str(tmp_path)]) == 0
    assert "ceilings known: oracle class" in capsys.readouterr().out
