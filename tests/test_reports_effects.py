"""Reports from fabricated records: effects of settings, agreement with the paper, training seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_records import ROWS, finished_sweep, table_row, write_record, write_sweep, write_trial
from test_reports import Page

from reports import agreement, effects, seeds, tables
from reports.build import build_report
from reports.collect import Records, read_sweep
from reports.complete import complete_scores

SETTINGS = {"mask_ratio": "phase1.mask_ratio", "cl_depth": "phase2.concept_depth", "dup": "phase1.self_contrast_view"}
COLUMNS = [{"key": key, "title": key, "setting": f"decoder.{setting}"} for key, setting in SETTINGS.items()]


def square_row(row: str, mask: object, depth: object, view: str | None, shown: str | None = None) -> dict[str, Any]:
    """A row that states all three settings; ``shown`` stands in the table for the view."""
    stated = {"decoder.phase1.mask_ratio": mask, "decoder.phase2.concept_depth": depth}
    stated["decoder.phase1.self_contrast_view"] = view
    cells = {"mask_ratio": mask, "cl_depth": depth, "dup": shown or {"first": "N", "both": "Y"}[str(view)]}
    return {"id": row, "label": None, "settings": cells, "set": stated, "control": False, "paper": None}


SQUARE = [
    square_row("10", 0.75, 4, "first"),
    square_row("5", 0.75, 4, "both"),
    square_row("6", 0.5, 4, "both"),
    square_row("11", 0.5, 4, "first"),
    square_row("13", 0.5, 2, "first"),
    square_row("15", 0.75, 4, "independent", shown="-"),
]
OFF = {"decoder.phase1.enabled": False, "decoder.phase2.concept_depth": 4}
NO_PHASE_1 = table_row("0", paper=4.9) | {"settings": {"mask_ratio": "-", "cl_depth": 4, "dup": "-"}, "set": OFF}
LEVELS = {"10": 0.4, "5": 0.4, "6": 0.7, "11": 0.5, "13": 0.5, "15": 0.4, "0": 0.2}


def swept(output: Path, seeds: tuple[int, ...], rows: list[dict[str, Any]], **more: Any) -> Path:
    sweep_dir = write_sweep(output, rows, list(seeds), columns=COLUMNS, **more)
    for row in rows:
        for seed in seeds:
            write_trial(sweep_dir, row["id"], seed)
            write_record(output, row["id"], seed, level=LEVELS[row["id"]], per_category=3)
    return sweep_dir


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    output = tmp_path_factory.mktemp("effects")
    return output, swept(output, (0, 1, 2), [NO_PHASE_1, *SQUARE])


def means(records: Records) -> dict[str, float]:
    return records.items.groupby("row")[records.metric].mean().to_dict()


# ---------------------------------------------------------------- effects


def test_settings_are_told_by_what_rows_state(three_seeds: tuple[Path, Path]) -> None:
    table = effects.effect_table(read_sweep(*three_seeds))
    assert table is not None and table.base == "10"
    assert table.factors == ["mask_ratio", "cl_depth", "dup", "phase1.enabled"]
    assert table.levels == [["0.75", "-", "0.5"], ["4", "2"], ["N", "-", "Y", "independent"], ["true", "false"]]


def test_effects_are_contrasts_of_the_rows_means(three_seeds: tuple[Path, Path]) -> None:
    records = read_sweep(*three_seeds)
    section = effects.section(records)
    assert section is not None
    lines, m = {line["title"]: line for line in section["lines"]}, means(records)
    off = lines["phase1.enabled true → false"]  # what does not apply without Phase 1 is not named
    assert (off["n_pairs"], off["pairs"]) == (1, "0 − 10") and off["alone"] == pytest.approx(m["0"] - m["10"])
    depth = lines["cl_depth 4 → 2"]
    assert depth["alone"] == pytest.approx(m["13"] - m["11"])
    fitted = (3 * m["11"] + m["10"] + m["6"] - m["5"]) / 4  # row 11 by the sum of the settings' effects
    assert depth["estimate"] == pytest.approx(m["13"] - fitted)
    view = lines["dup N → Y"]
    assert view["pairs"] == "5 − 10, 6 − 11"
    assert view["alone"] == pytest.approx((m["5"] - m["10"] + m["6"] - m["11"]) / 2)
    both = lines["mask_ratio 0.5 with dup Y"]
    assert (both["kind"], both["verdict"]) == ("interaction", "better") and both["p_holm"] <= 0.05
    assert both["estimate"] == pytest.approx(m["6"] - m["5"] - m["11"] + m["10"])
    assert lines["dup N → independent"]["n_pairs"] == 1
    assert section["not_additive"] == ["mask_ratio 0.5 with dup Y"]
    steps = section["one_at_a_time"]
    assert (steps["full"], steps["bare"]) == ("Row 10", "Row 6")
    mask = steps["lines"][0]
    assert mask["title"] == "mask_ratio 0.75 for 0.5"
    assert mask["left_out"]["estimate"] == pytest.approx(m["10"] - m["11"])
    assert mask["added"]["estimate"] == pytest.approx(m["5"] - m["6"])


def test_page_shows_effects_and_seeds(three_seeds: tuple[Path, Path]) -> None:
    page = Page(build_report(*three_seeds))
    for words in ["Effects of settings over the whole table", "and other training seeds", "mask_ratio 0.5 with dup Y",
                  "leave one out", "phase1.enabled true → false", "Training seeds", "Interactions"]:  # fmt: skip
        assert words in page.text
    assert {"effects", "seeds"} <= set(page.ids)
    assert "for orientation only" in page.text and "Kendall" not in page.text
    assert "these trained models only" not in page.text.split("Effects of settings")[1].split("Left out")[0]


def test_one_seed_ranks_nothing_and_what_rows_cannot_tell_is_named(tmp_path: Path) -> None:
    rows = [square_row("10", 0.75, 4, "first"), square_row("11", 0.5, 2, "first"), square_row("5", 0.75, 4, "both")]
    sweep_dir = swept(tmp_path, (0,), rows)
    section = effects.section(read_sweep(tmp_path, sweep_dir))
    assert section is not None and {line["verdict"] for line in section["lines"]} == {""}
    text = Page(build_report(tmp_path, sweep_dir)).text.split("Effects of settings over", 1)[1]
    text = text.split("Departures from the paper")[0]
    assert "One training seed: the intervals hold for these trained models only" in text
    assert "*" not in text and "Training seeds" not in text
    assert "mask_ratio 0.75 → 0.5 and cl_depth 4 → 2" in text and "only ever change together" in text
    assert "No two settings have all four combinations" in text


def test_a_group_of_settings_is_taken_apart(tmp_path: Path) -> None:
    rows = [*SQUARE[:2], SQUARE[3] | {"id": "13", "settings": SQUARE[0]["settings"]}]
    rows[2]["set"] = SQUARE[0]["set"] | {"decoder.phase2.target": {"stimuli": 1, "embedding": 0.01}}
    table = effects.effect_table(read_sweep(tmp_path, swept(tmp_path, (0,), rows)))
    assert table is not None and table.factors == ["dup", "phase2.target.embedding"]
    assert table.levels == [["N", "Y"], ["0", "0.01"]]  # what the others have is the experiment's


def test_no_section_where_rows_differ_in_one_setting(tmp_path: Path) -> None:
    rows = [square_row("10", 0.75, 4, "first"), square_row("11", 0.5, 4, "first"), square_row("13", 0.25, 4, "first")]
    sweep_dir = swept(tmp_path, (0,), rows)
    assert effects.section(read_sweep(tmp_path, sweep_dir)) is None


def test_rows_without_a_seed_are_left_out_and_named(tmp_path: Path) -> None:
    sweep_dir = swept(tmp_path, (0, 1, 2), SQUARE)
    write_trial(sweep_dir, "15", 2, state="failed", error="RuntimeError: no")
    records = read_sweep(tmp_path, sweep_dir)
    found = complete_scores(records, records.rows)
    assert found is not None and found.scores.shape == (5, 36, 3, 1) and found.seeds == [0, 1, 2]
    own = records.per_item.loc[("6", "", 1), records.metric]
    np.testing.assert_array_equal(found.scores[2, :, 1, 0], own)
    section = effects.section(records)
    assert section is not None and section["left_out"] == ["Row 15"]
    for row in ("5", "6", "11", "13"):  # a last seed that has only begun costs nobody the others
        write_trial(sweep_dir, row, 2, state="pending")
    found = complete_scores(read_sweep(tmp_path, sweep_dir), records.rows)
    assert found is not None and found.scores.shape == (6, 36, 2, 1) and found.seeds == [0, 1]


# ---------------------------------------------------------------- agreement with the paper


def god(output: Path, **edits: Any) -> tuple[Records, Path]:
    settings = {"data": {"kind": "god"} | edits}
    sweep_dir = finished_sweep(output, ROWS, (0, 1), level=0.1, n_samples=2, simulated=False, experiment=settings)
    return read_sweep(output, sweep_dir), sweep_dir


def test_published_scores_are_compared_on_the_papers_data(tmp_path: Path) -> None:
    records, sweep_dir = god(tmp_path)
    scores = tables.score_table(records)
    found = agreement.section(records, scores)
    assert found is not None and set(found["rows"]) == {"0", "10", "11", "12"}
    own = scores[scores["metric"] == "nway50_top1"].set_index("row")
    for row in records.rows:
        inside = own.at[row.id, "low"] <= row.paper / 100 <= own.at[row.id, "high"]
        assert found["rows"][row.id] == ("inside" if inside else "outside")
    assert -1 <= found["tau"]["low"] <= found["tau"]["estimate"] <= found["tau"]["high"] <= 1
    page = Page(build_report(tmp_path, sweep_dir))
    assert "The paper's column is of the same data" in page.text and "as they are. The paper prints" in page.text
    assert page.text.count(" inside ") >= found["inside"]


@pytest.mark.parametrize("edits", [{"subject": 2}, {"test_trials": "single"}, {"kind": "bold5000"}])
def test_other_data_is_not_compared(tmp_path: Path, edits: dict[str, Any]) -> None:
    records, _ = god(tmp_path, **edits)
    assert agreement.section(records, tables.score_table(records)) is None


def test_simulated_data_is_not_compared(three_seeds: tuple[Path, Path]) -> None:
    records = read_sweep(*three_seeds)
    assert records.rows[0].paper is not None and not agreement.comparable(records, records.rows[0])


# ---------------------------------------------------------------- seeds


def test_seeds_are_dots_beside_their_means(three_seeds: tuple[Path, Path]) -> None:
    records = read_sweep(*three_seeds)
    table = seeds.seed_table(records).set_index(["row", "seed"])
    by_seed = records.items.groupby(["row", "seed"])[records.metric].mean()
    assert len(table) == 21 and table.at[("6", 1), "score"] == pytest.approx(by_seed["6", 1])
    assert table.at[("6", 1), "mean"] == pytest.approx(by_seed["6"].mean())
    scores = np.sort(records.items.query("row == '6'")[records.metric])
    assert table.at[("6", 1), "iqm"] == pytest.approx(scores[27:-27].mean())  # 36 items, 3 seeds
    section = seeds.section(records)
    assert section is not None and len(section["figure"].axes[0].get_yticks()) == 7
