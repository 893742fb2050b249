"""The stages together, on ``smoke``: what a record holds, that nothing is done twice, that runs repeat."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from cnd import inputs, paper, pipeline
from cnd.workflow.cache import StageCache
from cnd.experiment import Experiment, load_experiment, override
from cnd.errors import UserError

SMOKE = Path(__file__).resolve().parents[1] / "experiments" / "smoke.yaml"


@pytest.fixture(scope="module")
def smoke() -> Experiment:
    return load_experiment(SMOKE)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> StageCache:
    return StageCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def record(smoke: Experiment, cache: StageCache) -> Path:
    return pipeline.run(smoke, cache)


def test_record_holds_what_reports_need(record: Path, smoke: Experiment):
    items = pd.read_parquet(record / "items.parquet")
    assert len(items) == 50 * smoke.sampling.samples_per_item
    assert {"nway50_top1", "nway100_top1", "truth", "predicted", "sample", "fold"} <= set(items)
    assert items["nway50_top1"].between(0, 1).all()
    images = load_file(record / "images.safetensors")
    assert images["reconstructions"].shape == (50, 1, 3, 64, 64) and images["stimuli"].shape == (50, 3, 64, 64)
    summary = json.loads((record / "summary.json").read_text())
    assert summary["scores"]["nway50_top1"] == pytest.approx(items["nway50_top1"].mean())
    assert summary["chance"] == {"nway50_top1": 0.02, "nway100_top1": 0.01} and summary["simulated"] is True
    history = pd.read_parquet(record / "history.parquet")
    assert {"phase1.pretrain", "phase1.tune", "phase2"} <= set(history["phase"])
    attention = pd.read_parquet(record / "attention.parquet")
    assert attention.groupby("item").size().eq(10).all()
    assert attention["even"].eq(1 / 200).all() and attention.groupby("item")["weight"].max().gt(1 / 200).all()
    assert Experiment.model_validate(json.loads((record / "experiment.json").read_text())) == smoke


def test_second_run_builds_nothing(record: Path, smoke: Experiment, cache: StageCache, monkeypatch):
    monkeypatch.setattr(pipeline.data, "load", lambda *a: pytest.fail("data was loaded again"))
    monkeypatch.setattr(inputs.generators, "load", lambda *a: pytest.fail("the generator was loaded again"))
    assert pipeline.run(smoke, cache) == record


def test_same_seed_gives_the_same_scores_elsewhere(record: Path, smoke: Experiment, tmp_path: Path):
    again = pipeline.run(smoke, StageCache(tmp_path))
    one, two = pd.read_parquet(record / "items.parquet"), pd.read_parquet(again / "items.parquet")
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_interrupted_run_goes_on_with_the_missing_stage(smoke: Experiment, record: Path, cache: StageCache, tmp_path):
    """After a kill during Phase 2 only Phase 2 and what follows it is computed."""
    fresh = StageCache(tmp_path)
    seen: list[str] = []

    def stop(progress: pipeline.Progress) -> None:
        if progress.phase == "phase2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(smoke, fresh, stop)
    again = pipeline.run(smoke, fresh, lambda progress: seen.append(progress.phase))
    assert "phase1" not in seen and "phase2" in seen
    one, two = pd.read_parquet(record / "items.parquet"), pd.read_parquet(again / "items.parquet")
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_progress_never_goes_back(smoke: Experiment, tmp_path: Path):
    fractions: list[float] = []
    pipeline.run(smoke, StageCache(tmp_path), lambda progress: fractions.append(progress.fraction))
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_a_finished_run_is_analysed_without_training(record: Path, cache: StageCache, monkeypatch):
    """Also when the code has changed since: the stages are those the record names, not those of today's keys."""
    monkeypatch.setattr("cnd.decoders.cnd.phase1.training.fit", lambda *a, **k: pytest.fail("Phase 1 was trained again"))
    monkeypatch.setattr("cnd.decoders.cnd.phase2.training.fit", lambda *a, **k: pytest.fail("Phase 2 was trained again"))
    monkeypatch.setattr(inputs, "fold_stages", lambda *a: pytest.fail("keys were worked out anew"))
    edits = {"analysis.n_components": 4, "analysis.n_permutations": 19, "analysis.drives": ["reconstruction"]}
    tables, figures = pipeline.analyse_record(record, cache, edits)
    states = pd.read_parquet(tables / "states.parquet")
    assert set(states["drive"]) == {"reconstruction"} and states["n_components"].max() <= 4
    assert sorted(path.suffix for path in figures.iterdir()).count(".png") >= 5


