"""The training loop of Phase 1: schedule, batches, determinism, interruption, and a plain loop beside it."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cnd.decoders.cnd.phase1 import training
from cnd.decoders.cnd.phase1.losses import backward_in_micro_batches, double_contrastive_loss, sparsify
from cnd.decoders.cnd.phase1.model import MaskedAutoencoder, random_order
from cnd.decoders.cnd.phase1.settings import EncoderConfig, Phase1Config
from cnd.decoders.cnd.phase1.training import batch_starts, fit, learning_rate
from cnd.errors import UserError

TINY = EncoderConfig(patch_size=4, width=8, depth=1, heads=2, decoder_width=8, decoder_depth=1, decoder_heads=2)
QUICK = Phase1Config(batch_size=8, warmup_epochs=1, lr=1e-2)
N_VOXELS = 30


def low_rank(n: int, n_voxels: int = N_VOXELS, seed: int = 0) -> np.ndarray:
    """Patterns whose masked voxels can be told from the visible ones."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, 3)) @ rng.standard_normal((3, n_voxels))).astype(np.float32)


def build(seed: int = 0, n_voxels: int = N_VOXELS) -> MaskedAutoencoder:
    return MaskedAutoencoder(TINY, n_voxels, seed)


def assert_same_weights(first: MaskedAutoencoder, second: MaskedAutoencoder) -> None:
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def assert_same_function(first: MaskedAutoencoder, second: MaskedAutoencoder) -> None:
    """Equal but for rounding. Weights cannot be compared: attention ignores the bias of its keys, so its gradient
    is rounding noise, which Adam turns into full steps."""
    fmri = torch.from_numpy(low_rank(8, first.encoder.n_voxels, seed=1))
    order = random_order(8, first.encoder.n_patches, torch.Generator().manual_seed(0))
    torch.testing.assert_close(first.predict(fmri, order, 0.5), second.predict(fmri, order, 0.5), rtol=1e-4, atol=1e-5)
    untrained = build().predict(fmri, order, 0.5)
    assert (second.predict(fmri, order, 0.5) - untrained).abs().max() > 1e-2  # the comparison can tell


# ---------------------------------------------------------------- schedule and batches


def test_paper_schedule() -> None:
    config = Phase1Config()  # 2.5e-4, 20 epochs of warm-up
    at = {0.0: 0.0, 5.0: 0.625e-4, 10.0: 1.25e-4, 20.0: 2.5e-4, 260.0: 1.25e-4, 500.0: 0.0}
    for epoch, expected in at.items():
        assert learning_rate(epoch, 500, config) == pytest.approx(expected, abs=1e-12)
    for epoch in (20.5, 140.25, 499.9):
        expected = 2.5e-4 * (1 + math.cos(math.pi * (epoch - 20) / 480)) / 2
        assert learning_rate(epoch, 500, config) == pytest.approx(expected)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(0.0, 10, Phase1Config(warmup_epochs=0)) == 2.5e-4


def test_schedule_moves_every_iteration() -> None:
    rates: list[float] = []
    fit(build(), low_rank(24), QUICK, 4, 0, "tune", lambda fraction, seen, metrics: rates.append(metrics["lr"]))
    expected = [learning_rate(step / 3, 4, QUICK) for step in range(12)]
    assert rates == pytest.approx(expected)
    assert len(set(rates)) == 12 and rates[0] == 0


@pytest.mark.parametrize(
    ("n", "sizes"), [(2, [2]), (5, [5]), (8, [8]), (9, [8]), (10, [8, 2]), (17, [8, 8]), (16, [8, 8])]
)
def test_batches_of_an_epoch(n: int, sizes: list[int]) -> None:
    assert [min(8, n - start) for start in batch_starts(n, 8)] == sizes


def test_one_pattern_has_nothing_to_contrast_with() -> None:
    with pytest.raises(UserError, match="there are 1"):
        fit(build(), low_rank(1), QUICK, 1, 0, "tune")


