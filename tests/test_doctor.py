"""``doctor``: trial files, cache and MLflow are brought to disagree, are told, and agree again."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import serial_executor

from cnd.store.folder import SweepFolder
from cnd.store.states import STATES, of_sweep
from sweeps import session
from sweeps.run import main

SWEEP = ["ablation_table1", "--experiment", "smoke", "--analysis", "none", "--interventions", "none"]
ROWS = ["--rows", "10,oracle"]
NAME = "ablation_table1-smoke"
TRIAL = "10-seed0"


def _run(output: Path, *words: str) -> int:
    return main([*words, *SWEEP, "--output", str(output)], "fake_pipeline")


@pytest.fixture
def serial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "run_jobs", serial_executor.run_jobs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    output = tmp_path_factory.mktemp("finished")
    (output / "cache").mkdir()
    shutil.copy(empty_store, output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "run_jobs", serial_executor.run_jobs)
        assert _run(output, *ROWS) == 0
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def _sql(output: Path, statement: str) -> list[tuple[str, ...]]:
    with sqlite3.connect(output / "mlflow.db") as store:
        return store.execute(statement).fetchall()


def _file(output: Path) -> Path:
    return SweepFolder(output, NAME).trial_file(TRIAL)


def _says(**changes: object) -> Callable[[Path], object]:
    return lambda output: _file(output).write_text(json.dumps(json.loads(_file(output).read_text()) | changes))


def _no_result(output: Path) -> None:
    shutil.rmtree(output / json.loads(_file(output).read_text())["record"])


def _named(name: str) -> str:
    return f"where run_uuid in (select run_uuid from tags where key = 'cnd.name' and value like '{name}%')"


def _twice(output: Path) -> None:
    columns = ", ".join(column[1] for column in _sql(output, "pragma table_info(runs)") if column[1] != "run_uuid")
    _sql(output, f"insert into runs (run_uuid, {columns}) select 'again', {columns} from runs {_named(TRIAL)}")
    _sql(output, f"insert into tags (key, value, run_uuid) select key, value, 'again' from tags {_named(TRIAL)}")


def _status(name: str, status: str) -> Callable[[Path], object]:
    return lambda output: _sql(output, f"update runs set status = '{status}' {_named(name)}")


@pytest.mark.parametrize(
    ("harm", "told", "mended"),
    [
        (_no_result, f"{TRIAL}: its result is gone", "pending"),
        (lambda output: _file(output).write_text("{"), f"{TRIAL}: its result is there", "complete"),
        (_says(state="running", record=None), f"{TRIAL}: its result is there", "complete"),
        (_says(run_id=None), f"{TRIAL}: its file names another run", "complete"),
        (_status(TRIAL, "RUNNING"), f"{TRIAL}: MLflow has it as RUNNING", "complete"),
        (_twice, f"{TRIAL}: MLflow has 2 runs of it", "complete"),
        (_status("sweep", "RUNNING"), "sweep: MLflow has it as RUNNING", "complete"),
        (_status("phase1", "RUNNING"), "phase1 810b862c: its run was not written to its end", "complete"),
        (lambda output: (output / "mlflow.db").write_text("no"), "MLflow: the store cannot be read", "complete"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("quick_stores")
def test_what_disagrees_is_told_and_mended(
    output: Path, harm: Callable[[Path], object], told: str, mended: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(output)
    capsys.readouterr()
    assert _run(output, "doctor", "--json") == 1
    lines = json.loads(capsys.readouterr().out)["states"]
    problems = [f"{line['name']}: {problem}" for line in lines for problem in line["problems"]]
    assert any(problem.startswith(told) for problem in problems)
    assert _run(output, "doctor", "--repair") == 0
    assert "0 disagree, " in capsys.readouterr().out
    assert json.loads(_file(output).read_text())["state"] == mended
    active = "select value, status from runs join tags using (run_uuid) where lifecycle_stage = 'active'"
    statuses = dict(_sql(output, f"{active} and key = 'cnd.name'"))
    assert statuses[TRIAL] == statuses[f"sweep {NAME}"] == ("KILLED" if mended == "pending" else "FINISHED")
    assert "RUNNING" not in statuses.values()


@pytest.mark.usefixtures("serial")
def test_what_was_mended_runs_on(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(output, "doctor") == 0 and "3 states compared, 0 disagree\n" in capsys.readouterr().out
    _no_result(output)
    assert _run(output, "doctor") == 1 and "doctor --repair makes them agree" in capsys.readouterr().err
    assert _run(output, "doctor", "--repair") == 0
    assert _run(output, *ROWS) == 0
    assert _run(output, "doctor") == 0
    assert {status for (status,) in _sql(output, "select status from runs")} == {"FINISHED"}


def test_a_sweep_that_runs_is_not_judged(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with SweepFolder(output, NAME).locked():
        assert _run(output, "doctor", "--repair") == 2
    assert "a command is running this sweep" in capsys.readouterr().err


def test_the_state_of_a_sweep_follows_from_those_of_its_trials() -> None:
    assert of_sweep(["complete", "pruned"]) == "FINISHED"
    assert of_sweep(["complete", "failed", "pending"]) == "FAILED"
    assert of_sweep(["complete", "interrupted"]) == "KILLED"
    assert [state for state, belongs in STATES.items() if belongs.record] == ["complete"]
