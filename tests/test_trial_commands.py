"""``python -m cnd``: ``analyse``, ``rerun`` and the others on a finished run, found by its id in MLflow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cnd.__main__ import main
from cnd.commands import provenance as command
from cnd.store import provenance
from cnd.workflow.cache import StageCache

ROOT = Path(__file__).resolve().parents[1]
WORDS = [
    "ablation_table1",
    "--experiment",
    "smoke",
    "--rows",
    "10,oracle",
    "--analysis",
    "none",
    "--interventions",
    "none",
]


def sweep(*words: str) -> None:
    """In a process of its own, as Ray wants it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), *words]
    subprocess.run(command, check=True, capture_output=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    sweep(*WORDS, "--output", str(folder))
    return folder


def trial(output: Path, name: str) -> dict[str, Any]:
    return json.loads((output / "sweeps" / "ablation_table1-smoke" / "trials" / f"{name}.json").read_text())


def test_a_finished_run_is_analysed_by_its_id_and_the_report_shows_it(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = trial(output, "10-seed0")["run_id"]
    small = ["--set", "analysis.n_components=4", "--set", "analysis.n_permutations=19"]
    assert main(["analyse", run_id, "--output", str(output), *small]) == 0
    tables, figures = (Path(line.split(": ")[1]) for line in capsys.readouterr().out.splitlines()[-2:])
    assert len(pd.read_parquet(tables / "voxels.parquet")) and list(figures.glob("figure5*.png"))
    assert output / trial(output, "10-seed0")["analysis"] == tables
    assert list((output / "mlartifacts").rglob("analysis/voxels.parquet"))
    sweep("report", *WORDS[:3], "--output", str(output))
    page = output / "reports" / "ablation_table1-smoke.html"
    assert "Which voxels tell what the diffusion model represents" in page.read_text()


def test_a_finished_run_is_scored_with_its_attention_replaced(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "interventions" not in trial(output, "10-seed0")
    assert main(["interventions", "10-seed0", "--output", str(output)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith("even attention: nway50_top1 0.") for line in told)
    assert any(line.startswith("bank_share: ") for line in told)
    assert output / trial(output, "10-seed0")["interventions"] == Path(told[-1].removeprefix("tables: "))
    assert list((output / "mlartifacts").rglob("interventions/scores.parquet"))
    sweep("report", *WORDS[:3], "--output", str(output))
    assert 'id="interventions"' in (output / "reports" / "ablation_table1-smoke.html").read_text()


def test_two_finished_runs_are_compared(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run and itself, from a cache that lies elsewhere."""
    shutil.copytree(output / "cache", tmp_path / "cache")
    words = ["analyse", "10-seed0", "--minus", "10-seed0", "--output", str(output), "--cache", str(tmp_path / "cache")]
    small = ["--set", "analysis.n_components=3", "--set", "analysis.n_permutations=19"]
    assert main([*words, *small]) == 0
    tables, _, picture = (Path(line.split(": ")[1]) for line in capsys.readouterr().out.splitlines())
    assert tables.is_relative_to(tmp_path) and Path(trial(output, "10-seed0")["analysis"]) == tables
    assert picture == output / "reports" / "ablation_table1-smoke-10-seed0-minus-10-seed0.png" and picture.is_file()
    table = pd.read_parquet(picture.with_suffix(".parquet"))
    assert set(table["side"]) == {"encoder", "decoder"} and (table["value"] == 0).all() and (table["q"] == 1).all()
    assert list((output / "mlartifacts").rglob(f"analysis/{picture.name}"))


def test_the_decoder_of_a_finished_run_is_exported(output: Path, tmp_path: Path) -> None:
    assert main(["export", "10-seed0", str(tmp_path / "decoder"), "--output", str(output)]) == 0
    assert (tmp_path / "decoder" / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["analyse", "nosuch"], "nosuch: no such run"),
        (["analyse", "10-seed0", "--minus", "nosuch"], "nosuch: no such run"),
        (["analyse", "oracle-seed0"], "decoder 'oracle' has no condition of a UNet to analyse"),
        (["interventions", "oracle-seed0"], "decoder 'oracle' names no parts that can be replaced"),
        (["analyse", "10-seed0", "--set", "phase2.lr=1"], "only settings of the analysis can change"),
        (["export", "nosuch", "x"], "nosuch: no such run"),
        (["export", "oracle-seed0", "x"], "has no condition that gives its images, so it cannot be exported"),
        (["export", "10-seed0", "x", "--fold", "3"], "--fold 3: the run has the folds 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    output: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["analyse"], ["export"], ["encoder"], ["rerun"]])
def test_help_loads_no_library(words: list[str]) -> None:
    script = (
        "import sys; from cnd.__main__ import main\n"
        f"try: main([*{words}, '--help'])\n"
        "finally: print({'torch', 'numpy', 'pydantic', 'mlflow'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert told.startswith("usage: python -m cnd") and told.splitlines()[-1] == "set()"


# ---------------------------------------------------------------- where it comes from


def test_a_finished_run_tells_where_it_comes_from(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["provenance", "10-seed0", "--output", str(output), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    known = trial(output, "10-seed0")
    assert (found["run_id"], found["record"]) == (known["run_id"], str(output / known["record"]))
    assert found["settings"]["seed"] == 0 and found["scores"]["nway50_top1"] >= 0
    steps = {step["name"]: step for step in found["steps"]}
    assert [*steps][-1] == "record" and {"data", "latents", "pretrain", "phase1", "phase2", "sample"} <= steps.keys()
    assert steps["phase1"]["key"] in steps["phase2"]["parents"].values()
    assert steps["data"]["key"] in found["data"] and steps["data"]["sha256"]
    for step in found["steps"]:
        made = step["made"]
        assert made["device"] == "cpu" and made["machine"]["cores"] and made["seconds"] >= 0
        assert made["code"]["hash"] and {"python", "numpy", "torch"} <= made["versions"].keys()
        changes = made["code"]["changes"]
        assert changes is None or (output / "cache" / changes).read_text()
    assert str(output) not in json.dumps([step["made"] for step in found["steps"]])  # it may be given away
    own = sum(step["made"]["seconds"] for step in found["steps"])
    assert found["seconds_by_device"]["cpu"]["wall"] == pytest.approx(own)
    assert main(["provenance", "10-seed0", "--output", str(output)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("10-seed0 of ablation_table1-smoke, ") and "decoder.phase2.max_steps = 4" in told
    assert f"phase2 {steps['phase2']['key'][:12]} from " in told and "versions: python 3." in told


def test_a_run_made_again_is_the_same_to_the_last_bit(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rerun", "oracle-seed0", "--output", str(output)]) == 0
    assert capsys.readouterr().out.endswith("oracle-seed0: bit for bit equal, scores and images\n")
    assert not list((output / "reruns").iterdir())


def test_what_differs_is_told_before_by_how_much(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another version of NumPy, other weights of Phase 2, one score a tenth higher."""
    found = provenance.steps_of(StageCache(output / "cache"), output / trial(output, "10-seed0")["record"])

    def again(record: Path, before: list[provenance.Made], fresh: StageCache, name: str) -> Path:
        shutil.copytree(output / "cache", fresh.root)
        there = fresh.root / "record" / record.name
        for step in before:
            path = fresh.path(step.name, step.key)
            made = step.made | {"versions": step.made["versions"] | {"numpy": "0.1"}}
            (path / "made.json").write_text(json.dumps(made))
            if step.name == "phase2":
                (path / "manifest.json").write_text(json.dumps({"files": {"x.safetensors": {"sha256": "0"}}}))
        scores = pd.read_parquet(there / "scores.parquet")
        scores.loc[scores.index[0], "value"] += 0.1
        scores.to_parquet(there / "scores.parquet")
        return there

    monkeypatch.setattr(command, "_again", again)
    assert main(["rerun", "10-seed0", "--output", str(output)]) == 1
    told = capsys.readouterr().out.splitlines()
    numpy = found[-1].made["versions"]["numpy"]
    phase2 = next(step for step in found if step.name == "phase2")
    assert told[:2] == [
        f"numpy: was {numpy}, is 0.1", f"the first step whose results differ: phase2 {phase2.key[:12]}"
    ]  # fmt: skip
    assert told[2].startswith("nway50_top1: 1 of 50 scores differ, by 0.1 at most; mean ")
    assert told[3:] == ["10-seed0: not the same"]
