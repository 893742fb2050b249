"""Seeds spent row by row: what each round asks for, the price of looking on the way, and that a crash loses nothing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_pipeline
import numpy as np
import pandas as pd
import pytest
from report_records import CONTROLS, ROWS, finished_sweep, write_record, write_sweep, write_trial

from cnd import statistics
from cnd.data.simulated import SimulatedData
from cnd.errors import UserError
from cnd.experiment import Experiment
from cnd.workflow.cache import StageCache
from cnd.workflow.plan import steps as real_steps
from reports import looks
from reports.collect import read_sweep
from reports.pairing import Place, paired
from reports.tables import difference_table
from sweeps import session
from sweeps.rounds import begun, most, rounds
from sweeps.run import main
from sweeps.spec import load_sweep
from sweeps.trials import Trial, in_table_order, resolve

ROOT = Path(__file__).resolve().parents[1]
SWEEP = load_sweep("ablation_table1")
BASE = Experiment(name="base", data=SimulatedData())
WORDS = ["ablation_table1", "--experiment", "smoke", "--seeds", "auto"]
ALONE = ["--analysis", "none", "--interventions", "none"]


def _trials(rows: list[str], seeds: int, base: Experiment = BASE) -> list[Trial]:
    return most(resolve(SWEEP, base, fake_pipeline.steps, [*rows, "ridge"], seeds, {}))


def _seeds(trials: list[Trial]) -> dict[str, list[int]]:
    return {row: sorted(t.seed for t in trials if t.row == row) for row in dict.fromkeys(t.row for t in trials)}


def _play(trials: list[Trial], undecided: Callable[[list[Trial]], list[str]]) -> tuple[list[list[Trial]], list[str]]:
    said: list[str] = []
    return list(rounds(SWEEP, trials, undecided, said.append)), said


# ---------------------------------------------------------------- rounds


def test_seeds_go_to_undecided_rows_and_the_reference_alone() -> None:
    answers = iter([["5", "7"], ["7"], []])
    found, said = _play(_trials(["0", "5", "7", "10"], 5), lambda asked: next(answers))
    first = {"0": [0, 1], "5": [0, 1], "7": [0, 1], "10": [0, 1], "ridge": [0, 1]}
    assert [_seeds(trials) for trials in found] == [
        first,
        first | {"5": [0, 1, 2], "7": [0, 1, 2], "10": [0, 1, 2]},
        first | {"5": [0, 1, 2], "7": [0, 1, 2, 3], "10": [0, 1, 2, 3]},
    ]
    assert said == [
        "undecided: rows 5, 7; one more seed each (--seeds auto, up to 5)",
        "undecided: row 7; one more seed each (--seeds auto, up to 5)",
    ]


def test_no_row_gets_more_than_the_most_and_a_row_may_become_undecided_again() -> None:
    found, _ = _play(_trials(["5", "10"], 4), lambda asked: ["5"])
    assert [len(_seeds(trials)["5"]) for trials in found] == [2, 3, 4]
    answers = iter([["5"], ["5", "7"], ["7"], []])  # Holm's correction: what other rows show changes a row's p
    found, _ = _play(_trials(["5", "7", "10"], 4), lambda asked: next(answers))
    assert _seeds(found[-1]) == {"5": [0, 1, 2, 3], "7": [0, 1, 2, 3], "10": [0, 1, 2, 3], "ridge": [0, 1]}


def test_seeds_count_from_that_of_the_experiment() -> None:
    trials = _trials(["5", "10"], 3, BASE.model_copy(update={"seed": 7}))
    assert _seeds(begun(trials)) == {"5": [7, 8], "10": [7, 8], "ridge": [7, 8]}
    assert _seeds(trials) == {"5": [7, 8, 9], "10": [7, 8, 9], "ridge": [7, 8]}


@pytest.mark.parametrize("rows", [["5", "7"], ["10"]])
def test_without_two_rows_to_compare_it_is_refused(rows: list[str]) -> None:
    with pytest.raises(UserError, match="--seeds auto: compares rows with row 10; --rows must name it"):
        _play(_trials(rows, 3), lambda asked: [])


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["--seeds", "auto", "--max-seeds", "1"], "--max-seeds 1: must be at least 2"),
        (["--max-seeds", "4"], "--max-seeds 4: belongs to --seeds auto"),
        (["--seeds", "often"], "'often' is neither a number nor 'auto'"),
    ],
)
def test_wrong_usage_is_told_in_one_line(
    words: list[str], culprit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *WORDS[:3], *words, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert culprit in error and error.count("\n") == 1


def test_the_plan_tells_the_least_and_the_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", *WORDS, "--max-seeds", "4", "--rows", "0,5,10,ridge", "--output", str(tmp_path)]
    assert main(words, pipeline="fake_pipeline") == 0
    told = capsys.readouterr().out
    assert "3 rows x 2 seeds and 2 control trials; 0 of 8 are done" in told
    assert "at least 8 trials, at most 14: further seeds, up to 4 a row, only where a verdict is undecided" in told
    assert main([*words, "--json"], pipeline="fake_pipeline") == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["trials"]) == 6 and len(plan["controls"]) == 2
    assert plan["at_most"]["trials"] == 14 and plan["at_most"]["seeds"] == 4


# ---------------------------------------------------------------- looks


@pytest.mark.parametrize("n_most", [2, 3, 5, 10])
def test_the_looks_spend_alpha_once(n_most: int) -> None:
    sweep = {"max_seeds": n_most, "seeds": list(range(n_most))}
    assert sum(1 / looks.factor(sweep, n) for n in range(2, n_most + 1)) == pytest.approx(1)
    assert looks.factor({"seeds": [0, 1, 2]}, 3) == 1 and looks.note({}) is None
    assert looks.looked({"max_seeds": 3, "seeds": [0, 1, 2, 3, 4]}) == 5  # an earlier command ran more


def test_looking_at_every_seed_makes_no_more_errors_than_promised() -> None:
    """Identical methods, stopped at the first difference: as often as not corrected, and within 5 % where corrected."""
    rng, n_tables, units = np.random.default_rng(0), 200, np.arange(20)
    wrong = {"corrected": 0, "not": 0}
    for _ in range(n_tables):
        values = 0.02 * rng.normal(size=(1, 5)) + 0.1 * rng.normal(size=(20, 5))
        p = {n: statistics.crossed_mean(values[:, :n], units).p_value for n in range(2, 6)}
        wrong["not"] += min(p.values()) <= 0.05
        wrong["corrected"] += min(looks.factor({"max_seeds": 5}, n) * q for n, q in p.items()) <= 0.05
    assert wrong["not"] / n_tables > 0.08 and wrong["corrected"] / n_tables < 0.05 + 2 * 0.016


def test_what_was_not_asked_for_is_not_missing_and_counts_as_saved(tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[1], ROWS[2], CONTROLS[0]]
    asked = [("0", 2), ("10", 3), ("11", 3), ("ridge", 2)]
    trials = [{"name": f"{r}-seed{s}", "row": r, "subject": None, "seed": s} for r, n in asked for s in range(n)]
    folder = write_sweep(tmp_path, rows, [0, 1, 2], trials=trials, max_seeds=4)
    for trial in trials:
        write_trial(folder, trial["row"], trial["seed"])
        write_record(tmp_path, trial["row"], trial["seed"])
    records = read_sweep(tmp_path, folder)
    assert len(records.trials) == len(records.complete) == 10
    spent = looks.saved(records)
    assert spent == looks.Saved(4, (8, 2), (12, 4))
    assert "10 trials were asked for; 4 seeds for all would have been 16: 6 saved, 4 of them of rows" in str(spent)
    part = looks.restricted(records, {("0", None, 0), ("10", None, 1)})
    assert [(t.row, t.seed) for t in part.trials] == [("0", 0), ("10", 1)]
    assert part.per_item.index.droplevel("item").unique().tolist() == [("0", "", 0), ("10", "", 1)]


def test_where_all_rows_had_the_same_seeds_nothing_is_told(tmp_path: Path) -> None:
    records = read_sweep(tmp_path, finished_sweep(tmp_path, ROWS[:2]))
    assert looks.saved(records) is None and looks.looked(records.sweep) is None


def test_p_values_are_corrected_for_their_own_look() -> None:
    p, n = pd.Series([0.01, 0.01, 0.5]), pd.Series([2, 5, 3])
    assert looks.corrected({"max_seeds": 5}, p, n).tolist() == pytest.approx([0.1, 0.025, 1.0])
    assert looks.corrected({}, p, n).tolist() == p.tolist()


# ---------------------------------------------------------------- the command


class Quiet:
    """Stands for the tracking."""

    error, uri = None, "sqlite:///none.db"

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., bool]:
        return lambda *_, **__: False


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Trials run here in place of Ray's workers; ``names`` are those that ran, and the process ends after ``left``."""
    state = SimpleNamespace(names=[], left=10**6)

    def run_jobs(cache: Path, folder: Path, resources: Any, watcher: Any, pipeline: str) -> None:
        for job in (job for group in iter(watcher.next_group, None) for job in group):
            if not state.left:
                raise Killed
            state.left -= 1
            watcher.started(job.name)
            record = fake_pipeline.run(Experiment.model_validate(job.experiment), StageCache(cache), lambda _: None)
            watcher.finished(job.name, record, 1.0)
            state.names.append(job.name)

    monkeypatch.setattr(session, "run_jobs", run_jobs)
    monkeypatch.setattr(session, "Scribe", Quiet)
    monkeypatch.setattr("sweeps.headline.tell_table", lambda *_: None)
    return state


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """No page is drawn, which takes seconds."""
    monkeypatch.setattr("reports.build.build_report", lambda output, *_, **__: output)


