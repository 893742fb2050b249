"""Phase 2 against PyTorch's attention, diffusers' scheduler, formulas, and its own promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnd.data.digit_images import augmented_digits
from cnd.decoders.cnd.phase1.model import FmriEncoder
from cnd.decoders.cnd.phase1.settings import EncoderConfig
from cnd.decoders.cnd.phase2 import training
from cnd.decoders.cnd.phase2.checkpoints import curve_items
from cnd.decoders.cnd.phase2.model import ConceptLayer, ConditionModule, count_parameters, denoising_loss
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.errors import UserError
from cnd.generators.embedded import EmbeddedGenerator
from cnd.generators.sampling import draw
from cnd.protocols import FmriSplit, Noise, SamplingConfig, TrainingSet

ENCODER = EncoderConfig(width=16, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)
N_VOXELS = 70


@pytest.fixture(scope="module")
def generator():
    return EmbeddedGenerator(name="digits").load()


def make_module(generator, **settings) -> ConditionModule:
    torch.manual_seed(0)
    encoder = FmriEncoder(ENCODER, N_VOXELS)
    config = Phase2Config(context_tokens=3, concept_heads=4, concept_depth=2, **settings)
    return ConditionModule(config, encoder, 1 + encoder.n_patches, ENCODER.width, generator.concept_bank)


def test_concept_layer_is_equation_6():
    """One layer against torch's scaled dot-product attention, written out."""
    torch.manual_seed(0)
    layer = ConceptLayer(width=8, bank_width=6, heads=2)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    tokens, bank = torch.randn(3, 5, 8), torch.randn(11, 6)
    query = layer.query(F.layer_norm(tokens, (8,), layer.norm_query.weight, layer.norm_query.bias))
    heads = [x.unflatten(-1, (2, 4)).transpose(-2, -3) for x in (query, layer.key(bank), layer.value(bank))]
    gathered = F.scaled_dot_product_attention(heads[0], heads[1].expand(3, -1, -1, -1), heads[2].expand(3, -1, -1, -1))
    expected = tokens + layer.output(gathered.transpose(1, 2).flatten(2))
    expected = expected + layer.mlp(layer.norm_mlp(expected))
    updated, attention = layer(tokens, bank)
    torch.testing.assert_close(updated, expected)
    torch.testing.assert_close(attention.sum(1), torch.ones(3))


@pytest.mark.parametrize("mapper", ["flatten", "conv"])
@pytest.mark.parametrize("position", ["before", "after"])
def test_condition_takes_the_place_of_the_class(generator, mapper: str, position: str):
    module = make_module(generator, token_mapper=mapper, mapper_position=position)
    condition, attention = module(torch.randn(4, N_VOXELS))
    width = generator.concept_bank.shape[1]
    assert condition.context.shape == (4, 3, width) and condition.pooled.shape == (4, width)
    torch.testing.assert_close(attention.sum(1), torch.ones(4))
    noise = generator.predict_noise(torch.randn(4, *generator.latent_shape), torch.tensor([1, 9, 500, 999]), condition)
    assert noise.shape == (4, *generator.latent_shape)


def test_both_conditions_reach_the_unet(generator):
    """Changing the context alone or the pooled vector alone changes the predicted noise."""
    condition = generator.class_condition(torch.tensor([3]))
    noisy, t = torch.randn(1, *generator.latent_shape), torch.tensor([500])
    base = generator.predict_noise(noisy, t, condition)
    for changed in (condition._replace(context=condition.context + 1), condition._replace(pooled=condition.pooled + 1)):
        assert (generator.predict_noise(noisy, t, changed) - base).abs().max() > 1e-4


def test_denoising_loss_is_equation_2():
    predicted, noise = torch.randn(6, 2, 3, 3), torch.randn(6, 2, 3, 3)
    alphas, t = torch.linspace(0.99, 0.01, 1000), torch.tensor([0, 10, 100, 400, 800, 999])
    plain = denoising_loss(predicted, noise, alphas, t, "none")
    assert plain.item() == pytest.approx(((predicted - noise) ** 2).mean().item(), rel=1e-5)
    expected = 0.0
    for i in range(6):
        snr = (alphas[t[i]] / (1 - alphas[t[i]])).item()
        expected += min(snr, 5.0) / snr * ((predicted[i] - noise[i]) ** 2).mean().item() / 6
    assert denoising_loss(predicted, noise, alphas, t, "min_snr").item() == pytest.approx(expected, rel=1e-5)


