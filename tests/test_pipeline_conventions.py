"""The exported decoder takes and gives what pipelines of diffusers do, and raw patterns on request."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers.schedulers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)
from test_diffusion_pipeline import EXPERIMENT, N_VOXELS, build, patterns, seeded

from cnd.errors import UserError
from cnd.generators.pipeline import NORMALISATION, CndPipeline
from cnd.protocols import Normalisation

SHAPE = (8, 4, 4)  # of a latent


@pytest.fixture(scope="module")
def built() -> CndPipeline:
    return build(EXPERIMENT.generator.load())


@pytest.fixture
def pipe(built: CndPipeline) -> Iterator[CndPipeline]:
    scheduler = built.scheduler
    yield built
    built.scheduler, built.normalisation = scheduler, None
    built.remove_all_hooks()


class Plms(PNDMScheduler):
    """Latent diffusion's own, and MinD-Vis's."""

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> Any:
        return PNDMScheduler.from_config(config, skip_prk_steps=True)


def latents_of(pipe: CndPipeline, **options: Any) -> torch.Tensor:
    found: torch.Tensor = pipe(patterns(), output_type="latent", **({"generator": seeded()} | options)).images
    return found


# ---------------------------------------------------------------- what comes out


def test_kinds_of_output(pipe: CndPipeline) -> None:
    pil, array, tensor = (pipe(patterns(), generator=seeded(), output_type=t).images for t in ("pil", "np", "pt"))
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32 and tensor.shape == (3, 1, 32, 32)
    np.testing.assert_array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    assert 0 <= array.min() < array.max() <= 1 and array.dtype == np.float32
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in pil]), (array[..., 0] * 255).round())
    latents = latents_of(pipe)
    assert latents.shape == (3, *SHAPE)
    np.testing.assert_array_equal(pipe.latent_diffusion.decode(latents), (tensor.numpy() * 255).round())


def test_a_list_of_generators_has_one_for_each_image(pipe: CndPipeline) -> None:
    """As diffusers' ``randn_tensor`` takes it: image k is the one that generator k alone would give."""
    many = [torch.Generator().manual_seed(s) for s in range(6)]
    found = latents_of(pipe, generator=many, num_images_per_prompt=2)
    for k in (0, 3, 5):
        alone = pipe(patterns()[k // 2], generator=torch.Generator().manual_seed(k), output_type="latent").images
        torch.testing.assert_close(found[k : k + 1], alone, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="generator: expected one or 6, one for each image, found 2"):
        latents_of(pipe, generator=many[:2], num_images_per_prompt=2)


def test_noise_may_be_given_as_diffusers_or_as_a_sweep_has_it(pipe: CndPipeline) -> None:
    noise = torch.randn(6, *SHAPE, generator=seeded())
    drawn = latents_of(pipe, num_images_per_prompt=2)
    assert torch.equal(latents_of(pipe, latents=noise, num_images_per_prompt=2), drawn)
    assert torch.equal(latents_of(pipe, latents=noise.unflatten(0, (3, 2))), drawn)


def test_patterns_may_be_data_frames_lists_and_tensors(pipe: CndPipeline) -> None:
    expected = latents_of(pipe)
    frame = pd.DataFrame(patterns(), index=list("abc"), columns=[f"voxel {i}" for i in range(N_VOXELS)])
    for given in (frame, frame.astype(object), patterns().tolist(), torch.from_numpy(patterns()).requires_grad_()):
        assert torch.equal(pipe(given, generator=seeded(), output_type="latent").images, expected)
    alone = pipe(frame.iloc[0], latents=torch.randn(3, *SHAPE, generator=seeded())[:1], output_type="latent").images
    torch.testing.assert_close(alone, expected[:1], rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="fmri: expected numbers"):
        pipe(frame.assign(**{"voxel 0": "a"}))


# ---------------------------------------------------------------- steps


def test_callback_sees_every_step_and_may_change_the_latents(pipe: CndPipeline) -> None:
    seen: list[tuple[int, int, torch.Tensor]] = []

    def look(pipe_: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert pipe_ is pipe
        seen.append((step, int(timestep), tensors["latents"]))
        return tensors

    found = latents_of(pipe, num_inference_steps=4, callback_on_step_end=look)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3] and [t for _, t, _ in seen] == [750, 500, 250, 0]
    assert torch.equal(seen[-1][2], found) and torch.equal(found, latents_of(pipe, num_inference_steps=4))
    zeros = latents_of(pipe, callback_on_step_end=lambda *given: {"latents": torch.zeros(3, *SHAPE)})
    assert not zeros.any()
    with pytest.raises(
        UserError, match="callback_on_step_end_tensor_inputs: expected 'latents', found 'prompt_embeds'"
    ):
        latents_of(pipe, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["prompt_embeds"])


@pytest.mark.parametrize(
    "kind",
    [
        DPMSolverMultistepScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, DDPMScheduler,
        HeunDiscreteScheduler, Plms,
    ],
)  # fmt: skip
def test_other_schedulers_take_their_own_steps(kind: Any, pipe: CndPipeline) -> None:
    """As in a loop of diffusers written out, with guidance (2 in this experiment)."""
    scheduler, rng = kind.from_config(pipe.scheduler.config), seeded()
    scheduler.set_timesteps(3)
    with torch.no_grad():
        condition, null = pipe.condition(torch.from_numpy(patterns())), pipe.condition.null_class
        context = torch.cat([null.expand_as(condition.context), condition.context])
        pooled = torch.cat([null.expand_as(condition.pooled), condition.pooled])
        z = torch.randn(3, *SHAPE, generator=rng) * scheduler.init_noise_sigma
        extra = {"generator": rng} if "generator" in inspect.signature(scheduler.step).parameters else {}
        for t in scheduler.timesteps:
            noisy = scheduler.scale_model_input(torch.cat([z, z]), t)
            without, with_ = pipe.unet(noisy, t, context, class_labels=pooled).sample.chunk(2)
            z = scheduler.step(without + 2 * (with_ - without), t, z, **extra).prev_sample
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    found = latents_of(pipe, num_inference_steps=3)
    torch.testing.assert_close(found, z, rtol=1e-4, atol=1e-4)


def test_schedulers_of_other_models_are_refused(pipe: CndPipeline) -> None:
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(UserError, match="scheduler: expected one that takes predicted noise, found FlowMatchEuler"):
        latents_of(pipe)
    pipe.scheduler = EulerDiscreteScheduler(prediction_type="v_prediction")
    with pytest.raises(UserError, match=r"found EulerDiscreteScheduler \(v_prediction\)"):
        latents_of(pipe)


def test_models_may_wait_on_the_cpu(pipe: CndPipeline) -> None:
    """``enable_model_cpu_offload``, here from the CPU to the CPU: its hooks run, and images stay what they are."""
    pytest.importorskip("accelerate")
    expected, called = latents_of(pipe), []
    pipe.enable_model_cpu_offload(device="cpu")
    for name in ("condition", "unet", "vae"):
        hook = getattr(pipe, name)._hf_hook
        hook.pre_forward = lambda *a, f=hook.pre_forward, n=name, **k: (called.append(n), f(*a, **k))[1]
    assert torch.equal(latents_of(pipe), expected) and set(called) == {"condition", "unet"}
    assert len(pipe(patterns(), generator=seeded()).images) == 3  # hooks were put back; the autoencoder has its own


def test_nothing_is_said_that_nobody_asked_for(
    pipe: CndPipeline, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    with warnings.catch_warnings():
        for category in (UserWarning, FutureWarning):  # numpy deprecates what diffusers does, which Python hides
            warnings.simplefilter("error", category)
        pipe = CndPipeline.from_pretrained(tmp_path / "saved")
        capfd.readouterr()  # diffusers' bar of the parts
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(s) for s in range(3)]
        pipe(pd.DataFrame(patterns()), generator=generators, output_type="pt", callback_on_step_end=lambda *_: {})
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
        pipe(patterns(), num_inference_steps=2)
        pipe.to(torch.bfloat16)(patterns(), num_inference_steps=2)
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


# ---------------------------------------------------------------- normalisation


def raw_patterns(n: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 500 + 20 * np.arange(N_VOXELS) + 7 * rng.standard_normal((n, N_VOXELS))


def test_raw_patterns_are_normalised_on_request(pipe: CndPipeline, tmp_path: Path) -> None:
    training = raw_patterns(40, seed=1)
    pipe.normalisation = Normalisation.of(training)
    pipe.save_pretrained(tmp_path / "again")
    loaded = CndPipeline.from_pretrained(tmp_path / "again")
    loaded.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(loaded.normalisation.mean, training.mean(0))
    expected = (
        latents_of(pipe, **{"generator": seeded()}) * 0
        + loaded(
            ((raw_patterns() - training.mean(0)) / training.std(0)).astype(np.float32),
            generator=seeded(),
            output_type="latent",
        ).images
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = loaded(pd.DataFrame(raw_patterns()), generator=seeded(), output_type="latent", normalise=True).images
    torch.testing.assert_close(found, expected)
    with pytest.warns(UserWarning, match=r"fmri: far from z-scored: mean 1\.19e\+03.*or pass normalise=True"):
        loaded(raw_patterns(), output_type="latent")


@pytest.mark.parametrize(
    ("mean", "spread", "told"), [(0.0, 0.3, False), (0.4, 3.0, False), (0.6, 1.0, True), (0, 0, True)]
)
def test_what_counts_as_far_from_z_scored(pipe: CndPipeline, mean: float, spread: float, told: bool) -> None:
    """Averages of many trials spread less than single ones, and are no fault."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        pipe._patterns(mean + spread * patterns(20), False, None)
    assert bool(found) == told


def test_an_export_without_normalisation_says_so(pipe: CndPipeline) -> None:
    with pytest.raises(UserError, match=rf"normalise: the export has no {NORMALISATION}"):
        pipe(patterns(), normalise=True)


def test_a_damaged_normalisation_is_told(pipe: CndPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "again")
    (tmp_path / "again" / NORMALISATION).write_bytes(b"no")
    with pytest.raises(UserError, match="cannot load the decoder"):
        CndPipeline.from_pretrained(tmp_path / "again")


@pytest.mark.filterwarnings("ignore:fmri. far from z-scored")  # of some runs there are too few
@pytest.mark.parametrize("rule", ["run mean", "run"])
def test_runs_are_normalised_by_themselves_where_the_training_runs_were(rule: Any, pipe: CndPipeline) -> None:
    training, found = raw_patterns(40, seed=1), raw_patterns(20, seed=2) + np.repeat([0, 90], [9, 11])[:, None]
    training[:, 3] = found[:, 3] = 5  # a voxel that does not vary
    pipe.normalisation = Normalisation.of(training, rule)
    run = ["morning"] * 9 + ["evening"] * 8 + ["night"] * 3
    z = pipe._patterns(found, True, run).numpy()
    assert not z[:, 3].any()
    found, training, z = (np.delete(part, 3, axis=1) for part in (found, training, z))
    for rows in (slice(0, 9), slice(9, 17)):
        spread = found[rows].std(0) if rule == "run" else training.std(0)
        np.testing.assert_allclose(z[rows], (found[rows] - found[rows].mean(0)) / spread, atol=1e-5)
    np.testing.assert_allclose(z[17:], (found[17:] - training.mean(0)) / training.std(0), atol=1e-5)  # too few
    with pytest.warns(UserWarning, match=r"normalised run by run; without run="):
        pipe._patterns(np.insert(found, 3, 5, axis=1), True, None)
