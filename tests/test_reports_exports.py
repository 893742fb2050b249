"""The tables of a report as CSV and LaTeX: what the page shows, safe in a spreadsheet, and compiling."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd
import pytest
from report_records import ROWS, table_row, write_record, write_sweep, write_trial

from reports import build
from reports.build import Picture, build_report
from reports.exports import as_csv, as_latex, escape, folder_of, parts, with_files
from reports.page_tables import Cell, read_page

PAGE = """<html><head><title>A &amp; B</title></head><body><h2>Scores, 50_way</h2>
<div class="scroll"><table><thead>
<tr><th class="left"></th><th colspan="2">Ours</th><th>Paper</th></tr>
<tr><th class="left">Row</th><th>top-1, %<small>chance 2.0</small></th>
<th>difference</th><th>top-1, %</th></tr></thead><tbody>
<tr><th scope="row">10<small>=HYPERLINK("x") &amp; co</small></th>
<td>92.6<small>89.7 to 94.4<br>seeds ± 1.2</small></td>
<td><span>reference</span></td><td>10.5</td></tr>
<tr><th scope="row">11</th><td>1,234.5<small>– to –</small></td>
<td>−1.2 <span>*</span><small>−2.5 to +0.1</small></td><td>–</td></tr>
<tr class="divider"><th scope="rowgroup" colspan="4">Controls</th></tr>
<tr><th scope="row">@ridge 100 %</th><td colspan="2">failed: [x]_y</td><td></td></tr>
</tbody></table></div>
<p><strong>Second</strong></p><table><thead><tr><th>a</th></tr></thead><tbody><tr><td>-1</td></tr></tbody></table></body></html>"""


def test_every_number_of_a_cell_has_its_column_and_keeps_its_digits() -> None:
    table = read_page(PAGE).tables[0]
    read = pd.read_csv(io.StringIO(as_csv(table)), keep_default_na=False, dtype=str)
    ours, paper = "Ours: top-1, % (chance 2.0)", "Paper: top-1, %"
    assert read.columns.tolist() == [
        "Row", "Row: note", ours, f"{ours}: low", f"{ours}: high", f"{ours}: seeds ±",
        "difference", "difference: mark", "difference: low", "difference: high", "difference: note",
        paper, "group", "note",
    ]  # fmt: skip
    assert read[ours].tolist() == ["92.6", "1234.5", ""]
    assert read[f"{ours}: low"].tolist() == ["89.7", "", ""] and read[f"{ours}: seeds ±"][0] == "1.2"
    assert read["difference"].tolist() == ["", "-1.2", ""] and read["difference: mark"].tolist() == ["", "*", ""]
    assert read["difference: note"][0] == "reference" and read["difference: high"][1] == "+0.1"
    assert read["group"].tolist() == ["", "", "Controls"] and read["note"][2] == "failed: [x]_y"
    numbers = pd.read_csv(io.StringIO(as_csv(table)))
    assert all(
        numbers[name].dtype.kind == "f" for name in (ours, f"{ours}: low", "difference", "difference: low", paper)
    )


def test_texts_that_a_spreadsheet_would_run_are_prefixed_and_numbers_are_not() -> None:
    first, second = read_page(PAGE).tables
    assert "'=HYPERLINK" in as_csv(first) and "'@ridge" in as_csv(first)
    assert as_csv(second) == "a\n-1\n"
    for evil in ("=1+1", "+cmd", "-cmd", "@SUM(A1)", "＝1"):
        assert as_csv(read_page(PAGE.replace("<td>-1</td>", f"<td>{evil}</td>")).tables[1]) == f"a\n'{evil}\n"


def test_latex_has_the_same_number_of_cells_in_every_line_and_escapes_what_is_special() -> None:
    page = read_page(PAGE)
    text = as_latex(page.tables[0], page)
    assert_compiles(text)
    assert "92.6 [89.7, 94.4] (seeds $\\pm$ 1.2)" in text and "$-$1.2$^{*}$ [$-$2.5, +0.1]" in text
    assert "\\caption{Scores, 50\\_way: A \\& B}" in text and "\\label{tab:scores-50-way}" in text
    assert "\\multicolumn{2}{l}{failed: [x]\\_y}" in text and "\\cmidrule(lr){2-3}" in text
    assert (
        escape("α_S 5% {~^\\}#") == "$\\alpha$\\_S 5\\% \\{\\textasciitilde{}\\textasciicircum{}\\textbackslash{}\\}\\#"
    )
    assert page.tables[1].heading == "Scores, 50_way: Second"


def assert_compiles(text: str) -> None:
    """What LaTeX would complain of: unequal lines, open groups, characters that mean something."""
    lines = text.splitlines()
    order = ["\\begin{table}", "\\toprule", "\\midrule", "\\bottomrule", "\\end{tabular}", "\\end{table}"]
    assert [line for line in lines if line in order[:2] + order[3:]] == order[:2] + order[3:] and "\\midrule" in lines
    columns = re.sub(r"p\{[^}]*\}\}?", "p", lines[5].removeprefix("\\begin{tabular}{")).rstrip("}")
    for line in (line for line in lines if line.endswith(" \\\\")):
        spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
        cells = len(re.findall(r"(?<!\\)&", line)) + 1
        assert cells + sum(spans) - len(spans) == len(columns), line
        assert not re.search(r"(?<!\\)[%#]|(?<![\\$])_", line), line
        plain = re.sub(r"\\[{}]", "", line)
        assert plain.count("{") == plain.count("}") and len(re.findall(r"(?<!\\)\$", line)) % 2 == 0, line
        assert not line.startswith("["), "behind \\\\ that is an option"


def test_second_lines_of_cells() -> None:
    assert parts(Cell("yes", ["−0.1 ± 0.7; changes places"])) == {
        "": "yes", "value": "−0.1", "±": "0.7", "note": "changes places",
    }  # fmt: skip
    assert parts(Cell("", ["75.4"])) == {"": "75.4"}
    assert parts(Cell("81.2 *", ["−10.8 (−14.6 to −7.0)"])) == {
        "": "81.2", "mark": "*", "value": "−10.8", "low": "−14.6", "high": "−7.0",
    }  # fmt: skip
    assert parts(Cell("0", ["no Phase 1"], names_row=True)) == {"": "0", "note": "no Phase 1"}


def test_the_page_links_to_its_files_and_keeps_its_tables() -> None:
    linked, files = with_files(PAGE, "a&b-tables")
    again = read_page(linked)
    assert [(t.heading, t.head, t.body) for t in again.tables] == [
        (t.heading, t.head, t.body) for t in read_page(PAGE).tables
    ]
    assert set(files) == {
        f"{slug}.{kind}" for slug in ("scores-50-way", "scores-50-way-second") for kind in ("csv", "tex")
    }
    assert 'href="a&amp;b-tables/scores-50-way.csv"' in linked and '<table id="scores-50-way-table">' in linked
    assert linked.count('<caption class="unseen">') == 2


def test_a_report_has_its_tables_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "picture", lambda figure, description, **_: Picture("data:,", description, 1))
    evil = "=cmd|'/c calc'!A1 & 5 % <b>"
    rows = [ROWS[1], table_row("11", 1, 0.5, 0.5, 4, "N") | {"label": evil}]
    sweep = write_sweep(tmp_path, rows, [0, 1])
    for row, seed in (("10", 0), ("10", 1), ("11", 0), ("11", 1)):
        write_trial(sweep, row, seed)
        write_record(tmp_path, row, seed)
    folder = folder_of(build_report(tmp_path, sweep))
    (folder / "of-an-earlier-report.csv").touch()
    html = build_report(tmp_path, sweep).read_text(encoding="utf-8")
    page = read_page(html)
    assert {file.name for file in folder.iterdir()} == {
        f"{t.slug}.{kind}" for t in page.tables for kind in ("csv", "tex")
    }
    links = re.findall(r'<p class="files"><a href="([^"]+)">CSV</a> · <a href="([^"]+)">LaTeX', html)
    assert len(links) == len(page.tables) and all(
        (tmp_path / "reports" / link).is_file() for pair in links for link in pair
    )
    for table in page.tables:
        assert_compiles((folder / f"{table.slug}.tex").read_text(encoding="utf-8"))
    table = pd.read_csv(folder / "table.csv", keep_default_na=False, dtype=str)
    assert table["Row: note"][1] == f"'{evil}"
    shown = next(cells for cells in page.tables[0].body if cells[0].text == "11")
    column = next(name for name in table if "50-way" in name)
    assert table[column][1] == next(cell.text for cell in shown if cell.lines and "to" in cell.lines[0])
