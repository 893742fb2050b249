"""The report's section on decoders with parts of them replaced, from fabricated records."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_records import ROWS, write_record, write_sweep, write_trial

from cnd.statistics import crossed_mean
from reports.build import build_report
from reports.collect import Records, read_sweep
from reports.interventions import difference_table, read, section

METRIC = "nway50_top1"
SHIFTS = {"normal": 0.0, "one part": -0.2, "another <b>part</b>": 0.0}
EQUAL = {"one part": "one part is not needed", "another <b>part</b>": "the <b>other</b> is not needed"}


def write_interventions(output: Path, row: str, seed: int, shifts: dict[str, float] = SHIFTS) -> None:
    """Scores that are the record's, shifted, with a little noise; noted in the trial's file."""
    folder = output / "cache" / "interventions" / f"{row}-{seed}"
    folder.mkdir(parents=True)
    scores = pd.read_parquet(output / "cache" / "record" / f"{row}-{seed}" / "scores.parquet")
    scores = scores[(scores["metric"] == METRIC) & (scores["sample"] == 0)]
    rng = np.random.default_rng(seed)
    parts = [
        scores.assign(
            variant=name, value=scores["value"] + shift + (name != "normal") * rng.normal(0, 0.02, len(scores))
        )
        for name, shift in shifts.items()
    ]
    pd.concat(parts).to_parquet(folder / "scores.parquet")
    measures = {"attention_entropy": 0.9 + 0.02 * seed, "new_measure": 0.125}
    measures |= {"top_is_class/test": 0.04, "top_is_class_chance/test": 0.005, "top_is_class/train": 0.25}
    summary = {"scores": {}, "measures": measures, "if_equal": EQUAL, "seconds": 1.0}
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[Path, Path]:
    rows = ROWS[:3]
    sweep_dir = write_sweep(tmp_path, rows, [0, 1])
    for row in rows:
        for seed in (0, 1):
            write_record(tmp_path, row["id"], seed)
            entry = {"interventions": f"cache/interventions/{row['id']}-{seed}"} if row["id"] != "11" else {}
            write_trial(sweep_dir, row["id"], seed, **entry)
            if entry:
                write_interventions(tmp_path, row["id"], seed)
    return tmp_path, sweep_dir


@pytest.fixture
def records(sweep: tuple[Path, Path]) -> Records:
    return read_sweep(*sweep)


def test_differences_are_paired_by_item_and_averaged_over_seeds(sweep: tuple[Path, Path], records: Records) -> None:
    table = difference_table(read(records).scores).set_index(["row", "variant"])
    found = table.loc[("10", "one part")]
    by_seed = [
        pd.read_parquet(sweep[0] / "cache" / "interventions" / f"10-{seed}" / "scores.parquet") for seed in (0, 1)
    ]
    wide = pd.concat(by_seed, keys=(0, 1), names=["seed"]).reset_index("seed")
    wide = wide.pivot(index=["variant", "item"], columns="seed", values="value")
    expected = crossed_mean(wide.loc["one part"] - wide.loc["normal"], np.arange(24) % 12)
    assert found["difference"] == pytest.approx(expected.estimate) == pytest.approx(-0.2, abs=0.02)
    assert (found["low"], found["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert set(table.index.get_level_values("row")) == {"0", "10"}


def test_the_interval_decides_what_is_said(records: Records) -> None:
    content = section(records)
    assert content is not None and content["problems"] == []
    first, second = content["verdicts"]
    assert first.startswith("Row 10, one part: −") and "leaves out 0" in first and "changes in 2 of 2 rows" in first
    assert "No change is shown: the <b>other</b> is not needed" in second
    line = next(line for line in content["lines"] if line["reference"])
    assert [cell["differs"] for cell in line["cells"]] == [True, False]


def test_measures_are_means_over_seeds_with_their_chance_level(records: Records) -> None:
    content = section(records)
    assert content is not None
    assert content["measures"] == ["entropy of attention", "new measure", "top concept is the class"]
    entropy, new, top = content["lines"][0]["measures"]
    assert (entropy["value"], new["value"]) == ("91.0", "12.5")
    assert top == {"value": "4.0", "notes": ["chance 0.5", "training 25.0"]}


def test_the_page_shows_it_and_escapes_what_packages_say(sweep: tuple[Path, Path]) -> None:
    page = build_report(*sweep).read_text()
    assert 'href="#interventions"' in page and "With parts of the decoder replaced" in page
    assert "<b>part</b>" not in page and "<b>other</b>" not in page and "another &lt;b&gt;part" in page


def test_what_cannot_be_read_is_told_and_the_rest_is_shown(sweep: tuple[Path, Path]) -> None:
    output, sweep_dir = sweep
    (output / "cache" / "interventions" / "0-0" / "summary.json").write_text("no JSON")
    content = section(read_sweep(output, sweep_dir))
    assert content is not None and "row 0, seed 0: interventions cannot be read" in content["problems"][0]
    assert len(content["lines"]) == 2  # row 0 by its other seed


def test_without_any_there_is_no_section(tmp_path: Path) -> None:
    sweep_dir = write_sweep(tmp_path, ROWS[:1], [0])
    write_record(tmp_path, "0")
    write_trial(sweep_dir, "0", 0)
    assert section(read_sweep(tmp_path, sweep_dir)) is None
    assert 'id="interventions"' not in build_report(tmp_path, sweep_dir).read_text()
