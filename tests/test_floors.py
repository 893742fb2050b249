"""The sweep ``floors``: every kind of decoder of this package that needs no files of its own, each with its role."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeps.run import main
from sweeps.spec import load_sweep


def test_every_control_has_a_role_and_its_own_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = load_sweep("floors")
    assert [row.id for row in sweep.rows] == [
        "cnd",
        "ridge",
        "ridge_latents",
        "linear_contrastive",
        "icgan",
        "ss_ae",
        "dc_ldm",
    ]
    assert {control.role for control in sweep.controls} == {"floor", "null", "ceiling"}
    assert main(["plan", "floors", "--experiment", "smoke", "--json", "--output", str(tmp_path)]) == 0
    plan = json.loads(capsys.readouterr().out)
    trials = {trial["row"]: trial for trial in plan["trials"] + plan["controls"]}
    assert len({trial["key"] for trial in trials.values()}) == len(trials) == 17
    assert trials["ridge_shuffled"]["settings"] == {"decoder": "ridge", "pairs": "shuffled", "input": "fMRI"}
    assert (
        plan["stages"]["phase1"] == 3
    )  # Phase 1 sees no pairs: shuffled ones share it; noise and MinD-Vis have their own
