"""The command line without training: exit codes, what is printed where, and what is not imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_pipeline
import pytest
from sweeps.run import columns, main, parse

from cnd.cache import StageCache
from cnd.config import Experiment
from cnd.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SWEEP = ["ablation_table1", "--experiment", "smoke"]


def _script(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["plan", "ablation_tabel1"], "unknown sweep 'ablation_tabel1'; did you mean 'ablation_table1'"),
        (["ablation_table1", "--experiment", "simulate"], "unknown experiment 'simulate'; did you mean 'simulated'"),
        ([*SWEEP, "--set", "phase1.mask_ration=0.5"], "unknown key 'phase1.mask_ration'; did you mean 'mask_ratio'"),
        ([*SWEEP, "--set", "phase2.lr=-1"], "phase2.lr = -1"),
        ([*SWEEP, "--set", "phase2.lr"], "expected key=value"),
        (["ablation_table1", "--experiment", "digits69", "--set", "data.path=/no/such.mat"], "/no/such.mat"),
        ([*SWEEP, "--rows", "0,16"], "there is no row '16'"),
        ([*SWEEP, "--rows", ","], "--rows"),
        ([*SWEEP, "--seeds", "0"], "--seeds 0: must be at least 1"),
        ([*SWEEP, "--seeds", "many"], "--seeds: invalid int value: 'many'"),
        ([*SWEEP, "--max-concurrent", "0"], "--max-concurrent 0"),
        ([*SWEEP, "--experimant", "smoke"], "--experimant"),
        ([*SWEEP, "--gpus-per-trial", "99"], "--gpus-per-trial 99: this machine has"),
        ([*SWEEP, "--cache", "s3://bucket"], "must be a folder"),
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


def test_the_script_works_from_anywhere_and_tells_errors_by_its_exit_code(tmp_path: Path) -> None:
    done = _script("plan", "ablation_tabel1", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    done = _script("plan", *SWEEP, "--json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["sweep"] == "ablation_table1"
    assert list(tmp_path.iterdir()) == []  # a plan leaves nothing behind


HEAVY = {"torch", "ray", "mlflow", "pandas", "numpy", "matplotlib", "diffusers", "timm", "sklearn"}


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
    assert set(plan) == {"sweep", "experiment", "trials", "controls", "stages", "expected_minutes"}
    assert [t["row"] for t in plan["trials"]] == [str(i) for i in range(16)] and plan["stages"]["phase1"] == 11
    assert [t["row"] for t in plan["controls"]] == ["ridge", "shuffled", "oracle"]
    assert len({t["key"] for t in plan["trials"] + plan["controls"]}) == 19 and plan["expected_minutes"] > 0
    assert main(["plan", *SWEEP, "--json", "--seeds", "3", "--rows", "0,10", "--output", str(tmp_path)]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(t["row"], t["seed"]) for t in plan["trials"]] == [(r, s) for r in ("0", "10") for s in range(3)]
    assert plan["stages"]["phase1"] == 3  # of row 10; the shuffled control shares them, row 0 has none


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


@pytest.fixture
def built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """An output folder whose cache holds rows 8 and 10 and the controls, as a pipeline wrote them."""
    words = ["plan", *SWEEP, "--rows", "8,10", "--json", "--output", str(tmp_path)]
    assert main(words, "fake_pipeline") == 0
    capsys.readouterr()
    _fill(tmp_path, ["8", "10"], [])
    return tmp_path


def _fill(output: Path, rows: list[str], edits: list[str]) -> None:
    request = _request(output, rows, edits)
    for trial in request.chosen():
        fake_pipeline.run(trial.experiment, request.cache, lambda progress: None)


def _request(output: Path, rows: list[str], edits: list[str]) -> Any:
    from sweeps.run import Request

    output.joinpath("cache").mkdir(parents=True, exist_ok=True)
    words = [*SWEEP, "--rows", ",".join(rows), "--output", str(output)]
    return Request(parse(words + [w for edit in edits for w in ("--set", edit)]), "fake_pipeline")


def _run(output: Path, *words: str) -> int:
    return main([*words, *SWEEP, "--output", str(output)], "fake_pipeline")


def test_what_is_there_is_reported_and_tracked_without_ray(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(built, "--rows", "8,10", "--json") == 0
    out, error = capsys.readouterr()
    result = json.loads(out)
    assert {(t["row"], t["state"]) for t in result["trials"]} == {
        (row, "complete") for row in ["8", "10", "ridge", "shuffled", "oracle"]
    }
    assert all((built / t["record"] / "items.parquet").exists() and t["run_id"] for t in result["trials"])
    assert Path(result["report"]).read_text().startswith("<!") and "mlflow ui --backend-store-uri sqlite:///" in error
    assert not list((built / "sweeps").glob("*/ray"))
    assert _run(built, "--rows", "8,10") == 0  # again, as text
    assert "paper" in capsys.readouterr().out


def test_status_report_and_verify(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(built, "status") == 2 and "run it first" in capsys.readouterr().err
    assert _run(built, "--rows", "8,10") == 0
    capsys.readouterr()
    assert _run(built, "status", "--json") == 0
    assert [t["row"] for t in json.loads(capsys.readouterr().out)["trials"]][:2] == ["8", "10"]
    assert _run(built, "report") == 0
    assert Path(capsys.readouterr().out.strip()).exists()
    assert _run(built, "verify", "--json") == 0
    checked = json.loads(capsys.readouterr().out)["checked"]
    assert checked > 5
    record = next((built / "cache" / "record").glob("[0-9a-f]*/items.parquet"))
    record.write_bytes(record.read_bytes()[:-1])
    assert _run(built, "verify", "--json") == 1
    verified = json.loads(capsys.readouterr().out)
    assert verified["checked"] == checked and list(verified["damaged"]) == [f"record/{record.parent.name}"]


def test_clean_deletes_only_when_forced_and_only_what_no_other_sweep_uses(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(built, "--rows", "8,10") == 0
    other = built / "sweeps" / "other-smoke"
    other.mkdir()
    shared = next((built / "cache" / "phase1").glob("[0-9a-f]*"))
    (other / "sweep.json").write_text(json.dumps({"stages": [["phase1", shared.name]]}))
    records = list((built / "cache" / "record").glob("[0-9a-f]*"))
    capsys.readouterr()
    assert _run(built, "clean") == 0
    listed = capsys.readouterr().out
    assert all(f"would delete {record}\n" in listed for record in records) and str(shared) not in listed
    assert all(record.exists() for record in records)
    assert _run(built, "clean", "--force") == 0
    assert not any(record.exists() for record in records) and shared.exists()
    assert not (built / "sweeps" / "ablation_table1-smoke").exists() and other.exists()
    assert not list((built / "reports").iterdir())


def test_rows_of_earlier_commands_stay_in_the_report_while_they_are_what_they_were(built: Path) -> None:
    definition = built / "sweeps" / "ablation_table1-smoke" / "sweep.json"

    def rows() -> list[str]:
        return [row["id"] for row in json.loads(definition.read_text())["rows"] if not row["control"]]

    assert _run(built, "--rows", "8,10") == 0
    assert _run(built, "--rows", "10") == 0 and rows() == ["8", "10"]
    _fill(built, ["10"], ["phase2.lr=0.5"])
    assert _run(built, "--rows", "10", "--set", "phase2.lr=0.5") == 0 and rows() == ["10"]
    assert len(json.loads(definition.read_text())["stages"]) > 10  # earlier stages stay known, for clean and verify


def test_two_processes_cannot_run_one_sweep(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _request(built, ["10"], []).folder.locked():
        assert _run(built, "--rows", "10") == 2
    assert "running already" in capsys.readouterr().err


def test_measured_times_replace_the_experiments_guess(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = _request(built, ["10"], [])
    guess = 60 * Experiment.model_validate(request.base.model_dump()).minutes_per_trial
    assert request.expected_seconds() == guess
    for trial, seconds in zip(request.chosen(), [1.0, 2.0, 6.0], strict=False):
        request.folder.write(trial, seconds=seconds)
    assert request.expected_seconds() == 3.0
    plan = request.plan(request.trials(["0"], 1))
    assert plan["expected_minutes"] == 0.1 and [t["done"] for t in plan["trials"]] == [False]
    assert StageCache(built / "cache").has("record", plan["controls"][0]["key"]) and plan["controls"][0]["done"]
