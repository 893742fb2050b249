"""Write a sweep's report as one self-contained HTML file, and the interactive cortex, if there is one, as another.

python -m reports.build OUTPUT SWEEP_DIR
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Hashable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cnd import statistics
from cnd.errors import UserError
from cnd.keys import code_hash, content_hash, file_hash
from reports import (
    agreement,
    analysis,
    candidates,
    convergence,
    effects,
    exports,
    figures,
    grid,
    interventions,
    metrics,
    next_runs,
    nulls,
    pools,
    provenance,
    seeds,
    sheets,
    subjects,
    text,
)
from reports.collect import Records, TableRow, choose_items, read_attention, read_sweep
from reports.drawn import drawn, sentence
from reports.page import TEMPLATES, Picture, environment, picture, sorting, write
from reports.pairing import BOTH
from reports.tables import (
    Design,
    by_row,
    chance,
    design,
    difference_table,
    factor_table,
    result_table,
    row_state,
    score_table,
    seed_differences,
)

__all__ = ["build_report", "result_table"]

N_CONCEPTS = 3  # concepts shown for a stimulus


class Rendered(NamedTuple):
    """A report before it is written.

    Attributes:
        cortex: the interactive page beside it, if there is one.
        tables: the files of its tables by name, see :mod:`reports.exports`.
    """

    html: str
    cortex: str | None
    tables: dict[str, str]


def build_report(output: Path, sweep_dir: Path, unless_current: bool = False, records: Records | None = None) -> Path:
    """Compute the report of whatever the sweep has finished so far, and write it.

    Args:
        output: the ``--output`` folder.
        sweep_dir: ``output/sweeps/<sweep>-<experiment>``.
        unless_current: leave the report that is there if it would be the same but for its date.
        records: of this sweep, where they have been read already.

    Returns:
        ``output/reports/<sweep>-<experiment>.html``.

    Raises:
        UserError: there is no readable sweep.json.
    """
    path = output / "reports" / f"{sweep_dir.name}.html"
    page = path.with_name(f"{sweep_dir.name}-cortex.html")
    if unless_current and _is_current(path, page, made_from(sweep_dir)):
        return path
    made = render(output, sweep_dir, records)
    path.parent.mkdir(parents=True, exist_ok=True)
    if made.cortex:
        write(page, made.cortex)
    exports.write_files(exports.folder_of(path), made.tables)
    write(path, made.html)
    return path


def render(output: Path, sweep_dir: Path, records: Records | None = None) -> Rendered:
    """What :func:`build_report` writes; with the records, where they have been read already.

    Raises:
        UserError: there is no readable sweep.json.
    """
    records = records or read_sweep(output, sweep_dir)
    analysed = analysis.section(records)
    found: dict[str, Any] = {"analysis": None, "analysis_page": None}
    if analysed is not None:
        shown = f"{sweep_dir.name}-cortex.html" if analysed.page else None
        found = {"analysis": analysed.content, "analysis_page": shown}
    content = _content(records) | found | sorting() | {"inputs": made_from(sweep_dir)}
    html = environment().get_template("report.html").render(content)
    html, tables = exports.with_files(html, exports.folder_of(Path(f"{sweep_dir.name}.html")).name)
    return Rendered(html, analysed.page if analysed else None, tables)


def made_from(sweep_dir: Path) -> str:
    """Hash of what a report is made of: the code, the sweep, its trials; their records never change."""
    files = [sweep_dir / "sweep.json", *sorted(sweep_dir.glob("trials/*.json"))]
    contents = [file_hash(file) for file in files if file.is_file()]
    templates = [file_hash(file) for file in sorted(TEMPLATES.iterdir())]
    return content_hash([code_hash("reports.build"), templates, contents])


def _is_current(path: Path, page: Path, inputs: str) -> bool:
    if not path.is_file():
        return False
    html = path.read_text(encoding="utf-8")
    beside = exports.folder_of(path).is_dir() and (page.is_file() or page.name not in html)
    return f'<meta name="inputs" content="{inputs}">' in html and beside


def _content(records: Records) -> dict[str, Any]:
    """Everything the template prints."""
    scores, differences = score_table(records), difference_table(records)
    plan = design(records, scores, differences)
    converged = convergence.states(records)
    shown = sheets.section(records)
    made, measured = provenance.simulated(records)
    tables = Lined(
        {str(row): own.set_index("metric").to_dict("index") for row, own in scores.groupby("row", sort=False)},
        by_row(differences),
        converged,
    )
    return {
        "drawn": sentence(records),
        "sweep": records.sweep,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "badges": text.badges(records),
        "headline": text.headline(records, scores, differences, plan),
        "statistics": [
            *metrics.computed(text.statistics_notes(records, plan)),
            *nulls.notes(records, scores, plan.unit),
        ],
        "published": text.PUBLISHED if any(row.paper is not None or row.published for row in records.rows) else [],
        "plan": plan,
        "notable": nulls.notable,
        "columns": records.columns,
        "metric": records.metric,
        "scale": records.scale,
        "pools": pools.sentence(records),
        "metrics": [
            {"key": m.name, "scale": m.scale, "chance": chance(records, m.name)} for m in metrics.shown(records)
        ],
        "all_metrics": metrics.section(records, scores),
        "has_paper": any(row.paper is not None for row in records.rows),
        "paper_title": (records.sweep.get("paper_metric") or {}).get("title", ""),
        "simulated": made and not measured,
        "mixed": bool(made and measured),
        "rows": [_line(records, row, tables) for row in records.rows],
        "all_paired": bool(differences["paired"].eq(BOTH).all()),
        "whole": BOTH,
        "judged": bool(differences["verdict"].ne("").any()),
        "verdicts": _verdicts(differences),
        "margin": records.scale.difference(records.margin, signed=False),
        "next_runs": next_runs.section(records, differences, plan.unit),
        "forest": _forest(records, differences, plan),
        "factors": _factors(records, scores),
        "candidates": _candidates(records),
        "agreement": agreement.section(records, scores),
        "seed_dots": _drawn(seeds.section(records), "Score of each row and training seed, with their means"),
        "effects": _drawn(effects.section(records), "Effect of each setting and of pairs of them, with 95 % intervals"),
        "sheets": shown,
        "grid": _grid(records, shown.rows if shown else []),
        "attention": _attention(records, shown),
        "interventions": interventions.section(records),
        "curves": _curves(records),
        "convergence": _convergence(records, converged),
        "took": _took(records, converged),
        "departures": provenance.departures(records),
        "rivals": provenance.rivals(records),
        "open_choices": provenance.open_choices(records),
        "by_subject": _by_subject(records),
        "remarks": provenance.gathered(records, "remarks"),
        "data": provenance.data(records),
        "provenance": provenance.provenance(records),
    }


# ---------------------------------------------------------------- the table


class Lined(NamedTuple):
    """What the table shows of each row, by its id: scores by metric, difference, convergence."""

    scores: dict[str, dict[Hashable, Any]]
    differences: dict[str, dict[str, Any]]
    converged: dict[str, convergence.RowState]


def _line(records: Records, row: TableRow, known: Lined) -> dict[str, Any]:
    """One row of the table: settings as strings, numbers as fractions of 1."""
    trials = records.of(row.id)
    return {
        "id": row.id,
        "title": row.title,
        "label": row.label,
        "control": row.control,
        "role": row.role,
        "reference": row.id == records.reference,
        "settings": [str(row.settings.get(column["key"], "-")) for column in records.columns],
        "scores": known.scores.get(row.id, {}),
        "difference": known.differences.get(row.id),
        "n_seeds": len({trial.seed for trial in trials if trial.folder is not None}),
        "simulated": any(trial.summary.get("simulated") for trial in trials),
        "paper": row.paper,
        "state": row_state(records, row.id),
        "converged": known.converged.get(row.id),
        "errors": [trial.error for trial in trials if trial.error],
    }


def _verdicts(differences: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of the table of verdicts; empty where nothing is judged."""
    return list(by_row(differences[differences["verdict"].ne("")]).values())


