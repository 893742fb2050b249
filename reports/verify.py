"""Whether a report shows what the records say: it is rendered again and compared number by number.

The main table's means are besides computed from ``scores.parquet`` with plain means, by no code of the report, so that
a fault of the report's own tables would show.
"""

from __future__ import annotations

import difflib
import json
import re
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from reports import build, exports
from reports.page_tables import Cell, Page, PageTable, read_page

OUTDATED = "report: made by other code or before later trials: run the sweep again"
DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
FOLDER = re.compile(r"/\S*/(?=cache/)")  # of results named in messages: it changes when the output is moved
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
SHOWN = 90  # characters of a sentence in a message
ROUNDING = 1e-6  # of the last digit shown: sums in another order differ by less
Run = tuple[str, int]  # subject, seed


class Verified(NamedTuple):
    """How many numbers were compared, and what is wrong with some, a line each."""

    numbers: int
    problems: list[str]


def verify_report(output: Path, sweep_dir: Path) -> Verified:
    """Compare the report of a sweep with its records; nothing is compared where there is no report.

    Args:
        output: the ``--output`` folder.
        sweep_dir: ``output/sweeps/<sweep>-<experiment>``.

    Raises:
        UserError: there is no readable sweep.json.
    """
    path = output / "reports" / f"{sweep_dir.name}.html"
    if not path.is_file():
        return Verified(0, [])
    html = path.read_text(encoding="utf-8")
    if f'<meta name="inputs" content="{build.made_from(sweep_dir)}">' not in html:
        return Verified(0, [OUTDATED])
    shown, made = read_page(html), build.render(output, sweep_dir)
    problems = [*plain_means(output, sweep_dir, shown), *differences(shown, read_page(made.html))]
    cortex = path.with_name(f"{path.stem}-cortex.html")
    files = {exports.folder_of(path) / name: content for name, content in made.tables.items()}
    for file, content in (files | ({cortex: made.cortex} if made.cortex else {})).items():
        if not file.is_file() or file.read_text(encoding="utf-8") != content:
            problems.append(f"report: {file.relative_to(path.parent)}: not what the records give")
    return Verified(_count(shown), list(dict.fromkeys(problems)))


def _count(page: Page) -> int:
    """Numbers of a page, in tables and sentences."""
    cells = [cell.whole for table in page.tables for line in [*table.head, *table.body] for cell in line]
    return sum(len(NUMBER.findall(text)) for text in [*cells, *(text for _, text in page.sentences)])


# ---------------------------------------------------------------- against the report made again


def differences(shown: Page, again: Page) -> list[str]:
    """What one page shows otherwise than the other, by the name of the number."""
    problems = []
    before, now = ({table.slug: table for table in page.tables} for page in (shown, again))
    for slug in {**now, **before}:
        if slug in now and slug in before:
            problems += _cells(before[slug], now[slug])
        else:
            what = "is missing" if slug in now else "does not follow from the records"
            problems.append(f"report: {(now | before)[slug].heading}: the table {what}")
    problems += _sentences(shown, again)
    for number, (old, new) in enumerate(zip_longest(shown.pictures, again.pictures), start=1):
        if old != new:
            section = (old or new or ("", ""))[0]
            problems.append(f"report: {section}, picture {number}: not the one that the records give here")
    return problems


def _cells(shown: PageTable, again: PageTable) -> list[str]:
    if len(shown.body) != len(again.body) or len(shown.head) != len(again.head):
        return [f"report: {shown.heading}: shown {len(shown.body)} lines, recomputed {len(again.body)}"]
    columns, problems = _short_names(again), []
    for line, (old, new) in enumerate(zip([*shown.head, *shown.body], [*again.head, *again.body], strict=True)):
        row = "header" if line < len(again.head) else row_name(new)
        for place, (was, is_) in enumerate(zip_longest(old, new, fillvalue=Cell())):
            column = columns[place] if place < len(columns) else f"column {place + 1}"
            for first, second in zip_longest([was.text, *was.lines], [is_.text, *is_.lines], fillvalue=""):
                if first != second:
                    problems.append(f"report: {shown.heading}, {row}, {column}: shown {first}, recomputed {second}")
    return problems


def _short_names(table: PageTable) -> list[str]:
    """Of the columns: the head's first line, where no column before it says the same."""
    texts = [cell.text for cell in (table.head[-1] if table.head else []) for _ in range(cell.span)]
    whole = table.columns
    return [whole[i] if text in texts[:i] or not text else text for i, text in enumerate(texts)] or whole


def row_name(cells: list[Cell]) -> str:
    """What a line of a table is of: ``Row 10``, or the words of its first cell."""
    name = cells[0].text if cells else ""
    return f"Row {name}" if name.isdecimal() else name


def _sentences(shown: Page, again: Page) -> list[str]:
    old, new = (
        [(section, FOLDER.sub("", DATE.sub("", text))) for section, text in page.sentences] for page in (shown, again)
    )
    problems = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for was, is_ in zip_longest(old[i:j], new[k:m]):
            section, text = is_ or was or ("", "")
            where = f"report: {section or 'headline'}, sentence '{_short(text)}'"
            problems.append(f"{where}: {_changed(was[1] if was else '', is_[1] if is_ else '')}")
    return problems


