"""A sweep's result for programs: what ``--json`` prints of its scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from reports.collect import Records, TableRow, read_sweep
from reports.convergence import RowState, states
from reports.tables import Lines, by_row, difference_table, row_state, score_table

SCORE = ("score", "low", "high", "best_of", "seed_sd", "chance")
DIFFERENCE = ("difference", "low", "high", "p_holm", "verdict", "n_units", "n_seeds", "improved")


def results(output: Path, sweep_dir: Path, records: Records | None = None) -> dict[str, Any]:
    """JSON values: the reference row, the metrics, and a line a row in the table's order.

    Accuracies and their differences are fractions of 1, as they are kept; what is not known is None. A row has its
    ``scores`` by metric, with the 95 % limits of the report, and of the table's metric its ``difference`` from the
    reference (None of the reference itself, and of a row without a result) with limits and verdict ("" where nothing is
    judged: with one seed, and for controls but rivals).

    Args:
        records: of this sweep, where they have been read already.

    Raises:
        UserError: there is no readable sweep.json.
    """
    records = records or read_sweep(output, sweep_dir)
    scores, differences, known = score_table(records), by_row(difference_table(records)), states(records)
    of = {metric.name: by_row(scores[scores["metric"] == metric.name]) for metric in records.metrics}
    return {
        "reference": records.reference,
        "metric": records.metric,
        "metrics": [
            {"name": m.name, "title": m.title, "chance": m.chance, "higher_is_better": m.higher_is_better}
            | {"percent": m.scale.percent, "among": m.among}
            for m in records.metrics
        ],
        "rows": [_line(records, row, of, differences, known) for row in records.rows],
    }


def _line(
    records: Records, row: TableRow, of: dict[str, Lines], differences: Lines, known: dict[str, RowState]
) -> dict[str, Any]:
    own = {"row": row.id, "label": row.label, "control": row.control, "role": row.role, "settings": row.settings}
    return own | {
        "scores": {name: _plain(lines[row.id], SCORE) for name, lines in of.items() if row.id in lines},
        "difference": _plain(differences[row.id], DIFFERENCE) if row.id in differences else None,
        "seeds": sorted({trial.seed for trial in records.of(row.id) if trial.folder is not None}),
        "paper_percent": row.paper,
        "state": row_state(records, row.id) or "complete",
        "converged": known[row.id].state if row.id in known else None,
    }


def _plain(line: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Numbers of Python instead of NumPy, None for NaN."""
    values = {name: line[name].item() if hasattr(line[name], "item") else line[name] for name in names}
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