def test_a_record_whose_stages_are_gone_is_told(record: Path, tmp_path: Path):
    with pytest.raises(UserError, match="is gone; run the sweep again"):
        pipeline.analyse_record(record, StageCache(tmp_path))


def keys(experiment: Experiment) -> dict[str, str]:
    return {stage.name: stage.key for stage in pipeline.stages(experiment)}


def test_rows_share_what_they_have_in_common(smoke: Experiment):
    base = keys(smoke)
    deeper = keys(override(smoke, {"phase2.concept_depth": 6}, "t"))
    masked = keys(override(smoke, {"phase1.mask_ratio": 0.25}, "t"))
    seeded = keys(override(smoke, {"seed": 1}, "t"))
    assert base["phase1"] == deeper["phase1"] and base["phase2"] != deeper["phase2"]
    assert base["data"] == masked["data"] == seeded["data"] and base["phase1"] != masked["phase1"]
    assert base["phase1"] != seeded["phase1"] and base["latents"] == seeded["latents"]
    none = keys(override(smoke, {"phase1.enabled": False}, "t"))
    assert "phase1" not in none and none["phase2"] != base["phase2"]
    shuffled = keys(override(smoke, {"shuffle_pairs": True}, "t"))
    assert shuffled["phase1"] == base["phase1"] and shuffled["phase2"] != base["phase2"]


@pytest.mark.parametrize("kind", ["ridge", "oracle"])
def test_controls_run(smoke: Experiment, cache: StageCache, kind: str):
    path = pipeline.run(override(smoke, {"decoder.kind": kind}, "t"), cache)
    assert len(pd.read_parquet(path / "items.parquet")) == 50
    assert not (path / "attention.parquet").exists()


def test_shuffled_pairs_change_the_pairs_only(smoke: Experiment, cache: StageCache, record: Path):
    path = pipeline.run(override(smoke, {"shuffle_pairs": True}, "t"), cache)
    images, base = (load_file(p / "images.safetensors") for p in (path, record))
    np.testing.assert_array_equal(images["stimuli"], base["stimuli"])
    assert not np.array_equal(images["reconstructions"], base["reconstructions"])


def test_optimistic_settings_are_announced(smoke: Experiment):
    loud = override(smoke, {"phase1.transductive": True, "phase2.checkpoint": "test_best"}, "t")
    assert [w.split(":")[0] for w in paper.warnings_of(loud)] == ["Transductive", "Test-set checkpoint"]
    assert paper.warnings_of(smoke) == []


def test_test_best_scores_the_test_set(smoke: Experiment, cache: StageCache):
    path = pipeline.run(override(smoke, {"phase2.checkpoint": "test_best"}, "t"), cache)
    assert json.loads((path / "summary.json").read_text())["warnings"]


def test_departures_from_the_paper_are_listed(smoke: Experiment):
    found = paper.deviations(smoke)
    assert any(line.startswith("encoder.width = 16 (paper: 1024)") for line in found)
    assert not any("mask_ratio" in line for line in found)


def test_folds_are_pooled(digits69_file, tmp_path: Path, smoke: Experiment):
    if digits69_file is None:
        pytest.skip("digits69: digit69_28x28.mat is not here (it cannot be shipped)")
    edits = {
        "data.kind": "digits69",
        "data.path": str(digits69_file),
        "data.n_folds": 2,
        "generator.name": "digits",
        "evaluation.n_way": [2, 5],
        "evaluation.truth": "label",
    }
    path = pipeline.run(override(smoke, edits, "t"), StageCache(tmp_path))
    items = pd.read_parquet(path / "items.parquet")
    assert items["item"].nunique() == 100 and set(items["fold"]) == {0, 1} and items["stimulus"].nunique() == 100
    assert (items["truth"] == items["category"]).all()
