"""Over whose classes a score is, and that a training, the running table and the report tell one and the same score."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import fake_pipeline
import numpy as np
import pytest
from report_records import ROWS, write_record, write_sweep, write_trial

from cnd.errors import UserError
from cnd.experiment import Experiment, load_experiment, override
from cnd.store.convergence import chance_level
from cnd.workflow.plan import steps
from cnd.workflow.run import check
from reports import pools
from reports.build import build_report, result_table
from reports.collect import read_sweep
from sweeps.session import table_score
from sweeps.spec import load_sweep
from sweeps.text import result_text
from sweeps.trials import resolve

ROOT = Path(__file__).resolve().parents[1]
SMOKE = load_experiment(ROOT / "experiments" / "smoke.yaml")
JUDGE, OWN = "the 200 classes of judge 'embedded'", "the 8 classes of the data set"


def finished(tmp_path: Path, among: list[str], **more: Any) -> Path:
    """Two rows scored by 8-way and 50-way accuracy, each among what is told."""
    sweep = write_sweep(tmp_path, ROWS[:2], [0])
    for row in ("0", "10"):
        folder = write_record(tmp_path, row, n_way=(8, 50), **more)
        summary = json.loads((folder / "summary.json").read_text())
        summary["scores"] = {"nway8_top1": 0.625, "nway50_top1": 0.5}
        for metric, told in zip(summary["metrics"], among, strict=True):
            metric["among"] = told
        (folder / "summary.json").write_text(json.dumps(summary))
        write_trial(sweep, row, 0)
    return sweep


def test_every_table_tells_what_its_scores_were_decided_among(tmp_path: Path) -> None:
    sweep = finished(tmp_path, [JUDGE, OWN])
    records = read_sweep(tmp_path, sweep)
    told = f"8-way top-1: among {JUDGE}. 50-way top-1: among {OWN}."
    assert pools.sentence(records) == told
    page = unescape(build_report(tmp_path, sweep).read_text())
    assert page.count(told) == 2  # the table and the sheets of images, which show scores too
    table = result_table(tmp_path, sweep)
    assert told in result_text(load_sweep("ablation_table1"), table.assign(**_columns(table)), [])


def _columns(table: Any) -> dict[str, str]:
    return {c.key: "-" for c in load_sweep("ablation_table1").columns if c.key not in table}


def test_scores_of_one_pool_are_told_together_and_older_records_of_none(tmp_path: Path) -> None:
    records = read_sweep(tmp_path / "new", finished(tmp_path / "new", [JUDGE, JUDGE]))
    assert pools.sentence(records) == f"8-way top-1, 50-way top-1: among {JUDGE}."
    old = read_sweep(tmp_path / "old", finished(tmp_path / "old", ["", ""]))
    assert pools.sentence(old) == ""


def test_the_running_table_the_curves_and_the_report_have_one_score(tmp_path: Path) -> None:
    """n_way: [8, 50] was 8-way while it ran and 50-way, the paper's, in the report."""
    sweep = finished(tmp_path, [JUDGE, JUDGE])
    records, record = read_sweep(tmp_path, sweep), tmp_path / "cache" / "record" / "10-0"
    assert table_score(record) == "62.5 % 8-way top-1"
    assert records.metric == records.metrics[0].name == "nway8_top1"
    assert result_table(tmp_path, sweep).attrs["scale"] == records.scale and records.scale.title == "8-way top-1"
    assert chance_level(record) == 1 / 8 == records.facts(records.metric).chance
    page = unescape(re.sub(r"<[^>]+>", "", build_report(tmp_path, sweep).read_text()))
    assert "The score is 8-way top-1; chance is 12.5 %." in page


def test_rows_of_one_table_have_one_score() -> None:
    sweep = load_sweep("floors")
    line = next(row for row in sweep.rows if row.id != sweep.reference) if len(sweep.rows) > 1 else sweep.rows[0]
    odd = line.model_copy(update={"id": "odd", "set": {**line.set, "evaluation.n_way": [8, 50]}})
    sweep = sweep.model_copy(update={"varies": ()})
    mixed = sweep.model_copy(update={"rows": (*sweep.rows, odd)})
    with pytest.raises(UserError, match=r"would be nway8_top1, and nway50_top1 in row .* evaluation\.headline"):
        resolve(mixed, SMOKE, fake_pipeline.steps, None, 1, {})
    named = odd.model_copy(update={"set": {**odd.set, "evaluation.headline": "nway50_top1"}})
    assert resolve(sweep.model_copy(update={"rows": (*sweep.rows, named)}), SMOKE, fake_pipeline.steps, None, 1, {})


# ---------------------------------------------------------------- the classes of the data set


def own_data(folder: Path, names: list[str]) -> Experiment:
    """Data of ours with some classes and images, judged by label."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        labels = np.repeat(names, 2)
        images = rng.integers(0, 255, (len(labels), 64, 64, 3), dtype=np.uint8)
        stimulus = [f"{part} {i}" for i in range(len(labels))]
        fmri = rng.standard_normal((len(labels), 20))
        np.savez(folder / f"{part}.npz", fmri=fmri, labels=labels, images=images, stimulus=stimulus)
    edits = {"data.kind": "folder", "data.path": folder, "data.image_size": 64, "evaluation.truth": "label"}
    return override(SMOKE, edits | {"evaluation.candidates": "dataset", "evaluation.n_way": [2, 3]}, "test")


def test_more_ways_than_classes_are_refused_before_anything_runs(tmp_path: Path) -> None:
    known = SMOKE.generator.class_names()[:3]
    experiment = own_data(tmp_path, known)
    check(experiment)
    wider = override(experiment, {"evaluation.n_way": [2, 8]}, "test")
    with pytest.raises(UserError, match=r"n_way = 8 exceeds the 3 classes of the data set .* choose at most 3"):
        check(wider)
    check(override(wider, {"evaluation.candidates": "judge"}, "test"))


def test_a_class_that_the_judge_does_not_know_is_named(tmp_path: Path) -> None:
    experiment = own_data(tmp_path, [*SMOKE.generator.class_names()[:2], "my cat"])
    with pytest.raises(UserError, match=r"candidates = dataset: class 'my cat' of the data is none of the generator's"):
        check(experiment)


def test_only_who_asks_for_the_datas_classes_needs_them(tmp_path: Path) -> None:
    experiment = own_data(tmp_path, SMOKE.generator.class_names()[:3])
    plain = override(experiment, {"evaluation.candidates": "judge"}, "test")
    beside = override(plain, {"evaluation.metrics": [{"kind": "accuracy"}]}, "test")
    needs = {name: steps(e)[-1].needs for name, e in (("own", experiment), ("judge", plain), ("beside", beside))}
    assert {name: "own0" in found for name, found in needs.items()} == {"own": True, "judge": False, "beside": True}
    trained = [next(step.key for step in steps(e) if step.name == "phase2") for e in (plain, beside)]
    assert trained[0] == trained[1]  # what stands beside the table's score makes no decoder train again
