"""``verify`` recomputes what a report shows, and names the number that is wrong."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from report_records import CONTROLS, ROWS, finished_sweep

from reports import build, tables
from reports.build import Picture, build_report
from reports.page_tables import read_page
from reports.verify import OUTDATED, differences, plain_means, verify_report


@pytest.fixture(autouse=True)
def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are most of the time that a report takes."""
    monkeypatch.setattr(build, "picture", lambda figure, description, **_: Picture("data:,", description, 1))
    for draw in ("_forest", "_factors", "_curves", "_convergence"):
        monkeypatch.setattr(build, draw, lambda *_: None)


@pytest.fixture
def report(tmp_path: Path) -> tuple[Path, Path, Path]:
    sweep = finished_sweep(tmp_path, [*ROWS[1:3], CONTROLS[0]], seeds=(0, 1), n_samples=2)
    return tmp_path, sweep, build_report(tmp_path, sweep)


def test_a_report_is_what_its_records_say_until_one_of_them_changes(report: tuple[Path, Path, Path]) -> None:
    output, sweep, path = report
    assert verify_report(output, sweep).problems == [] and verify_report(output, sweep).numbers > 100
    html = path.read_text()

    path.write_text(html.replace('"content": "', "").replace(' name="inputs" content="', ' name="inputs" content="0'))
    assert verify_report(output, sweep).problems == [OUTDATED]
    path.write_text(html)

    file = output / "cache" / "record" / "11-1" / "scores.parquet"
    scores = pd.read_parquet(file)
    first = scores["metric"].eq("nway50_top1") & scores["item"].eq(3)
    scores.assign(value=scores["value"].mask(first, 1 - scores["value"])).to_parquet(file)
    problems = verify_report(output, sweep).problems
    assert any(p.startswith("report: Table, Row 11, 50-way top-1, %") and ", recomputed " in p for p in problems)
    assert any(p.startswith("report: Table, Row 11, difference: shown ") for p in problems)
    assert not any("100-way" in p for p in problems if p.startswith("report: Table,"))
    assert "report: table-fake-tables/table.csv: not what the records give" in problems


def test_one_changed_digit_is_named_by_table_row_and_column(report: tuple[Path, Path, Path]) -> None:
    output, sweep, path = report
    html = path.read_text()
    page = read_page(html)
    table = page.tables[0]
    place = [cell.text for cell in table.head[-1]].index("50-way top-1, %")
    score = table.body[1][place].text
    changed = f"{float(score) + 1:.1f}"
    at = html.index(f">\n{score}<small>") if f">\n{score}<small>" in html else html.index(f">{score}<small>")
    forged = read_page(html[:at] + html[at:].replace(score, changed, 1))
    named = f"report: Table, Row {table.body[1][0].text}, 50-way top-1, %"
    assert [p for p in differences(forged, page) if p.startswith(named)] == differences(forged, page)
    assert differences(forged, page)[0].endswith(f"shown {changed}, recomputed {score}")
    assert plain_means(output, sweep, forged) == [f"{named}: shown {changed}, recomputed {score}"]
    assert differences(page, page) == [] and plain_means(output, sweep, page) == []

    sentence = next(text for _, text in page.sentences if "The sampling unit is the category (12 of them)" in text)
    (problem,) = differences(read_page(html.replace("(12 of them)", "(13 of them)")), page)
    assert problem == f"report: Statistics, sentence '{sentence[:90]}…': shown 13, recomputed 12"
    assert any(
        "picture" in p for p in differences(read_page(html.replace("data:image/png", "data:image/PNG", 1)), page)
    )


def test_a_fault_of_the_reports_own_tables_is_found(
    report: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, sweep, path = report
    right = tables.score_table
    monkeypatch.setattr(build, "score_table", lambda records: right(records).assign(score=lambda t: t["score"] * 1.01))
    build_report(output, sweep)
    found = plain_means(output, sweep, read_page(path.read_text()))
    assert found and all("50-way" in p or "100-way" in p for p in found)
    assert set(found) <= set(verify_report(output, sweep).problems)


def test_without_a_report_there_is_nothing_to_verify(tmp_path: Path) -> None:
    sweep = finished_sweep(tmp_path, ROWS[1:2])
    assert verify_report(tmp_path, sweep) == (0, [])