def test_add_noise_agrees_with_diffusers(generator):
    clean, noise, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])
    torch.testing.assert_close(generator.add_noise(clean, noise, t), generator.scheduler.add_noise(clean, noise, t))


def test_guidance_one_is_no_guidance_and_null_is_ignored(generator):
    condition = generator.class_condition(torch.tensor([6, 9]))
    noise = torch.randn(2, *generator.latent_shape)
    plain = generator.sample(condition, noise, steps=2, guidance=1.0)
    almost = generator.sample(condition, noise, steps=2, guidance=1.0 + 1e-6)
    torch.testing.assert_close(plain, almost, atol=1e-3, rtol=1e-3)


def data(generator) -> tuple[np.ndarray, torch.Tensor]:
    fmri = np.random.default_rng(0).standard_normal((24, N_VOXELS)).astype(np.float32)
    return fmri, torch.randn(24, *generator.latent_shape, generator=torch.Generator().manual_seed(1))


def worth(values: list[float]):
    """Measures nothing but what the checkpoint rule compares, from a list."""
    found = iter(values)
    return lambda: training.Measured({}, [], next(found))


def run_fit(
    generator, config: Phase2Config, measure=None, encoder_config=ENCODER, **options
) -> tuple[ConditionModule, training.Phase2State]:
    torch.manual_seed(0)
    encoder = FmriEncoder(encoder_config, N_VOXELS)
    module = ConditionModule(config, encoder, 1 + encoder.n_patches, ENCODER.width, generator.concept_bank)
    return module, training.fit(config, module, generator, *data(generator), seed=0, measure=measure, **options)


SMALL = dict(context_tokens=3, concept_heads=4, concept_depth=1, max_steps=4, batch_size=8, lr=1e-3)


def test_frozen_tensors_stay_bit_identical_and_the_rest_learns(generator):
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    module, _ = run_fit(generator, Phase2Config(**SMALL))
    assert all(torch.equal(before[k], v) for k, v in generator.state_dict().items())
    fresh = make_module(generator)
    assert not torch.equal(module.encoder.patch_embed.weight, fresh.encoder.patch_embed.weight)
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


def test_frozen_encoder_stays(generator):
    torch.manual_seed(0)
    untouched = FmriEncoder(ENCODER, N_VOXELS).state_dict()
    module, _ = run_fit(generator, Phase2Config(**SMALL, train_encoder=False))
    assert all(torch.equal(untouched[k], v) for k, v in module.encoder.state_dict().items())


def test_dc_ldm_policy_trains_cross_attention_only():
    generator = EmbeddedGenerator(name="digits").load()
    before = {k: v.clone() for k, v in generator.unet.state_dict().items()}
    run_fit(generator, Phase2Config(**SMALL, train_unet_cross_attention=True))
    changed = {k for k, v in generator.unet.state_dict().items() if not torch.equal(before[k], v)}
    assert changed and all(".attn2." in k or ".norm2." in k for k in changed)