def test_every_epoch_sees_every_pattern_once_in_a_fresh_order(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Tensor] = []
    step = training.train_step
    monkeypatch.setattr(
        training, "train_step", lambda model, fmri, *rest: batches.append(fmri) or step(model, fmri, *rest)
    )
    data = low_rank(12)
    fit(build(), data, QUICK, 3, 0, "tune")
    epochs = [torch.cat(batches[i : i + 2]) for i in (0, 2, 4)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch[:, 0]), np.sort(data[:, 0]))
    assert not torch.equal(epochs[0], epochs[1]) and not torch.equal(epochs[1], epochs[2])


# ---------------------------------------------------------------- against a plain loop


def plain_loop(model: MaskedAutoencoder, data: Tensor, config: Phase1Config, epochs: int, seed: int) -> None:
    """AdamW, clipping and schedule written once more, with PyTorch's own scheduler."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay, foreach=False
    )
    n_batches = len(data) // config.batch_size
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1, s / n_batches / config.warmup_epochs))
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=generator)
        for ids in order.split(config.batch_size):
            sparse = sparsify(data[ids], config.sparsification, generator)
            loss, _ = double_contrastive_loss(model, data[ids], sparse, config, generator)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
            for p in model.parameters():
                p.grad *= min(1.0, config.gradient_clip / norm.item())
            optimizer.step()
            warm_up.step()


def test_updates_are_those_of_a_plain_loop() -> None:
    data = low_rank(16)
    config = Phase1Config(batch_size=8, warmup_epochs=4, lr=1e-3, weight_decay=0.5, gradient_clip=0.1)
    model, expected = build(), build()
    fit(model, data, config, 4, 3, "tune")  # warm-up throughout, as in plain_loop
    plain_loop(expected, torch.from_numpy(data), config, 4, 3)
    assert_same_function(model, expected)


@pytest.mark.parametrize(
    "config",
    [
        QUICK,
        QUICK.model_copy(update={"self_contrast_view": "both", "negatives": "positives"}),
        QUICK.model_copy(update={"alpha_c": 0.0}),
        QUICK.model_copy(update={"alpha_s": 0.0, "alpha_c": 0.0, "reconstruction_weight": 1.0}),
    ],
)
def test_loss_decreases(config: Phase1Config) -> None:
    values: list[float] = []
    fit(build(), low_rank(32), config, 40, 0, "tune", lambda fraction, seen, metrics: values.append(metrics["loss"]))
    assert np.mean(values[-8:]) < 0.9 * np.mean(values[:8])


def test_micro_batches_train_the_same_model() -> None:
    full, micro = build(), build()
    fit(full, low_rank(16), QUICK, 3, 0, "tune")
    fit(micro, low_rank(16), Phase1Config(**{**QUICK.model_dump(), "micro_batch_size": 3}), 3, 0, "tune")
    assert_same_function(micro, full)


# ---------------------------------------------------------------- determinism, history, failures


def test_seed_decides_everything_and_the_global_generator_nothing() -> None:
    first, second, other = build(), build(), build()
    torch.manual_seed(1)
    history = fit(first, low_rank(20), QUICK, 3, 7, "pretrain")
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert fit(second, low_rank(20), QUICK, 3, 7, "pretrain") == history
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_weights(first, second)
    fit(other, low_rank(20), QUICK, 3, 8, "pretrain")
    assert not torch.equal(first.decoder.head.weight, other.decoder.head.weight)


def test_history_is_long_form_and_short() -> None:
    history = fit(build(), low_rank(10), QUICK, 150, 0, "pretrain")  # 300 steps
    points = defaultdict(list)
    for row in history:
        assert row["phase"] == "phase1.pretrain" and math.isfinite(row["value"])
        points[row["name"]].append(row["samples_seen"])
    assert set(points) == {"loss", "cross_contrast", "self_contrast", "gradient_norm", "lr"}
    for seen in points.values():
        assert 100 <= len(seen) <= 201 and seen == sorted(set(seen)) and seen[-1] == 1500


def test_no_epochs_change_nothing() -> None:
    model = build()
    assert fit(model, low_rank(10), QUICK, 0, 0, "tune") == []
    assert_same_weights(model, build())


def test_first_value_that_is_not_finite_stops_the_training() -> None:
    data, model = low_rank(8), build()
    data[3, 5] = np.nan
    with pytest.raises(FloatingPointError, match=r"phase1\.tune: cross_contrast is nan at step 0"):
        fit(model, data, QUICK, 2, 0, "tune")
    assert_same_weights(model, build())  # the bad gradient never reached them


def test_pretraining_carries_over_to_a_subject_with_other_voxels() -> None:
    pretrained, subject = build(), build(seed=1, n_voxels=45)
    fit(pretrained, low_rank(16), QUICK, 2, 0, "pretrain")
    subject.load_state_dict(pretrained.state_dict())
    history = fit(subject, low_rank(16, 45), QUICK, 2, 0, "tune")
    assert history[0]["phase"] == "phase1.tune"


# ---------------------------------------------------------------- interruption


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_after(n_steps: int) -> Any:
    calls: list[float] = []

    def on_step(fraction: float, samples_seen: int, metrics: dict[str, float]) -> None:
        calls.append(fraction)
        if len(calls) == n_steps:
            raise Killed

    return on_step


@pytest.mark.parametrize("killed_at", [2, 4, 7])  # within an epoch, after its last step, in the next ones
def test_killed_training_goes_on_to_the_identical_result(tmp_path: Path, killed_at: int) -> None:
    data = low_rank(24)
    whole = build()
    expected = fit(whole, data, QUICK, 4, 5, "pretrain")
    with pytest.raises(Killed):  # the state on disk is that of the step before the last
        fit(build(), data, QUICK, 4, 5, "pretrain", kill_after(killed_at), tmp_path, save_every=0.0)
    resumed, seen = build(seed=9), []
    history = fit(resumed, data, QUICK, 4, 5, "pretrain", lambda f, n, m: seen.append(f), tmp_path, save_every=0.0)
    assert_same_weights(resumed, whole)
    assert history == expected
    assert seen == pytest.approx([step / 12 for step in range(killed_at, 13)])


def test_finished_long_training_is_not_done_again(tmp_path: Path) -> None:
    first, second = build(), build(seed=9)
    history = fit(first, low_rank(16), QUICK, 2, 0, "pretrain", resume=tmp_path, save_every=0.0)
    assert fit(second, low_rank(16), QUICK, 2, 0, "pretrain", kill_after(1), tmp_path) == history
    assert_same_weights(first, second)
    assert [file.name for file in tmp_path.iterdir()] == ["pretrain.safetensors"]


def test_short_training_leaves_no_state(tmp_path: Path) -> None:
    fit(build(), low_rank(16), QUICK, 2, 0, "tune", resume=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_state_of_another_training_is_refused(tmp_path: Path) -> None:
    fit(build(), low_rank(16), QUICK, 2, 0, "tune", resume=tmp_path, save_every=0.0)
    with pytest.raises(UserError, match="another training"):
        fit(build(), low_rank(16), QUICK, 2, 1, "tune", resume=tmp_path)


# ---------------------------------------------------------------- memory and precision


def gradients(config: EncoderConfig, phase1: Phase1Config) -> list[Tensor]:
    """Of one step's loss; with ``micro_batch_size`` accumulated."""
    model, generator = MaskedAutoencoder(config, N_VOXELS), torch.Generator().manual_seed(0)
    fmri = torch.from_numpy(low_rank(8))
    if phase1.micro_batch_size:
        backward_in_micro_batches(model, fmri, fmri, phase1, generator, phase1.micro_batch_size)
    else:
        torch.autograd.backward(double_contrastive_loss(model, fmri, fmri, phase1, generator)[0])
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("micro_batch_size", [None, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activation_checkpointing_changes_no_gradient(precision: Any, micro_batch_size: int | None) -> None:
    phase1 = Phase1Config(precision=precision, micro_batch_size=micro_batch_size)
    plain = gradients(TINY, phase1)
    checkpointed = gradients(TINY.model_copy(update={"activation_checkpointing": True}), phase1)
    assert len(plain) == len(checkpointed) == len(list(build().parameters()))
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))