def _changed(shown: str, again: str) -> str:
    """The numbers that differ, or the sentences where more than numbers do."""
    if not shown or not again:
        return "not shown" if again else "shown, but does not follow from the records"
    if NUMBER.sub("#", shown) == NUMBER.sub("#", again):
        pairs = zip(NUMBER.findall(shown), NUMBER.findall(again), strict=True)
        return ", ".join(f"shown {a}, recomputed {b}" for a, b in pairs if a != b)
    return f"shown '{_short(shown)}'"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


# ---------------------------------------------------------------- against plain means of the records


def plain_means(output: Path, sweep_dir: Path, page: Page) -> list[str]:
    """Means of the main table that are not those of the per-item scores, computed by pandas alone.

    Scores, their standard deviations between seeds, and differences from the reference row. Rows of which some runs
    are missing for some subjects are left out.
    """
    table = next((table for table in page.tables if table.slug == "table"), None)
    if table is None:
        return []
    sweep = json.loads((sweep_dir / "sweep.json").read_text(encoding="utf-8"))
    rows = [row for control in (False, True) for row in sweep["rows"] if bool(row.get("control")) is control]
    lines = [cells for cells in table.body if len(cells) > 1]
    wide, metrics = _scores(output, sweep_dir, sweep)
    heads = [cell.text for cell in table.head[-1]]
    problems = []
    for row, cells in zip(rows, lines, strict=False):
        for metric in metrics.values():
            own = wide.get((str(row["id"]), metric["name"]))
            title = f"{metric['title']}, %" if metric["percent"] else metric["title"]
            if own is None or title not in heads or len(cells) != len(heads):
                continue
            cell, factor = cells[heads.index(title)], 100 if metric["percent"] else 1
            found = {cell.text: factor * own.to_numpy().mean()}
            by_seed = own.mean().groupby(level="seed").mean()
            found |= {line[8:]: factor * by_seed.std(ddof=1) for line in cell.lines if line.startswith("seeds ± ")}
            if metric["name"] == _table_metric(sweep, metrics) and "difference" in heads:
                reference = wide.get((str(sweep.get("reference")), metric["name"]))
                if reference is not None and row["id"] != sweep["reference"]:
                    difference = _paired(own, reference)
                    problems += _wrong(
                        table, cells, "difference", cells[heads.index("difference")].text, factor * difference
                    )
            for text, value in found.items():
                problems += _wrong(table, cells, title, text, value)
    return problems


def _wrong(table: PageTable, cells: list[Cell], column: str, shown: str, value: float) -> list[str]:
    """A line where the number shown is not the value, rounded as shown."""
    digits = len(shown.partition(".")[2])
    try:
        right = abs(float(shown.replace("−", "-")) - value) <= (0.5 + ROUNDING) * 10**-digits
    except ValueError:  # a dash: no number is claimed
        return []
    told = f"{value:{'+' if shown[:1] in '+−' else ''}.{digits}f}".replace("-", "−")
    where = f"report: {table.heading}, {row_name(cells)}, {column}"
    return [] if right else [f"{where}: shown {shown}, recomputed {told}"]


def _scores(
    output: Path, sweep_dir: Path, sweep: dict[str, Any]
) -> tuple[dict[tuple[str, str], pd.DataFrame], dict[str, dict[str, Any]]]:
    """Scores by row and metric, [item, (subject, seed)], of items that every run has; and what each metric is."""
    known = {str(row["id"]) for row in sweep["rows"]}
    subjects, seeds = sweep.get("subjects") or [None], sweep["seeds"]
    parts, metrics = [], dict[str, dict[str, Any]]()
    for file in sorted((sweep_dir / "trials").glob("*.json")):
        try:
            trial = json.loads(file.read_text(encoding="utf-8"))
            if trial["state"] != "complete" or str(trial["row"]) not in known:
                continue
            if trial.get("subject") not in subjects or trial["seed"] not in seeds:
                continue
            folder = output / trial["record"]
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            scores = pd.read_parquet(folder / "scores.parquet")
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the report says of such a trial that it is not there
        metrics |= {metric["name"]: metric for metric in summary["metrics"]}
        parts.append(scores.assign(row=str(trial["row"]), subject=trial.get("subject") or "", seed=trial["seed"]))
    found: dict[tuple[str, str], pd.DataFrame] = {}
    for (row, metric), own in pd.concat(parts).groupby(["row", "metric"]) if parts else ():
        means = own.groupby(["item", "subject", "seed"])["value"].mean().unstack(["subject", "seed"])
        runs = means.columns.to_frame(index=False)
        if runs.groupby("subject")["seed"].apply(frozenset).nunique() == 1:
            found[str(row), str(metric)] = means.dropna()
    return found, metrics


def _table_metric(sweep: dict[str, Any], metrics: dict[str, dict[str, Any]]) -> str:
    paper = (sweep.get("paper_metric") or {}).get("name", "")
    return paper if paper in metrics else next(iter(metrics), "")


def _paired(own: pd.DataFrame, reference: pd.DataFrame) -> float:
    """Mean difference over the items and runs of both."""
    runs = own.columns.intersection(reference.columns)
    return float((own[runs] - reference[runs]).dropna().to_numpy().mean()) if len(runs) else float("nan")
