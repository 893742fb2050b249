"""The command line without training: exit codes, what is printed where, and what is not imported."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import fake_pipeline
import pytest
import serial_executor

import reports.verify
from cnd import json_files
from cnd.errors import UserError
from cnd.steps import FORMAT
from cnd.store.folder import SweepFolder
from sweeps import run, session
from sweeps.forecast import per_trial
from sweeps.forecast import told as told_of
from sweeps.options import parse
from sweeps.run import Request, define, main
from sweeps.session import Scribe
from sweeps.text import columns, result_text
from sweeps.trials import seconds_to_report

ROOT = Path(__file__).resolve().parents[1]
SWEEP = ["ablation_table1", "--experiment", "smoke"]
CONTROLS = ["ridge", "shuffled", "ridge_shuffled", "oracle", "loss_ceiling", "stimuli", "autoencoded"]


def _script(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["plan", "ablation_tabel1"], "unknown sweep 'ablation_tabel1'; did you mean 'ablation_table1'"),
        (["ablation_table1", "--experiment", "simulate"], "unknown experiment 'simulate'; did you mean 'simulated'"),
        (
            [*SWEEP, "--set", "phase1.mask_ration=0.5"],
            "unknown key 'decoder.phase1.mask_ration'; did you mean 'mask_ratio'",
        ),
        ([*SWEEP, "--set", "phase2.lr=-1"], "phase2.lr = -1"),
        ([*SWEEP, "--set", "phase2.lr"], "expected key=value"),
        (["ablation_table1", "--experiment", "digits69", "--set", "data.path=/no/such.mat"], "/no/such.mat"),
        ([*SWEEP, "--rows", "0,16"], "there is no row '16'"),
        ([*SWEEP, "--rows", ","], "--rows"),
        ([*SWEEP, "--gpus-per-trial", "1.5"], "--gpus-per-trial 1.5: above one, Ray gives whole GPUs only"),
        ([*SWEEP, "--seeds", "0"], "--seeds 0: must be at least 1"),
        ([*SWEEP, "--seeds", "many"], "--seeds: 'many' is neither a number nor 'auto'"),
        ([*SWEEP, "--max-concurrent", "0"], "--max-concurrent 0"),
        ([*SWEEP, "--experimant", "smoke"], "--experimant"),
        ([*SWEEP, "--gpus-per-trial", "99"], "--gpus-per-trial 99: this machine has"),
        ([*SWEEP, "--cache", "s3://bucket"], "must be a folder"),
        ([*SWEEP, "--set", "name=x/../../../../escaped"], "experiment name 'x/../../../../escaped' must consist of"),
        ([*SWEEP, "--set", f"name={'x' * 300}"], "of at most 80"),
        ([*SWEEP, "--subjects", "1,../../x"], "--subjects: '../../x' is no name of a subject"),
        ([*SWEEP, "--set", "name=&a [*a]"], "--set name:1: contains itself"),
        ([*SWEEP, "--set", 'description="\\e[31m"'], "--set description:1: holds the control character '\\x1b'"),
        ([*SWEEP, "--set", "phase2.lr=.nan"], "phase2.lr = nan: must be"),
        (["pla", "ablation_table1"], "did you mean 'plan'"),
        (["plan"], "expected one sweep"),
    ],
)
def test_bad_input_exits_2_with_one_line_that_names_it(
    words: list[str], culprit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--output", str(tmp_path)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1 and culprit in error


@pytest.mark.parametrize(
    ("output", "culprit"),
    [
        ("s3://bucket/x", "--output s3://bucket/x: must be a folder; URLs are not supported"),
        ("a?b", "'?' cannot stand in it"),
        ("a%41", "'%' cannot stand in it"),
        ("/dev/null/x", "/dev/null/x/sweeps"),  # it cannot be written
    ],
)
def test_an_output_that_cannot_be_one_is_refused(
    output: str, culprit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SWEEP, "--rows", "10", "--output", output, "--cache", str(tmp_path)], "fake_pipeline") == 2
    assert culprit in capsys.readouterr().err.splitlines()[-1] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing_more_is_told_in_one_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    _fill(tmp_path, "oracle")
    monkeypatch.setattr(json_files.os, "fsync", refuse)
    assert _run(tmp_path, "--rows", "oracle", "--analysis", "none") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: {tmp_path}/sweeps/ablation_table1-smoke/sweep.json: {os.strerror(number)}; ")
    assert not list(tmp_path.glob("sweeps/*/.sweep.json*"))


def test_the_script_works_from_anywhere_and_tells_errors_by_its_exit_code(tmp_path: Path) -> None:
    done = _script("plan", "ablation_tabel1", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    done = _script("plan", *SWEEP, "--json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["sweep"] == "ablation_table1"
    assert list(tmp_path.iterdir()) == []  # a plan leaves nothing behind


HEAVY = {"torch", "ray", "mlflow", "pandas", "matplotlib", "diffusers", "timm", "sklearn"}


@pytest.mark.parametrize("words", [["--help"], ["plan", *SWEEP]])
def test_help_and_plan_load_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "sweeps" / "run.py"), *words], capture_output=True, text=True
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "pydantic" in loaded and not loaded & HEAVY


def test_help_names_the_sweeps_and_the_experiments() -> None:
    text = _script("--help").stdout
    assert all(name in text for name in ["ablation_table1", "simulated", "digits69", "smoke", "--set", "130"])


def test_the_plan_of_the_real_pipeline_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SWEEP, "--json", "--output", str(tmp_path)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert set(plan) == {
        "sweep",
        "experiment",
        "trials",
        "controls",
        "ceilings",
        "stages",
        "expected_minutes",
        "expected_from",
        "missing",
        "warnings",
    }
    assert plan["missing"] == []
    assert [t["row"] for t in plan["trials"]] == [str(i) for i in range(16)] and plan["stages"]["phase1"] == 11
    assert [t["row"] for t in plan["controls"]] == CONTROLS
    assert (
        len({t["key"] for t in plan["trials"] + plan["controls"]}) == 16 + len(CONTROLS)
        and plan["expected_minutes"] > 0
    )
    assert main(["plan", *SWEEP, "--json", "--seeds", "3", "--rows", "0,10", "--output", str(tmp_path)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(t["row"], t["seed"]) for t in plan["trials"]] == [(r, s) for r in ("0", "10") for s in range(3)]
    assert plan["stages"]["phase1"] == 3  # of row 10; the shuffled control shares them, row 0 has none


def test_a_plan_without_the_files_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both experiments of real data: the whole plan, then what to get and where to put it, exit code 2."""
    for experiment in ("god", "bold5000"):
        edits = [f"data.path={tmp_path}/data", f"generator.path={tmp_path}/ldm", "--output", str(tmp_path)]
        words = ["plan", "ablation_table1", "--experiment", experiment, "--set", edits[0], "--set", *edits[1:]]
        assert main(words) == 2
        told = capsys.readouterr()
        assert "16 rows x 1 seed" in told.out and "phase1 11" in told.out
        for what in (f"{tmp_path}/data", "figshare.com", f"{tmp_path}/ldm", "python -m cnd.generators convert", "put "):
            assert what in told.err
        assert main([*words[1:]]) == 2  # to run it is refused in one line
        assert capsys.readouterr().err.count("\n") == 1


