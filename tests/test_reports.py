"""Reports from fabricated records: numbers, wording, partial results, escaping, self-containment."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from report_records import CONTROLS, ROWS, finished_sweep, table_row, write_record, write_sweep, write_trial
from scipy import stats

from cnd.errors import UserError
from cnd.metrics.nway import NWay
from cnd.statistics import crossed_mean, holm, mean_interval, probability_of_improvement
from reports import figures, inference, tables, text
from reports.build import build_report, main, result_table
from reports.collect import choose_items, read_images, read_sweep
from reports.scale import Scale


class Page(HTMLParser):
    """Visible text, tags and links of a report."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.links, self.ids = "", [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "data", "action")]
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    output = tmp_path_factory.mktemp("finished")
    return output, finished_sweep(output)


@pytest.fixture(scope="module")
def page(finished: tuple[Path, Path]) -> Page:
    return Page(build_report(*finished))


# ---------------------------------------------------------------- the file


def test_report_is_one_self_contained_file(finished: tuple[Path, Path], page: Page) -> None:
    assert {p.name for p in (finished[0] / "reports").iterdir()} == {"table-fake.html", "table-fake-tables"}
    assert not {"link", "iframe", "object"} & set(page.tags) and page.tags.count("script") == 1
    outside = [
        link for link in page.links if not link.startswith(("#", "data:image/png;base64,", "table-fake-tables/"))
    ]
    assert outside == []
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert page.tags.count("img") == 5


def test_report_holds_what_a_reader_needs(page: Page) -> None:
    for words in [
        "A fabricated table",
        "SIMULATED DATA",
        "not comparable with the paper",
        "Fabricated brain.",
        "noise ceiling: 0.71",
        "decoder.phase2.timestep_range = [400, 560]",
        "3.3 to 21.8 %",
        "MinD-Vis",
        "python sweeps/run.py table --experiment fake --seeds 1 --set data.snr=0.02",
        "key-10-0",
        "run-10-0",
        "torch 2.13",
        "1,234,567",
        "drawn once with a fixed seed",
        "undetermined",
    ]:
        assert words in page.text
    assert "best of 1" not in page.text  # one sample an item: nothing to choose from
    assert "INCOMPLETE" not in page.text


def test_strings_of_the_sweep_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    rows = [ROWS[1] | {"label": evil}, table_row(evil, evil, 0, 0, 0, 0), table_row("c", label=evil, control=True)]
    sweep_dir = write_sweep(tmp_path, rows, [0], title=evil, description=evil, name=evil, experiment=evil)
    write_trial(sweep_dir, "10", 0)
    write_record(
        tmp_path, "10", remarks=[evil], versions={evil: evil}, metrics=[NWay(n=50).describe() | {"title": evil}],
        data={"description": evil, evil: evil}, experiment={"name": evil},
    )  # fmt: skip
    write_trial(sweep_dir, "c", 0, "failed", error=evil)
    path = build_report(tmp_path, sweep_dir)
    html = path.read_text()
    (own,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)  # our own, which sorts tables; no other may run
    assert html.count("<script") == 1
    assert f"script-src 'sha256-{b64encode(sha256(own.encode()).digest()).decode()}'" in html
    assert path.read_text().count("&lt;script&gt;") > 10


def test_reports_never_load_torch() -> None:
    code = "import sys, reports.build; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_command_line(finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path) for path in finished]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    assert main([str(tmp_path), str(tmp_path)]) == 2
    assert "sweep.json" in capsys.readouterr().err
    assert main([]) == 2


# ---------------------------------------------------------------- numbers


def test_scores_and_differences_are_those_of_the_category_means(finished: tuple[Path, Path]) -> None:
    output, sweep_dir = finished
    table = result_table(output, sweep_dir).set_index("row")

    def category_means(row: str) -> pd.Series:
        folder = output / "cache" / "record" / f"{row}-0"
        scores = pd.read_parquet(folder / "scores.parquet").query("metric == 'nway50_top1'")
        items = scores.merge(pd.read_parquet(folder / "items.parquet"), on="item")
        return items.groupby("category")["value"].mean()

    expected = mean_interval(category_means("11"), category_means("11").index)
    assert table.loc["11", ["low", "high"]].tolist() == pytest.approx([100 * expected.low, 100 * expected.high])
    paired = stats.ttest_rel(category_means("11"), category_means("10"))
    assert table.at["11", "difference"] == pytest.approx(100 * (category_means("11") - category_means("10")).mean())
    limits = [100 * limit for limit in paired.confidence_interval()]
    assert table.loc["11", ["difference_low", "difference_high"]].tolist() == pytest.approx(limits)


