"""Image sheets of a report: which items, which rows, which pictures; and what each decoder took."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_records import CONTROLS, ROWS, finished_sweep, table_row, write_record, write_sweep, write_trial
from safetensors.numpy import load_file, save_file
from test_reports import Page

from reports import album, convergence, sheets
from reports.build import build_report
from reports.collect import Records, read_sweep

METRIC = "nway50_top1"
EVIL = '<script>alert("x")</script>'
RIVAL = CONTROLS[0] | {"label": EVIL}
FLOOR = table_row("floor", label="Mean class", control=True, role="floor")


def pixels(picture: album.Picture) -> np.ndarray:
    """What a browser shows, [height, width] or [height, width, 3]."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.source.removeprefix("data:image/png;base64,")))))


def subjects_sweep(output: Path, rows: list[dict[str, object]], subjects: list[str]) -> Path:
    """Each row on each subject, whose record is that of another seed."""
    sweep_dir = write_sweep(output, rows, [0], subjects=subjects)
    for row in (str(row["id"]) for row in rows):
        for number, subject in enumerate(subjects):
            record = write_record(output, row, number).relative_to(output).as_posix()
            write_trial(sweep_dir, row, 0, record=record, subject=subject)
            own = sweep_dir / "trials" / f"{row}-subject{subject}-seed0.json"
            (sweep_dir / "trials" / f"{row}-seed0.json").rename(own)
    return sweep_dir


def edit_scores(folder: Path, value: object) -> None:
    """Give the items of a record these scores."""
    scores = pd.read_parquet(folder / "scores.parquet")
    scores.assign(value=value(scores) if callable(value) else value).to_parquet(folder / "scores.parquet")


# ---------------------------------------------------------------- the rule


def test_the_best_the_middle_and_the_worst_are_chosen() -> None:
    assert [list(ranks) for ranks in sheets.choose(200).values()] == [[0, 1, 2], [98, 99, 100], [197, 198, 199]]
    assert [list(ranks) for ranks in sheets.choose(11).values()] == [[0, 1, 2], [4, 5, 6], [8, 9, 10]]
    assert [list(ranks) for ranks in sheets.choose(9).values()] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [list(ranks) for ranks in sheets.choose(5).values()] == [[0, 1, 2, 3, 4]]


def test_items_are_ranked_by_the_mean_over_samples_and_seeds(tmp_path: Path) -> None:
    records = read_sweep(tmp_path, finished_sweep(tmp_path, ROWS[1:3], seeds=(0, 1), n_samples=2))
    mean = np.zeros(24)
    for seed in (0, 1):
        scores = pd.read_parquet(tmp_path / "cache" / "record" / f"10-{seed}" / "scores.parquet")
        for line in scores[scores["metric"] == METRIC].itertuples():
            mean[line.item] += line.value / 4
    ranked = sheets.rank(records, "10")
    assert ranked["item"].tolist() == np.argsort(-mean, kind="stable").tolist()
    np.testing.assert_allclose(ranked["score"], -np.sort(-mean), atol=1e-9)


def test_ties_stand_by_item_number_and_are_told(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, ROWS[1:3])
    edit_scores(tmp_path / "cache" / "record" / "10-0", lambda scores: (scores["item"] % 2 == 0).astype(float))
    section = sheets.section(read_sweep(tmp_path, sweep_dir))
    assert section is not None
    assert [line.item for line in section.lines] == [0, 2, 4, 20, 22, 1, 19, 21, 23]
    assert "12 items share the best score and 12 items share the worst score" in section.rule


def test_where_lower_is_better_the_lowest_is_the_best(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, ROWS[1:3])
    for summary in tmp_path.rglob("summary.json"):
        content = json.loads(summary.read_text())
        content["metrics"][0]["higher_is_better"] = False
        summary.write_text(json.dumps(content))
    records = read_sweep(tmp_path, sweep_dir)
    assert sheets.rank(records, "10")["score"].is_monotonic_increasing


def test_without_the_reference_row_the_first_row_ranks_and_missing_rows_are_named(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, [*ROWS, *CONTROLS[:1]])
    write_trial(sweep_dir, "10", 0, "failed", error="FloatingPointError: no")
    (tmp_path / "cache" / "record" / "12-0" / "images.safetensors").unlink()
    section = sheets.section(read_sweep(tmp_path, sweep_dir))
    assert section is not None
    assert "of Row 0 (as the reference row has no result)" in section.rule
    assert section.sheets[0].columns == ["Row 0", "Row 11", "Ridge into the concept bank"]
    assert section.missing[0] == "Row 10: failed (FloatingPointError: no)"
    assert section.missing[1].startswith("Row 12: 12-0: images cannot be read")


