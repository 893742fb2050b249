"""What to run next: the parts of the error, what would decide a row, and commands that can be typed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_records import CONTROLS, ROWS, finished_sweep

from cnd import statistics
from reports import next_runs
from reports.collect import read_sweep
from reports.tables import difference_table
from sweeps.options import parse

ROW = {"row": "5", "title": "Row <5>", "control": False, "verdict": "undecided"}


def _section(tmp_path: Path, seeds: tuple[int, ...], **more: Any) -> tuple[dict[str, Any] | None, pd.DataFrame, Any]:
    records = read_sweep(tmp_path, finished_sweep(tmp_path, [*ROWS[:3], CONTROLS[0]], seeds=seeds, **more))
    table = difference_table(records)
    return next_runs.section(records, table, "category"), table, records


def test_undecided_rows_get_their_parts_their_needs_and_a_command(tmp_path: Path) -> None:
    found, table, records = _section(tmp_path, (0, 1, 2), size=4)
    assert found is not None and [line.row for line in found["lines"]] == ["0", "11"]
    assert "2 of 2 rows are undecided" in found["summary"]
    for line in found["lines"]:
        crossed: statistics.CrossedMean = table.set_index("row").at[line.row, "crossed"]
        components = crossed.components
        assert components is not None and (line.n_seeds, line.n_units) == (3, 12)
        assert sum(line.shares.values()) == pytest.approx(100)
        assert line.error == pytest.approx(components.error().standard)
        item = components.variance["item",] / 12 / line.error**2
        assert line.shares["items"] == pytest.approx(100 * item)
        needed = statistics.needed(components, records.margin, alpha=0.05 / 2)  # Holm's first step, of two rows
        if needed.seeds is None or needed.seeds > 3:
            assert (line.seeds, line.units) == (needed.seeds, needed.units)
        assert line.text.startswith(f"{line.title}: ") and "The largest part of its error" in line.text
    program, script, *words = shlex.split(found["commands"][0])
    assert (program, script) == ("python", "sweeps/run.py")
    typed = parse(["ablation_table1", *words[1:]])
    wanted = {line.row: line.seeds for line in found["lines"] if line.seeds and line.seeds <= next_runs.MANY}
    assert list(wanted) == ["0"] and typed.rows == ["0", "10"] and typed.seeds == max(wanted["0"], 4)
    assert "Row 11: more than 10 seeds, or no number of them" in found["sentences"][0]
    auto = parse(["ablation_table1", *shlex.split(found["commands"][1])[3:]])
    assert auto.seeds == "auto" and auto.max_seeds == typed.seeds
    assert found["cost"].startswith(f"{2 * (typed.seeds - 3)} trials of these rows are missing for it, about ")


def test_one_seed_asks_for_two_and_says_no_number(tmp_path: Path) -> None:
    found, _, _ = _section(tmp_path, (0,), size=4)
    assert (
        found is not None and found["lines"] == [] and found["commands"][0].endswith("--seeds auto --set data.snr=0.02")
    )
    assert "Two are the least for a verdict" in found["sentences"][0]


def _line(values: np.ndarray, tmp_path: Path, **sweep: Any) -> next_runs.Line:
    records = read_sweep(tmp_path, finished_sweep(tmp_path, ROWS[:2], size=4))
    records.sweep.update(sweep)
    row = pd.Series(ROW | {"crossed": statistics.crossed_mean(values, np.arange(len(values)))})
    return next_runs._line(records, row, 0.05, "categories")


def test_where_seeds_alone_differ_more_items_bring_nothing(tmp_path: Path) -> None:
    line = _line(np.tile([0.0, 0.06, -0.02], (20, 1)), tmp_path)
    assert line.shares == pytest.approx({"items": 0, "seeds": 100, "both": 0})
    assert line.units is None and line.seeds is not None and line.seeds > 3
    assert f"{line.seeds} seeds ({line.seeds - 3} more) would find a difference of 5.0 points" in line.text
    assert "no number of categories does with 3 seeds" in line.text and "what only more seeds make smaller" in line.text
    looked = _line(np.tile([0.0, 0.06, -0.02], (20, 1)), tmp_path / "looked", max_seeds=5)
    assert looked.seeds is not None and looked.seeds > line.seeds  # corrected for looking on the way


def test_where_items_alone_differ_more_seeds_bring_nothing(tmp_path: Path) -> None:
    values = np.repeat(np.random.default_rng(0).normal(0.02, 0.2, (20, 1)), 5, axis=1)
    line = _line(values, tmp_path)
    assert line.shares["items"] == pytest.approx(100) and line.seeds is None and line.units is not None
    assert "no number of seeds does with these categories" in line.text


def test_enough_seeds_for_the_margin_ask_for_equivalence(tmp_path: Path) -> None:
    line = _line(np.random.default_rng(1).normal(0.03, 0.05, (30, 6)), tmp_path)
    assert "would show that it is equivalent, if the difference is what it looks like" in line.text