def saved_for_backward(config: EncoderConfig) -> int:
    """Numbers that the graph of one loss keeps besides the weights."""
    model = MaskedAutoencoder(config, N_VOXELS)
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fmri = torch.from_numpy(low_rank(8))
        loss, _ = double_contrastive_loss(model, fmri, fmri, QUICK, torch.Generator().manual_seed(0))
    assert loss.requires_grad
    return sum(size for pointer, size in kept.items() if pointer not in weights)


def test_activation_checkpointing_keeps_less() -> None:
    deep = TINY.model_copy(update={"depth": 6, "decoder_depth": 4})
    assert saved_for_backward(deep.model_copy(update={"activation_checkpointing": True})) < saved_for_backward(deep) / 2


@pytest.mark.parametrize(("precision", "relative"), [("bfloat16", 0.1), ("float16", 0.02)])
@pytest.mark.parametrize("micro_batch_size", [None, 3])
def test_reduced_precision_is_close_and_its_losses_are_float32(
    precision: Any, relative: float, micro_batch_size: int | None
) -> None:
    exact = torch.cat([g.flatten() for g in gradients(TINY, Phase1Config())])
    config = Phase1Config(precision=precision, micro_batch_size=micro_batch_size)
    found = torch.cat([g.flatten() for g in gradients(TINY, config)])
    assert found.dtype == torch.float32
    assert 0 < (found - exact).norm() / exact.norm() < relative  # and it is not float32 in disguise


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_learns(precision: Any) -> None:
    values: list[float] = []
    config = Phase1Config(**{**QUICK.model_dump(), "precision": precision})
    model = build()
    fit(model, low_rank(32), config, 40, 0, "tune", lambda fraction, seen, metrics: values.append(metrics["loss"]))
    assert np.mean(values[-8:]) < 0.9 * np.mean(values[:8])
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_float16_leaves_out_steps_that_overflow_until_the_scale_fits() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    model, config = build(), Phase1Config(batch_size=8, precision="float16")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    generator, fmri = torch.Generator().manual_seed(0), torch.from_numpy(low_rank(8))
    metrics = training.train_step(model, fmri, optimizer, 1e-3, config, generator, scaler)
    assert "gradient_norm" not in metrics and math.isfinite(metrics["loss"]) and scaler.get_scale() == 2.0**39
    assert_same_weights(model, build())
    while "gradient_norm" not in metrics:
        metrics = training.train_step(model, fmri, optimizer, 1e-3, config, generator, scaler)
    assert not torch.equal(model.decoder.head.weight, build().decoder.head.weight)


