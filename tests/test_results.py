"""A sweep's result for programs is the result table, digit for digit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_records import CONTROLS, ROWS, finished_sweep, write_trial

from reports.results import results
from reports.tables import result_table

FRACTION = 1e-12  # the table is in %


def test_scores_differences_and_verdicts_are_those_of_the_table(tmp_path: Path) -> None:
    sweep = finished_sweep(tmp_path, [*ROWS, *CONTROLS], [0, 1])
    write_trial(sweep, "12", 1, "failed", error="it failed")
    found = json.loads(json.dumps(results(tmp_path, sweep), allow_nan=False))
    table = result_table(tmp_path, sweep).set_index("row")
    assert (found["reference"], found["metric"]) == ("10", "nway50_top1")
    assert found["metrics"][0] | {"among": ""} == {
        "name": "nway50_top1", "title": "50-way top-1", "chance": 0.02, "higher_is_better": True, "percent": True,
        "among": "",
    }  # fmt: skip
    assert [line["row"] for line in found["rows"]] == list(table.index)
    for line in found["rows"]:
        shown, score = table.loc[line["row"]], line["scores"]["nway50_top1"]
        for name in ("score", "low", "high"):
            assert 100 * score[name] == pytest.approx(shown[name], rel=FRACTION)
        assert (line["state"], len(line["seeds"])) == (shown["state"] or "complete", shown["n_seeds"])
        if line["row"] == "10":
            assert line["difference"] is None
            continue
        assert 100 * line["difference"]["low"] == pytest.approx(shown["difference_low"], rel=FRACTION)
        assert line["difference"]["verdict"] == shown["verdict"]
    rows = {line["row"]: line for line in found["rows"]}
    assert rows["0"]["difference"]["verdict"] and rows["0"]["paper_percent"] == 4.9
    assert rows["12"]["difference"]["verdict"] == "" and rows["12"]["difference"]["p_holm"] is None  # one seed
    assert rows["shuffled"]["role"] == "null" and rows["ridge"]["difference"]["verdict"]
