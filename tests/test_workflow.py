"""The steps together, on ``smoke``: what a record holds, that nothing is done twice, what rows share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from cnd.data.simulated import SimulatedData
from cnd.decoders.cnd.phase1.step import hold_out
from cnd.errors import UserError
from cnd.experiment import Experiment, load_experiment, override
from cnd.generators.embedded import EmbeddedGenerator
from cnd.json_files import read_json
from cnd.protocols import Decoder, Fitted, Lab, Noise, Patterns, Reconstruction, TrainingSet
from cnd.steps import upstream
from cnd.workflow import run as workflow
from cnd.workflow.bench import Workbench
from cnd.workflow.cache import StageCache
from cnd.workflow.plan import all_folds, steps
from cnd.workflow.progress import Progress

SMOKE = load_experiment(Path(__file__).resolve().parents[1] / "experiments" / "smoke.yaml")


@pytest.fixture
def cache(smoke_cache: StageCache) -> StageCache:
    return smoke_cache


@pytest.fixture
def record(smoke_record: Path) -> Path:
    return smoke_record


def edited(**edits: Any) -> Experiment:
    return override(SMOKE, {name.replace("__", "."): value for name, value in edits.items()}, "test")


# ---------------------------------------------------------------- records


def test_a_record_holds_what_reports_need(record: Path) -> None:
    items, scores = (pd.read_parquet(record / f"{name}.parquet") for name in ("items", "scores"))
    assert list(items["item"]) == list(range(50)) and {"truth", "stimulus", "category_name", "fold"} <= set(items)
    assert list(scores) == ["item", "sample", "metric", "value"] and scores["value"].between(0, 1).all()
    assert list(scores["metric"].unique()) == ["nway50_top1", "nway100_top1"] and len(scores) == 2 * 50
    images = load_file(record / "images.safetensors")
    assert images["reconstructions"].shape == (50, 1, 3, 64, 64) and images["stimuli"].shape == (50, 3, 64, 64)
    summary = read_json(record / "summary.json")
    by_metric = scores.groupby("metric")["value"].mean().to_dict()
    assert summary["scores"] == pytest.approx(by_metric) and summary["simulated"] is True
    assert [metric["chance"] for metric in summary["metrics"]] == [0.02, 0.01]
    history = pd.read_parquet(record / "history.parquet")
    assert {"phase1.pretrain", "phase1.tune", "phase2"} <= set(history["phase"])
    attention = pd.read_parquet(record / "attention.parquet")
    assert attention.groupby("item").size().eq(10).all()
    assert attention["even"].eq(1 / 200).all() and attention.groupby("item")["weight"].max().gt(1 / 200).all()
    assert workflow.read_experiment(record) == SMOKE


def test_a_second_run_makes_nothing(record: Path, cache: StageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedData, "load", lambda *a: pytest.fail("data was loaded again"))
    monkeypatch.setattr(EmbeddedGenerator, "load", lambda *a: pytest.fail("the generator was loaded again"))
    assert workflow.run(SMOKE, cache) == record


def test_a_killed_run_makes_only_what_is_missing(cache: StageCache, record: Path) -> None:
    seen: list[str] = []
    experiment = edited(seed=3)

    def stop(progress: Progress) -> None:
        if progress.phase == "phase2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workflow.run(experiment, cache, stop)
    workflow.run(experiment, cache, lambda progress: seen.append(progress.phase))
    assert "data" not in seen and "phase1" not in seen and "phase2" in seen


def test_a_finished_run_is_analysed_without_training(
    record: Path, cache: StageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the code has changed since: the results are those that the record names, not those of today's keys."""
    monkeypatch.setattr("cnd.steps.code_hash", lambda *modules: "of tomorrow")
    for phase in ("phase1", "phase2"):
        monkeypatch.setattr(f"cnd.decoders.cnd.{phase}.training.fit", lambda *a, **k: pytest.fail("trained again"))
    edits = {"analysis.n_components": 4, "analysis.n_permutations": 19, "analysis.drives": ["reconstruction"]}
    monkeypatch.setattr("cnd.workflow.run.figures_step", lambda experiment, analysed: analysed)  # drawn elsewhere
    tables, _ = workflow.analyse_record(record, cache, edits | {"analysis.steps": [0.0], "analysis.layers": [4]})
    states = pd.read_parquet(tables / "states.parquet")
    assert set(states["drive"]) == {"reconstruction"} and states["n_components"].max() <= 4