def _by_subject(records: Records) -> dict[str, Any] | None:
    """The scores of each row on each subject, with their figure; None for a single subject."""
    found = subjects.section(records)
    if found is None:
        return None
    figure = found.pop("figure")
    described = "Score of each row on each subject with 95 % intervals, published scores beside them"
    return found | {"picture": picture(figure, described) if figure else None}


# ---------------------------------------------------------------- figures


def _drawn(section: dict[str, Any] | None, description: str) -> dict[str, Any] | None:
    """A section with its figure, where there is one, made ready for the template."""
    figure = section and section["figure"]
    return section and section | {"picture": picture(figure, description) if figure else None}


def _setting_titles(records: Records) -> dict[str, str]:
    """What tells the table's rows apart, padded into columns for the axis of a figure; controls by their name."""
    cells = {
        row.id: [row.id, *(str(row.settings.get(column["key"], "-")) for column in records.columns)]
        for row in records.rows
        if not row.control
    }
    titles = {row.id: row.title for row in records.rows}
    if not records.columns:
        return titles
    widths = [max(map(len, column)) for column in zip(*cells.values(), strict=True)]
    for row_id, (first, *others) in cells.items():
        padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        titles[row_id] = "  ".join([f"{first.rjust(widths[0])}:", *padded])
    return titles


