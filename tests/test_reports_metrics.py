"""Which metrics the report's tables show, and accuracy over the number of candidates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_records import CONTROLS, ROWS, finished_sweep, write_sweep

from cnd.errors import UserError
from cnd.metrics.nway import NWay, n_way_accuracy
from cnd.statistics import crossed_mean
from reports import candidates, metrics
from reports.collect import UNSEEN, MetricFacts, Records, read_sweep
from sweeps.options import parse
from sweeps.run import Request, define, main

SWEEP = ["ablation_table1", "--experiment", "smoke"]
WHY = "pretrained/metrics/swav.pth: no such file; get https://example.org/swav"
MANY: list[dict[str, Any]] = [
    {"name": "two_way_alexnet2_mindeye2", "title": "2-way, AlexNet(2), MindEye2", "chance": 0.5, "percent": True},
    {"name": "feature_distance_swav_mindeye2", "title": "distance, SwAV, MindEye2", "high": 2.0,
     "higher_is_better": False, "note": f"distance, SwAV, MindEye2: not computed. {WHY}."},
    {"name": "two_way_judge", "title": "2-way, features of the judge", "chance": 0.5, "percent": True},
    {"name": "ssim", "title": "SSIM", "low": -1.0},
]  # fmt: skip


def measure(output: Path, sweep_dir: Path) -> Records:
    """A finished sweep whose records have MANY metrics beside the two n-way accuracies, of which one has no score."""
    facts = [NWay(n=n).describe() for n in (50, 100)] + MANY
    for folder in (output / "cache" / "record").iterdir():
        scores = pd.read_parquet(folder / "scores.parquet")
        own = scores[scores["metric"] == "nway50_top1"]
        more = [own.assign(metric=m["name"], value=np.nan if "note" in m else own["value"]) for m in MANY]
        pd.concat([scores, *more]).to_parquet(folder / "scores.parquet")
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"metrics": facts}))
    return read_sweep(output, sweep_dir)


def test_four_metrics_stand_in_the_table_unless_some_are_chosen(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, [ROWS[1], CONTROLS[1]])
    records = measure(tmp_path, sweep_dir)
    names = [m.name for m in records.metrics]
    assert len(names) == 6 and [m.name for m in metrics.shown(records)] == names[:4]
    write_sweep(tmp_path, [ROWS[1]], [0], metrics=["ssim", "of another run", "nway50_top1", "two_way_judge"])
    chosen = metrics.shown(read_sweep(tmp_path, sweep_dir))
    assert [m.name for m in chosen] == ["nway50_top1", "ssim", "two_way_judge"]  # the table's metric first


def test_stimuli_that_were_not_seen_come_right_after_the_tables_metric() -> None:
    facts = [MetricFacts(name, name) for name in ("a", "b", "c", "d", f"a/{UNSEEN}", f"b/{UNSEEN}")]
    records = Records({}, [], [], pd.DataFrame(), facts, "b")
    assert [m.name for m in metrics.shown(records)] == ["b", f"b/{UNSEEN}", "a", "c"]


def test_titles_that_begin_alike_stand_together() -> None:
    facts = [MetricFacts(m["name"], m["title"], percent=m.get("percent", False)) for m in MANY]
    found = [(group["title"], [c.title for c in group["columns"]]) for group in metrics.grouped(facts)]
    two_way = ("2-way, %", ["AlexNet(2), MindEye2", "features of the judge"])
    assert found == [two_way, ("distance, SwAV, MindEye2", [""]), ("SSIM", [""])]


def test_unknown_names_are_told_with_those_that_are_measured() -> None:
    metrics.check(["ssim", f"ssim/{UNSEEN}"], ["ssim", "nway5_top1"])
    with pytest.raises(UserError, match="--metrics: 'sim' is not measured; choose among ssim, nway5_top1"):
        metrics.check(["sim"], ["ssim", "nway5_top1"])


def test_report_with_other_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep_dir = finished_sweep(tmp_path, [ROWS[1], CONTROLS[1]]).rename(tmp_path / "sweeps" / "ablation_table1-smoke")
    measure(tmp_path, sweep_dir)
    asked = ["report", *SWEEP, "--output", str(tmp_path), "--metrics"]
    assert main([*asked, "nway5_top1"]) == 2
    assert "choose among nway50_top1, nway100_top1, two_way_alexnet2_mindeye2" in capsys.readouterr().err
    assert main([*asked, "ssim, feature_distance_swav_mindeye2"]) == 0
    assert json.loads((sweep_dir / "sweep.json").read_text())["metrics"] == ["ssim", "feature_distance_swav_mindeye2"]
    html = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    table, rest = html.split("<summary>All metrics</summary>")
    assert "SSIM</th>" in table and "AlexNet(2)" not in table and "AlexNet(2), MindEye2<small>chance 50.0" in rest
    assert f"<li>distance, SwAV, MindEye2: {WHY}.</li>" in table and "<small>not computed</small>" in table
    assert html.count(WHY) == 1  # not among the notes on statistics once more
    assert "--metrics ssim,feature_distance_swav_mindeye2" in html  # the command that gives this report again


def test_a_choice_is_kept_until_another_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def kept(*words: str) -> list[str]:
        request = Request(parse([*SWEEP, "--rows", "10", "--output", str(tmp_path), *words]), "fake_pipeline")
        define(request, request.chosen())
        return request.folder.definition()["metrics"]

    assert kept() == []
    assert kept("--metrics", "nway100_top1") == kept() == ["nway100_top1"]
    assert kept("--set", "evaluation.n_way=[50]") == []  # no longer measured
    assert kept("--metrics", "nway100_top1") and kept("--metrics", "") == []
    assert main([*SWEEP, "--output", str(tmp_path), "--metrics", "ssim"]) == 2  # before anything runs
    assert "--metrics: 'ssim' is not measured; choose among nway50_top1" in capsys.readouterr().err


def keep_ranks(output: Path, row: str, seed: int) -> np.ndarray:
    """Give a record ranks by two judges; returns the first one's scores of 12 classes, of which each item's is its own.

    Two samples an item.
    """
    rng = np.random.default_rng([seed, *row.encode()])
    scores = rng.integers(0, 6, (24, 2, 12)).astype(float)  # with ties
    own = np.take_along_axis(scores, (np.arange(24) % 12)[:, None, None], axis=2)
    item, sample = np.indices((24, 2)).reshape(2, -1)
    columns = {"item": item, "sample": sample, "judge": "first", "n_classes": 12}
    counts = {"above": (scores > own).sum(2).ravel(), "tied": (scores == own).sum(2).ravel() - 1}
    ranks = pd.DataFrame(columns | counts)
    folder = output / "cache" / "record" / f"{row}-{seed}"
    pd.concat([ranks, ranks.assign(judge="second", above=0)]).to_parquet(folder / "ranks.parquet")
    return scores


def test_accuracy_over_candidates_is_exact_and_the_reference_has_its_interval(tmp_path: Path) -> None:
    rows = [ROWS[1], ROWS[0], CONTROLS[0], CONTROLS[1]]
    records_of = {"classifiers": ["first", "second"], "n_samples": 2}
    sweep_dir = finished_sweep(tmp_path, rows, seeds=(0, 1), **records_of)
    assert candidates.curves(read_sweep(tmp_path, sweep_dir)).empty
    given = {(row, seed): keep_ranks(tmp_path, row, seed) for row in ("10", "0", "ridge") for seed in (0, 1)}
    keep_ranks(tmp_path, "shuffled", 0)  # its other seed has none: it is left out
    points = candidates.curves(read_sweep(tmp_path, sweep_dir))
    assert set(points["row"]) == {"10", "0", "ridge"} and list(points["n"].unique()) == list(range(2, 13))
    target, category = np.repeat(np.arange(24) % 12, 2), np.arange(24) % 12
    for n in (2, 5, 12):
        both = [n_way_accuracy(given["10", seed].reshape(48, 12), target, n).reshape(24, 2) for seed in (0, 1)]
        values = np.stack(both, axis=1).mean(axis=2)  # [item, seed]
        expected = crossed_mean(values, category, bounds=(0, 1))
        line = points[(points["row"] == "10") & (points["n"] == n)].iloc[0]
        assert tuple(line[["score", "low", "high"]]) == pytest.approx((expected.estimate, expected.low, expected.high))
    assert points.loc[points["row"] != "10", ["low", "high"]].isna().all(axis=None)
    axes = candidates.candidate_curves(points).axes[0]
    assert axes.get_xscale() == "log" and len(axes.lines) == 4 and len(axes.collections) == 1  # chance; the band
    chance = axes.lines[-1]
    np.testing.assert_allclose(chance.get_ydata(), 100 / np.asarray(chance.get_xdata()))