# ---------------------------------------------------------------- the pictures


def test_cells_hold_the_first_sample_and_its_own_score(tmp_path: Path) -> None:
    records = read_sweep(tmp_path, finished_sweep(tmp_path, [*ROWS[:2], FLOOR, *CONTROLS], n_samples=2))
    section = sheets.section(records)
    assert section is not None and section.missing == []
    (sheet,) = section.sheets
    assert sheet.columns == ["Row 0", "Row 10 (reference)", "Ridge into the concept bank"]  # no floor, null or ceiling
    for column, row in enumerate(["0", "10", "ridge"]):
        folder = tmp_path / "cache" / "record" / f"{row}-0"
        images, scores = load_file(folder / "images.safetensors"), pd.read_parquet(folder / "scores.parquet")
        own = scores[(scores["metric"] == METRIC) & (scores["sample"] == 0)].set_index("item")["value"]
        for line, cells in zip(section.lines, sheet.cells, strict=True):
            cell = cells[column]
            assert cell is not None and cell.score == f"{100 * own[line.item]:.1f}"
            drawn = images["reconstructions"][line.item, 0].transpose(1, 2, 0)
            np.testing.assert_array_equal(pixels(section.pictures[cell.picture]), drawn)
    stimuli = load_file(tmp_path / "cache" / "record" / "0-0" / "images.safetensors")["stimuli"]
    for line in section.lines:
        assert line.stimulus is not None
        shown = pixels(section.pictures[line.stimulus.picture])
        np.testing.assert_array_equal(shown, stimuli[line.item].transpose(1, 2, 0))


def test_a_subject_with_other_items_shows_the_same_stimuli(tmp_path: Path) -> None:
    sweep_dir = subjects_sweep(tmp_path, ROWS[1:2], ["1", "2"])
    path = tmp_path / "cache" / "record" / "10-1" / "items.parquet"
    items = pd.read_parquet(path)
    backwards = items[["stimulus", "category", "category_name"]].iloc[::-1].reset_index(drop=True)
    backwards.loc[0, "stimulus"] = "elsewhere"
    items.assign(**backwards).to_parquet(path)  # stimulus i is item 23 - i; the 23rd is gone
    pictures = load_file(path.with_name("images.safetensors"))
    stimuli = np.ascontiguousarray(pictures["stimuli"][::-1])
    save_file(pictures | {"stimuli": stimuli}, path.with_name("images.safetensors"))
    records = read_sweep(tmp_path, sweep_dir)
    section = sheets.section(records)
    assert section is not None and len(sheets.rank(records, "10")) == 23
    (sheet,) = section.sheets
    assert (sheet.title, sheet.columns) == ("Row 10 (reference), all subjects", ["subject 1", "subject 2"])
    images = load_file(path.with_name("images.safetensors"))["reconstructions"]
    for line, cells in zip(section.lines, sheet.cells, strict=True):
        assert cells[1] is not None and line.item != 23
        shown = pixels(section.pictures[cells[1].picture])
        np.testing.assert_array_equal(shown, images[23 - line.item, 0].transpose(1, 2, 0))
    other = next(trial for trial in records.trials if trial.subject == "2")
    numbers = sheets.numbers(records, other)
    assert [numbers[key] for key in section.items] == [23 - line.item for line in section.lines]


@pytest.mark.parametrize(
    ("shape", "size", "magnified"),
    [
        ((3, 64, 64), (64, 64), 1),
        ((1, 28, 28), (28, 28), 3),
        ((3, 256, 128), (64, 128), 1),
        ((3, 100, 90), (90, 100), 1),
    ],
)
def test_only_large_pictures_are_reduced(shape: tuple[int, ...], size: tuple[int, int], magnified: int) -> None:
    random = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    picture = album.encode(random, 128)
    assert (picture.width, picture.height, picture.magnified) == (*size, magnified)
    if max(shape) <= 128:
        np.testing.assert_array_equal(pixels(picture), random[0] if shape[0] == 1 else random.transpose(1, 2, 0))


