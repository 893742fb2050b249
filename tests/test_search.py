"""Searches: what the file may say, what is proposed, that no test data are told, and going on after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_pipeline
import numpy as np
import pytest
import serial_executor
import yaml

from cnd.errors import UserError
from cnd.experiment import Experiment, load_experiment, override
from cnd.steps import Step
from cnd.workflow.cache import StageCache
from cnd.workflow.progress import CHECKPOINT, PERCENT, Clock, Progress
from cnd.workflow.watched import WatchedBench
from sweeps import search_request, search_run, session, storage
from sweeps.executor import Stopped, Teller
from sweeps.options import parse
from sweeps.run import main
from sweeps.search import OptunaSearch, Outcome, Start, best, outcomes, trial_of, validation_scores
from sweeps.search_forecast import moved_by, sharing
from sweeps.space import Search, folds_note, load_search, on_test, validation
from sweeps.storage import journal
from sweeps.trials import Trial

ROOT = Path(__file__).resolve().parents[1]
SMOKE = load_experiment(ROOT / "experiments" / "smoke.yaml")
BLIND = validation(SMOKE, "test")
DEPTH, RATIO = "decoder.phase2.concept_depth", "decoder.phase1.mask_ratio"
ENABLED = "decoder.phase1.enabled"
SPACE: dict[str, Any] = {
    DEPTH: {"kind": "int", "low": 1, "high": 6},
    RATIO: {"kind": "float", "low": 0.1, "high": 0.9},
}


def a_search(**changes: Any) -> Search:
    return Search.model_validate({"name": "s", "title": "S", "space": SPACE, "trials": 12} | changes)


def proposer(search: Search, path: Path, starts: tuple[Start, ...] = (), base: Experiment = BLIND) -> OptunaSearch:
    return OptunaSearch(search, base, fake_pipeline.steps, journal(path, mend=True), starts)


def worth(trial: Trial) -> float:
    """A score with its best at depth 5 and little masking, which the seed shifts."""
    settings = trial.experiment.decoder
    depth, ratio = settings.phase2.concept_depth, settings.phase1.mask_ratio
    return -((depth - 5) ** 2) / 10 - ratio + 0.01 * trial.seed


def drive(proposes: OptunaSearch, at_most: int = 10**6) -> list[Trial]:
    """Run what is proposed, one after the other; the last ``at_most`` + 1st is asked for and never told."""
    done = []
    while (trial := proposes.ask()) is not None:
        if len(done) == at_most:
            break
        done.append(trial)
        proposes.tell(trial, (worth(trial),))
    return done


def points(proposes: OptunaSearch) -> list[dict[str, Any]]:
    return [outcome.settings for outcome in proposes.outcomes()]


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {RATIO: {"kind": "flaot", "low": 0, "high": 1}}}, "kind"),
        ({"space": {RATIO: {"kind": "float", "low": 1, "high": 0}}}, "low = 1.0 must be below high"),
        ({"space": {RATIO: {"kind": "float", "low": 0, "high": 1, "log": True}}}, "logarithmic scale begins above 0"),
        ({"space": {DEPTH: {"kind": "categorical", "choices": [1, 1]}}}, "a choice appears twice"),
        (
            {"space": {RATIO: {"kind": "float", "low": 0, "high": 1, "when": {DEPTH: 1}}}},
            "no setting of the space above",
        ),
        ({"set": {DEPTH: 4}}, f"both name '{DEPTH}'"),
        ({"objectives": ["seconds"]}, "the first must be a score"),
        ({"objectives": ["score", "seconds"], "pruner": {"kind": "asha"}}, "where two things count"),
        ({"sampler": {"kind": "tpe", "strat": 1}}, "unknown key"),
        ({"trails": 3}, "did you mean 'trials'"),
    ],
)
def test_mistakes_in_a_search_are_told_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "title": "S", "space": SPACE} | changes))
    with pytest.raises(UserError, match=message) as error:
        load_search(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"decoder.phase1.mask_ration": SPACE[RATIO]}, "did you mean 'mask_ratio'"),
        ({RATIO: {"kind": "float", "low": 0.5, "high": 1}}, "less than 1"),
        ({DEPTH: {"kind": "categorical", "choices": [1, "two"]}}, "valid integer"),
    ],
)
def test_a_space_that_no_experiment_has_is_refused_before_anything_runs(space: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        a_search(space=space).tried(BLIND)


def test_old_spellings_and_choices_that_are_no_numbers() -> None:
    choices = [{"stimuli": 1.0, "embedding": 0.01}, "generated"]
    search = a_search(space={"phase2.target": {"kind": "categorical", "choices": choices}})
    search.tried(BLIND)
    (key,) = search.space
    assert key == "decoder.phase2.target"
    assert [search.settings({key: search.space[key].stored(choice)})[key] for choice in choices] == choices


BATCH, STEPS = "decoder.phase2.batch_size", "decoder.phase2.max_steps"
EQUAL_TIME = {"kind": "categorical", "choices": [4, 8, 16], "scales": {"phase2.max_steps": [1.7, 1, 0.1]}}
SLOW = {"kind": "categorical", "choices": ["cosine", "constant"], "scales": {"phase2.max_steps": [2, 1]}}


def test_a_choice_scales_other_settings_from_those_of_the_experiment() -> None:
    base = override(SMOKE, {STEPS: 100}, "test")  # with batches of 8
    search = a_search(space={BATCH: EQUAL_TIME}).of(base)
    search.tried(base)
    assert [search.settings({BATCH: n})[STEPS] for n in (4, 8, 16)] == [170, 100, 10]
    assert search.point(base) == {BATCH: 8}
    with pytest.raises(UserError, match=f"{STEPS} = 100 does not go with {BATCH} = 4"):
        search.point(override(base, {BATCH: 4}, "test"))
    for edits, message in (({BATCH: 5}, "none of the choices"), ({STEPS: None}, "set it to a number")):
        with pytest.raises(UserError, match=message):
            a_search(space={BATCH: EQUAL_TIME}).of(override(SMOKE, edits, "test"))
    twice = {"decoder.phase2.schedule": SLOW, BATCH: EQUAL_TIME}
    search = a_search(space=twice).of(base)
    points = [{"decoder.phase2.schedule": s, BATCH: n} for s in ("cosine", "constant") for n in (4, 8)]
    assert [search.settings(point)[STEPS] for point in points] == [340, 200, 170, 100]
    with pytest.raises(UserError, match=r"100 does not go with decoder\.phase2\.schedule = cosine and .*size = 8"):
        search.point(override(base, {"decoder.phase2.schedule": "cosine"}, "test"))
    with pytest.raises(ValueError, match="is scaled with a choice, and varied, too"):
        a_search(space={BATCH: EQUAL_TIME, STEPS: {"kind": "int", "low": 1, "high": 9}})
    with pytest.raises(ValueError, match="2 factors for 3 choices"):
        a_search(space={BATCH: EQUAL_TIME | {"scales": {STEPS: [1, 2]}}})


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "sweeps").glob("search*.yaml")))
def test_every_shipped_search_fits_the_experiments_it_is_for(name: str, tmp_path: Path) -> None:
    for experiment in ("smoke", "simulated"):
        assert main(["plan", name, "--experiment", experiment, "--output", str(tmp_path)]) == 0


# ---------------------------------------------------------------- proposals


def test_the_same_seed_proposes_the_same_and_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    search = a_search(trials=16)
    whole = proposer(search, tmp_path / "whole")
    drive(whole)
    part = proposer(search, tmp_path / "part")
    drive(part, at_most=12)  # in the guided part; one more was asked for
    with (tmp_path / "part").open("ab") as journal_file:
        journal_file.write(b'{"op_code": 5, "worker')  # killed while it wrote
    again = proposer(search, tmp_path / "part")
    assert len(drive(again)) == 4  # of 16, the open one first
    assert points(again) == points(whole) and len(points(whole)) == 16
    assert [o.state for o in again.outcomes()] == ["complete"] * 16
    other = proposer(a_search(trials=16, seed=1), tmp_path / "other")
    drive(other)
    assert points(other) != points(whole)


@pytest.mark.parametrize("kind", ["random", "nsga2"])
def test_other_samplers_go_on_the_same_way(tmp_path: Path, kind: str) -> None:
    search = a_search(sampler={"kind": kind} | ({"population": 4} if kind == "nsga2" else {}), trials=10)
    whole, part = proposer(search, tmp_path / "whole"), proposer(search, tmp_path / "part")
    drive(whole)
    drive(part, at_most=6)
    again = proposer(search, tmp_path / "part")
    drive(again)
    assert points(again) == points(whole)


def test_tpe_finds_what_chance_does_not(tmp_path: Path) -> None:
    """On a score with one peak; the same number of trials."""

    def found(kind: str, seed: int, **more: Any) -> float:
        proposes = proposer(a_search(sampler={"kind": kind} | more, trials=22, seed=seed), tmp_path / f"{kind}{seed}")
        drive(proposes)
        return best(proposes.outcomes(), [True], 1)[0].values[0]

    assert np.mean([found("tpe", s, startup=6) for s in range(2)]) > np.mean([found("random", s) for s in range(2)])


def test_a_setting_that_does_not_apply_is_not_varied(tmp_path: Path) -> None:
    space = {
        ENABLED: {"kind": "categorical", "choices": [True, False]},
        RATIO: SPACE[RATIO] | {"when": {ENABLED: True}},
    }
    proposes = proposer(a_search(space=space, trials=14), tmp_path / "journal")
    drive(proposes)
    assert {(p[ENABLED], RATIO in p) for p in points(proposes)} == {(True, True), (False, False)}


def test_what_no_experiment_can_be_is_left_out_of_the_count(tmp_path: Path) -> None:
    weights = {f"decoder.phase1.{name}": {"kind": "int", "low": 0, "high": 1} for name in ("alpha_s", "alpha_c")}
    proposes = proposer(a_search(space=weights, trials=12), tmp_path / "journal")
    assert len(drive(proposes)) == 12  # one in four has no loss at all
    assert len(proposes.study.get_trials()) > 12 and all(sum(p.values()) for p in points(proposes))


def test_seeds_are_averaged_and_the_first_decides_whether_the_others_run(tmp_path: Path) -> None:
    proposes = proposer(a_search(seeds=3, trials=2, pruner={"kind": "median", "startup": 1}), tmp_path / "journal")
    names = []
    while (trial := proposes.ask()) is not None:
        names.append(trial.name)
        bad = trial.row == "0001"
        if proposes.stops(trial, 50, 0.1 if bad else 0.9):
            proposes.tell(trial, None)
        else:
            proposes.tell(trial, (float(trial.seed),))
    assert names == ["0000-seed0", "0000-seed1", "0000-seed2", "0001-seed0"]
    first, second = proposes.outcomes()
    assert first.values == (1.0,) and first.by_seed == ((0.0,), (1.0,), (2.0,)) and second.state == "pruned"
    assert second.curve == {50: 0.1} and not proposes.failed


def test_a_trial_that_failed_stays_open_and_is_tried_again(tmp_path: Path) -> None:
    search = a_search(trials=3)
    proposes = proposer(search, tmp_path / "journal")
    while (trial := proposes.ask()) is not None:
        proposes.tell(trial, None if trial.row == "0001" else (1.0,))
    assert list(proposes.failed) == [1] and [o.state for o in proposes.outcomes()] == ["complete", "open", "complete"]
    again = proposer(search, tmp_path / "journal")
    assert [trial.row for trial in drive(again)] == ["0001"]


def test_the_best_are_different_and_of_two_objectives_on_the_front() -> None:
    def outcome(number: int, *values: float, depth: int | None = None) -> Outcome:
        return Outcome(number, "complete", "", values, (), {DEPTH: number if depth is None else depth}, {})

    one = [outcome(0, 0.5), outcome(1, 0.9), outcome(2, 0.9, depth=1), outcome(3, 0.7)]
    assert [o.number for o in best(one, [True], 3)] == [1, 3, 0]
    assert [o.number for o in best(one, [False], 1)] == [0]
    two = [outcome(0, 0.9, 9.0), outcome(1, 0.5, 1.0), outcome(2, 0.5, 2.0), outcome(3, 0.9, 10.0)]
    assert [o.number for o in best(two, [True, False], 4)] == [0, 1]


# ---------------------------------------------------------------- test data


def test_a_record_of_test_data_is_refused(tmp_path: Path) -> None:
    for experiment, folder in ((SMOKE, tmp_path / "test"), (BLIND, tmp_path / "validation")):
        folder.mkdir()
        (folder / "experiment.json").write_text(json.dumps(experiment.model_dump(mode="json")))
        summary = {"scores": {"nway50_top1": 0.25}, "seconds": {"phase2": 2.0, "sample": 1.0}}
        (folder / "summary.json").write_text(json.dumps(summary))
    scores = validation_scores(["nway50_top1", "seconds"])
    assert scores(tmp_path / "validation") == (0.25, 3.0)
    with pytest.raises(RuntimeError, match="scored on test data"):
        scores(tmp_path / "test")


def test_a_share_given_for_a_search_is_that_of_its_trials_and_not_of_the_final_comparison() -> None:
    given = override(SMOKE, {"split.validation": 0.2}, "--set")
    assert validation(given, "s").split.validation == 0.2 and BLIND.split.validation == 0.1
    assert on_test(given, "s") == SMOKE
    with pytest.raises(ValueError, match=r"split\.validation says what trials are scored on"):
        a_search(space={"split.validation": {"kind": "float", "low": 0.1, "high": 0.3}})


def test_what_one_choice_for_all_folds_means_is_told() -> None:
    digits = override(SMOKE, {"data.kind": "digits69", "data.path": "x.mat"}, "test")
    assert "10 folds" in folds_note(digits) and "--set data.fold=0" in folds_note(digits)
    assert folds_note(override(digits, {"data.fold": 3}, "test")) is None and folds_note(SMOKE) is None


# ---------------------------------------------------------------- checkpoints


def test_a_bench_tells_the_validation_score_at_each_checkpoint(tmp_path: Path) -> None:
    told: list[Progress] = []
    bench = WatchedBench(StageCache(tmp_path), told.append, Clock({"phase2": 0.5}, 1))

    def scorer(bench: Any) -> Any:
        return lambda images, rows: np.array([0.25, 0.75])

    score = bench.value(Step("validation_score", scorer, kept=False))
    bench.report("phase2", 0.245, 98, {"phase2/loss": 1.0})
    assert list(score(np.zeros((2, 1)), np.arange(2))) == [0.25, 0.75]
    assert told[-1].metrics == {CHECKPOINT: 0.5, PERCENT: 25} and told[-1].phase == "phase2"
    assert told[-1].samples_seen == 98 and told[-1].fraction == told[-2].fraction


def test_a_trial_ends_where_its_driver_wants_it_to(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    stop = tmp_path / "stop"
    teller = Teller({"name": "a", "extras": []}, lambda name, event: told.append(event), stop)
    at = {CHECKPOINT: 0.5, PERCENT: 25}
    for _ in range(2):
        teller.progress(Progress("phase2", 0.5, 10, at))  # checkpoints are all told, however fast they come
    stop.touch()
    teller.progress(Progress("phase2", 0.5, 10, {"phase2/loss": 1.0}))
    with pytest.raises(Stopped):
        teller.progress(Progress("phase2", 0.5, 10, at))
    assert len(told) == 3


# ---------------------------------------------------------------- the command


@pytest.fixture
def serial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials in this process, and no final table, which is a sweep like any other."""
    monkeypatch.setattr(session, "run_jobs", serial_executor.run_jobs)
    monkeypatch.setattr(search_run, "run_final", lambda request, found: 0)
    monkeypatch.setattr(search_run, "write_report", lambda request: request.folder.path)
    for name in ("start", "progress", "record", "prune", "fail", "best_so_far", "close", "lacks"):
        monkeypatch.setattr(session.Scribe, name, lambda *_, **__: None)