def _forest(records: Records, differences: pd.DataFrame, plan: Design) -> Picture | None:
    if differences.empty:
        return None
    shown = differences[differences["row"].isin([row.id for row in drawn(records)])]
    titled = shown.assign(title=shown["row"].map(_setting_titles(records)))
    figure = figures.forest_plot(titled, plan.band, seed_differences(records), records.scale, records.margin)
    return picture(figure, "Forest plot: difference of each row from the reference row with 95 % interval")


def _factors(records: Records, scores: pd.DataFrame) -> Picture | None:
    points = factor_table(records, scores)
    if points.empty:
        return None
    figure = figures.factor_curves(points, records.scale)
    return picture(figure, f"{records.scale.title} against each varied setting, with 95 % intervals")


def _candidates(records: Records) -> Picture | None:
    points = candidates.curves(records)
    if points.empty:
        return None
    return picture(candidates.candidate_curves(points), "n-way accuracy of every row over the number of candidates")


def _grid(records: Records, elsewhere: Collection[str]) -> dict[str, Any] | None:
    """The section of :mod:`reports.grid`, its figures made ready for the template."""
    found = grid.section(records, elsewhere)
    described = "Stimuli and the reconstructions of every finished row"
    return found and found | {"pictures": [picture(figure, described, photographs=True) for figure in found["figures"]]}


def _curves(records: Records) -> Picture | None:
    elsewhere = ["lr", "learning_rate", "validation_score"]  # the last one has a panel of its own
    history = records.history({row.id for row in drawn(records)})
    history = history[~history["name"].isin(elsewhere)]
    history = history[np.isfinite(history["value"].astype(float))]
    if history.empty:
        return None
    return picture(
        figures.learning_curves(history, records.reference, [row.id for row in records.of_role("null")]),
        "Learning curves of both phases by samples seen",
    )


def _convergence(records: Records, converged: dict[str, convergence.RowState]) -> dict[str, Any] | None:
    """Curves of the validation score and what each row took; None where no row has a curve."""
    points = convergence.curves(records)
    if points.empty:
        return None
    first = records.metrics[0]  # what trainings are scored by
    late = [row for row, state in converged.items() if state.state == "no"]
    level = float("nan") if first.chance is None else first.chance
    common = convergence.common_rise(records)
    together = None
    if common is not None:
        together = f"{first.scale.signed(common.estimate)} ± {first.scale.difference(common.standard_error, False)}"
    return {
        "picture": picture(
            figures.validation_curves(points, late, level, first.scale),
            "Validation score of every row by samples seen, seeds averaged",
        ),
        "together": together,
        "tolerance": first.scale.difference(statistics.TOLERANCE, False),
    }


def _took(records: Records, converged: dict[str, convergence.RowState]) -> dict[str, Any] | None:
    """What each row took; None where nothing was trained."""
    if not provenance.trained(records):
        return None
    lines = convergence.took(records, converged)
    return {"lines": lines, "counted": any(math.isfinite(line["trainable"]) for line in lines)}


def _attention(records: Records, shown: sheets.Section | None) -> dict[str, Any] | None:
    """Strongest concepts of the reference row for the stimuli of the images, and the weight of even attention."""
    trial = records.first(records.reference)
    attention = read_attention(trial.folder) if trial and trial.folder else None
    if trial is None or attention is None:
        return None
    own = records.of_one_row(trial.row)
    names = own.set_index("item")["category_name"]
    known = sheets.numbers(records, trial)
    items = [known.get(key, -1) for key in shown.items] if shown else choose_items(own, grid.N_STIMULI)
    lines = []
    for position, item in enumerate(items):
        strongest = attention[attention["item"] == item].nlargest(N_CONCEPTS, "weight")
        if len(strongest):
            concepts = [(str(c), float(w)) for c, w in zip(strongest["concept_name"], strongest["weight"], strict=True)]
            lines.append({"number": position + 1, "name": str(names[item]), "concepts": concepts})
    return {"lines": lines, "even": float(attention["even"].iloc[0])}


def main(arguments: list[str], say: Callable[[str], None] = print) -> int:
    """The command line; returns its exit code."""
    if len(arguments) != 2:
        print("usage: python -m reports.build OUTPUT SWEEP_DIR", file=sys.stderr)
        return 2
    try:
        say(str(build_report(Path(arguments[0]), Path(arguments[1]))))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