def test_a_plan_names_a_missing_checkpoint_and_what_is_another_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edits = ["--set", f"phase1.initial_weights={tmp_path}/gone.pth", "--set", "generator={kind: dit, path: gone}"]
    assert main(["plan", "ablation_table1", "--experiment", "god", *edits, "--output", str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert "A different method" in told.out and f"missing: {tmp_path}/gone.pth: no such file" in told.err


def test_a_checkpoint_that_does_not_fit_is_told_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.pth").write_bytes(b"not a checkpoint")
    words = [*SWEEP, "--rows", "10", "--set", f"phase1.initial_weights={tmp_path}/other.pth"]
    assert main([*words, "--output", str(tmp_path)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"error: {tmp_path}/other.pth:") and not (tmp_path / "cache").exists()


def test_parsing() -> None:
    options = parse(["--json", "plan", "x", "--rows", "0, 10", "--output", "out"])
    assert (options.command, options.sweep, options.rows, options.json) == ("plan", "x", ["0", "10"], True)
    assert options.output == Path("out").absolute() and options.cache == options.output / "cache"
    assert parse(["x"]).command == "run"
    with pytest.raises(UserError, match="did you mean '--seeds'"):
        parse(["x", "--seed", "3"])


def test_columns_are_aligned() -> None:
    assert columns([["a", "bb", ""], ["ccc", "d", ""]]) == "a    bb\nccc  d"


# ---------------------------------------------------------------- a sweep whose results are there


def _request(output: Path, rows: str, *edits: str) -> Request:
    output.joinpath("cache").mkdir(parents=True, exist_ok=True)
    words = [*SWEEP, "--rows", rows, "--output", str(output)]
    return Request(parse(words + [word for edit in edits for word in ("--set", edit)]), "fake_pipeline")


def _fill(output: Path, rows: str, *edits: str) -> None:
    """Put the results of rows and controls into the cache, as a pipeline would."""
    request = _request(output, rows, *edits)
    for trial in request.chosen():
        fake_pipeline.run(trial.experiment, request.cache, lambda progress: None)


def _run(output: Path, *words: str) -> int:
    return main([*words, *SWEEP, "--output", str(output)], "fake_pipeline")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """An output folder after a run of rows 8 and 10 that found everything in the cache."""
    output = tmp_path_factory.mktemp("finished")
    _fill(output, "8,10")
    shutil.copy(empty_store, output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "run_jobs", serial_executor.run_jobs)  # row 10 is analysed
        assert _run(output, "--rows", "8,10") == 0
    return output


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


AGAIN = """
import sys
from sweeps.run import main
code = main(sys.argv[1:], "fake_pipeline")
print(*sorted({"ray", "torch", "mlflow"} & set(sys.modules)), code, file=sys.stderr)
"""


def test_the_same_command_again_reports_without_ray_torch_or_mlflow(finished: Path) -> None:
    command = [sys.executable, "-c", AGAIN, *SWEEP, "--rows", "8,10", "--json", "--output", str(finished)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "0"
    result = json.loads(done.stdout)
    names = {(t["row"], t["state"]) for t in result["trials"]}
    assert names == {(row, "complete") for row in ["8", "10", *CONTROLS]}
    assert all((finished / t["record"] / "items.parquet").exists() and t["run_id"] for t in result["trials"])
    assert Path(result["report"]).read_text().startswith("<!")
    assert [line["row"] for line in result["rows"]] == ["8", "10", *CONTROLS]
    assert all(0 <= line["scores"][result["metric"]]["low"] <= 1 for line in result["rows"])
    assert "mlflow ui --backend-store-uri sqlite:///" in done.stderr


def test_the_result_table_as_text(finished: Path) -> None:
    from reports.build import result_table

    request = _request(finished, "8,10")
    lines = result_text(request.sweep, result_table(finished, request.folder.path), ["Optimistic."]).splitlines()
    assert [line.split()[0] for line in lines] == ["row", "8", "10", *CONTROLS, "One", "Optimistic."]
    assert lines[-2].startswith("One seed: these are single trained models; no row is ranked.")
    assert "paper %" in lines[0] and lines[1].endswith("7.92") and "vs row 10" in lines[0]


def test_status_lists_the_trials(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(tmp_path, "status") == 2 and "run it first" in capsys.readouterr().err
    assert _run(finished, "status", "--json") == 0
    assert [t["row"] for t in json.loads(capsys.readouterr().out)["trials"]][:2] == ["8", "10"]
    assert _run(finished, "status") == 0 and "complete" in capsys.readouterr().out


def test_a_store_that_was_deleted_or_changed_is_written_again(copy: Path) -> None:
    request = _request(copy, "10")
    trial = request.chosen()[0]
    assert not Scribe(request.folder, None).wants(trial)
    assert Scribe(request.folder, "http://127.0.0.1:5000").wants(trial)
    (copy / "mlflow.db").unlink()
    assert Scribe(request.folder, None).wants(trial)


def test_verify_finds_a_changed_file(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(copy, "verify", "--json") == 0
    checked = json.loads(capsys.readouterr().out)["checked"]
    record = next((copy / "cache" / "record").glob("[0-9a-f]*/items.parquet"))
    record.write_bytes(record.read_bytes()[:-1])
    assert _run(copy, "verify", "--json") == 1
    verified = json.loads(capsys.readouterr().out)
    assert verified["checked"] == checked > 5 and list(verified["damaged"]) == [f"record/{record.parent.name}"]


def test_clean_deletes_only_when_forced_and_only_what_no_other_sweep_uses(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy / "sweeps" / "other-smoke"
    other.mkdir()
    shared = next((copy / "cache" / "phase1").glob("[0-9a-f]*"))
    (other / "sweep.json").write_text(json.dumps({"stages": [["phase1", shared.name]]}))
    records = list((copy / "cache" / "record").glob("[0-9a-f]*"))
    (copy / "reports" / "ablation_table1-smoke-cortex.html").touch()
    assert _run(copy, "clean") == 0
    listed = capsys.readouterr().out
    assert all(f"would delete {record}\n" in listed for record in records) and str(shared) not in listed
    assert all(record.exists() for record in records)
    assert _run(copy, "clean", "--force") == 0
    assert not any(record.exists() for record in records) and shared.exists()
    assert not (copy / "sweeps" / "ablation_table1-smoke").exists() and other.exists()
    assert not list((copy / "reports").iterdir())


def test_rows_of_earlier_commands_stay_in_the_table_while_they_are_what_they_were(copy: Path) -> None:
    def rows(*chosen: str) -> list[str]:
        request = _request(copy, *chosen)
        define(request, request.chosen())
        return [row["id"] for row in request.folder.definition()["rows"] if not row["control"]]

    before = _request(copy, "10").folder.stages()
    assert rows("10") == ["8", "10"]
    assert rows("0") == ["0", "8", "10"]
    assert rows("10", "phase2.lr=0.5") == ["10"]
    assert set(before) < set(_request(copy, "10").folder.stages())  # clean and verify still know the earlier ones


def test_two_processes_cannot_run_one_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _request(tmp_path, "10").folder.locked():
        assert _run(tmp_path, "--rows", "10") == 2
    assert "another process is running this sweep" in capsys.readouterr().err


def test_a_trial_whose_process_was_killed_is_shown_as_interrupted(tmp_path: Path) -> None:
    request = _request(tmp_path, "10")
    trial = request.chosen()[0]
    with request.folder.locked():
        define(request, request.chosen())
        request.folder.write(trial, state="running")
        assert request.folder.trials()[0]["state"] == "running"
    assert request.folder.trials()[0]["state"] == "interrupted"


def test_measured_times_replace_the_experiments_guess(tmp_path: Path) -> None:
    request = _request(tmp_path, "10")
    assert request.expected_seconds() == 60 * request.base.minutes_per_trial
    for trial, seconds in zip(request.chosen(), [1.0, 2.0, 6.0], strict=False):
        request.folder.write(trial, seconds=seconds)
    assert request.expected_seconds() == 3.0
    told = per_trial(request.folder, request.base)
    assert told.source == "3 trials of this sweep"
    sibling = SweepFolder(tmp_path, f"other-{request.base.name}")
    assert per_trial(sibling, request.base).source.startswith("minutes_per_trial")  # no definition yet
    define(request, request.chosen())
    assert per_trial(sibling, request.base) == (3.0, f"3 trials of other sweeps of {request.base.name} in this folder")
    assert told_of(50.0, 40.0) == "it took 50.0 minutes; the forecast was 40.0, -20 %"


def test_the_plan_counts_only_what_is_missing(finished: Path) -> None:
    request = _request(finished, "0,10")
    plan = request.plan(request.chosen())
    assert [(t["row"], t["done"]) for t in plan["trials"]] == [("0", False), ("10", True)]
    assert all(t["done"] for t in plan["controls"])
    seconds = request.expected_seconds() + seconds_to_report(len(request.chosen()))
    assert plan["expected_minutes"] == round(seconds / 60, 1)


# ---------------------------------------------------------------- what was damaged, lost or away


@pytest.fixture
def serial(monkeypatch: pytest.MonkeyPatch, quick_stores: None) -> None:
    monkeypatch.setattr(session, "run_jobs", serial_executor.run_jobs)


@pytest.mark.parametrize("content", ["", "[]", '{"stages": 3}', f'{{"format": {FORMAT}, "rows": []}}'])
def test_a_damaged_definition_is_said_and_the_run_writes_it_anew(
    copy: Path, serial: None, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = copy / "sweeps" / "ablation_table1-smoke" / "sweep.json"
    before = json.loads(path.read_text())
    path.write_text(content)
    for command in ("status", "report", "verify", "clean"):
        assert _run(copy, command) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.count("\n") == 1 and "is damaged; `run` writes it anew" in told.err
    request = _request(copy, "10")
    define(request, request.chosen())
    after = json.loads(path.read_text())
    assert [row["id"] for row in after["rows"]] == [row["id"] for row in before["rows"]]  # row 8 is still known
    assert after["trials"] == before["trials"] and after["stages"] == before["stages"]


def test_verify_repairs_and_the_run_makes_anew_exactly_what_was_set_aside(
    copy: Path, serial: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "_show_result", lambda *_: None)  # what takes time, and is tested elsewhere
    monkeypatch.setattr(reports.verify, "verify_report", lambda *_: reports.verify.Verified(0, []))
    request = _request(copy, "8,10")
    (phase1,) = next(trial for trial in request.chosen() if trial.row == "8").keys("phase1")
    damaged = request.cache.path("phase1", phase1)
    (damaged / "manifest.json").write_text("{")
    assert _run(copy, "verify") == 1 and "verify --repair" in capsys.readouterr().err and damaged.exists()
    assert _run(copy, "verify", "--repair") == 1 and not damaged.exists()
    assert [t["row"] for t in request.plan(request.chosen())["trials"] if not t["done"]] == ["8"]
    before = (request.cache.root / "built.txt").read_text()
    assert _run(copy, "--rows", "8,10") == 0
    built = (request.cache.root / "built.txt").read_text().removeprefix(before)
    assert built == f"phase1 {phase1}\n"  # the record, which needs it, is as it was
    assert _run(copy, "verify") == 0


def test_a_plan_calls_no_trial_done_whose_analysis_is_missing(copy: Path) -> None:
    request = _request(copy, "8,10")
    (analysis,) = next(trial for trial in request.chosen() if trial.row == "10").keys("analysis")
    request.cache.remove("analysis", analysis)
    assert {t["row"]: t["done"] for t in request.plan(request.chosen())["trials"]} == {"8": True, "10": False}


def _finished_in_mlflow(output: Path) -> set[str]:
    with sqlite3.connect(output / "mlflow.db") as store:
        runs = store.execute("select name from runs where status = 'FINISHED' and name like '%seed 0%'")
        return {name for (name,) in runs}


def _headline(store: Path) -> list[tuple[str, float]]:
    """Every value of the sweep's own run, and of its tags those that it is worth."""
    with sqlite3.connect(store) as open_store:
        own = "select run_uuid from runs where name like 'sweep %' and status = 'FINISHED'"
        found = open_store.execute(f"select key, value from metrics where run_uuid in ({own}) order by key").fetchall()
        return (
            found
            + open_store.execute(
                f"select key, value from tags where key in ('converged', 'seeds') and run_uuid in ({own}) order by key"
            ).fetchall()
        )


def test_a_store_that_was_damaged_is_filled_again(copy: Path, serial: None, capsys: pytest.CaptureFixture[str]) -> None:
    before, headline = _finished_in_mlflow(copy), _headline(copy / "mlflow.db")
    assert {"headline/nway50_top1", "score.8", "difference.8", "converged"} <= {name for name, _ in headline}
    (copy / "mlflow.db").write_bytes(b"")
    assert _run(copy, "sync", "--json") == 0
    told = capsys.readouterr()
    assert "filled again from the records" in told.err and json.loads(told.out)["lacking"] == len(before) == 9
    assert _finished_in_mlflow(copy) == before
    assert _run(copy, "sync", "--json") == 0 and json.loads(capsys.readouterr().out)["lacking"] == 0
    assert _run(copy, "report") == 0 and _headline(copy / "mlflow.db") == headline  # once, not doubled
    for name in ("ablation_table1-smoke.html", "ablation_table1-smoke-tables/table.csv", "results.json"):
        assert len(list(copy.glob(f"mlartifacts/*/artifacts/{name}"))) == 2  # of the lost store, too


def test_a_server_that_is_away_holds_up_nothing_and_is_synced_later(
    copy: Path, serial: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # where nothing listens
        uri = f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert _run(copy, "--rows", "8,10", "--tracking-uri", uri) == 1
    told = capsys.readouterr().err
    assert f"MLflow: {uri} does not answer" in told and "sync, or the same command again, writes what it lacks" in told
    assert "report: " in told
    assert _run(copy, "sync", "--tracking-uri", sqlite := f"sqlite:///{copy}/other.db") == 0
    assert capsys.readouterr().out == "MLflow lacked 9 of 9 finished trials\n"
    assert ("score.8",) in {line[:1] for line in _headline(copy / "other.db")}
    assert list(copy.glob("mlartifacts/*/artifacts/summary.json")) and not Path("mlruns").exists()
    assert not Scribe(_request(copy, "10").folder, sqlite).wants(_request(copy, "10").chosen()[0])