def command(output: Path, *words: str) -> int:
    always = ["--experiment", "smoke", "--max-concurrent", "1", "--output", str(output)]
    return main([*words, *always], "fake_pipeline")


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    content = {"name": "mine", "title": "Mine", "space": SPACE, "trials": 4}
    path.write_text(yaml.safe_dump(content | {"enqueue": {"sweep": "ablation_table1", "rows": [9]}, "seeds": 2}))
    return str(path)


@pytest.mark.usefixtures("serial")
def test_the_command_runs_goes_on_and_exports(mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(mine).read_text().replace("rows:\n  - 9", "rows:\n  - 12")  # row 9 has two views in the self-contrast
    Path(mine).write_text(text)
    output = tmp_path / "out"
    output.joinpath("cache").mkdir(parents=True)
    (output / "cache" / "fail-4").touch()  # the reference's depth
    assert command(output, "run", mine) == 1
    assert "failed: trial 0000 reference: the same command tries it again" in capsys.readouterr().err
    (output / "cache" / "fail-4").unlink()
    assert command(output, "run", mine, "--trials", "6", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    found = told["trials"]
    assert [t["state"] for t in found] == ["complete"] * 6 and all(t["values"] for t in found)
    assert told["final"] is None or told["final"]["rows"]
    assert [t["label"] for t in found[:3]] == ["reference", "row 12 of ablation_table1", ""]
    built = (output / "cache" / "built.txt").read_text().splitlines()
    assert len(built) == len(set(built)) and sum(line.startswith("record") for line in built) == 12
    definition = json.loads((output / "sweeps" / "mine-smoke" / "sweep.json").read_text())
    assert len(definition["trials"]) == 12 and len([s for s in definition["stages"] if s[0] == "record"]) == 12
    assert command(output, "status", mine) == 0 and capsys.readouterr().out.count("complete") == 6
    assert command(output, "status", mine, "--watch") == 0 and "0005  complete" in capsys.readouterr().out
    assert command(output, "verify", mine) == 0 and "0 damaged" in capsys.readouterr().out
    assert command(output, "doctor", mine) == 1 and "MLflow has no run of it" in capsys.readouterr().out
    assert command(output, "clean", mine) == 0 and "would delete" in capsys.readouterr().out
    assert command(output, "export-best", mine, str(tmp_path / "best.yaml")) == 0
    winner = best([Outcome(**{**t, "values": tuple(t["values"]), "curve": {}}) for t in found], [True], 1)[0]
    exported = load_experiment(tmp_path / "best.yaml")
    assert exported.decoder.phase2.concept_depth == winner.settings[DEPTH] and exported.split.validation is None
    assert yaml.safe_load(capsys.readouterr().out) == {"set": winner.settings}


@pytest.mark.usefixtures("serial")
def test_ctrl_c_reports_what_is_there(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(Path(mine).read_text()) | {"enqueue": None, "seeds": 1}
    Path(mine).write_text(yaml.safe_dump(content))
    output = tmp_path / "out"
    output.joinpath("cache").mkdir(parents=True)
    real, begun = fake_pipeline.run, list[str]()

    def run(experiment: Experiment, cache: StageCache, report: Any) -> Path:
        begun.append(experiment.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return real(experiment, cache, report)

    monkeypatch.setattr(fake_pipeline, "run", run)
    assert command(output, "run", mine) == 130
    told = capsys.readouterr()
    assert "report: " in told.err and told.err.endswith("interrupted; the same command goes on from here\n")
    assert told.out.count("0000") == told.out.count("0001") == 1 and "0002" not in told.out
    kept = json.loads((output / "sweeps" / "mine-smoke" / "trials.json").read_text())
    assert [t["state"] for t in kept] == ["complete", "complete", "open"]
    assert command(output, "status", mine) == 0 and capsys.readouterr().out.count("interrupted") == 1
    assert command(output, "run", mine) == 0 and len(begun) == 3 + 2
    told = capsys.readouterr()
    assert "4 of 4 trials are there" in told.err and "judged by 2 trials of this sweep" in told.err
    assert "it took" in told.err
    monkeypatch.setattr(search_run, "run_final", _interrupted)  # in the final comparison, too
    assert command(output, "run", mine) == 130 and "report: " in capsys.readouterr().err


def _interrupted(*_: Any) -> int:
    raise KeyboardInterrupt


def test_the_plan_tells_which_steps_trials_share() -> None:
    space = SPACE | {"decoder.phase2.lr": {"kind": "float", "low": 0.001, "high": 0.1}}
    search = a_search(space=space)
    moved = moved_by(search, BLIND, fake_pipeline.steps)
    assert moved == {"data": [], "phase1": [RATIO], "record": list(space)}
    assert sharing(search, moved) == [
        "data: once for all trials",
        "phase1: shared by trials that agree in mask ratio",
        "record: each trial's own",
    ]


@pytest.mark.usefixtures("serial")
def test_what_does_not_compare_is_refused(mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(mine).write_text(Path(mine).read_text().replace("enqueue:\n  rows:\n  - 9\n  sweep: ablation_table1\n", ""))
    output = tmp_path / "out"
    output.joinpath("cache").mkdir(parents=True)
    assert command(output, "run", mine) == 0
    capsys.readouterr()
    for words, culprit in (
        (["--set", "phase2.lr=0.5"], "another experiment.decoder.phase2.lr"),
        (["--seeds", "3"], "another seeds"),
        (["--set", f"{DEPTH}=3"], "has no effect"),
        (["--rows", "1"], "--rows: belongs to tables"),
        (["--fuse", "2"], "--fuse"),
        (["--seeds", "auto"], "belongs to tables"),
    ):
        assert command(output, "run", mine, *words) == 2
        error = capsys.readouterr().err
        assert culprit in error and error.count("\n") == 1
    wider = yaml.safe_load(Path(mine).read_text())
    wider["space"][DEPTH]["high"] = 8
    Path(mine).write_text(yaml.safe_dump(wider))
    assert command(output, "run", mine, "--trials", "5") == 0  # wider is compatible
    del wider["space"][DEPTH]
    Path(mine).write_text(yaml.safe_dump(wider))
    assert command(output, "run", mine) == 2 and f"another space.{DEPTH}" in capsys.readouterr().err


@pytest.mark.usefixtures("serial")
def test_a_pruned_trial_is_marked_and_not_run_again(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(Path(mine).read_text()) | {"enqueue": None, "seeds": 1, "trials": 6}
    content |= {"pruner": {"kind": "median", "startup": 1}}
    Path(mine).write_text(yaml.safe_dump(content))
    output = tmp_path / "out"
    output.joinpath("cache").mkdir(parents=True)
    real, begun = fake_pipeline.run, list[float]()

    def run(experiment: Experiment, cache: StageCache, report: Any) -> Path:
        begun.append(experiment.decoder.phase1.mask_ratio)
        report(Progress("phase2", 0.5, 8, {CHECKPOINT: -begun[-1], PERCENT: 50}))
        return real(experiment, cache, report)

    monkeypatch.setattr(fake_pipeline, "run", run)
    assert command(output, "run", mine, "--json") == 0
    found = json.loads(capsys.readouterr().out)["trials"]
    pruned = [t["number"] for t in found if t["state"] == "pruned"]
    assert pruned and pruned[0] >= 1 and len(found) == 6
    folder = output / "sweeps" / "mine-smoke" / "trials"
    assert json.loads((folder / f"{pruned[0]:04d}-seed0.json").read_text())["state"] == "pruned"
    assert command(output, "run", mine, "--trials", "7") == 0 and len(begun) == 7


@pytest.mark.usefixtures("serial")
def test_a_database_is_gone_on_with_and_its_password_is_written_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, output, database = tmp_path / "mine.yaml", tmp_path / "out", f"sqlite:///{tmp_path / 'study.db'}?secret=pw123"
    content = {"name": "mine", "title": "Mine", "space": SPACE, "sampler": {"kind": "random"}}
    mine.write_text(yaml.safe_dump(content | {"storage": database}))  # sqlite3 itself does not know secret
    output.joinpath("cache").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_request, "database", lambda url: storage.database(url.partition("?")[0]))
        assert command(output, "run", str(mine), "--trials", "2") == 0
        assert command(output, "run", str(mine), "--trials", "3") == 0
        built = (output / "cache" / "built.txt").read_text().splitlines()
        assert sum(line.startswith("record") for line in built) == 3
        assert command(output, "plan", str(mine)) == 0
    assert not (output / "sweeps" / "mine-smoke" / "study.jsonl").exists()
    assert optuna_names(tmp_path / "study.db") == ["mine-smoke"]
    told = "".join(capsys.readouterr())
    kept = [file for file in output.rglob("*") if file.is_file() and b"pw123" in file.read_bytes()]
    assert not kept and "pw123" not in told
    assert command(output, "run", str(mine), "--storage", "sqlite:///elsewhere.db") == 2
    assert "holds a search with another storage" in capsys.readouterr().err
    for url in ("postgresql+nodriver://me:pw123@host/db", "pw123", f"sqlite:///{tmp_path}/no/such/folder/x.db?a=pw123"):
        assert command(tmp_path / "new", "run", str(mine), "--storage", url) == 2
        error = capsys.readouterr().err
        assert "pw123" not in error.replace(str(tmp_path), "") and error.count("error:") == 1, error


def optuna_names(path: Path) -> list[str]:
    import optuna

    return optuna.get_all_study_names(f"sqlite:///{path}")


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["ablation_table1", "--trials", "3"], "--trials: belongs to searches"),
        (["export-best", "ablation_table1", "x.yaml"], "is a table; name a search"),
        (["export-best", "search"], "the file to write"),
        (["search", "--trials", "0"], "--trials 0: must be at least 1"),
        (["status", "search"], "run it first"),
    ],
)
def test_wrong_usage(words: list[str], culprit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, *words) == 2
    assert culprit in capsys.readouterr().err


def test_a_row_that_the_space_does_not_have_is_named(tmp_path: Path, mine: str) -> None:
    with pytest.raises(UserError, match=r"row 9 of ablation_table1 cannot be enqueued: it sets decoder\.phase1\.self"):
        search_request.SearchRequest(
            parse([mine, "--experiment", "smoke", "--output", str(tmp_path)]), "fake_pipeline"
        ).starts()


def test_outcomes_are_those_of_the_journal(tmp_path: Path) -> None:
    search = a_search(trials=3)
    proposes = proposer(search, tmp_path / "journal", (Start("reference", {DEPTH: 4, RATIO: 0.75}),))
    drive(proposes)
    found = outcomes(search, proposes.study)
    assert found[0].label == "reference" and found[0].settings == {DEPTH: 4, RATIO: 0.75}
    assert found[0].values == found[0].by_seed[0] == (pytest.approx(-0.85),)


def test_the_run_of_a_trial_has_what_varies_and_what_it_differs_in(tmp_path: Path) -> None:
    rng = "decoder.phase2.timestep_range"
    space = {
        ENABLED: {"kind": "categorical", "choices": [True, False]},
        RATIO: SPACE[RATIO] | {"when": {ENABLED: True}},
    }
    space |= {rng: {"kind": "categorical", "choices": [[0, 1000], [400, 600]]}}
    search, common = a_search(space=space), session.flat(BLIND)
    trial = trial_of(search, BLIND, fake_pipeline.steps, "0003", "", {ENABLED: False, rng: [0, 1000]}, seed=2)
    assert session._varied(trial, common) == {ENABLED: False, rng: "0, 1000", "seed": 2}
    assert len(common) > 50  # all of it is told once, with the parent