def test_edited_data_are_prepared_without_a_generator(record: Path, cache: StageCache) -> None:
    """They are not kept themselves, so what is made beforehand is what they are made of."""
    edits = {"decoder.kind": "nearest_training_image", "split.random_input": True}
    workflow.prepare(override(SMOKE, edits, "test"), cache)
    assert not (cache.root / "random_input").exists()


def test_a_record_whose_results_are_gone_is_told(record: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is gone; run the sweep again"):
        workflow.analyse_record(record, StageCache(tmp_path))


def test_the_best_checkpoint_may_be_chosen_by_the_test_set(record: Path, cache: StageCache) -> None:
    history = pd.read_parquet(workflow.run(edited(phase2__checkpoint="test_best"), cache) / "history.parquet")
    scores = history[history["name"] == "checkpoint_score"]["value"]
    assert len(scores) == 4 and scores.between(0, 1).all()


def test_a_training_leaves_the_curve_of_held_out_items(record: Path, cache: StageCache) -> None:
    folder = next(cache.path(s.name, s.key) for s in steps(SMOKE) if s.name == "phase2")
    curve, info = pd.read_parquet(folder / "curve.parquet"), read_json(folder / "info.json")
    assert curve.groupby("samples_seen")["item"].nunique().to_dict() == {8: 15, 16: 15, 24: 15, 32: 15}
    assert curve["value"].between(0, 1).all() and info["n_left_out"] == 15 and info["steps"] == 4
    history = pd.read_parquet(folder / "history.parquet")
    means = history[history["name"] == "validation_score"].set_index("samples_seen")["value"]
    assert np.allclose(means, curve.groupby("samples_seen")["value"].mean())
    assert len(history[history["name"] == "validation_loss"]) == 4


def test_a_training_until_converged_says_what_it_took(record: Path, cache: StageCache) -> None:
    folder = workflow.run(edited(phase2__until_converged={"tolerance": 0.0, "patience": 9, "cap": 6}), cache)
    summary, curve = read_json(folder / "summary.json"), pd.read_parquet(folder / "curve.parquet")
    assert summary["training"]["steps"] == 6 and summary["training"]["samples_seen"] == 48
    assert summary["in_steps"] and sorted(curve["samples_seen"].unique()) == [8, 16, 24, 32, 40, 48]
    assert summary["remarks"][0].startswith("15 of 150 training items are left out of Phase 2")


def test_phase1_leaves_patterns_out_and_scores_them(record: Path) -> None:
    history = pd.read_parquet(record / "history.parquet")
    losses = history[history["name"] == "validation_loss"].groupby("phase")["value"].count()
    assert set(losses.index) == {"phase1.pretrain", "phase1.tune", "phase2"}
    rest, held = hold_out(np.arange(100.0)[:, None], 64)
    assert held is not None and len(held) == 10 and len(rest) == 90 and not set(held.ravel()) & set(rest.ravel())
    assert hold_out(np.zeros((15, 2)), 64)[1] is None  # a contrast needs two


def test_what_stands_beside_the_tables_score_trains_nothing_again() -> None:
    before = keys()["phase2"]
    assert keys(evaluation__n_way=[50], sampling__samples_per_item=3)["phase2"] == before
    assert keys(evaluation__n_way=[10, 50])["phase2"] != before  # another curve
    assert keys(sampling__guidance=3.0)["phase2"] != before
    assert keys(phase2__curve_items=0)["phase2"] == keys(phase2__curve_items=0, sampling__guidance=3.0)["phase2"]


def test_optimistic_settings_are_announced() -> None:
    loud = edited(phase1__transductive=True, phase2__checkpoint="test_best")
    assert [warning.split(":")[0] for warning in loud.warnings()] == ["Transductive", "Test-set checkpoint"]
    assert SMOKE.warnings() == []


# ---------------------------------------------------------------- what rows share


def keys(**edits: Any) -> dict[str, str]:
    return {step.name: step.key for step in steps(edited(**edits))}


@pytest.mark.parametrize(
    ("edits", "moved"),
    [
        ({"phase2__concept_depth": 6}, {"phase2"}),
        ({"phase1__mask_ratio": 0.25}, {"pretrain", "phase1", "phase2"}),
        ({"phase1__tune_epochs": 1}, {"phase1", "phase2"}),
        ({"seed": 1}, {"pretrain", "phase1", "phase2"}),
        ({"shuffle_pairs": True}, {"phase2"}),  # Phase 1 learns without pairs
        ({"split__random_input": True}, {"phase1", "phase2"}),
        ({"split__validation_fraction": 0.2}, {"phase2"}),
        ({"sampling__steps": 3}, {"phase2"}),  # the curve of its training is drawn otherwise
        ({"sampling__samples_per_item": 2}, set()),
        ({"data__snr": 0.2}, {"data", "findings", "latents", "pretrain", "phase1", "phase2"}),
        ({"generator__name": "digits", "evaluation__n_way": [2]}, {"latents", "phase2"}),
    ],
)
def test_rows_share_what_their_settings_leave_alone(edits: dict[str, Any], moved: set[str]) -> None:
    before, after = keys(), keys(**edits)
    assert {name for name in before if before[name] != after[name]} == moved | {"sample", "record"}


def test_scoring_otherwise_or_renaming_trains_and_draws_nothing() -> None:
    before, after = keys(), keys(evaluation__n_way=[50, 2])  # beside the table's score
    assert {name for name in before if before[name] != after[name]} == {"record"}
    assert keys(name="another", description="text", minutes_per_trial=9) == before


def test_without_phase1_there_is_no_step_of_it() -> None:
    assert {"pretrain", "phase1"}.isdisjoint(keys(phase1__enabled=False))


def test_phase1_may_start_from_another_subject() -> None:
    (fold,) = all_folds(edited(phase1__initial_subject=2))
    data = [step.settings["source"].subject for step in upstream(fold.sample) if step.name == "data"]
    assert sorted(data) == [1, 2]


# ---------------------------------------------------------------- what a decoder may do


class Sneaky(Decoder):
    """Asks for what it has not declared, or gives something else than images."""

    uses_generator: ClassVar[bool] = False
    kind: Literal["sneaky"] = "sneaky"
    asks: str = ""

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        if self.asks:
            lab.value(lab.given.test_score) if self.asks == "test_score" else getattr(lab, self.asks)
        return self

    def reconstruct(self, items: Patterns, noise: Noise) -> Reconstruction:
        assert items.truth is None
        return Reconstruction(np.zeros((len(items), 3, 8, 8), dtype=np.uint8))


@pytest.mark.parametrize(
    ("asks", "told"), [("classes", "uses_labels"), ("generator", "uses_generator"), ("test_score", r"steps\(\)")]
)
def test_a_decoder_gets_only_what_enters_its_key(asks: str, told: str, record: Path, cache: StageCache) -> None:
    (fold,) = all_folds(SMOKE.model_copy(update={"decoder": Sneaky(asks=asks)}))
    with pytest.raises(RuntimeError, match=told):
        Workbench(cache).folder(fold.sample)


def test_images_of_another_shape_are_told(record: Path, cache: StageCache) -> None:
    (fold,) = all_folds(SMOKE.model_copy(update={"decoder": Sneaky()}))
    with pytest.raises(UserError, match=r"sneaky: gave images uint8 \[50, 3, 8, 8\], expected uint8 \[50, 1, channels"):
        Workbench(cache).folder(fold.sample)


def test_a_training_that_was_set_aside_is_made_again_to_the_last_bit(cache: StageCache, record: Path) -> None:
    """Although the record, which needs it no more, is there."""
    experiment = load_experiment(Path(__file__).resolve().parents[1] / "experiments" / "smoke.yaml")
    phase2 = next(step for step in steps(experiment) if step.name == "phase2")
    folder = cache.path("phase2", phase2.key)
    before = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    (folder / "manifest.json").write_text("{}")
    with pytest.warns(UserWarning, match="moved to"):
        assert before and cache.find("phase2", phase2.key) is None and cache.was_set_aside("phase2", phase2.key)
    assert workflow.run(experiment, cache) == record
    assert {file.name: file.read_bytes() for file in folder.glob("*.safetensors")} == before
    assert not cache.was_set_aside("phase2", phase2.key)