def test_same_seed_same_weights(generator):
    one, two = (run_fit(generator, Phase2Config(**SMALL))[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_best_checkpoint_is_kept(generator):
    _, fitted = run_fit(generator, Phase2Config(**SMALL, n_checkpoints=4), worth([0.1, 0.9, 0.3, 0.2]))
    assert fitted.chosen_step == 2


def test_learns_which_pattern_means_which_class(generator):
    """Two patterns, two digits: after a short training each pattern's condition denoises its own digit better."""
    images, labels = augmented_digits(400, np.random.default_rng(0))
    chosen = np.flatnonzero((labels == 1) | (labels == 8))[:48]
    latents = generator.encode(images[chosen])
    templates = np.random.default_rng(1).standard_normal((2, N_VOXELS)).astype(np.float32)
    kind = (labels[chosen] == 8).astype(int)
    settings = SMALL | dict(max_steps=100, lr=3e-3, timestep_range=(400, 700), checkpoint="last")
    config = Phase2Config(**settings)
    torch.manual_seed(0)
    encoder = FmriEncoder(ENCODER, N_VOXELS)
    module = ConditionModule(config, encoder, 1 + encoder.n_patches, ENCODER.width, generator.concept_bank)
    training.fit(config, module, generator, templates[kind], latents, seed=0)
    right = training.validation_loss(module, generator, config, templates[kind], latents)
    wrong = training.validation_loss(module, generator, config, templates[1 - kind], latents)
    assert right < 0.95 * wrong


def test_non_finite_loss_names_the_step(generator):
    config = Phase2Config(**SMALL)
    encoder = FmriEncoder(ENCODER, N_VOXELS)
    module = ConditionModule(config, encoder, 1 + encoder.n_patches, ENCODER.width, generator.concept_bank)
    fmri = np.full((8, N_VOXELS), np.nan, np.float32)
    with pytest.raises(FloatingPointError, match=r"Phase 2.*step 0"):
        training.fit(config, module, generator, fmri, torch.randn(8, *generator.latent_shape), seed=0)


def test_rate_schedule():
    config = Phase2Config(warmup_fraction=0.1, schedule="cosine")
    assert training.rate_factor(config, 0, 100) == pytest.approx(0.1)
    assert training.rate_factor(config, 10, 100) == pytest.approx(1.0)
    assert training.rate_factor(config, 55, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert training.rate_factor(Phase2Config(), 50, 100) == 1.0


def test_steps_follow_epochs_unless_given():
    assert training.n_steps(Phase2Config(max_epochs=500), 1200) == 500 * 150
    assert training.n_steps(Phase2Config(max_steps=1000), 1200) == 1000


def test_every_item_is_seen_once_an_epoch_in_a_fresh_order(generator, monkeypatch):
    seen = []
    step = training.train_step
    monkeypatch.setattr(training, "train_step", lambda *a: seen.append(a[5]) or step(*a))
    run_fit(generator, Phase2Config(**SMALL | dict(max_steps=6)))  # 24 items, 3 batches an epoch
    one, two = (torch.cat(seen[i : i + 3])[:, 0] for i in (0, 3))
    assert len(one.unique()) == 24 and torch.equal(one.sort().values, two.sort().values) and not torch.equal(one, two)


def test_noise_depends_on_its_shape_and_the_seed_only():
    first = Noise(0, 2).latents(4, (3,))
    assert first.shape == (4, 2, 3) and torch.equal(first, Noise(0, 2).latents(4, (3,)))
    assert not torch.equal(first, Noise(1, 2).latents(4, (3,)))


def test_reconstructions_do_not_depend_on_the_batch_size(generator):
    condition = generator.class_condition(torch.tensor([0, 1, 2]))
    noise = Noise(0, 2).latents(3, generator.latent_shape)
    one, two = (draw(SamplingConfig(steps=2, batch_size=b), generator, condition, noise) for b in (6, 2))
    assert one.shape == (3, 2, 1, 32, 32) and np.abs(one.astype(int) - two.astype(int)).max() <= 1


def test_parameter_count(generator):
    module = make_module(generator)
    counts = count_parameters(module, generator)
    assert counts["frozen"] == sum(p.numel() for p in generator.parameters())
    assert counts["trainable"] == sum(p.numel() for p in module.parameters())


def test_pooled_vector_of_a_time_embedding_starts_at_zero(generator):
    """Where the generator adds it to its time embedding as it is, the untrained module must not disturb it."""
    encoder = FmriEncoder(ENCODER, N_VOXELS)
    config = Phase2Config(context_tokens=3, concept_heads=4)
    module = ConditionModule(config, encoder, 1 + encoder.n_patches, ENCODER.width, generator.concept_bank, 20)
    condition, _ = module(torch.randn(4, N_VOXELS))
    assert torch.equal(condition.pooled, torch.zeros(4, 20))
    condition.pooled.square().sum().backward()
    condition, _ = module(torch.randn(4, N_VOXELS))
    (condition.pooled - 1).square().sum().backward()
    assert module.pooled_head.linear.weight.grad.abs().min() > 0  # and it can leave zero


# ---------------------------------------------------------------- memory and precision


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8, 100])
def test_micro_batches_train_the_same_weights(micro_batch_size: int):
    """In double precision, where Adam does not turn rounding noise of zero gradients into steps."""
    generator = EmbeddedGenerator(name="digits").load().double()
    settings = SMALL | dict(max_steps=3, loss_weighting="min_snr")
    fmri, latents = data(generator)
    states = []
    for micro in (None, micro_batch_size):
        config = Phase2Config(**settings, micro_batch_size=micro)
        torch.manual_seed(0)
        encoder = FmriEncoder(ENCODER, N_VOXELS).double()
        module = ConditionModule(config, encoder, 1 + encoder.n_patches, ENCODER.width, generator.concept_bank).double()
        fitted = training.fit(config, module, generator, fmri[:20].astype(float), latents[:20].double(), seed=0)
        states.append((module.state_dict(), fitted.history))
    (full, history), (micro_state, micro_history) = states  # 20 items: the last batch has 4
    for name, tensor in full.items():
        torch.testing.assert_close(micro_state[name], tensor, rtol=0, atol=1e-12, msg=name)
    assert [r["value"] for r in history] == pytest.approx([r["value"] for r in micro_history], abs=1e-12)


def test_micro_batches_bound_the_items_in_memory(generator, monkeypatch):
    sizes: list[int] = []
    predict = generator.predict_noise
    monkeypatch.setattr(generator, "predict_noise", lambda noisy, *a: sizes.append(len(noisy)) or predict(noisy, *a))
    run_fit(generator, Phase2Config(**SMALL | dict(max_steps=2), micro_batch_size=3))
    assert sizes == [3, 3, 2] * 2


def test_activation_checkpointing_changes_nothing(generator):
    plain, _ = run_fit(generator, Phase2Config(**SMALL))
    saving = ENCODER.model_copy(update={"activation_checkpointing": True})
    checkpointed, _ = run_fit(generator, Phase2Config(**SMALL), encoder_config=saving)
    assert all(torch.equal(plain.state_dict()[k], v) for k, v in checkpointed.state_dict().items())


@pytest.mark.parametrize(("precision", "relative"), [("bfloat16", 0.03), ("float16", 0.005)])
def test_reduced_precision_is_close_and_its_loss_is_float32(generator, precision: str, relative: float):
    fmri, latents = data(generator)
    noise, t = torch.randn(24, *generator.latent_shape), torch.arange(24) * 40
    losses = {}
    for each in ("float32", precision):
        module = make_module(generator)
        config = Phase2Config(precision=each)
        loss = training.forward_loss(config, module, generator, torch.from_numpy(fmri), latents, noise, t)
        losses[each] = loss
        loss.backward()
        assert all(p.grad.dtype == torch.float32 for p in module.parameters() if p.grad is not None)
    assert losses[precision].dtype == torch.float32
    difference = abs(losses[precision] - losses["float32"]).item()
    assert 0 < difference < relative * losses["float32"].item()  # and it is not float32 in disguise


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_trains_float32_weights(generator, precision: str):
    module, fitted = run_fit(generator, Phase2Config(**SMALL, precision=precision))
    assert all(p.dtype == torch.float32 for p in module.parameters())
    exact, expected = run_fit(generator, Phase2Config(**SMALL))
    found, wanted = ([row["value"] for row in f.history] for f in (fitted, expected))
    assert found == pytest.approx(wanted, rel=0.05)
    assert not torch.equal(module.pooled_head.linear.weight, exact.pooled_head.linear.weight)


# ---------------------------------------------------------------- interruption


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_in(n_reports: int):
    calls = iter(range(n_reports - 1))

    def report(fraction, samples_seen, metrics):
        if next(calls, None) is None:
            raise Killed

    return report


# within an epoch, in the next one, after the best checkpoint; float16 in tiny batches, for it is slow on a CPU
@pytest.mark.parametrize(
    ("killed_at", "more"),
    [(2, {}), (4, {}), (6, {}), (4, dict(precision="float16", batch_size=1)), (4, dict(weight_average=2.0))],
)
def test_killed_training_goes_on_to_the_identical_result(generator, tmp_path, killed_at: int, more: dict):
    config = Phase2Config(**SMALL | dict(max_steps=8, n_checkpoints=4, warmup_fraction=0.3) | more)
    values = [0.1, 0.9, 0.3, 0.2]
    whole, expected = run_fit(generator, config, worth(values))
    with pytest.raises(Killed):
        run_fit(generator, config, worth(values), report=kill_in(killed_at), resume=tmp_path, save_every=0.0)
    left = values[(killed_at - 1) // 2 :]  # the state on disk is that of the step before
    resumed, fitted = run_fit(generator, config, worth(left), resume=tmp_path, save_every=0.0)
    assert fitted.history == expected.history and fitted.chosen_step == expected.chosen_step == 4
    assert all(torch.equal(whole.state_dict()[k], v) for k, v in resumed.state_dict().items())


def test_trained_cross_attention_is_resumed_and_the_best_is_kept(tmp_path):
    config = Phase2Config(**SMALL, train_unet_cross_attention=True, n_checkpoints=4)
    short = Phase2Config(**SMALL | dict(max_steps=2), train_unet_cross_attention=True)

    def unet(config: Phase2Config, **options) -> dict[str, torch.Tensor]:
        own = EmbeddedGenerator(name="digits").load()
        run_fit(own, config, **options)
        return own.unet.state_dict()

    best = unet(config, measure=worth([0.1, 0.9, 0.3, 0.2]))
    expected = unet(short)  # the same first steps, and no more
    assert all(torch.equal(best[k], v) for k, v in expected.items())
    last = unet(config)
    with pytest.raises(Killed):
        unet(config, report=kill_in(3), resume=tmp_path, save_every=0.0)
    resumed = unet(config, resume=tmp_path)
    assert all(torch.equal(resumed[k], v) for k, v in last.items())
    assert any(not torch.equal(last[k], v) for k, v in best.items())


def test_finished_long_training_is_not_done_again(generator, tmp_path, monkeypatch):
    first, _ = run_fit(generator, Phase2Config(**SMALL), resume=tmp_path, save_every=0.0)
    monkeypatch.setattr(training, "train_step", lambda *a: pytest.fail("a finished training went on"))
    second, _ = run_fit(generator, Phase2Config(**SMALL), resume=tmp_path)
    assert all(torch.equal(first.state_dict()[k], v) for k, v in second.state_dict().items())


def test_short_training_leaves_no_state_and_another_one_is_refused(generator, tmp_path):
    run_fit(generator, Phase2Config(**SMALL), resume=tmp_path)
    assert list(tmp_path.iterdir()) == []
    run_fit(generator, Phase2Config(**SMALL), resume=tmp_path, save_every=0.0)
    with pytest.raises(UserError, match="another training"):
        run_fit(generator, Phase2Config(**SMALL | dict(lr=2e-3)), resume=tmp_path)


# ---------------------------------------------------------------- curve, and training until it is flat


def curve(values: list[float]):
    """Measures the score of two items, whose mean is from a list."""
    found = iter(values)

    def measure() -> training.Measured:
        value = next(found)
        return training.Measured({"validation_score": value}, [value - 0.1, value + 0.1])

    return measure


def test_checkpoints_are_evenly_spaced_and_the_last_step_is_one():
    config = Phase2Config(n_checkpoints=8)
    steps = [step for step in range(1, 371) if training.is_checkpoint(config, step, 370)]
    assert steps == [47, 93, 139, 185, 232, 278, 324, 370]
    assert training.is_checkpoint(config, 417, 370)  # 370 + 47: the same distance, further on


def test_curve_is_kept_with_the_samples_seen(generator):
    _, fitted = run_fit(generator, Phase2Config(**SMALL, n_checkpoints=4), curve([0.1, 0.3, 0.4, 0.5]))
    assert [seen for seen, _ in fitted.curve] == [8, 16, 24, 32]
    assert fitted.curve[-1][1] == pytest.approx([0.4, 0.6])
    rows = [row for row in fitted.history if row["name"] == "validation_score"]
    assert [row["value"] for row in rows] == [0.1, 0.3, 0.4, 0.5]


def test_looking_changes_nothing(generator):
    plain, _ = run_fit(generator, Phase2Config(**SMALL))
    watched, _ = run_fit(generator, Phase2Config(**SMALL, n_checkpoints=4), curve([0.1] * 4))
    assert all(torch.equal(plain.state_dict()[k], v) for k, v in watched.state_dict().items())


@pytest.mark.parametrize(
    ("values", "until", "steps"),
    [
        ([0.2] * 9, {}, 4),  # flat: the ordinary training
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6], {}, 9),  # 3/4 of 8 and of 9 steps is step 6
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6], {"patience": 1}, 8),
        ([0.1 * i for i in range(40)], {"cap": 6}, 6),
        ([0.1 * i for i in range(40)], {}, 32),
        ([0.1 * i for i in range(40)], {"tolerance": 1.0}, 4),
    ],
)
def test_training_until_the_curve_is_flat(generator, values, until, steps):
    config = Phase2Config(**SMALL, n_checkpoints=4, until_converged=until)
    _, fitted = run_fit(generator, config, curve(values))
    assert fitted.step == fitted.chosen_step == steps and fitted.samples_seen == 8 * steps


