"""The page of a search: its statistics against independent answers, and that it shows what it says, escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import f_oneway, ttest_1samp

from cnd.errors import UserError
from cnd.json_files import write_json
from cnd.store.folder import FORMAT
from reports.scale import titles
from reports.search import build_search_report
from reports.search_tables import (
    best_so_far,
    correlation_ratio,
    groups,
    importance_table,
    on_front,
    seed_interval,
    shared_table,
    smoothed,
    trial_table,
)

RATIO, VIEW = "decoder.phase1.mask_ratio", "decoder.phase1.self_contrast_view"
RANGE = "decoder.phase2.timestep_range"


def test_the_correlation_ratio_is_that_of_an_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 40)
    scores = rng.standard_normal(40) + group
    observed, null = correlation_ratio(scores, group)
    f = f_oneway(*(scores[group == g] for g in range(3))).statistic
    assert observed == pytest.approx(f * 2 / (f * 2 + 37))
    assert null.mean() == pytest.approx(2 / 39, rel=0.1)  # k - 1 over n - 1
    assert correlation_ratio(np.ones(5), np.array([0, 0, 1, 1, 1]))[0] == 0


def test_what_matters_stands_out_and_what_does_not_stays_within_the_shuffles() -> None:
    rng = np.random.default_rng(1)
    trials = pd.DataFrame({"number": np.arange(60), "a": rng.random(60), "b": rng.choice(["x", "y"], 60)})
    trials["score"] = trials["a"] + 0.1 * rng.standard_normal(60)
    trials.loc[:20, "b"] = np.nan  # was not varied there
    table = importance_table(trials, "score", ["b", "a"]).set_index("setting")
    assert list(table.index) == ["a", "b"] and table.loc["b", "n"] == 39
    assert table.loc["a", "importance"] > table.loc["a", "null_high"] and table.loc["a", "p_holm"] < 0.01
    assert table.loc["b", "importance"] < table.loc["b", "null_high"] and table.loc["b", "p_holm"] > 0.05
    assert importance_table(trials.head(5), "score", ["a"]).empty


def test_groups_are_values_where_they_are_few_and_neighbours_else() -> None:
    assert groups(pd.Series([2, 4, 2, 6])).tolist() == [0, 1, 0, 2]
    assert groups(pd.Series([True, False])).tolist() == [1, 0]
    many = groups(pd.Series(np.arange(20.0)))
    assert many.tolist() == sorted(many) and np.bincount(many).tolist() == [4] * 5


def test_the_front_and_the_best_so_far() -> None:
    values = np.array([[0.9, 9], [0.5, 1], [0.5, 2], [0.9, 10], [0.7, 5]])
    assert on_front(values, [True, False]).tolist() == [True, True, False, False, True]
    assert best_so_far(pd.Series([0.2, np.nan, 0.1, 0.4]), True).tolist() == [0.2, 0.2, 0.2, 0.4]
    assert best_so_far(pd.Series([0.2, 0.1, np.nan]), False).tolist() == [0.2, 0.1, 0.1]


def trial(number: int, state: str = "complete", label: str = "", **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    settings = {RATIO: round(float(rng.uniform(0.1, 0.9)), 3), VIEW: str(rng.choice(["first", "both"]))}
    settings |= {RANGE: [0, 1000 - number % 3]}  # lists are choices, too
    values = [0.5 - settings[RATIO] / 4, float(rng.uniform(1, 9))] if state == "complete" else []
    found = {"number": number, "state": state, "label": label, "values": values, "by_seed": [values] if values else []}
    return found | {"settings": settings, "curve": {}} | more


def a_folder(output: Path, trials: list[dict[str, Any]], objectives: int) -> Path:
    folder = output / "sweeps" / "mine-smoke"
    metric = {"name": "nway50_top1", "title": "50-way <top-1>", "percent": True}
    named = [{"name": "nway50_top1", "higher_is_better": True}, {"name": "seconds", "higher_is_better": False}]
    for found in trials:
        found["values"] = found["values"][:objectives]
        found["by_seed"] = [values[:objectives] for values in found["by_seed"]]
    search = {"name": "mine", "title": "<b>Mine</b>", "description": "", "seeds": 1, "final": {"seeds": 3}}
    search |= {"space": {RATIO: {}, VIEW: {}, RANGE: {}}, "sampler": {"kind": "tpe"}, "pruner": {"kind": "none"}}
    described = {"search": search, "experiment": "smoke", "objectives": named[:objectives], "metrics": [metric]}
    described |= {
        "reference": trials[0]["settings"] if trials else None,
        "final": "mine_final-smoke",
        "simulated": True,
        "identity": {"experiment": {"seed": 0}},
    }
    write_json(folder / "search.json", described)
    write_json(folder / "trials.json", trials)
    return folder


@pytest.mark.parametrize("objectives", [1, 2])
def test_the_page_shows_every_part_and_escapes_what_it_is_told(tmp_path: Path, objectives: int) -> None:
    trials = [trial(0, label="reference"), *(trial(n) for n in range(1, 12)), trial(12, "pruned"), trial(13, "open")]
    folder = a_folder(tmp_path, trials, objectives)
    write_json(folder / "trials" / "0013-seed0.json", {"state": "failed", "error": "FloatingPointError: <nan>"})
    path = build_search_report(tmp_path, folder)
    page = path.read_text()
    assert "1 are open, of which 1 failed" in page and "0013: FloatingPointError: &lt;nan&gt;" in page
    assert path == tmp_path / "reports" / "mine-smoke.html"
    assert "&lt;b&gt;Mine" in page and "<b>Mine" not in page and "<top-1>" not in page
    assert "SIMULATED DATA" in page and "Test data were not looked at yet." in page
    assert "12 trials are complete, 1 stopped early, 1 are open" in page
    assert page.count("data:image/png") == 5 + (objectives > 1) and ("Pareto front" in page) == (objectives > 1)
    best = max(trials[:12], key=lambda t: t["values"][0])
    assert f"Trial {best['number']:04d} as a row of a table" in page and "mask_ratio" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_search_with_nothing_yet_and_none_at_all(tmp_path: Path) -> None:
    page = build_search_report(tmp_path, a_folder(tmp_path, [trial(0, "open")], 1)).read_text()
    assert "No trial is complete yet." in page and "data:image/png" not in page
    write_json(tmp_path / "sweeps" / "mine-smoke" / "final.json", {"looks": [[0]], "chosen": [0]})
    final = {"format": FORMAT, "trials": [], "reference": "reference", "seeds": [0]}
    final["rows"] = [{"id": "reference", "label": "", "settings": {}, "paper": None, "control": False}]
    write_json(tmp_path / "sweeps" / "mine_final-smoke" / "sweep.json", final)  # Ctrl-C before any of it is done
    page = build_search_report(tmp_path, tmp_path / "sweeps" / "mine-smoke").read_text()
    assert "Not done yet: it follows" in page
    with pytest.raises(UserError, match="there is no search; run it first"):
        build_search_report(tmp_path, tmp_path / "sweeps" / "other-smoke")


def test_settings_that_were_not_varied_are_nan() -> None:
    table = trial_table([trial(0), trial(1, settings={RATIO: 0.5})], ["score", "seconds"])
    assert table[VIEW].isna().tolist() == [False, True] and list(table.columns[:4]) == [
        "number",
        "state",
        "label",
        "score",
    ]


def test_what_the_best_share() -> None:
    rng = np.random.default_rng(2)
    trials = pd.DataFrame({"a": rng.uniform(0, 1, 40), "lr": 10 ** rng.uniform(-4, -1, 40), "view": ["x", "y"] * 20})
    best = trials[(trials["a"] < 0.4) & (trials["view"] == "x")]
    table = shared_table(best, trials, ["a", "lr", "view"]).set_index("setting")
    assert table["narrower"].tolist() == [True, False, True]
    assert table.loc["view", "best"] == f"x ({len(best)} of {len(best)})" and "y (50 %)" in table.loc["view", "tried"]


def test_limits_over_seeds_are_students() -> None:
    low, high = seed_interval([0.5, 0.6, 0.8]) or (0, 0)
    expected = ttest_1samp([0.5, 0.6, 0.8], 0).confidence_interval(0.95)
    assert (low, high) == (pytest.approx(expected.low), pytest.approx(expected.high)) and seed_interval([0.5]) is None


def test_the_ground_of_contours_is_the_mean_of_neighbours_and_white_where_there_are_none() -> None:
    x, y, scores = np.array([0.0, 0.02, 1.0]), np.array([0.0, 0.0, 1.0]), np.array([1.0, 3.0, 8.0])
    ground = smoothed(x, y, scores, np.array([0.01, 0.5, 1.0]), np.array([0.0, 1.0]))
    assert ground.shape == (2, 3) and ground[0, 0] == pytest.approx(2) and ground[1, 2] == pytest.approx(8)
    assert np.isnan(ground[[0, 1, 0], [1, 1, 2]]).all()


def test_settings_that_end_alike_are_told_apart() -> None:
    found = titles(["decoder.phase1.lr", "decoder.phase2.lr", RATIO])
    assert list(found.values()) == ["phase1 lr", "phase2 lr", "mask ratio"]
