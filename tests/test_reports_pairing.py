"""Rows of one sweep on other data: paired by stimulus, else not paired and said so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_records import ROWS, finished_sweep
from safetensors.numpy import load_file, save_file

from cnd import statistics
from cnd.metrics.nway import NWay
from reports import build, sheets, tables
from reports.collect import Records, read_sweep
from reports.complete import complete_scores
from reports.page import Picture
from reports.page_tables import read_page
from reports.stimuli import Catalogue
from sweeps.spec import load_sweep
from sweeps.text import result_text

METRIC = "nway50_top1"
SEEDS = (0, 1)
ROW = "12"  # the one on other data


@pytest.fixture(autouse=True)
def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "picture", lambda figure, description, **_: Picture("data:,", description, 1))
    for slow in (build.seeds, build.effects):  # bootstraps
        monkeypatch.setattr(slow, "section", lambda *_: None)


def sweep(output: Path, **record: Any) -> Path:
    """Rows 10 (the reference), 11 and 12, with the same stimuli."""
    return finished_sweep(output, ROWS[1:], SEEDS, **record)


def folders(output: Path, row: str = ROW) -> list[Path]:
    return [output / "cache" / "record" / f"{row}-{seed}" for seed in SEEDS]


def renumber(folder: Path, order: np.ndarray) -> None:
    """Number the test items otherwise; what is scored stays. ``order``: the new number of each."""
    for name in ("items", "scores"):
        table = pd.read_parquet(folder / f"{name}.parquet")
        renumbered = table.assign(item=order[table["item"].to_numpy(dtype=int)])
        renumbered.sort_values("item", kind="stable").to_parquet(folder / f"{name}.parquet", index=False)
    images = load_file(folder / "images.safetensors")
    moved = {name: np.ascontiguousarray(values[np.argsort(order)]) for name, values in images.items()}
    save_file(moved, folder / "images.safetensors")


def repaint(folder: Path, items: range) -> None:
    """Other pictures for some stimuli, whose names stay."""
    images = load_file(folder / "images.safetensors")
    stimuli = images["stimuli"].copy()
    stimuli[items] = 255 - stimuli[items]
    save_file(images | {"stimuli": stimuli}, folder / "images.safetensors")


def amend(folder: Path, file: str, **changes: Any) -> None:
    path = folder / f"{file}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def by_stimulus(output: Path, row: str) -> pd.DataFrame:
    """Scores, indexed by the stimulus's name, a column a seed; read without the reports' code."""
    columns = {}
    for seed, folder in zip(SEEDS, folders(output, row), strict=True):
        own = pd.read_parquet(folder / "scores.parquet").query("metric == @METRIC")
        named = own.merge(pd.read_parquet(folder / "items.parquet"), on="item")
        columns[seed] = named.groupby("stimulus")["value"].mean()
    return pd.DataFrame(columns)


def category(output: Path) -> pd.Series:
    return pd.read_parquet(folders(output)[0] / "items.parquet").set_index("stimulus")["category"]


def line_of(records: Records, row: str = ROW) -> dict[str, Any]:
    return tables.by_row(tables.difference_table(records))[row]


def test_items_in_another_order_give_the_same_difference(tmp_path: Path) -> None:
    before = sweep(tmp_path)
    expected = line_of(read_sweep(tmp_path, before))
    order = np.random.default_rng(1).permutation(24)
    for folder in folders(tmp_path):
        renumber(folder, order)
    records = read_sweep(tmp_path, before)
    found = line_of(records)
    assert found["paired"] == "stimulus and seed" and found["against"] == ""
    for name in ("difference", "low", "high", "p", "detectable", "improved"):
        assert found[name] == pytest.approx(expected[name], rel=1e-12)
    known = (by_stimulus(tmp_path, ROW) - by_stimulus(tmp_path, "10")).to_numpy()
    assert found["difference"] == pytest.approx(known.mean())
    shown = tables.seed_differences(records).set_index(["row", "seed"])["difference"]
    np.testing.assert_allclose(shown[ROW], known.mean(axis=0))
    section = sheets.section(records)  # each picture beside the stimulus that it is of
    assert section is not None
    drawn = by_stimulus(tmp_path, ROW)[0]
    column = section.sheets[0].columns.index("Row 12")
    for line, cells in zip(section.lines, section.sheets[0].cells, strict=True):
        cell = cells[column]
        assert cell is not None and cell.score == f"{100 * drawn[f'stimulus{line.item}']:.1f}"


def test_of_half_shared_stimuli_these_are_paired(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    for record in folders(tmp_path):
        repaint(record, range(12))
    found = line_of(read_sweep(tmp_path, folder))
    assert found["paired"] == "stimulus and seed, 12 stimuli of both"
    both = [f"stimulus{i}" for i in range(12, 24)]
    change = (by_stimulus(tmp_path, ROW) - by_stimulus(tmp_path, "10")).loc[both]
    expected = statistics.crossed_mean(change.to_numpy(), category(tmp_path)[both])
    assert [found[name] for name in ("difference", "low", "high", "p", "n_units")] == pytest.approx(
        [expected.estimate, expected.low, expected.high, expected.p_value, 12]
    )


@pytest.mark.parametrize("names", [True, False])
def test_other_stimuli_are_compared_as_two_independent_means(tmp_path: Path, names: bool) -> None:
    folder = sweep(tmp_path)
    for record in folders(tmp_path):
        if names:
            items = pd.read_parquet(record / "items.parquet")
            items.assign(stimulus="other " + items["stimulus"]).to_parquet(record / "items.parquet")
        else:
            repaint(record, range(13))
        amend(record, "summary", data={"description": "Another brain.", "n_voxels": 7})
    records = read_sweep(tmp_path, folder)
    found = line_of(records)
    assert found["paired"] == "not paired: other stimuli" and found["against"] == ""
    units = category(tmp_path).sort_index().to_numpy()
    own, other = (
        statistics.crossed_mean(by_stimulus(tmp_path, row).sort_index().to_numpy(), units) for row in (ROW, "10")
    )
    assert found["difference"] == pytest.approx(own.estimate - other.estimate)
    assert found["error"] == pytest.approx(np.hypot(own.error.standard, other.error.standard))
    assert line_of(records, "11")["paired"] == "stimulus and seed"
    told = build.result_table(tmp_path, folder).set_index("row")["state"]
    assert told[ROW] == "not paired: other stimuli" and told["11"] == ""
    section = sheets.section(records)
    assert section is not None and [sheet.columns for sheet in section.sheets] == [
        ["Row 10 (reference)", "Row 11"],
        ["Row 12"],
    ]
    complete = complete_scores(records, records.rows)
    assert complete is not None and [row.id for row in complete.rows] == ["10", "11"]
    if not names:
        return
    html = build.build_report(tmp_path, folder).read_text()
    page = read_page(html)
    sentences = " ".join(text for _, text in page.sentences)
    assert "Not paired, because the stimuli are others: Row 12." in sentences
    assert "Another brain. (rows 12)" in sentences and "Fabricated brain. (all rows but 12)" in sentences
    assert "Rows share the test items" not in html and "Not all rows have the same test items" in html
    assert "the paired difference" not in sentences and html.count("not paired: other stimuli") == 1


def test_real_and_simulated_rows_are_told_apart_and_not_judged(tmp_path: Path) -> None:
    folder = sweep(tmp_path)
    for record in folders(tmp_path):
        amend(record, "summary", simulated=False, metrics=[NWay(n=n).describe() | {"chance": 0.5} for n in (50, 100)])
        repaint(record, range(24))
    records = read_sweep(tmp_path, folder)
    found = line_of(records)
    assert found["verdict"] == "" and found["against"].startswith(
        "real against simulated data; 50-way top-1 with other"
    )
    assert line_of(records, "11")["verdict"] != ""
    levels = tables.score_table(records).set_index(["row", "metric"])["chance"]
    assert levels[ROW, METRIC] == 0.5 and levels["10", METRIC] == levels["11", METRIC] == 0.02
    html = build.build_report(tmp_path, folder).read_text()
    assert "SIMULATED DATA IN SOME ROWS</strong>Row 10, Row 11." in html
    assert "REAL DATA IN OTHERS</strong>Row 12." in html
    assert html.count("<small>simulated data</small>") == 2 and html.count("<small>real data</small>") == 1
    assert (
        "This run (simulated data)" not in html and "chance is 2.0 %" in html and "<small>chance 50.0</small>" in html
    )


def test_a_report_without_published_scores_says_nothing_of_them(tmp_path: Path) -> None:
    rows = [row | {"paper": None} for row in ROWS[1:3]]
    folder = finished_sweep(tmp_path, rows, (0,), n_categories=1, per_category=1)
    amend(folder, "sweep", paper_metric=None, rows=rows)
    html = build.build_report(tmp_path, folder).read_text()
    for words in ('class="paper"', "Published numbers", "MinD-Vis", "half-width"):
        assert words not in html
    table = build.result_table(tmp_path, folder)
    assert (
        "paper"
        not in result_text(load_sweep("ablation_table1").model_copy(update={"columns": ()}), table, []).splitlines()[0]
    )


def test_what_tells_stimuli_apart(tmp_path: Path) -> None:
    def items(*named: tuple[str, str]) -> pd.DataFrame:
        return pd.DataFrame(
            {"item": range(len(named)), "stimulus": [a for a, _ in named], "category_name": [b for _, b in named]}
        )

    def record(name: str, *levels: int, size: int = 4) -> Path:
        (tmp_path / name).mkdir()
        stimuli = np.stack([np.full((1, size, size), level, dtype=np.uint8) for level in levels])
        save_file({"stimuli": stimuli}, tmp_path / name / "images.safetensors")
        return tmp_path / name

    catalogue = Catalogue()
    cat, dog = ("a", "cat"), ("a", "dog")
    first = record("first", 1, 2, 2, 3)
    assert catalogue.numbers(items(cat, cat, cat, dog), first) == {0: 0, 1: 1, 2: 2, 3: 3}
    # the same in another order, one of them a picture more
    assert catalogue.numbers(items(dog, cat, cat, cat), record("moved", 3, 2, 1, 9)) == {0: 3, 1: 1, 2: 0, 3: 4}
    # pictures of another size, or none, tell nothing
    assert catalogue.numbers(items(cat, dog), record("large", 7, 7, size=8)) == {0: 0, 1: 3}
    assert catalogue.numbers(items(cat, dog), None) == {0: 0, 1: 3}
    assert catalogue.numbers(items(("b", "cat")), first) == {0: 5}