@pytest.mark.parametrize("killed_at", [3, 6, 7])
def test_killed_training_until_converged_goes_on_to_the_identical_result(generator, tmp_path, killed_at: int):
    config = Phase2Config(**SMALL, n_checkpoints=4, until_converged={})
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6]
    whole, expected = run_fit(generator, config, curve(values))
    with pytest.raises(Killed):
        run_fit(generator, config, curve(values), report=kill_in(killed_at), resume=tmp_path, save_every=0.0)
    resumed, fitted = run_fit(generator, config, curve(values[killed_at - 1 :]), resume=tmp_path, save_every=0.0)
    assert fitted.step == expected.step == 9 and fitted.history == expected.history
    assert [tuple(point) for point in fitted.curve] == expected.curve
    assert all(torch.equal(whole.state_dict()[k], v) for k, v in resumed.state_dict().items())


def test_training_until_converged_needs_a_curve_and_a_constant_rate():
    with pytest.raises(ValueError, match="curve_items"):
        Phase2Config(until_converged={}, curve_items=0)
    with pytest.raises(ValueError, match="set schedule to constant"):
        Phase2Config(until_converged={}, schedule="cosine")


def test_power_average_reaches_back_over_the_same_share_however_long_the_training():
    gamma, steps = 3.0, 400
    values = torch.randn(steps, generator=torch.Generator().manual_seed(0)).double()
    at = training.Phase2State(torch.Generator(), torch.arange(1))
    for at.step, value in enumerate(values, 1):
        training.update_average(at, gamma, {"w": value})
    # its exact weights are 1 - (1 - 1/s)^(gamma + 1) times what later steps leave of it; s^gamma in the limit
    share = torch.arange(1, steps + 1).double() ** gamma
    assert at.average["w"].item() == pytest.approx((share @ values / share.sum()).item(), abs=2e-3)