def test_result_table_has_the_tables_shape(finished: tuple[Path, Path]) -> None:
    table = result_table(*finished)
    assert table["row"].tolist() == ["0", "10", "11", "12", "ridge", "shuffled", "oracle"]
    assert table.attrs["scale"] == Scale("50-way top-1", percent=True)
    assert table["mask_ratio"].tolist()[:3] == ["-", 0.75, 0.5]
    assert table["paper"].tolist()[:2] == [4.9, 10.5]
    assert table.loc[table["row"] == "10", "difference"].isna().all()
    assert table["p_holm"].isna().all() and (table["verdict"] == "").all()  # one seed
    assert (table["n_seeds"] == 1).all() and (table["state"] == "").all()


def test_differences_of_several_seeds_are_those_of_crossed_means(tmp_path: Path) -> None:
    rows = [ROWS[1], ROWS[2], ROWS[3], *CONTROLS]
    sweep = write_sweep(tmp_path, rows, [0, 1, 2], margin=12.0)
    for row, seed in product(rows, (0, 1, 2)):
        write_trial(sweep, row["id"], seed)
        write_record(tmp_path, row["id"], seed, level={"11": 0.41, "12": 0.7}.get(row["id"]), per_category=8)
    records = read_sweep(tmp_path, sweep)
    table = tables.difference_table(records).set_index("row")
    wide = records.items.pivot(index="item", columns=["row", "seed"], values="nway50_top1")
    category = records.items.drop_duplicates("item").set_index("item")["category"]
    expected = {row: crossed_mean(wide[row] - wide["10"], category) for row in ("11", "12")}
    for row, found in expected.items():
        assert table.loc[row, ["low", "high", "p"]].tolist() == pytest.approx([found.low, found.high, found.p_value])
    p = [found.p_value for found in expected.values()]
    assert table.loc[["11", "12"], "p_holm"].tolist() == pytest.approx(list(holm(p)))  # rivals are another family
    assert table.at["ridge", "p_holm"] == table.at["ridge", "p"]
    assert table["verdict"].to_dict() == {
        "11": "equivalent", "12": "better", "ridge": "better", "shuffled": "", "oracle": ""
    }  # fmt: skip
    better = probability_of_improvement((wide["12"] - wide["10"]).to_numpy())
    assert better and table.at["12", "improved_low"] == better.low
    report = Page(build_report(tmp_path, sweep))
    assert "better: row 12; worse: none; equivalent within 12.0 points: row 11; undecided: none." in report.text
    assert "What the differences show" in report.text and "▲ better" in report.text
    assert 0 < tables.design(records, tables.score_table(records), table.reset_index()).detectable < 0.12


