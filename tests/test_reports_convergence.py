"""Which rows are marked as not converged, and where a reader sees it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from report_records import ROWS, finished_sweep, table_row
from test_reports import Page

from cnd.store.convergence import verdict
from cnd.store.tracking import Tracker, sqlite_uri
from reports import convergence, figures
from reports.build import build_report, result_table
from reports.collect import read_sweep

ROWS_SHOWN = [*ROWS[:3], table_row("ridge", label="Ridge into the bank", control=True, role="rival")]
FLAT = [0.30, 0.50, 0.58, 0.60, 0.61, 0.60, 0.60, 0.61]
RISING = [0.05, 0.10, 0.20, 0.30, 0.40, 0.50, 0.65, 0.80]


def give_curve(record: Path, means: list[float], seed: int = 0, **summary: object) -> None:
    """A curve of 60 items of 15 categories, whose noise is common to all checkpoints but for a little."""
    rng = np.random.default_rng(seed)
    item = np.arange(60)
    base = rng.normal(0, 0.1, 60)
    parts = [
        pd.DataFrame(
            dict(item=item, category=item % 15, stimulus=[f"stimulus {i}" for i in item], samples_seen=100 * (at + 1))
        ).assign(value=np.clip(mean + base + rng.normal(0, 0.02, 60), 0, 1), fold=0)
        for at, mean in enumerate(means)
    ]
    curve = pd.concat(parts, ignore_index=True)
    curve.to_parquet(record / "curve.parquet")
    points = curve.groupby("samples_seen")["value"].mean().reset_index().assign(phase="phase2", fold=0)
    history = pd.concat([pd.read_parquet(record / "history.parquet"), points.assign(name="validation_score")])
    history.to_parquet(record / "history.parquet")
    tell(record, training={"steps": 80, "samples_seen": 800, "seconds_scoring": 2.0}, **summary)


def tell(record: Path, **changes: object) -> None:
    content = json.loads((record / "summary.json").read_text())
    (record / "summary.json").write_text(json.dumps(content | changes))


def record(output: Path, row: str, seed: int = 0) -> Path:
    return output / "cache" / "record" / f"{row}-{seed}"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Row 0 rises, row 10 is flat, row 11 has no curve, ridge has no training in steps."""
    output = tmp_path_factory.mktemp("swept")
    sweep_dir = finished_sweep(output, ROWS_SHOWN)
    give_curve(record(output, "0"), RISING)
    give_curve(record(output, "10"), FLAT)
    tell(record(output, "ridge"), in_steps=False)
    return output, sweep_dir


def test_the_state_of_each_row(swept: tuple[Path, Path]) -> None:
    states = convergence.states(read_sweep(*swept))
    assert {row: state.state for row, state in states.items()} == {
        "0": "no", "10": "no", "11": "not measured", "ridge": "no training"
    }  # fmt: skip
    assert states["0"].moved and states["10"].moved  # 0.5 against 0.6 at three quarters, 0.8 at the end
    assert states["0"].rise is not None and states["0"].rise.estimate == pytest.approx(0.3, abs=0.02)
    assert states["10"].rise is not None and not states["10"].rise.still_rising


def test_a_flat_row_beside_a_worse_one_has_converged(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, ROWS[:2])
    give_curve(record(tmp_path, "0"), [value / 2 for value in FLAT])
    give_curve(record(tmp_path, "10"), FLAT)
    records = read_sweep(tmp_path, sweep_dir)
    states = convergence.states(records)
    assert {state.state for state in states.values()} == {"yes"}
    assert convergence.sentences(records, states)[0].startswith("All 2 rows had converged")
    common = convergence.common_rise(records)
    assert common is not None and not common.still_rising


def test_flat_at_chance_is_not_converged(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, ROWS[:2])
    give_curve(record(tmp_path, "0"), [-0.1] * 8)  # clipped at 0, their mean is below 1 %; chance is 2 %
    give_curve(record(tmp_path, "10"), FLAT)
    records = read_sweep(tmp_path, sweep_dir)
    states = convergence.states(records)
    assert (states["0"].state, states["10"].state) == ("at chance", "yes")
    first, second = convergence.sentences(records, states)
    assert first.startswith("Row 10 had converged") and "row 0 is flat at chance" in second


