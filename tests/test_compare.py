"""``compare``: what is paired, what is not, and when nothing may be concluded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_records import ROWS, table_row, write_record, write_sweep, write_trial
from safetensors.numpy import load_file, save_file

from cnd import statistics
from cnd.errors import UserError
from cnd.metrics.nway import NWay
from reports import comparison
from reports.comparison import compare, find_side
from reports.page import Picture
from reports.page_tables import read_page
from sweeps.run import main

METRIC = "nway50_top1"


@pytest.fixture(autouse=True)
def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "picture", lambda figure, description, **_: Picture("data:,", description, 1))


def sweep(output: Path, seeds: tuple[int, ...] = (0, 1, 2), level: float = 0.3, **record: Any) -> Path:
    """A sweep with the reference row 10 and the row 11, whose stimuli are those of every other one made here."""
    rows = [ROWS[1], table_row("11", 1, 0.5, 0.5, 4, "N")]
    folder = write_sweep(output, rows, list(seeds))
    for row in ("10", "11"):
        for seed in seeds:
            write_trial(folder, row, seed)
            write_record(output, row, seed, level=level + 0.4 * (row == "11"), **record)
    return folder


def shuffle_items(output: Path) -> None:
    """Number the test items of every record otherwise; what is scored stays."""
    order = np.random.default_rng(1).permutation(24)  # the new number of each item
    for folder in (output / "cache" / "record").iterdir():
        for name in ("items", "scores"):
            table = pd.read_parquet(folder / f"{name}.parquet")
            renumbered = table.assign(item=order[table["item"].to_numpy(dtype=int)])
            renumbered.sort_values("item", kind="stable").to_parquet(folder / f"{name}.parquet", index=False)
        images = load_file(folder / "images.safetensors")
        moved = {name: np.ascontiguousarray(values[np.argsort(order)]) for name, values in images.items()}
        save_file(moved, folder / "images.safetensors")


def scores(output: Path, row: str, seeds: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """[stimulus, seed], in the order of the stimuli's names."""
    found = []
    for seed in seeds:
        folder = output / "cache" / "record" / f"{row}-{seed}"
        own = pd.read_parquet(folder / "scores.parquet").query("metric == @METRIC")
        table = own.merge(pd.read_parquet(folder / "items.parquet"), on="item")
        found.append(table.groupby("stimulus")["value"].mean())
    return np.stack(found, axis=1)