def test_the_largest_complete_grid_of_subjects_and_seeds_is_compared() -> None:
    runs = {("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("c", 2)}
    assert inference._complete_grid(runs) == (["a", "b"], [0, 1])
    assert inference._complete_grid({("a", 0), ("b", 1), ("b", 2)}) == (["b"], [1, 2])
    assert inference._complete_grid(set()) == ([], [])


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_one_seed_gives_no_verdict(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    levels = {"12": 0.9}
    sweep = write_sweep(tmp_path, [*ROWS, *CONTROLS], list(seeds))
    for row, seed in product([*ROWS, *CONTROLS], seeds):
        write_trial(sweep, row["id"], seed)
        write_record(tmp_path, row["id"], seed, level=levels.get(row["id"]))
    report = Page(build_report(tmp_path, sweep))
    alone = len(seeds) == 1
    assert headline_of(tmp_path, sweep).startswith("Nothing is concluded about any row" if alone else "Against row 10")
    assert ("These trained models only" in report.text) is alone
    assert ("Holm" in report.text and "What the differences show" in report.text) is not alone
    assert ("Holm" in report.text) is not alone


def test_seeds_and_samples_are_averaged_per_item(tmp_path: Path) -> None:
    records = read_sweep(tmp_path, finished_sweep(tmp_path, ROWS[1:3], seeds=(0, 1, 2), n_samples=5))
    scores, best = (inference.crossed_scores(records, "11", name) for name in ("nway50_top1", "nway50_top1_best"))
    items = records.items[records.items["row"] == "11"]
    groups = items.groupby(["item", "seed"])["nway50_top1"]
    assert scores and best and scores.values.shape == (24, 3, 1)
    np.testing.assert_allclose(scores.values[:, :, 0], groups.mean().unstack("seed"))
    np.testing.assert_allclose(best.values[:, :, 0], groups.max().unstack("seed"))
    table = tables.score_table(records).set_index(["row", "metric"])
    means = items.groupby("seed")["nway50_top1"].mean()
    assert table.at[("11", "nway50_top1"), "seed_sd"] == pytest.approx(means.std(ddof=1))
    by_seed = tables.seed_differences(records).set_index(["row", "seed"])["difference"]
    reference = records.items[records.items["row"] == "10"].groupby("seed")["nway50_top1"].mean()
    assert by_seed["11", 1] == pytest.approx(means[1] - reference[1])
    assert by_seed.index.get_level_values("row").unique().tolist() == ["11"]


def test_few_categories_make_the_item_the_unit(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(
        tmp_path, ROWS[1:3], n_categories=2, per_category=20, n_folds=2, channels=1, n_way=(2, 5, 10), simulated=False
    )
    records = read_sweep(tmp_path, sweep_dir)
    scores = tables.score_table(records)
    assert set(scores["n_units"]) == {40}
    assert [m.name for m in records.metrics] == ["nway2_top1", "nway5_top1", "nway10_top1"]
    assert records.metric == "nway2_top1"  # the paper's 50-way was not measured; the experiment's first is the score
    page = Page(build_report(tmp_path, sweep_dir))
    assert "The sampling unit is the item (40 of them)" in page.text
    assert "The score is 2-way top-1; chance is 50.0 %." in page.text
    assert "SIMULATED" not in page.text


# ---------------------------------------------------------------- wording


def headline_of(output: Path, sweep_dir: Path) -> str:
    records = read_sweep(output, sweep_dir)
    scores, differences = tables.score_table(records), tables.difference_table(records)
    return " ".join(text.headline(records, scores, differences, tables.design(records, scores, differences)))


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({"ridge": 0.7}, "concept bank' beats row 10"),
        ({"ridge": 0.15}, "concept bank' does not beat row 10"),
        ({"ridge": 0.4}, "concept bank' is equivalent within 5.0 points"),
        ({"shuffled": 0.3}, "ABOVE chance"),
        ({"0": 0.15}, "Phase 1 helps"),
        ({"0": 0.7}, "Phase 1 makes the score worse"),
        ({"0": 0.4}, "Phase 1 changes it by less than 5.0 points"),
        ({"0": (0.3, 0.5, 0.35, 0.5)}, "neither an effect of Phase 1 nor its absence is shown"),
        ({"11": 0.7, "12": 0.12, "0": 0.4}, "better: row 11; worse: row 12; equivalent within 5.0 points: row 0"),
        ({}, "better: none; worse: none; equivalent within 5.0 points: rows 0, 11 and 12; undecided: none."),
    ],
)
def test_headline_says_what_the_numbers_say(tmp_path: Path, levels: dict[str, Any], words: str) -> None:
    rows, seeds = ROWS + CONTROLS, [0, 1, 2, 3]
    sweep_dir = write_sweep(tmp_path, rows, seeds)
    for row, seed in product(rows, seeds):
        write_trial(sweep_dir, row["id"], seed)
        level = levels.get(row["id"])
        write_record(
            tmp_path, row["id"], seed, level=level[seed] if isinstance(level, tuple) else level, per_category=8
        )
    assert words in headline_of(tmp_path, sweep_dir)


def test_a_report_that_is_current_is_left_alone(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, ROWS[:2])
    path = build_report(tmp_path, sweep_dir)

    def is_left_alone() -> bool:
        path.write_text(path.read_text() + "<!-- marked -->")
        return build_report(tmp_path, sweep_dir, unless_current=True).read_text().endswith("<!-- marked -->")

    assert is_left_alone()
    write_trial(sweep_dir, ROWS[1]["id"], 0, state="failed", error="RuntimeError: no")
    assert not is_left_alone() and is_left_alone()
    assert not build_report(tmp_path, sweep_dir).read_text().endswith("<!-- marked -->")


def test_badges_are_loud_about_optimism(tmp_path: Path) -> None:
    edits = {"phase1.transductive": True, "phase2.checkpoint": "test_best", "generator": {"kind": "dit"}}
    edits["evaluation.classifiers"] = [{"kind": "timm"}]
    sweep_dir = finished_sweep(tmp_path, ROWS[1:2], n_samples=5, simulated=False, experiment=edits)
    page = Page(build_report(tmp_path, sweep_dir))
    named = ["TRANSDUCTIVE", "TEST-SET CHECKPOINT", "A DIFFERENT METHOD", "BEST-OF-5 IS OPTIMISTIC"]
    for words in [*named, "first of 5 samples", "best of 5"]:
        assert words in page.text
    assert "SIMULATED" not in page.text


def test_numbers_are_written_for_people() -> None:
    percent, plain = Scale("50-way", True), Scale("correlation", False)
    assert [percent.signed(x) for x in (0.0123, -0.02, -0.0001, float("nan"))] == ["+1.2", "−2.0", "0.0", "–"]
    assert [percent.score(0.105), percent.difference(-0.02), percent.axis] == ["10.5 %", "−2.0 points", "50-way, %"]
    assert [plain.score(-0.105), plain.difference(0.02), plain.axis] == ["−0.105", "+0.020", "correlation"]
    assert [text.percent(x) for x in (0.105, float("nan"))] == ["10.5", "–"]


# ---------------------------------------------------------------- partial results


def test_unfinished_rows_are_shown_as_such(tmp_path: Path) -> None:
    rows = [*ROWS, table_row("13", 1, 0.5, 0.25, 2, "N"), *CONTROLS]
    sweep_dir = write_sweep(tmp_path, rows, [0, 1])
    for seed in (0, 1):
        write_trial(sweep_dir, "10", seed)
        write_record(tmp_path, "10", seed)
    write_trial(sweep_dir, "11", 0)
    write_record(tmp_path, "11", 0)
    write_trial(sweep_dir, "11", 1, "running")
    write_trial(sweep_dir, "12", 0, "failed", error="FloatingPointError: loss is not finite")
    write_trial(sweep_dir, "0", 0)  # its record was deleted
    (sweep_dir / "trials" / "13-seed0.json").write_text('{"row": "13", "se')
    table = result_table(tmp_path, sweep_dir).set_index("row")
    assert table["n_seeds"].to_dict() == {
        "0": 0,
        "10": 2,
        "11": 1,
        "12": 0,
        "13": 0,
        "ridge": 0,
        "shuffled": 0,
        "oracle": 0,
    }
    assert table.at["10", "state"] == ""
    assert table.at["11", "state"] == "1 of 2 seeds; others running"
    assert table.at["12", "state"] == "0 of 2 seeds; others failed, not started"
    assert table.at["0", "state"] == "0 of 2 seeds; others not started, record unreadable"
    assert np.isfinite(table.at["11", "difference"]) and np.isnan(table.at["12", "score"])
    page = Page(build_report(tmp_path, sweep_dir))
    assert "INCOMPLETE 13 of 16 trials" in page.text
    assert "FloatingPointError: loss is not finite" in page.text


def test_nothing_finished_still_gives_a_report(tmp_path: Path) -> None:
    page = Page(build_report(tmp_path, write_sweep(tmp_path, ROWS + CONTROLS, [0])))
    assert "No trial has finished yet" in page.text
    assert page.tags.count("img") == 0
    assert page.text.count("not started") == 7


def test_missing_reference_row_leaves_scores_without_differences(tmp_path: Path) -> None:
    sweep_dir = write_sweep(tmp_path, ROWS, [0, 1])
    write_trial(sweep_dir, "11", 0)
    write_record(tmp_path, "11", 0)
    page = Page(build_report(tmp_path, sweep_dir))
    assert page.text.count("0.71") == 1  # facts of the data come from whatever row there is
    assert "The reference row 10 has no result yet" in page.text
    assert "differences" not in page.ids and "factors" in page.ids and "images" in page.ids


def test_broken_records_are_named_not_fatal(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, ROWS)
    record = tmp_path / "cache" / "record"
    (record / "11-0" / "items.parquet").write_bytes(b"not parquet")
    (record / "12-0" / "summary.json").write_text("{")
    (record / "0-0" / "images.safetensors").unlink()
    page = Page(build_report(tmp_path, sweep_dir))
    assert page.text.count("record unreadable") == 2
    assert "0-0: images cannot be read" in page.text


def test_one_category_one_item_one_row(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, ROWS[1:3], n_categories=1, per_category=1)
    table = result_table(tmp_path, sweep_dir)
    assert table["score"].notna().all() and table["low"].isna().all()
    assert build_report(tmp_path, sweep_dir).is_file()


def test_no_sweep_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sweep\.json"):
        build_report(tmp_path, tmp_path / "sweeps" / "nothing")
    (tmp_path / "sweep.json").write_text("[")
    with pytest.raises(UserError, match="not valid JSON"):
        read_sweep(tmp_path, tmp_path)
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="no rows"):
        read_sweep(tmp_path, tmp_path)
    (tmp_path / "sweep.json").write_text('{"rows": [{"id": "1"}], "trials": ["1-seed0"]}')
    with pytest.raises(UserError, match="written by another version"):
        read_sweep(tmp_path, tmp_path)


# ---------------------------------------------------------------- pictures


def test_shown_stimuli_do_not_depend_on_the_results() -> None:
    items = pd.DataFrame({"item": np.arange(40), "category": np.arange(40) % 20, "nway50_top1": np.linspace(0, 1, 40)})
    chosen = choose_items(items, 8)
    assert chosen == choose_items(items.assign(nway50_top1=0.5).sample(frac=1, random_state=1), 8)
    assert len(set(items.loc[chosen, "category"])) == len(chosen) == 8
    assert len(choose_items(items.head(3), 8)) == 3


@pytest.mark.parametrize(("channels", "n_samples"), [(1, 1), (3, 5)])
def test_images_are_read_row_by_row(tmp_path: Path, channels: int, n_samples: int) -> None:
    folder = write_record(tmp_path, "10", channels=channels, n_samples=n_samples)
    images = read_images(folder, [3, 7], sample=n_samples - 1)
    assert [picture.shape for picture in images["reconstructions"]] == [(channels, 8, 8)] * 2
    with pytest.raises(ValueError, match="cannot be read"):
        read_images(folder, [999])


def test_image_grid_keeps_pixels_and_places() -> None:
    red, grey = np.zeros((3, 4, 4), np.uint8), np.full((1, 4, 4), 77, np.uint8)
    red[0] = 255
    cells = [("Stimulus", "a", red), ("Stimulus", "b", grey), ("Row 0", "b", red)]
    figure = figures.image_grid(pd.DataFrame(cells, columns=["row_title", "column_title", "pixels"]))
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    assert (canvas[:4, :4] == [255, 0, 0]).all()
    assert (canvas[:4, 5:9] == 77).all()
    assert (canvas[6:10, :4] == 255).all()  # a missing cell stays white
    assert (canvas[6:10, 5:9] == [255, 0, 0]).all()


def test_forest_plot_draws_intervals_and_band(finished: tuple[Path, Path]) -> None:
    differences = tables.difference_table(read_sweep(*finished))
    figure = figures.forest_plot(differences, 0.05, pd.DataFrame(columns=["row", "seed", "difference"]))
    rows, controls = figure.axes
    assert len(rows.get_yticks()) == 3 and len(controls.get_yticks()) == 3
    drawn = [line.get_xdata() for line in rows.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2]
    table = differences[~differences["control"]]
    np.testing.assert_allclose(drawn, 100 * table[["low", "high"]])
    band = rows.patches[0].get_bbox()
    assert (band.x0, band.x1) == pytest.approx((-5, 5))


def test_learning_curves_are_means_over_folds() -> None:
    history = pd.DataFrame(
        [("10", "phase2", fold, seen, "loss", seen + fold) for fold in (0, 2) for seen in (8, 16)],
        columns=["row", "phase", "fold", "samples_seen", "name", "value"],
    )
    figure = figures.learning_curves(history, "10", [])
    assert isinstance(figure, Figure)
    (line,) = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    np.testing.assert_array_equal(line.get_xydata(), [[8, 9], [16, 17]])


def test_factor_curves_name_rows_and_mark_the_reference(finished: tuple[Path, Path]) -> None:
    records = read_sweep(*finished)
    points = tables.factor_table(records, tables.score_table(records))
    assert points["row"].tolist() == ["12", "11", "10"]
    assert points["reference"].tolist() == [False, False, True]
    figure = figures.factor_curves(points)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["0.25\nrow 12", "0.5\nrow 11", "0.75\nrow 10"]


def test_record_without_attention_has_no_concept_section(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, ROWS[1:2])
    text = Page(build_report(tmp_path, sweep_dir)).text
    assert "Concepts attended to" in text and "picks none gives each concept 0.0100" in text
    (tmp_path / "cache" / "record" / "10-0" / "attention.parquet").unlink()
    assert "Concepts attended to" not in Page(build_report(tmp_path, sweep_dir)).text


def test_provenance_names_what_each_row_changed(tmp_path: Path) -> None:
    sweep_dir = finished_sweep(tmp_path, ROWS[:2])
    page = Page(build_report(tmp_path, sweep_dir))
    assert "decoder.phase1.enabled = False" in page.text
    configuration = json.loads(re.search(r"Full configuration of row 10 (\{.*\}) No external", page.text)[1])  # type: ignore[index]
    assert configuration["decoder"]["phase2"]["checkpoint"] == "validation"


def test_every_judge_and_unseen_stimuli_have_their_own_column(tmp_path: Path) -> None:
    sweep, judged = finished_sweep(tmp_path), NWay(n=50, judge="resnet50")
    for path in tmp_path.rglob("items.parquet"):
        items = pd.read_parquet(path)
        items.assign(seen=items["item"] % 2 == 0).to_parquet(path)
        scores = pd.read_parquet(path.with_name("scores.parquet"))
        other = scores[scores["metric"] == "nway50_top1"].assign(metric=judged.name, value=1.0)
        pd.concat([scores, other]).to_parquet(path.with_name("scores.parquet"))
        summary = json.loads(path.with_name("summary.json").read_text())
        summary["metrics"].append(judged.describe())
        path.with_name("summary.json").write_text(json.dumps(summary))
    records = read_sweep(tmp_path, sweep)
    assert records.metric == "nway50_top1"
    assert {"nway50_top1/resnet50", "nway50_top1/unseen stimuli"} <= {m.name for m in records.metrics}
    assert records.facts(judged.name).title == "50-way top-1, resnet50"
    assert tables.chance(records, "nway50_top1/resnet50") == tables.chance(records, "nway50_top1")
    scores = tables.score_table(records).set_index(["row", "metric"])["score"]
    row = records.complete[0].row
    mine = records.items[(records.items["row"] == row) & (records.items["item"] % 2 == 1)]
    assert scores[row, "nway50_top1/resnet50"] == 1.0
    assert scores[row, "nway50_top1/unseen stimuli"] == pytest.approx(mine.groupby("item")["nway50_top1"].mean().mean())


def test_differences_compare_the_same_seeds_while_a_sweep_is_unfinished(tmp_path: Path) -> None:
    rows = [table_row("10"), table_row("1")]
    sweep = finished_sweep(tmp_path, rows, seeds=(0, 1))
    whole = read_sweep(tmp_path, sweep)
    expected = tables.seed_differences(whole).set_index(["row", "seed"])["difference"]["1", 0]
    write_trial(sweep, "1", 1, state="running")
    lines = tables.difference_table(read_sweep(tmp_path, sweep)).set_index("row")
    assert lines.loc["1", "difference"] == pytest.approx(expected)


def test_subjects_are_averaged_and_shown_apart(tmp_path: Path) -> None:
    rows = [table_row("10", published={"nway50_top1": {"2": 14.4}}), table_row("1")]
    sweep = write_sweep(tmp_path, rows, [0], subjects=["1", "2"])
    for row in ("10", "1"):
        for subject, seed in (("1", 0), ("2", 1)):  # another seed stands for another subject's scores
            record = write_record(tmp_path, row, seed, level=0.3 + 0.4 * seed)
            write_trial(sweep, row, 0, record=record.relative_to(tmp_path).as_posix(), subject=subject)
            (sweep / "trials" / f"{row}-seed0.json").rename(sweep / "trials" / f"{row}-subject{subject}-seed0.json")
    records = read_sweep(tmp_path, sweep)
    by_subject = tables.subject_table(records, records.metric).set_index(["row", "subject"])["score"]
    assert by_subject["10", "2"] > by_subject["10", "1"] + 0.2
    mean = tables.score_table(records).set_index(["row", "metric"]).loc[("10", records.metric), "score"]
    assert mean == pytest.approx((by_subject["10", "1"] + by_subject["10", "2"]) / 2)
    page = Page(build_report(tmp_path, sweep))
    assert "published 14.4" in page.text and "real fMRI; this run's are SIMULATED subjects" in page.text
    assert "By subject" in page.text and "means over 2 subjects" in page.text and "--subjects 1,2" in page.text
