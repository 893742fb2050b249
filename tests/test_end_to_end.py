"""The command as a user types it, on ``smoke``: run, run again, kill and go on, report, MLflow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
WORDS = ["ablation_table1", "--experiment", "smoke", "--rows", "0,10,oracle", "--interventions", "all"]


def command(*words: str) -> list[str]:
    return [sys.executable, str(ROOT / "sweeps" / "run.py"), *words]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=300)


def items(output: Path) -> dict[str, pd.DataFrame]:
    """Per-item scores of every finished trial, by trial name."""
    trials = (output / "sweeps" / "ablation_table1-smoke" / "trials").glob("*.json")
    states = {path.stem: json.loads(path.read_text()) for path in trials}
    return {
        name: pd.read_parquet(output / state["record"] / "items.parquet")
        for name, state in states.items()
        if state["state"] == "complete"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    output = tmp_path_factory.mktemp("runs")
    return output, run(*WORDS, "--output", str(output))


def test_a_run_is_complete_and_says_where_everything_is(finished):
    output, done = finished
    assert done.returncode == 0, done.stderr
    assert set(items(output)) == {"0-seed0", "10-seed0", "oracle-seed0"}
    report = output / "reports" / "ablation_table1-smoke.html"
    assert str(report) in done.stderr + done.stdout and "mlflow ui" in done.stderr + done.stdout
    page = report.read_text()
    assert "SIMULATED DATA" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_every_row_says_whether_it_had_converged(finished):
    output, done = finished
    planned = json.loads(run("plan", *WORDS, "--output", str(output), "--json").stdout)
    states = {trial["row"]: trial["converged"] for trial in [*planned["trials"], *planned["controls"]]}
    assert states["oracle"] == "no training" and {states["0"], states["10"]} <= {"yes", "no", "at chance"}
    assert done.stdout.count("NOT CONVERGED") == list(states.values()).count("no")
    page = (output / "reports" / "ablation_table1-smoke.html").read_text()
    assert 'id="convergence"' in page and "had" in page and "converged" in page
    state = run("status", *WORDS[:3], "--output", str(output)).stdout
    assert "no training" in state
    until = json.loads(run("plan", *WORDS, "--output", str(output), "--json", "--until-converged").stdout)
    assert [trial["done"] for trial in until["trials"]] == [False, False]  # another training
    assert [trial["done"] for trial in until["controls"]] == [True] and until["trials"][0]["converged"] is None
    cosine = run("plan", *WORDS, "--until-converged", "--set", "decoder.phase2.schedule=cosine")
    assert cosine.returncode == 2 and "set schedule to constant" in cosine.stderr and cosine.stderr.count("\n") == 1


def test_mlflow_holds_one_run_a_trial(finished):
    output, _ = finished
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{output / 'mlflow.db'}")
    runs = mlflow.search_runs(search_all_experiments=True)
    rows = runs[runs["params.row"].notna()] if "params.row" in runs else runs.iloc[:0]
    assert sorted(rows["params.row"]) == ["0", "10", "oracle"]
    assert rows["status"].eq("FINISHED").all() and rows["metrics.headline/nway50_top1"].notna().all()
    assert rows["tags.mlflow.parentRunId"].nunique() == 1


def test_rows_of_cnd_are_scored_with_their_attention_replaced(finished):
    output, _ = finished
    page = (output / "reports" / "ablation_table1-smoke.html").read_text()
    section = page[page.index('<h2 id="interventions">') :]
    for words in ("Row 10, even attention:", "top concept only", "no concept layers", "entropy of attention", "Row 0"):
        assert words in section
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{output / 'mlflow.db'}")
    runs = mlflow.search_runs(search_all_experiments=True).set_index("params.row")
    for name in ("even attention/nway50_top1", "attention_entropy", "bank_share", "top_is_class/test"):
        values = runs[f"metrics.interventions/{name}"]
        assert values[["0", "10"]].notna().all() and values[["oracle"]].isna().all()
    assert 0 < runs.loc["10", "metrics.interventions/attention_entropy"] <= 1


def test_only_the_interventions_are_made_where_only_they_are_missing(finished, tmp_path: Path):
    output, _ = finished
    shutil.copytree(output / "cache", tmp_path / "cache", copy_function=os.link)
    folder = tmp_path / "cache" / "interventions"
    before = {path.name: (path / "scores.parquet").read_bytes() for path in folder.iterdir() if path.is_dir()}
    shutil.rmtree(folder)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.parquet")}
    assert run(*WORDS, "--output", str(tmp_path)).returncode == 0
    made = {path for path in (tmp_path / "cache").rglob("*.parquet") if path not in kept}
    assert {path.name: (path / "scores.parquet").read_bytes() for path in folder.iterdir() if path.is_dir()} == before
    assert all(folder in path.parents for path in made) and len(made) == len(before) == 2


def test_again_does_nothing_twice(finished):
    output, _ = finished
    before = {p: p.stat().st_mtime_ns for p in (output / "cache").rglob("*") if p.is_file()}
    again = run(*WORDS, "--output", str(output))
    assert again.returncode == 0
    after = {p: p.stat().st_mtime_ns for p in (output / "cache").rglob("*") if p.is_file()}
    assert before == after


def test_killed_half_way_goes_on_to_the_same_scores(finished, tmp_path: Path):
    """SIGKILL of the whole process group once the first trial is complete."""
    reference, _ = finished
    process = subprocess.Popen(
        command(*WORDS, "--output", str(tmp_path), "--max-concurrent", "1"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    folder = tmp_path / "sweeps" / "ablation_table1-smoke" / "trials"
    deadline = time.monotonic() + 240
    while not any('"complete"' in path.read_text() for path in folder.glob("*.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    survivors = set(items(tmp_path))
    assert survivors and survivors != set(items(reference))
    records = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache" / "record").rglob("*") if p.is_file()}

    assert run(*WORDS, "--output", str(tmp_path)).returncode == 0
    assert all(path.stat().st_mtime_ns == at for path, at in records.items())
    for name, table in items(reference).items():
        pd.testing.assert_frame_equal(table, items(tmp_path)[name], check_exact=True)


def test_plan_counts_eleven_phase1_trainings(tmp_path: Path):
    done = run("plan", "ablation_table1", "--output", str(tmp_path), "--json")
    plan = json.loads(done.stdout)
    assert len(plan["trials"]) == 16 and plan["stages"]["phase1"] == 11


def test_malformed_data_file_is_told_before_anything_runs(tmp_path: Path):
    path = tmp_path / "digit69_28x28.mat"
    path.write_text("not a matrix")
    words = ["ablation_table1", "--experiment", "digits69", "--set", f"data.path={path}", "--output", str(tmp_path)]
    done = run(*words)
    assert done.returncode == 2 and str(path) in done.stderr and not (tmp_path / "cache" / "phase1").exists()
