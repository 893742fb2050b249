"""Hidden states against direct calls of the UNet, and their components against scikit-learn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from tiny_generator import tiny_generator

from cnd.cortex.compute.components import principal_components
from cnd.cortex.compute.states import Drive, StateStore, places, record, step_indices, submodules
from cnd.cortex.settings import AnalysisConfig
from cnd.errors import UserError
from cnd.generators.latent_diffusion import LatentDiffusion
from cnd.protocols import Condition, SamplingConfig

GUIDED = SamplingConfig(steps=4, guidance=2.0, batch_size=3)
ENCODER, DECODER = "down_blocks.0.downsamplers.0", "up_blocks.0.attentions.1"


@pytest.fixture(scope="module")
def generator() -> LatentDiffusion:
    return tiny_generator()


@pytest.fixture
def drive(generator: LatentDiffusion) -> Drive:
    random = torch.Generator().manual_seed(1)
    latents = torch.randn((5, *generator.latent_shape), generator=random)
    return Drive(generator.class_condition(torch.arange(5)), latents)


def stored(store: StateStore, name: str) -> np.ndarray:
    return np.concatenate(list(store.blocks(name)), axis=1) + store.reference[name]


def direct_state(generator: LatentDiffusion, module: str, latents: torch.Tensor, timestep: int, condition: Condition):
    """What the module puts out when the UNet is called once."""
    outputs = []
    hook = generator.unet.get_submodule(module).register_forward_hook(lambda m, i, o: outputs.append(o))
    generator.predict_noise(latents, torch.full((len(latents),), timestep), condition)
    hook.remove()
    (output,) = outputs
    return (output[0] if isinstance(output, tuple) else output).flatten(1).numpy()


def test_cin256_has_18_submodules_in_the_encoder_and_24_in_the_decoder():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):  # shapes only: the real one has 400 million parameters
        unet = UNet2DConditionModel(
            sample_size=64, in_channels=3, out_channels=3, block_out_channels=(192, 384, 576, 960),
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
            up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"), cross_attention_dim=512, attention_head_dim=32,
        )  # fmt: skip
    found = submodules(unet)
    assert {side: len(paths) for side, paths in found.items()} == {"encoder": 18, "decoder": 24}
    assert [(p.side, p.layer, p.module) for p in places(AnalysisConfig(), unet)] == [
        ("encoder", 4, "down_blocks.0.downsamplers.0"),
        ("encoder", 9, "down_blocks.1.downsamplers.0"),
        ("encoder", 14, "down_blocks.2.downsamplers.0"),
        ("decoder", 4, "up_blocks.0.attentions.1"),
        ("decoder", 9, "up_blocks.1.attentions.0"),
        ("decoder", 14, "up_blocks.1.upsamplers.0"),
    ]
    calls = [name for name, _ in unet.named_modules()]
    assert all(path in calls for paths in found.values() for path in paths)


def test_submodules_are_listed_in_the_order_in_which_they_run(generator: LatentDiffusion, drive: Drive):
    listed = [path for paths in submodules(generator.unet).values() for path in paths]
    ran: list[str] = []
    hooks = [
        generator.unet.get_submodule(path).register_forward_hook(lambda m, i, o, path=path: ran.append(path))
        for path in listed
    ]
    generator.predict_noise(drive.latents, torch.full((5,), 10), drive.condition)
    for hook in hooks:
        hook.remove()
    assert ran == listed


def test_layers_keep_their_relative_depth_in_a_small_unet(generator: LatentDiffusion):
    found = submodules(generator.unet)
    assert (len(found["encoder"]), len(found["decoder"])) == (5, 7)
    ends = places(AnalysisConfig(layers=(1, 18)), generator.unet)
    assert [p.module for p in ends] == [
        found["encoder"][0], found["encoder"][-1], found["decoder"][0], found["decoder"][round(17 / 23 * 6)],
    ]  # fmt: skip
    merged = places(AnalysisConfig(layers=(9, 10)), generator.unet)
    assert [(p.side, p.layer) for p in merged] == [("encoder", 9), ("decoder", 9)]


def test_modules_by_path(generator: LatentDiffusion):
    chosen = places(AnalysisConfig(modules=(DECODER, "conv_in")), generator.unet)
    assert [(p.side, p.layer, p.module) for p in chosen] == [("decoder", 4, DECODER), ("encoder", 1, "conv_in")]
    with pytest.raises(UserError, match=r"analysis.modules: 'up_blocks.0.attention.1'.*'up_blocks.0.attentions.1'"):
        places(AnalysisConfig(modules=("up_blocks.0.attention.1",)), generator.unet)
    with pytest.raises(UserError, match=r"analysis.layers: 19 found, expected 1 to 18"):
        places(AnalysisConfig(layers=(19,)), generator.unet)
    with pytest.raises(UserError, match="expected a UNet"):
        submodules(torch.nn.Linear(1, 1))


def test_steps_are_fractions_of_the_denoising():
    assert step_indices((0, 0.2, 0.6, 1), 250) == [0, 50, 150, 249]
    assert step_indices((0, 0.29, 0.999, 1), 100) == [0, 29, 99, 99]
    assert step_indices((0.2, 0.6), 4) == [0, 2]
    assert step_indices((0, 1), 1) == [0, 0]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_reconstruction_records_the_conditional_branch_along_the_guided_path(
    generator: LatentDiffusion, drive: Drive, tmp_path: Path, guidance: float
):
    sampling = GUIDED.model_copy(update={"guidance": guidance})
    store = record(generator, [ENCODER, DECODER], [0, 2], sampling, Drive(drive.condition, None), [7], tmp_path)
    noise = torch.randn(generator.latent_shape, generator=torch.Generator().manual_seed(7)).expand(5, -1, -1, -1)
    latents, null = noise, generator.null_condition(drive.condition)
    generator.scheduler.set_timesteps(4)
    for step, t in enumerate(generator.scheduler.timesteps.tolist()):
        if step in (0, 2):
            for module in (ENCODER, DECODER):
                expected = direct_state(generator, module, latents, t, drive.condition)
                np.testing.assert_allclose(stored(store, f"{module}@{step}"), expected, atol=2e-3)
        batch = torch.full((5,), t)
        without = generator.predict_noise(latents, batch, null)
        guided = without + guidance * (generator.predict_noise(latents, batch, drive.condition) - without)
        latents = generator.scheduler.step(guided, t, latents, eta=0.0).prev_sample


def test_stimulus_records_the_noised_latent_at_the_step(generator: LatentDiffusion, drive: Drive, tmp_path: Path):
    store = record(generator, [DECODER], [3, 1], GUIDED, drive, [7], tmp_path)
    noise = torch.randn(generator.latent_shape, generator=torch.Generator().manual_seed(7)).expand(5, -1, -1, -1)
    generator.scheduler.set_timesteps(4)
    for step in (1, 3):
        t = int(generator.scheduler.timesteps[step])
        alpha = generator.alphas_cumprod[t]
        noisy = alpha.sqrt() * drive.latents + (1 - alpha).sqrt() * noise
        expected = direct_state(generator, DECODER, noisy, t, drive.condition)
        np.testing.assert_allclose(stored(store, f"{DECODER}@{step}"), expected, atol=2e-3)


def test_states_are_averaged_over_noise_seeds(generator: LatentDiffusion, drive: Drive, tmp_path: Path):
    found = []
    for seeds in ([1], [2], [1, 2]):
        folder = tmp_path / str(seeds)
        folder.mkdir()
        found.append(stored(record(generator, [DECODER], [1], GUIDED, drive, seeds, folder), f"{DECODER}@1"))
    np.testing.assert_allclose(found[2], (found[0] + found[1]) / 2, atol=2e-3)
    assert np.abs(found[0] - found[1]).max() > 0.05


def test_a_full_disk_is_told_before_the_work_begins(
    generator: LatentDiffusion, drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"hidden states of 5 items take .* choose fewer analysis.layers"):
        record(generator, [DECODER], [0, 3], GUIDED, drive, [7], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_store_refuses_what_is_not_finite(tmp_path: Path):
    store = StateStore(tmp_path, 2)
    store.append("x", np.zeros((1, 3), np.float32))
    with pytest.raises(FloatingPointError, match="hidden state x"):
        store.append("x", np.array([[0, np.nan, 0]], np.float32))
    with pytest.raises(FloatingPointError):
        store.append("x", np.full((1, 3), 1e6, np.float32))


def test_the_store_keeps_small_differences_between_large_states(tmp_path: Path):
    values = 1000 + 0.01 * np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    store = StateStore(tmp_path, 6)
    store.append("x", values[:4])
    store.append("x", values[4:])
    np.testing.assert_allclose(stored(store, "x"), values, rtol=0, atol=1e-4)


# ---------------------------------------------------------------- components


def test_components_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    states = (rng.standard_normal((30, 8)) @ rng.standard_normal((8, 50)) * 3 + 5).astype(np.float32)
    blocks = [states[:, :20], states[:, 20:]]
    found = principal_components(blocks, 24, 6, 25.0)
    pca = PCA(6).fit(states[:24])
    scale = np.sqrt(pca.explained_variance_.mean() * 23 / 24)
    sign = np.sign((found.train * pca.transform(states[:24])).sum(0))
    np.testing.assert_allclose(found.train * sign * scale, pca.transform(states[:24]), atol=1e-3)
    np.testing.assert_allclose(found.test * sign * scale, pca.transform(states[24:]), atol=1e-3)
    assert found.explained_variance == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-6)
    assert found.train.var(0).mean() == pytest.approx(1, abs=1e-4)
    peak = np.abs(found.train).argmax(0)
    assert (found.train[peak, np.arange(6)] > 0).all()


def test_no_more_components_than_the_training_items_span():
    rng = np.random.default_rng(0)
    states = (rng.standard_normal((30, 3)) @ rng.standard_normal((3, 50))).astype(np.float32)
    assert principal_components([states], 24, 10, 1.0).train.shape == (24, 3)
    full = rng.standard_normal((6, 50)).astype(np.float32)
    assert principal_components([full], 5, 300, 1.0).train.shape == (5, 4)


def test_a_state_that_does_not_vary_has_no_components():
    states = np.full((8, 20), 3.0, np.float32) + 1e-6 * np.random.default_rng(0).standard_normal((8, 20)).astype("f4")
    found = principal_components([states - 3], 6, 4, 9.0)
    assert found.train.shape == (6, 0) and found.test.shape == (2, 0) and found.explained_variance == 0