def test_where_lower_is_better_a_falling_curve_still_learns(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, ROWS[:1])
    folder = record(tmp_path, "0")
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    metrics[0] |= {"higher_is_better": False, "chance": 0.9}
    give_curve(folder, [1 - score for score in RISING], metrics=metrics)
    assert convergence.states(read_sweep(tmp_path, sweep_dir))["0"].state == "no"


def test_a_reader_of_the_report_cannot_miss_it(swept: tuple[Path, Path]) -> None:
    page = Page(build_report(*swept))
    headline = page.text.index("2 of 2 rows had NOT CONVERGED (rows 0, 10)")
    assert headline < page.text.index("The score is 50-way top-1")
    assert "what learns fastest" in page.text and "Of row 11 it was not measured" in page.text
    assert page.text.count("NOT CONVERGED") == 5  # headline, two lines of the table, two of what each row took
    assert "no training" in page.text and "not measured" in page.text
    assert "changes places" in page.text and "convergence" in page.ids


def test_the_command_shows_it(swept: tuple[Path, Path]) -> None:
    table = result_table(*swept).set_index("row")["converged"]
    assert table.to_dict() == {"0": "no", "10": "no", "11": "not measured", "ridge": "no training"}


def test_sweeps_of_older_records_say_not_measured(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, ROWS)
    records = read_sweep(tmp_path, sweep_dir)
    states = convergence.states(records)
    assert {state.state for state in states.values()} == {"not measured"}
    assert convergence.sentences(records, states) == ["Whether the rows had converged was not measured."]
    page = Page(build_report(tmp_path, sweep_dir))
    assert "NOT CONVERGED" not in page.text and "convergence" not in page.ids


def test_seeds_are_pooled_and_all_must_be_measured(tmp_path: Path) -> None:
    finished_sweep(tmp_path, ROWS[:1], seeds=(0, 1))
    folders = [record(tmp_path, "0", seed) for seed in (0, 1)]
    give_curve(folders[0], RISING)
    assert verdict(folders).state == "not measured"
    give_curve(folders[1], FLAT, seed=1)
    found = verdict(folders)
    assert found.rise is not None and found.rise.estimate == pytest.approx(0.155, abs=0.02)
    assert verdict([]).state == "not measured"
    give_curve(folders[1], FLAT[:1])  # a single checkpoint tells nothing of a rise
    assert verdict(folders).state == "not measured"


def test_items_without_a_defined_score_say_nothing(tmp_path: Path) -> None:
    """As of n-way among some classes, which has no score for items of other classes."""
    finished_sweep(tmp_path, ROWS[:1])
    folder = record(tmp_path, "0")
    give_curve(folder, RISING)
    curve = pd.read_parquet(folder / "curve.parquet")
    curve[curve["item"] < 30].to_parquet(folder / "curve.parquet")
    right = verdict([folder])
    curve.assign(value=curve["value"].where(curve["item"] < 30)).to_parquet(folder / "curve.parquet")
    assert verdict([folder]) == right and right.state == "no"
    curve.assign(value=np.nan).to_parquet(folder / "curve.parquet")
    assert verdict([folder]).state == "not measured"


def test_mlflow_has_a_tag_and_the_curve(swept: tuple[Path, Path], tmp_path: Path) -> None:
    tracker = Tracker(sqlite_uri(tmp_path), tmp_path / "mlartifacts", "table-base")
    tags = {}
    for row in ("0", "10", "11", "ridge"):
        tell(record(swept[0], row), scores={"nway50_top1": 0.4})
        run = tracker.start(row, row, {}, {})
        tracker.record(run, record(swept[0], row))
        tags[row] = tracker.client.get_run(run).data.tags["converged"]
        if row == "0":
            curve = tracker.client.get_metric_history(run, "phase2/validation_score")
            assert [point.step for point in curve] == [100 * (at + 1) for at in range(8)]
    assert tags == {"0": "no", "10": "yes", "11": "not measured", "ridge": "no training"}  # a trial is judged alone


def test_the_figure_has_a_line_a_row(swept: tuple[Path, Path]) -> None:
    curves = convergence.curves(read_sweep(*swept))
    figure = figures.validation_curves(curves, ["0"], 0.02)
    assert isinstance(figure, Figure)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0].startswith("80.") and labels[0].endswith("(not converged)") and labels[-1] == "chance"
    many = pd.concat([curves[curves["row"] == "0"].assign(row=str(i), title=f"Row {i}") for i in range(20)])
    assert len(figures.validation_curves(many, [], float("nan")).legends[0].get_texts()) == 20
