"""Denoising from predicted latents against diffusers, and the prediction against scikit-learn's ridge."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, cross_val_predict
from tiny_generator import tiny_generator

from cnd.decoders.ridge_latents import RidgeLatentsDecoder
from cnd.errors import UserError
from cnd.generators.latent_diffusion import LatentDiffusion
from cnd.generators.sampling import image_start
from cnd.protocols import FmriSplit, Patterns, SamplingConfig, TrainingSet


@pytest.fixture(scope="module")
def generator() -> LatentDiffusion:
    return tiny_generator()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("steps", "strength"), [(6, 0.8), (50, 0.75), (10, 0.3), (7, 0.99), (100, 0.29)])
def test_the_start_is_that_of_image_to_image_in_diffusers(
    steps: int, strength: float, generator: LatentDiffusion
) -> None:
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_img2img import KandinskyV22Img2ImgPipeline

    clean, noise = random(3, 2, 8, 8), random(3, 2, 2, 8, 8, seed=1)
    found, skip = image_start(SamplingConfig(steps=steps), generator, clean, noise, strength)
    theirs: Any = SimpleNamespace(scheduler=generator.scheduler)
    theirs.scheduler.set_timesteps(steps)
    timesteps, taken = KandinskyV22Img2ImgPipeline.get_timesteps(theirs, steps, strength, "cpu")
    assert taken == steps - skip and torch.equal(generator.timesteps(steps)[skip:], timesteps)
    for sample in range(2):
        expected = generator.scheduler.add_noise(clean, noise[:, sample], timesteps[:1].expand(3))
        torch.testing.assert_close(found[:, sample], expected)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_denoising_goes_on_from_there(guidance: float, generator: LatentDiffusion) -> None:
    """The steps that are taken, by hand, are the last ones of the whole."""
    condition, start = generator.class_condition(torch.tensor([2, 5])), random(2, 2, 8, 8)
    null, scheduler = generator.null_condition(condition), generator.scheduler
    scheduler.set_timesteps(5)
    expected = start
    with torch.no_grad():
        for t in scheduler.timesteps[2:]:
            with_condition, without = (generator.predict_noise(expected, t.expand(2), c) for c in (condition, null))
            predicted = without + guidance * (with_condition - without)
            expected = scheduler.step(predicted, t, expected, eta=0.0).prev_sample
    found = generator.sample(condition, start, 5, guidance, skip=2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_all_steps_start_from_noise_and_none_leave_the_latents(generator: LatentDiffusion) -> None:
    clean, noise = random(3, 2, 8, 8), random(3, 2, 2, 8, 8, seed=1)
    start, skip = image_start(SamplingConfig(steps=4), generator, clean, noise, 1.0)
    assert start is noise and skip == 0
    start, skip = image_start(SamplingConfig(steps=4), generator, clean, noise, 0.2)
    assert skip == 4 and torch.equal(start, torch.stack([clean, clean], dim=1))
    condition = generator.class_condition(torch.tensor([1, 2, 3]))
    assert torch.equal(generator.sample(condition, start[:, 0], 4, 2.0, skip), clean)


CATEGORY = np.arange(60) // 4


def problem(images: bool = True) -> tuple[TrainingSet, np.ndarray, torch.Tensor]:
    """Training items, test patterns, and the latents of the training stimuli."""
    rng = np.random.default_rng(0)
    latents = (rng.standard_normal((60, 128)) + CATEGORY[:, None] / 5).astype(np.float32)
    fmri = latents[:, :40] + 3 * rng.standard_normal((60, 40))
    pictures = np.zeros((60, 1, 2, 2) if images else (60, 0, 0, 0), dtype=np.uint8)
    items = FmriSplit(fmri.astype(np.float32), pictures, CATEGORY, list(map(str, CATEGORY)))
    others = rng.standard_normal((5, 40)).astype(np.float32)
    return TrainingSet(items, np.zeros(0, dtype=int)), others, torch.from_numpy(latents).reshape(60, 2, 8, 8)


def lab(generator: LatentDiffusion, latents: torch.Tensor, steps: int) -> Any:
    return SimpleNamespace(
        generator=generator,
        classes=CATEGORY % 12,
        device=torch.device("cpu"),
        given=SimpleNamespace(latents="latents"),
        value={"latents": latents}.__getitem__,
        sampling=SamplingConfig(steps=steps),
    )


def test_latents_are_those_of_ridge_with_the_spread_of_the_training_latents(generator: LatentDiffusion) -> None:
    train, others, latents = problem()
    decoder = RidgeLatentsDecoder(alphas=(30.0,), strength=0.0)
    fitted: Any = decoder.fit(train, lab(generator, latents, 4))
    start, skip = fitted.start(Patterns(others, ["a"] * 5), random(5, 1, 2, 8, 8))
    targets, fmri = latents.flatten(1).numpy().astype(float), train.items.fmri.astype(float)
    held_out = cross_val_predict(Ridge(alpha=30.0), fmri, targets, cv=GroupKFold(5), groups=CATEGORY)
    predicted = Ridge(alpha=30.0).fit(fmri, targets).predict(others.astype(float))
    mean = targets.mean(0)
    expected = mean + (predicted - mean) * targets.std(0) / held_out.std(0)
    assert skip == 4 and (fitted.facts["ridge_alpha"], fitted.facts["latent_ridge_alpha"]) == (30.0, 30.0)
    np.testing.assert_allclose(start[:, 0].flatten(1).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_labels_without_images_are_refused(generator: LatentDiffusion) -> None:
    train, _, latents = problem(images=False)
    with pytest.raises(UserError, match=r"ridge_latents: .*labels only; add images or choose decoder\.kind = ridge"):
        RidgeLatentsDecoder().fit(train, lab(generator, latents, 4))
