"""What Phase 2 aims at beside the stimuli, and the ceiling of its loss, against a generator whose optimum is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from cnd.decoders.cnd.phase2 import free, inversion
from cnd.decoders.cnd.phase2.settings import Phase2Config, TargetConfig
from cnd.decoders.cnd.phase2.targets import ClassTargets, class_targets, condition_loss
from cnd.decoders.cnd.phase2.warm_start import warm_up
from cnd.decoders.free_condition import FreeConditionDecoder
from cnd.errors import UserError
from cnd.experiment import load_experiment, override
from cnd.paper import departures
from cnd.protocols import Condition, DrawnLatents
from cnd.workflow.bench import Workbench
from cnd.workflow.cache import StageCache
from cnd.workflow.plan import all_folds

WIDTH = 3
ROOT = Path(__file__).resolve().parents[2]


class Known:
    """Takes the sum of pooled vector and mean context for the clean latent: eq. 2 is lowest where that is the mean."""

    device, latent_shape, unet = torch.device("cpu"), (WIDTH, 1, 1), nn.Identity()
    alphas_cumprod = torch.linspace(0.99, 0.01, 1000)
    concept_bank = torch.eye(WIDTH).repeat(2, 1) * torch.tensor([1.0, 1, 1, 2, 2, 2])[:, None]

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        alpha = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

    def predict_noise(self, noisy: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        alpha = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        clean = (condition.pooled + condition.context.mean(1))[..., None, None]
        return (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()

    def class_condition(self, category: torch.Tensor) -> Condition:
        return Condition(self.concept_bank[category][:, None], self.concept_bank[category])

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def to(self, device: Any) -> Known:
        return self


def drawn() -> DrawnLatents:
    """Two classes of four images whose first value names them: 10, 11, 12, 13 and 40, 41, 42, 43."""
    latents = torch.zeros(2, 4, *Known.latent_shape)
    latents[:, :, 0, 0, 0] = torch.tensor([[10.0, 11, 12, 13], [40, 41, 42, 43]])
    return DrawnLatents(torch.tensor([1, 4]), latents)


# ---------------------------------------------------------------- settings


def test_one_word_stands_for_that_loss_alone() -> None:
    assert Phase2Config(target="generated").target == TargetConfig(stimuli=0, generated=1)
    assert Phase2Config(target="embedding").target == TargetConfig(stimuli=0, embedding=1)
    assert Phase2Config(target="stimuli").target == TargetConfig() == Phase2Config().target
    assert Phase2Config(target={"embedding": 0.01}).target == TargetConfig(stimuli=1, embedding=0.01)


@pytest.mark.parametrize("bad", ["classes", {"stimuli": 0}, {"stimuli": -1}, {"n_generated": 0}])
def test_a_target_that_is_none_is_refused(bad: Any) -> None:
    with pytest.raises(ValidationError):
        Phase2Config(target=bad)


def test_labels_are_declared_where_they_are_used_and_nowhere_else() -> None:
    smoke = load_experiment(ROOT / "experiments" / "smoke.yaml")
    found = [("target", "stimuli", False), ("target", "generated", True), ("target", "embedding", True)]
    for name, target, uses in [*found, ("warm_start", "inversion", False), ("warm_start", "classes", True)]:
        experiment = override(smoke, {f"decoder.phase2.{name}": target}, "test")
        needs = all_folds(experiment)[0].own["phase2"].needs
        assert experiment.decoder.learns_from_labels() is uses is ("classes" in needs)
        assert ("class_latents" in needs) is (target == "generated")
        assert any(w.startswith("Labels: ") for w in experiment.decoder.warnings()) is uses
        told = [line for line in departures(experiment) if line.startswith(f"decoder.phase2.{name}")]
        assert bool(told) is (target != "stimuli")


def test_drawn_latents_are_one_step_for_all_rows_seeds_and_folds(tmp_path: Path) -> None:
    (tmp_path / "digit69.mat").write_bytes(b"any")
    edits = {"data.path": str(tmp_path / "digit69.mat"), "decoder.phase2.target": "generated"}
    base = override(load_experiment(ROOT / "experiments" / "digits69.yaml"), edits, "test")
    other = {"seed": 1, "decoder.phase2.lr": 0.1, "split.shuffle_pairs": True}
    folds = [*all_folds(base), *all_folds(override(base, other, "test"))]
    assert len(folds) == 20 and len({fold.own["phase2"].key for fold in folds}) == 20
    assert len({fold.own["phase2"].needs["class_latents"].key for fold in folds}) == 1  # type: ignore[union-attr]


# ---------------------------------------------------------------- targets


def test_every_step_takes_another_drawn_image_of_the_items_class() -> None:
    classes, rng = np.array([4, 1, 4]), torch.Generator().manual_seed(0)
    targets = class_targets(TargetConfig.model_validate("generated"), Known(), classes, drawn())  # type: ignore[arg-type]
    rows = torch.tensor([2, 1])
    seen = torch.stack([targets.latents(rows, torch.zeros(3, *Known.latent_shape), rng) for _ in range(60)])
    assert set(seen[:, 0, 0].flatten().tolist()) == {40, 41, 42, 43}
    assert set(seen[:, 1, 0].flatten().tolist()) == {10, 11, 12, 13}


def test_weights_of_eq_2_mix_stimuli_and_drawn_images() -> None:
    config = TargetConfig(stimuli=3, generated=1)
    targets = class_targets(config, Known(), np.full(2000, 1), drawn())  # type: ignore[arg-type]
    found = targets.latents(torch.arange(2000), torch.zeros(2000, *Known.latent_shape), torch.Generator())
    assert (found[:, 0] > 0).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_without_labels_nothing_is_drawn_at_random() -> None:
    rng, stimuli = torch.Generator().manual_seed(3), torch.randn(4, *Known.latent_shape)
    before = rng.get_state()
    assert torch.equal(ClassTargets().latents(torch.tensor([3, 0]), stimuli, rng), stimuli[[3, 0]])
    assert torch.equal(rng.get_state(), before) and ClassTargets().conditions(torch.tensor([1])) is None


def test_a_class_that_was_not_drawn_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match=r"phase2\.target: no image was drawn of class 5"):
        class_targets(TargetConfig(generated=1), Known(), np.array([1, 5]), drawn())  # type: ignore[arg-type]


def test_distance_to_the_condition_of_the_class_is_a_mean_square() -> None:
    own = Condition(torch.randn(5, 4, WIDTH), torch.randn(5, WIDTH))
    wanted = Known().class_condition(torch.tensor([0, 1, 2, 3, 4]))
    expected = ((own.context - wanted.context) ** 2).sum() / (5 * 4 * WIDTH)
    expected = expected + ((own.pooled - wanted.pooled) ** 2).sum() / (5 * WIDTH)
    torch.testing.assert_close(condition_loss(own, wanted), expected)


# ---------------------------------------------------------------- the ceiling of the loss


@pytest.mark.parametrize("target", ["stimuli", "generated", "embedding"])
def test_free_conditions_reach_the_optimum_of_the_loss(target: str) -> None:
    config = FreeConditionDecoder(
        target=target, timestep_range=(300, 700), context_tokens=2, per_class=8, max_steps=400, batch_size=16, lr=0.1
    )
    category = np.array([1] * 6 + [4] * 6)
    clean = torch.tensor([-1.0, 2.0])[torch.arange(12) // 6].view(-1, 1, 1, 1).expand(-1, *Known.latent_shape)
    image = DrawnLatents(torch.tensor([1, 4]), torch.tensor([3.0, -2.0]).view(2, 1, 1, 1, 1).expand(2, 5, 3, 1, 1))
    targets = class_targets(config.target, Known(), category, image if target == "generated" else None)  # type: ignore[arg-type]
    members = [torch.arange(6), torch.arange(6, 12)]
    found = free.fit(config, Known(), clean, members, targets, seed=0)  # type: ignore[arg-type]
    reached = found.pooled + found.context.mean(1)
    expected = {
        "stimuli": torch.tensor([[-1.0] * 3, [2.0] * 3]),
        "generated": torch.tensor([[3.0] * 3, [-2.0] * 3]),
        "embedding": 2 * Known.concept_bank[[1, 4]],
    }[target]
    torch.testing.assert_close(reached, expected, atol=0.1, rtol=0)


def test_free_conditions_see_as_many_samples_as_phase_2() -> None:
    assert FreeConditionDecoder(max_steps=80, batch_size=16, per_class=4).n_steps(90, 2) == 160
    assert FreeConditionDecoder(max_epochs=10, per_class=4).n_steps(90, 3) == 75
    assert FreeConditionDecoder(max_samples=2_000, per_class=4).n_steps(1200, 50) == 10
    assert FreeConditionDecoder(max_steps=1, per_class=4).n_steps(90, 50) == 1


def test_a_loss_that_is_not_finite_is_named() -> None:
    clean = torch.full((2, *Known.latent_shape), float("nan"))
    with pytest.raises(FloatingPointError, match="free conditions: the loss is nan at step 0"):
        free.fit(FreeConditionDecoder(max_steps=1), Known(), clean, [torch.arange(2)], ClassTargets(), 0)  # type: ignore[arg-type]


def test_a_kind_takes_over_what_it_says() -> None:
    smoke = load_experiment(ROOT / "experiments" / "smoke.yaml")
    edits = {"decoder.phase2.target": {"embedding": 2}, "decoder.phase2.loss_weighting": "min_snr"}
    found = override(override(smoke, edits, "test"), {"decoder.kind": "free_condition"}, "test").decoder
    assert isinstance(found, FreeConditionDecoder) and found.target.embedding == 2
    assert found.loss_weighting == "min_snr" and found.timestep_range == smoke.decoder.phase2.timestep_range
    back = override(smoke, {"decoder.kind": "ridge"}, "test")
    assert override(back, {"decoder.kind": "free_condition"}, "test").decoder == FreeConditionDecoder()


# ---------------------------------------------------------------- the warm start


class Affine(nn.Module):
    """A condition that is affine in the pattern: its least squares are known."""

    def __init__(self, n_voxels: int) -> None:
        super().__init__()
        self.encoder, self.head = nn.Identity(), nn.Linear(n_voxels, WIDTH)

    def forward(self, fmri: torch.Tensor) -> tuple[Condition, None]:
        both = self.head(self.encoder(fmri))
        return Condition(both[:, None].expand(-1, 2, -1), both), None


def test_the_warm_start_finds_the_least_squares() -> None:
    rng = np.random.default_rng(0)
    fmri = rng.standard_normal((64, 5)).astype(np.float32)
    wanted = torch.from_numpy(fmri @ rng.standard_normal((5, WIDTH)) + rng.standard_normal((64, WIDTH))).float()
    config = Phase2Config(
        warm_start="classes", warm_start_steps=300, batch_size=1024, lr=0.05, schedule="cosine", weight_decay=0
    )
    module = Affine(5)
    history = warm_up(config, module, Known(), fmri, Condition(wanted[:, None], wanted), 0)  # type: ignore[arg-type]
    design = np.c_[fmri, np.ones(64)]
    best = design @ np.linalg.lstsq(design, wanted.numpy(), rcond=None)[0]
    with torch.no_grad():
        assert np.abs(module(torch.from_numpy(fmri))[0].pooled.numpy() - best).max() < 0.1
    assert history[-1]["value"] < history[0]["value"] and {row["phase"] for row in history} == {"warm_start"}


def test_inversion_finds_the_condition_of_each_stimulus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversion, "PASSES", 300)
    given = all_folds(load_experiment(ROOT / "experiments" / "smoke.yaml"))[0].given
    step = inversion.inversion_step(Phase2Config(context_tokens=2, timestep_range=(300, 700)), given)
    clean = torch.tensor([[-1.0, 0, 1], [2, -1, 0.5], [0, 0, 0]])[..., None, None]
    known = {"value": lambda _, step: clean, "generator": lambda _, choice: Known(), "report": lambda *told: None}
    bench: Any = type("Bench", (), known | {"device": "cpu"})()
    inversion.invert(bench, tmp_path, **step.arguments)
    found = inversion.load(bench, tmp_path, **step.arguments)
    torch.testing.assert_close(found.pooled + found.context.mean(1), clean[..., 0, 0], atol=0.05, rtol=0)


def test_rows_and_seeds_share_the_inversion() -> None:
    smoke = load_experiment(ROOT / "experiments" / "smoke.yaml")
    base = override(smoke, {"decoder.phase2.warm_start": "inversion"}, "test")
    edits: list[dict[str, Any]] = [{}, {"seed": 3, "decoder.phase1.alpha_s": 0}, {"decoder.phase2.lr": 0.1}]
    steps = [all_folds(override(base, edit, "test"))[0].own["phase2"].needs["inverted"] for edit in edits]
    assert len({step.key for step in steps if step}) == 1
    other = override(base, {"decoder.phase2.warm_start": "classes"}, "test")
    assert "inverted" not in all_folds(other)[0].own["phase2"].needs


def test_the_training_says_how_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversion, "PASSES", 1)
    edits = {"phase1.enabled": False, "phase2.curve_items": 0, "phase2.checkpoint": "last", "phase2.max_steps": 1}
    edits = {f"decoder.{name}": value for name, value in edits.items()} | {"decoder.phase2.warm_start_steps": 20}
    smoke = override(load_experiment(ROOT / "experiments" / "smoke.yaml"), edits, "test")
    bench, losses = Workbench(StageCache(tmp_path)), {}
    for kind in ("classes", "inversion"):
        step = all_folds(override(smoke, {"decoder.phase2.warm_start": kind}, "test"))[0].own["phase2"]
        history = pd.read_parquet(bench.value(step) / "history.parquet")
        losses[kind] = history.groupby("phase")["value"].apply(list)
    assert losses["classes"]["phase2"] != losses["inversion"]["phase2"]
    for found in losses.values():
        assert len(found["warm_start"]) == 20 and found["warm_start"][-1] < found["warm_start"][0]
