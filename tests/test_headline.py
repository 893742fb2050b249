"""What MLflow's run of a whole sweep carries; that a command writes it once is tested with the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_records import CONTROLS, ROWS, finished_sweep, write_record, write_sweep, write_trial

from cnd.store.folder import SweepFolder
from reports.build import build_report, result_table
from sweeps.headline import of_search, of_table


def test_of_a_table_the_scores_of_its_report(tmp_path: Path) -> None:
    sweep = finished_sweep(tmp_path, [*ROWS[:2], *CONTROLS[-1:]])
    build_report(tmp_path, sweep)
    told = of_table(SweepFolder(tmp_path, sweep.name), "inputs")
    table = result_table(tmp_path, sweep).set_index("row")["score"] / 100
    assert told is not None and told.inputs == "inputs"
    assert {row: told.metrics[f"score.{row}"] for row in table.index} == pytest.approx(table.to_dict())
    assert told.metrics["headline/nway50_top1"] == told.metrics["score.10"]
    assert told.metrics["difference.oracle"] == pytest.approx(told.metrics["score.oracle"] - told.metrics["score.10"])
    assert "difference.10" not in told.metrics and told.tags["seeds"] == "1" and told.tags["reference"] == "10"
    assert {path.suffix for path in told.files} == {".html", ""} and json.loads(told.text)["reference"] == "10"


def test_nothing_of_a_table_without_a_result(tmp_path: Path) -> None:
    assert of_table(SweepFolder(tmp_path, write_sweep(tmp_path, ROWS[:2], [0]).name), "") is None


def test_of_a_search_the_scores_of_its_winner(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"id": "reference"}, ROWS[0] | {"id": "t0003"}]
    final = write_sweep(tmp_path, rows, [0], reference="reference")
    for row, level in (("reference", 0.2), ("t0003", 0.6)):
        write_record(tmp_path, row, level=level)
        write_trial(final, row, 0)
    folder = SweepFolder(tmp_path, "s-fake")
    folder.path.mkdir(parents=True)
    found: list[dict[str, Any]] = [
        {"number": n, "state": "complete", "values": [v], "settings": {"a": n}} for n, v in ((0, 0.25), (3, 0.75))
    ]
    found.append({"number": 4, "state": "pruned", "values": [], "settings": {"a": 4}})
    described = {"objectives": [{"name": "nway50_top1", "higher_is_better": True}], "final": final.name}
    (folder.path / "search.json").write_text(json.dumps(described))
    (folder.path / "trials.json").write_text(json.dumps(found))
    folder.reports[0].parent.mkdir(exist_ok=True)
    folder.reports[0].write_text("the page")
    told = of_search(folder, "")
    assert told is not None and told.tags["winner"] == "trial 0003" and told.tags["settings"] == '{"a": 3}'
    final_told = of_table(SweepFolder(tmp_path, final.name), "") if build_report(tmp_path, final) else None
    assert final_told is not None and told.metrics == {
        "validation.nway50_top1": 0.75,
        "test.winner": final_told.metrics["score.t0003"],
        "test.reference": final_told.metrics["score.reference"],
    }
    (folder.path / "trials.json").write_text(json.dumps(found[2:]))
    assert of_search(folder, "") is None
