"""MLflow: what may be repeated is repeated without a trace, and every trial has one run."""

from __future__ import annotations

from pathlib import Path

import fake_pipeline
import numpy as np
import pytest

from cnd.data.simulated import SimulatedData
from cnd.experiment import Experiment
from cnd.store.tracking import SearchRuns, Tracker, accepted, flatten, sqlite_uri
from cnd.workflow.cache import StageCache


@pytest.fixture
def record(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    experiment = Experiment(name="base", data=SimulatedData())
    return fake_pipeline.run(experiment, StageCache(tmp_path / "cache"), lambda progress: None)


pytestmark = pytest.mark.usefixtures("quick_stores")


def _tracker(tmp_path: Path) -> Tracker:
    return Tracker(sqlite_uri(tmp_path), tmp_path / "mlartifacts", "table-base")


def test_a_trial_interrupted_and_logged_twice_is_one_complete_run(tmp_path: Path, record: Path) -> None:
    first = _tracker(tmp_path)
    params = {"alpha_s": 1, "mask_ratio": 0.75, "data.kind": "simulated"}
    run = first.start("10-seed0", "key", params, {"stage.record.key": "key"})
    first.progress(run, {"phase1/loss": 2.0}, 250)
    first.record(run, record, ["p1"])
    first.end(first.parent, "KILLED")

    again = _tracker(tmp_path)  # another process, later
    assert again.parent == first.parent
    assert again.start("10-seed0", "key", params, {}) == run
    assert again.client.get_run(run).info.status == "RUNNING"
    again.record(run, record, ["p1"])
    other = again.start("10-seed0", "another key", params, {})
    again.fail(other, "FloatingPointError: loss is nan")

    runs = {r.info.run_id: r for r in again.client.search_runs([again.sweep])}
    assert set(runs) == {run, other, again.parent}
    assert (runs[run].info.status, runs[other].info.status) == ("FINISHED", "FAILED")
    assert runs[run].data.params["mask_ratio"] == "0.75" and runs[run].data.tags["mlflow.parentRunId"] == again.parent
    assert {"headline/nway50_top1", "nway100_top1", "phase2/loss", "live/phase1/loss"} <= set(runs[run].data.metrics)
    curve = again.client.get_metric_history(run, "phase2/loss")
    assert [(m.step, m.value) for m in curve] == [(0, 1.5), (100, 1.5), (200, 1.5)]  # two folds, their mean, once
    assert len(again.client.get_metric_history(run, "headline/nway50_top1")) == 1
    artifacts = {file.path for file in again.client.list_artifacts(run)}
    assert {"items.parquet", "experiment.json", "summary.json", "reconstructions.png"} <= artifacts


def test_scores_with_parts_replaced_are_metrics_of_their_own(tmp_path: Path) -> None:
    folder = fake_pipeline.intervene(
        Experiment(name="base", data=SimulatedData()), StageCache(tmp_path / "cache"), lambda progress: None
    )
    tracker = _tracker(tmp_path)
    run = tracker.start("10-seed0", "key", {}, {})
    tracker.interventions(run, folder)
    metrics = tracker.client.get_run(run).data.metrics
    assert metrics["interventions/none/nway50_top1"] == 0.5 and metrics["interventions/share"] == 0.25
    artifacts = {file.path for file in tracker.client.list_artifacts(run, "interventions")}
    assert artifacts == {"interventions/scores.parquet", "interventions/summary.json"}


def test_trials_that_share_a_phase_1_link_the_same_run(tmp_path: Path, record: Path) -> None:
    tracker = _tracker(tmp_path)
    linked = []
    for name in ["8-seed0", "9-seed0"]:
        run = tracker.start(name, name, {}, {})
        tracker.record(run, record, ["shared"])
        linked.append(tracker.client.get_run(run).data.tags["stage.phase1.run_id"])
    assert linked[0] == linked[1]
    stage = tracker.client.get_run(linked[0])
    assert stage.info.status == "FINISHED" and stage.data.params["decoder.phase1.mask_ratio"] == "0.75"
    assert [m.step for m in tracker.client.get_metric_history(linked[0], "phase1.tune/loss")] == [0, 100, 200]


def test_metric_names_that_mlflow_refuses_are_mended(tmp_path: Path) -> None:
    tracker = _tracker(tmp_path)
    run = tracker.start("10-seed0", "key", {}, {})
    tracker.progress(run, {"top@1 (%)": 0.5, "bad": float("nan")}, 1)
    assert set(tracker.client.get_run(run).data.metrics) == {"live/top_1 ___"}
    assert accepted(["phase2/loss", "größe"]) == {"phase2/loss": "phase2/loss", "größe": "gr__e"}


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, 2]}) == {"a.b.c": 1, "d": [1, 2]}


def test_the_image_grid_shows_stimuli_above_their_reconstructions(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from cnd.store.tracking import image_grid

    stimuli = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 1, 4, 4), np.uint8)
    drawn = (100 + np.arange(6, dtype=np.uint8)).reshape(3, 2, 1, 1, 1) * np.ones((3, 2, 1, 4, 4), np.uint8)
    save_file({"stimuli": stimuli, "reconstructions": drawn}, tmp_path / "images.safetensors")
    grid = image_grid(tmp_path / "images.safetensors")
    assert grid.shape == (18, 18, 3) and grid.dtype == np.uint8
    assert grid[2::6, 2::6, 0].tolist() == [[0, 1, 2], [100, 102, 104], [101, 103, 105]]
    assert (grid[0] == 255).all()  # white between the pictures


def test_a_trial_of_a_search_has_what_the_search_varies_and_its_objectives_first(tmp_path: Path, record: Path) -> None:
    search = SearchRuns(("nway50_top1",), {"a": 1, "b": 2, "seed": 0})
    tracker = Tracker(sqlite_uri(tmp_path), tmp_path / "mlartifacts", "search-base", search)
    run = tracker.start("0003-seed0", "key", {"a": 1.5}, {}, "0003")
    tracker.checkpoint(run, 0.25, 50)
    tracker.record(run, record)
    stopped = tracker.start("0004-seed0", "other", {"a": 2.5}, {}, "0004")
    tracker.checkpoint(stopped, 0.125, 50)
    for _ in range(2):  # a kill in between changes nothing
        tracker.prune(stopped)
        tracker.best_so_far("nway50_top1", [0.25, 0.5])
    found, other = tracker.client.get_run(run), tracker.client.get_run(stopped)
    assert found.data.params == {"a": "1.5"} and found.info.run_name == "0003"
    names = sorted(found.data.metrics)
    assert names[0] == "objective/nway50_top1" and "scores/nway100_top1" in names
    assert not any(name.startswith(("live/", "validation/")) for name in names)
    assert (other.info.run_name, other.info.status) == ("0004 pruned", "KILLED")
    assert other.data.metrics == {"progress/validation_score": 0.125}
    assert tracker.client.get_run(tracker.parent).data.params == {"a": "1", "b": "2", "seed": "0"}
    curve = tracker.client.get_metric_history(tracker.parent, "objective/nway50_top1")
    assert [(m.step, m.value) for m in curve] == [(0, 0.25), (1, 0.5)]
