"""Controls at chance: judged by permutation where records keep pairings, else by their interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_records import CONTROLS, ROWS, finished_sweep, table_row
from safetensors.numpy import save_file

from cnd.statistics import permutation_test
from reports import nulls, tables, text
from reports.collect import Records, read_sweep

N_ITEMS, N_CATEGORIES = 24, 12
FLOOR = table_row("floor", label="A floor", control=True, role="floor")
METRIC = "nway50_top1"


def keep(output: Path, row: str, pairs: np.ndarray, seed: int = 0, metric: str = METRIC) -> np.ndarray:
    """Give a record pairings by category [item, category] whose own columns are the record's scores."""
    folder = output / "cache" / "record" / f"{row}-{seed}"
    table = pd.read_parquet(folder / "scores.parquet").query("metric == @METRIC").sort_values("item")
    item, target = np.arange(N_ITEMS), np.arange(N_ITEMS) % N_CATEGORIES
    pairs[item, target] = table["value"]
    save_file(
        {"item": item, "target": target, "scores": pairs.astype(np.float32)},
        folder / "pairings.safetensors",
        {"metric": metric},
    )
    return pairs[:, target]


def judged(output: Path, sweep_dir: Path) -> tuple[Records, pd.DataFrame, dict[str, str]]:
    """Records, score table and the headline's sentences on nulls and floors by row."""
    records = read_sweep(output, sweep_dir)
    scores = tables.score_table(records)
    lines = tables.by_row(scores[scores["metric"] == METRIC])
    told = text._controls(records, lines, {})
    return records, scores, {row: next((s for s in told if title in s), "") for row, title in titles(records).items()}


def titles(records: Records) -> dict[str, str]:
    return {row.id: row.title for row in records.rows}


def test_seeds_are_averaged_and_whole_categories_permuted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sweep_dir = finished_sweep(tmp_path, [ROWS[1], CONTROLS[1]], seeds=(0, 1))
    pairs = [keep(tmp_path, "shuffled", rng.random((N_ITEMS, N_CATEGORIES)) / 20, seed) for seed in (0, 1)]
    records, scores, told = judged(tmp_path, sweep_dir)
    line = scores[(scores["row"] == "shuffled") & (scores["metric"] == METRIC)].iloc[0]
    expected = permutation_test(np.stack(pairs, axis=2), np.arange(N_ITEMS) % N_CATEGORIES)
    assert line["score"] == pytest.approx(expected.estimate, abs=1e-7)
    assert line["permuted"] == pytest.approx(expected.expected, abs=1e-7)
    assert line["p_chance"] == pytest.approx(expected.p_value, abs=0.005)  # single precision is kept
    assert np.isnan(scores.loc[scores["row"] == "10", "p_chance"]).all()  # a row of the table is no null
    assert "at chance (permutation of the items: p = " in told["shuffled"]
    assert "(1 row was judged" in nulls.notes(records, scores, "category")[0]


def test_a_leak_is_above_chance_and_what_knows_which_classes_occur_is_not(tmp_path: Path) -> None:
    """Both score 40 %, far above the nominal 2 %; only one of them knows which item is which."""
    leaking = CONTROLS[1] | {"id": "leak", "label": "A leak"}
    sweep_dir = finished_sweep(tmp_path, [ROWS[1], leaking, FLOOR])
    keep(tmp_path, "leak", np.full((N_ITEMS, N_CATEGORIES), 0.02))
    rng = np.random.default_rng(2)
    keep(tmp_path, "floor", rng.choice([0.0, 0.8], (N_ITEMS, N_CATEGORIES)))
    _, scores, told = judged(tmp_path, sweep_dir)
    assert "ABOVE chance" in told["leak"] and "p < .001" in told["leak"]
    assert ": at chance (permutation" in told["floor"] and "not the nominal 2.0 %" in told["floor"]
    assert nulls.notable(tables.by_row(scores[scores["metric"] == METRIC])["floor"])


def test_one_image_for_every_item_is_at_chance_by_construction(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, [ROWS[1], CONTROLS[1]])
    folder = tmp_path / "cache" / "record" / "shuffled-0"
    table = pd.read_parquet(folder / "scores.parquet")
    table.assign(value=0.3).to_parquet(folder / "scores.parquet")
    keep(tmp_path, "shuffled", np.full((N_ITEMS, N_CATEGORIES), 0.3))
    assert "at chance by construction" in judged(tmp_path, sweep_dir)[2]["shuffled"]


@pytest.mark.parametrize("case", ["none", "one seed", "another metric", "damaged", "another item"])
def test_without_the_same_pairings_the_interval_judges(tmp_path: Path, case: str) -> None:
    sweep_dir = finished_sweep(tmp_path, [ROWS[1], CONTROLS[1]], seeds=(0, 1))
    for seed in (0, 1) if case not in ("none", "one seed") else (0,) if case == "one seed" else ():
        metric = "ssim" if case == "another metric" else METRIC
        keep(tmp_path, "shuffled", np.full((N_ITEMS, N_CATEGORIES), 0.02), seed, metric)
    folder = tmp_path / "cache" / "record" / "shuffled-1"
    if case == "damaged":
        (folder / "pairings.safetensors").write_bytes(b"cut off")
    if case == "another item":
        items = pd.read_parquet(folder / "items.parquet")
        items.assign(stimulus=items["stimulus"] + "'").to_parquet(folder / "items.parquet")
    records, scores, told = judged(tmp_path, sweep_dir)
    assert "chance (judged by its interval)" in told["shuffled"]
    assert "Of Shuffled pairs not every record" in nulls.notes(records, scores, "category")[0]