def test_the_average_is_what_is_scored_and_kept(generator):
    scored: list[torch.Tensor] = []
    module = None

    def measure() -> training.Measured:
        scored.append(module.mapper.mix.weight.detach().clone())
        return training.Measured({}, [])

    fmri, latents = data(generator)
    config = Phase2Config(
        context_tokens=3, concept_heads=4, max_steps=6, checkpoint="last", weight_average=2.0, lr=0.01
    )
    module = make_module(generator)
    at = training.fit(config, module, generator, fmri, latents, 0, measure)
    kept = module.mapper.mix.weight
    assert torch.equal(scored[-1], kept) and torch.equal(at.average["module.mapper.mix.weight"], kept)
    last = make_module(generator)
    training.fit(config.model_copy(update={"weight_average": None}), last, generator, fmri, latents, 0)
    assert not torch.equal(last.mapper.mix.weight, kept)


def test_curve_items_are_held_out_and_spread():
    items = FmriSplit(np.zeros((100, 2), np.float32), np.zeros((100, 0, 0, 0), np.uint8), np.arange(100), [""] * 100)
    train = TrainingSet(items, np.arange(40, 80))
    assert list(curve_items(train, 4)) == [40, 53, 66, 79]
    assert list(curve_items(train, 60)) == list(range(40, 80))
    assert len(curve_items(TrainingSet(items, np.zeros(0, np.int64)), 60)) == 0