def _run(output: Path, *words: str) -> int:
    words = (*WORDS, *ALONE, "--max-seeds", "4", "--rows", "5,8,10,ridge", "--output", str(output), *words)
    return main(list(words), pipeline="fake_pipeline")


def test_the_command_stops_where_it_may_and_tells_what_it_saved(
    tmp_path: Path, computed: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 5 is what row 10 is, there: equivalent with two seeds. Row 8 is noise."""
    assert _run(tmp_path) == 0
    ran = {row: sum(name.startswith(f"{row}-") for name in computed.names) for row in ("5", "8", "10", "ridge")}
    assert ran == {"5": 2, "8": 4, "10": 4, "ridge": 2}
    told = capsys.readouterr()
    assert "undecided: row 8; one more seed each (--seeds auto, up to 4)" in told.err
    assert "12 trials were asked for; 4 seeds for all would have been 16: 4 saved, 2 of them of rows and 2" in told.err
    report = (tmp_path / "reports" / "ablation_table1-smoke.html").read_text()
    assert "12 trials were asked for" in report and "INCOMPLETE" not in report
    assert "multiplied before Holm" in report and "--seeds auto --max-seeds 4" in report


@pytest.mark.usefixtures("unreported")
def test_the_same_command_goes_on_after_a_crash(tmp_path: Path, computed: SimpleNamespace) -> None:
    assert _run(tmp_path) == 0
    first = sorted(computed.names)
    computed.names.clear()  # the same command again runs nothing, and one with fewer seeds keeps the correction
    assert _run(tmp_path) == 0 and computed.names == []
    definition = tmp_path / "sweeps" / "ablation_table1-smoke" / "sweep.json"
    assert main([*WORDS[:3], *ALONE, "--rows", "5,10,ridge", "--output", str(tmp_path)], pipeline="fake_pipeline") == 0
    assert json.loads(definition.read_text())["max_seeds"] == 4 and computed.names == []

    other = tmp_path / "killed"  # in the middle of a round: the same trials, each once
    for left in (9, 100):
        computed.left = left
        try:
            _run(other)
        except Killed:
            continue
    assert sorted(computed.names) == first


@pytest.mark.usefixtures("unreported")
def test_a_row_that_fails_does_not_stop_the_others(tmp_path: Path, computed: SimpleNamespace) -> None:
    healthy = session.run_jobs

    def run_jobs(cache: Path, folder: Path, resources: Any, watcher: Any, pipeline: str) -> None:
        groups = iter(watcher.next_group, None)

        def next_group() -> list[Any] | None:
            for group in groups:
                if group[0].name != "8-seed1":
                    return group
                watcher.started(group[0].name)
                watcher.failed(group[0].name, "out of memory")
            return None

        seen = SimpleNamespace(next_group=next_group, started=watcher.started, finished=watcher.finished)
        healthy(cache, folder, None, seen, pipeline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "run_jobs", run_jobs)
        assert _run(tmp_path) == 1
    assert "8-seed2" not in computed.names  # one seed in common: no verdict, so no further seed before that is mended
    assert _run(tmp_path) == 0 and {"8-seed1", "8-seed2", "8-seed3"} <= set(computed.names)


# ---------------------------------------------------------------- the same method four times


def test_the_aa_sweep_shares_its_trials_with_table_1() -> None:
    aa = resolve(load_sweep("aa"), BASE, real_steps, None, load_sweep("aa").seeds, {})
    table1 = resolve(SWEEP, BASE, real_steps, ["10", "oracle"], 12, {})
    assert [t.row for t in in_table_order(load_sweep("aa"), aa)] == [row for row in "1234" for _ in range(3)]
    assert {t.seed for t in aa} == {0, 1, 2} and len({t.name for t in aa}) == 12
    assert {t.key for t in aa} == {t.key for t in table1 if t.row == "10"}
    assert [t.experiment.seed for t in in_table_order(load_sweep("aa"), aa)] == list(range(12))


@pytest.mark.usefixtures("unreported")
def test_rows_that_differ_in_their_seeds_are_paired_by_place(
    tmp_path: Path,
    computed: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["aa", "--experiment", "smoke", *ALONE, "--output", str(tmp_path)], pipeline="fake_pipeline") == 0
    assert sorted(computed.names) == [f"{row}-seed{seed}" for row in "1234" for seed in range(3)]
    records = read_sweep(tmp_path, tmp_path / "sweeps" / "aa-smoke")
    assert [t.experiment["seed"] for t in records.trials] == list(range(12)) and records.seeds == [0, 1, 2]
    table = difference_table(records)
    assert table["row"].tolist() == ["2", "3", "4"] and (table["n_seeds"] == 3).all()
    third = records.per_item[records.metric].unstack("item").loc[[("3", "", 2), ("1", "", 2)]].to_numpy()
    own = paired(Place(records, "3"), Place(records, records.reference), records.metric)[0]
    assert own is not None and own.values[:, 2, 0] == pytest.approx(third[0] - third[1])  # seeds 8 and 2

    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "benchmarks"))
    aa = importlib.import_module("aa")
    assert (len(list(aa.deals(12, 2))), len(list(aa.deals(6, 3)))) == (2970, 60)  # n! / (n - 2s)! / s! / 2
    assert len(set(aa.deals(7, 3))) == len(list(aa.deals(7, 3))) == len(aa.drawn(7, 3, 10**6))
    capsys.readouterr()
    assert aa.main([str(tmp_path), "aa-smoke", "--most", "5"]) == 0
    told = capsys.readouterr().out
    assert "12 retrainings (simulated)" in told and [line.split()[:2] for line in told.splitlines()[-2:]] == [
        ["2", "5"],
        ["3", "5"],
    ]
    assert aa.main([str(tmp_path), "aa-smoke", "--row", "9"]) == 2
    rng = np.random.default_rng(0)  # by seeds that move all items, items alone are misled; crossed they are not
    scores = rng.normal(0, 0.03, (1, 12)) + rng.normal(0, 0.05, (30, 12))
    alone, crossed = aa.differing(scores, np.arange(30), aa.drawn(12, 3, 60))
    assert alone > 0.2 and crossed < 0.15