def test_float16_resumes_with_its_scale(tmp_path: Path) -> None:
    config = Phase1Config(**{**QUICK.model_dump(), "precision": "float16"})
    whole, resumed = build(), build(seed=9)
    expected = fit(whole, low_rank(24), config, 4, 5, "tune")
    with pytest.raises(Killed):
        fit(build(), low_rank(24), config, 4, 5, "tune", kill_after(7), tmp_path, save_every=0.0)
    assert fit(resumed, low_rank(24), config, 4, 5, "tune", resume=tmp_path, save_every=0.0) == expected
    assert_same_weights(resumed, whole)


def test_training_that_starts_from_a_checkpoint_resumes(tmp_path: Path) -> None:
    """Its settings hold a path, and its positions are in the state."""
    config = Phase1Config(**{**QUICK.model_dump(), "initial_weights": Path("some.pth")})
    whole = build()
    whole.encoder.set_positions(torch.randn(5, 8, generator=torch.Generator().manual_seed(1)))
    interrupted, resumed = copy.deepcopy(whole), copy.deepcopy(whole)
    fit(whole, low_rank(16), config, 3, 5, "tune")
    with pytest.raises(Killed):
        fit(interrupted, low_rank(16), config, 3, 5, "tune", kill_after(3), tmp_path, save_every=0.0)
    fit(resumed, low_rank(16), config, 3, 5, "tune", resume=tmp_path)
    assert_same_weights(resumed, whole)