def test_many_pictures_are_made_smaller_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = read_sweep(tmp_path, finished_sweep(tmp_path, ROWS[1:3], size=100))
    monkeypatch.setattr(album, "BYTES", 400_000)
    section = sheets.section(records)
    assert section is not None
    (side,) = {picture.width for picture in section.pictures}
    assert 32 < side < 100 and side in album.SIDES
    assert 200_000 < sum(len(picture.source) for picture in section.pictures) <= 400_000


# ---------------------------------------------------------------- in the report


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Records, str]:
    output = tmp_path_factory.mktemp("subjects")
    sweep_dir = subjects_sweep(output, [*ROWS[1:3], RIVAL, FLOOR], ["1", "2", "3"])
    write_trial(sweep_dir, "ridge", 0, "failed", subject="3", error="RuntimeError: no")
    (sweep_dir / "trials" / "ridge-seed0.json").rename(sweep_dir / "trials" / "ridge-subject3-seed0.json")
    path = build_report(output, sweep_dir)
    return Page(path), read_sweep(output, sweep_dir), path.read_text(encoding="utf-8")


def test_there_is_a_sheet_for_each_subject_and_for_each_decoder(swept: tuple[Page, Records, str]) -> None:
    page, records, html = swept
    section = sheets.section(records)
    assert section is not None
    assert {sheet.title: (len(sheet.columns), sheet.unfolded) for sheet in section.sheets} == {
        "All decoders, subject 1": (3, True),
        "All decoders, subject 2": (3, False),
        "All decoders, subject 3": (2, False),
        "Row 10 (reference), all subjects": (3, True),
        "Row 11, all subjects": (3, False),
        f"{EVIL}, all subjects": (2, False),
    }
    assert section.missing == [f"{EVIL}, subject 3: failed (RuntimeError: no)"]
    assert len(section.pictures) == 9 * (1 + 8)
    assert page.tags.count("image") == len(section.pictures)  # each once, whatever the number of sheets with it
    assert page.tags.count("use") == 9 * (6 + 8 + 8)
    assert all(f"#picture{number}" in page.links for number in range(len(section.pictures)))
    assert len(page.ids) == len(set(page.ids))
    assert html.count("<script") == 1  # the one that sorts tables


def test_a_reader_is_told_the_rule(swept: tuple[Page, Records, str]) -> None:
    text = swept[0].text
    rule = text.index("averaged over samples, training seeds and subjects, ties by item number")
    assert rule < text.index("All decoders, subject 1")
    for words in ["Shown is sample 0", "under each picture is its own score, 50-way top-1, %", "compare rows by"]:
        assert words in text
    assert "Without pictures: <script>" in text and "subject 3: failed" in text
    assert "Floors, ceilings and nulls" in text and "for the stimuli of the image sheet" in text


def test_one_row_alone_has_no_sheet(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, [ROWS[1], FLOOR, *CONTROLS[1:]])
    assert sheets.section(read_sweep(tmp_path, sweep_dir)) is None


# ---------------------------------------------------------------- what each decoder took


def test_what_a_decoder_took_is_the_mean_of_its_trials(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, [ROWS[1], *CONTROLS[:1]], seeds=(0, 1))
    told = {"seconds": {"phase1": 40.0, "phase2": 45.0, "sample": 8.0}, "training": {"steps": 80, "samples_seen": 800}}
    untold = {"seconds": {"sample": 6.0}, "parameters": {}, "in_steps": False}
    for row, seed, changes in [("10", 1, told), ("ridge", 0, untold), ("ridge", 1, untold)]:
        path = tmp_path / "cache" / "record" / f"{row}-{seed}" / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    records = read_sweep(tmp_path, sweep_dir)
    cnd, ridge = convergence.took(records, convergence.states(records))
    assert (cnd["trainable"], cnd["steps"], cnd["seconds"]) == (1_234_567, 80, (61 + 93) / 2)
    assert (cnd["seconds_phase1"], cnd["seconds_training"], cnd["seconds_drawing"]) == (30, 40, 7)
    assert (ridge["title"], ridge["word"], ridge["seconds"]) == ("Ridge into the concept bank", "no training", 6)
    assert math.isnan(ridge["trainable"]) and math.isnan(ridge["seconds_training"])
    page = Page(build_report(tmp_path, sweep_dir))
    assert "took" in page.ids and "trained parameters" in page.text and "1,234,567 800 80 1.3 0.5 0.7" in page.text