def test_items_are_paired_by_stimulus_and_seeds_by_number(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    folder = sweep(one)
    shutil.copytree(one, two)
    shuffle_items(two)
    found = compare([find_side("table-fake", one), find_side(str(two / "sweeps" / "table-fake"), one)])
    table = found.table.set_index(["sweep", "row"])
    assert found.loud == ["Data are simulated. Nothing of that is a measurement of a human brain."]
    assert table.index.tolist() == [(f"{name}/table-fake", row) for name in ("one", "two") for row in ("10", "11")]
    same = table.loc[("two/table-fake", "10")]
    assert same["paired"] == "stimulus and seed" and same["difference"] == same["difference_high"] == 0
    categories = pd.read_parquet(one / "cache" / "record" / "10-0" / "items.parquet").set_index("stimulus")["category"]
    units = categories.sort_index().to_numpy()
    expected = statistics.crossed_mean((scores(one, "11") - scores(one, "10"))[:, :, None], units)
    for sweep_name in ("one", "two"):
        line = table.loc[(f"{sweep_name}/table-fake", "11")]
        assert [line["difference"], line["difference_low"], line["difference_high"], line["p"]] == pytest.approx(
            [expected.estimate, expected.low, expected.high, expected.p_value]
        )
        assert line["verdict"] == "better"
    assert folder.is_dir() and any("better: Row 11 (one/table-fake), Row 11 (two/table-fake)" in n for n in found.notes)


def test_other_pictures_of_the_same_name_are_not_paired_and_the_errors_add_up(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    sweep(one)
    sweep(two, level=0.45, experiment={"data.snr": 0.3})
    for file in two.rglob("images.safetensors"):
        images = load_file(file)
        save_file(images | {"stimuli": 255 - images["stimuli"]}, file)
    found = compare([find_side("table-fake:10", one), find_side(f"{two}/sweeps/table-fake:11", one)])
    line = found.table.iloc[1]
    assert found.table["row"].tolist() == ["10", "11"] and line["paired"] == "not paired: other stimuli"
    units = pd.read_parquet(one / "cache" / "record" / "10-0" / "items.parquet").set_index("stimulus")["category"]
    means = [
        statistics.crossed_mean(scores(output, row), units.sort_index().to_numpy())
        for output, row in ((two, "11"), (one, "10"))
    ]
    assert line["difference"] == pytest.approx(means[0].estimate - means[1].estimate)
    assert line["error"] == pytest.approx(np.hypot(*(mean.error.standard for mean in means)))
    assert any("Not only decoders differ but data.snr" in note for note in found.notes)
    assert dict(found.settings).keys() >= {"data.snr"}
    assert line["p"] > 0 and any("Not paired: other stimuli (all rows)." in note for note in found.notes)


def test_other_seeds_are_not_paired_and_one_seed_gives_no_verdict(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    sweep(one, seeds=(0, 1))
    sweep(two, seeds=(2,), level=0.5)
    found = compare([find_side("table-fake", one), find_side(str(two / "sweeps" / "table-fake"), one)])
    lines = found.table[found.table["sweep"].str.startswith("two")]
    assert set(lines["paired"]) == {"not paired: other seeds or subjects"}
    assert lines["p"].isna().all() and set(lines["verdict"]) == {""} and lines["difference_low"].notna().all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"experiment": {"evaluation.classifiers": [{"kind": "timm"}]}}, "another judge of 50-way top-1"),
        ({"simulated": False}, "real against simulated data"),
        ({"metrics": [NWay(n=50).describe() | {"chance": 0.5}]}, "50-way top-1 with other bounds"),
        ({"n_way": (10,)}, "another metric, 10-way top-1"),
    ],
)
def test_what_does_not_compare_is_said_loudly_and_gets_no_verdict(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    sweep(one, seeds=(0, 1))
    sweep(two, seeds=(0, 1), level=0.5, **change)
    found = compare([find_side("table-fake", one), find_side(str(two / "sweeps" / "table-fake"), one)])
    assert any(f"two/table-fake: {told}" in sentence and "No verdict" in sentence for sentence in found.loud)
    assert set(found.table.loc[found.table["sweep"].eq("two/table-fake"), "verdict"]) == {""}
    # rows of the first sweep are judged as ever
    assert found.table.loc[found.table["row"].eq("11"), "verdict"].tolist()[0] != ""


def test_the_command_prints_a_table_json_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<script>x</script>"
    folder = sweep(tmp_path, experiment={"phase2.lr": 0.5})
    other = tmp_path / "sweeps" / "other-fake"
    shutil.copytree(folder, other)
    content = json.loads((other / "sweep.json").read_text())
    content["rows"][1]["label"] = evil
    (other / "sweep.json").write_text(json.dumps(content))
    words = ["compare", "table-fake", "other-fake:11", "--output", str(tmp_path)]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metric"] == METRIC and told["sweeps"] == ["table-fake", "other-fake:11"]
    assert [line["verdict"] for line in told["rows"]] == ["", "better", "better"] and told["rows"][0]["p_holm"] is None
    page = Path(told["report"])
    assert page.name == "compare-table-fake-other-fake-11.html" and evil not in page.read_text()
    assert {table.slug for table in read_page(page.read_text()).tables} == {"rows"}
    assert (page.parent / "compare-table-fake-other-fake-11-tables" / "rows.csv").is_file()
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "Row 10 (reference)" in printed.out and "better" in printed.out and f"report: {page}" in printed.err


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["compare", "table-fake"], "expected two sweeps or more"),
        (["compare", "table-fake", "tabel-fake"], "did you mean 'table-fake'"),
        (["compare", "table-fake", "table-fake:12"], "there is no row '12'"),
        (["compare", "table-fake", "empty-fake"], "no finished trial"),
    ],
)
def test_bad_arguments_are_one_line(
    tmp_path: Path, words: list[str], culprit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sweep(tmp_path, ROWS[1:2], [0])
    shutil.copytree(folder, tmp_path / "sweeps" / "empty-fake")
    write_trial(folder, "10", 0)
    write_record(tmp_path, "10", 0)
    assert main([*words, "--output", str(tmp_path)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1 and culprit in error


def test_there_is_a_user_error_without_the_reference(tmp_path: Path) -> None:
    folder = sweep(tmp_path, seeds=(0,))
    write_trial(folder, "10", 0, "failed")
    with pytest.raises(UserError, match="its reference row 10 has no result"):
        compare([find_side("table-fake", tmp_path)] * 2)
