"""``python sweeps/run.py score``: two folders of images to a report that tells which is better, or one line why not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pictures
import pytest

from cnd.metrics.judges.timm import TimmClassifier
from sweeps.run import main

ROOT = Path(__file__).resolve().parents[1]
NO_JUDGE = ["--set", "evaluation.n_way=[]", "--set", "evaluation.classifiers=[]"]  # seconds, and no weights are needed


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("score")
    pictures.stimuli(root / "made stimuli")
    pictures.reconstructions(root / "worse", 0.3)
    pictures.reconstructions(root / "better", 0.8)
    return root


def words(folders: Path, output: Path, second: str = "better") -> list[str]:
    programs = [f"worse={folders}/worse", f"MinD-Vis={folders}/{second}"]
    return ["score", "--stimuli", f"{folders}/made stimuli", "--reconstructions", *programs, "--output", str(output)]


@pytest.fixture(scope="module")
def scored(folders: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The output folder of a run, and what it said."""
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), *words(folders, folders / "out"), *NO_JUDGE]
    return folders / "out", subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_two_folders_become_a_table_and_a_report(scored: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    output, done = scored
    assert done.returncode == 0, done.stderr
    head, worse, better, *_ = done.stdout.splitlines()
    assert head.split("  ")[0] == "row" and "pixel correlation [95 %]" in head and "vs row worse" in head
    assert worse.startswith("worse ") and better.startswith("MinD_Vis  MinD-Vis")
    assert "%" not in worse and " +0." in better  # the second is better, and no percentage
    page = (output / "reports" / "score-made_stimuli.html").read_text()
    assert "RECONSTRUCTIONS FROM FILES" in page and "pixel correlation" in page
    for out_of_place in ("percentage points", "luck of one training", "Published numbers", "SIMULATED DATA"):
        assert out_of_place not in page


def test_the_report_gives_the_command_again(scored: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    definition = json.loads((scored[0] / "sweeps" / "score-made_stimuli" / "sweep.json").read_text())
    assert definition["words"][:2] == ["score", "--stimuli"] and definition["words"][-1].startswith("MinD-Vis=")
    assert "sweeps/run.py score --stimuli" in (scored[0] / "reports" / "score-made_stimuli.html").read_text()


def test_the_same_words_go_on_report_and_tell_the_state(
    folders: Path, scored: tuple[Path, subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    again = words(folders, scored[0])
    assert main([*again, *NO_JUDGE]) == 0  # from the cache
    assert capsys.readouterr().out.startswith("row")
    assert main(["status", *again]) == 0
    assert [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]] == ["complete", "complete"]
    assert main(["report", *again]) == 0 and main(["verify", *again]) == 0
    assert main(["plan", *again, *NO_JUDGE, "--json"]) == 0


def test_missing_images_end_it_before_anything_runs(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures.reconstructions(folders / "partial", 0.8, pictures.FILES[:3])
    assert main([*words(folders, tmp_path, "partial"), *NO_JUDGE]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and not (tmp_path / "cache").exists()
    assert f"{folders}/partial: reconstructions: 1 of 4 stimuli have none (n01518878_10042)" in error
    assert main(["plan", *words(folders, tmp_path, "partial"), *NO_JUDGE]) == 2
    assert "missing: " in capsys.readouterr().err


def test_an_image_that_is_none_ends_it_too(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures.reconstructions(folders / "broken", 0.8) / "barn-1.png").write_bytes(b"")
    assert main([*words(folders, tmp_path, "broken"), *NO_JUDGE]) == 2
    assert "cannot be used (barn-1.png)" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (["score"], "score needs --stimuli DIR --reconstructions NAME=DIR"),
        (["status", "score"], "score needs --stimuli DIR"),
        (["score", "--stimuli", "s", "--reconstructions", "folder"], "expected NAME=DIR"),
        (["score", "--stimuli", "s", "--reconstructions", "a=x", "a=y"], "the same name"),
        (["score", "--stimuli", "s", "--reconstructions", "a-b=x", "a b=y"], "row 'a_b' appears twice"),
        (["score", "--stimuli", "s", "--reconstructions", "a=x", "--seeds", "2"], "--seeds 2"),
        (["score", "--stimuli", "s", "--reconstructions", "a=x", "--experiment", "smoke"], "--experiment"),
        (["score", "--stimuli", "/gone", "--reconstructions", "a=x"], "/gone: no such folder"),
        (["ablation_table1", "--stimuli", "s"], "--stimuli: belongs to the sweep score"),
        (["ablation_table1", "--judge", "vit"], "--judge: belongs to the sweep score"),
    ],
)
def test_wrong_usage_is_told_in_one_line(
    change: list[str], culprit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*change, "--output", str(tmp_path)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and culprit in error


def test_n_way_needs_a_classifier_and_its_absence_is_told(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TimmClassifier, "missing", lambda self: [f"no weights of {self.name}"])
    assert main(["plan", *words(folders, tmp_path)]) == 0
    assert "n-way accuracy is left out" in capsys.readouterr().err
    assert main([*words(folders, tmp_path), "--judge", "resnet50"]) == 2
    assert "no weights of resnet50" in capsys.readouterr().err
    monkeypatch.setattr(TimmClassifier, "missing", lambda self: [])
    monkeypatch.setattr(TimmClassifier, "identity", lambda self: self.name)
    assert main(["plan", *words(folders, tmp_path)]) == 0
    assert "left out" not in capsys.readouterr().err


def test_programs_with_more_samples_count_with_their_first(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sample in range(2):
        pictures.reconstructions(folders / "two", 0.8, [f"{name}_{sample}" for name in pictures.FILES])
    assert main(["plan", *words(folders, tmp_path, "two"), *NO_JUDGE]) == 0
    assert "the first 1 (MinD-Vis has 2)" in capsys.readouterr().err
