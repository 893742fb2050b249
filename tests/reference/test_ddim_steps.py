"""DDIM's time-steps against LDM's formula and diffusers' scheduler; its path against the forward process itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tiny_generator import tiny_generator
from torch import Tensor

from cnd.generators.latent_diffusion import LatentDiffusion, leading

DIVIDES = [steps for steps in range(1, 1001) if 1000 % steps == 0]


@pytest.fixture(scope="module")
def generator() -> LatentDiffusion:
    return tiny_generator()


@pytest.mark.parametrize("offset", [0, 1])
def test_where_the_number_divides_they_are_those_of_ldm_and_diffusers(generator: LatentDiffusion, offset: int) -> None:
    """LDM: every c-th of 1000, c = 1000 // steps, counted from 1 (``make_ddim_timesteps``, "uniform")."""
    from diffusers import DDIMScheduler

    generator.scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=offset)
    for steps in DIVIDES[:-1]:  # of all 1000 steps the original's last lies beyond the schedule
        ldm = [t + offset for t in range(0, 1000, 1000 // steps)][::-1]
        generator.scheduler.set_timesteps(steps)
        assert generator.timesteps(steps).tolist() == ldm == generator.scheduler.timesteps.tolist()
    assert generator.timesteps(1000).tolist() == list(range(1000))[::-1]


@pytest.mark.parametrize(("steps", "start"), [(6, 830), (300, 996), (400, 997), (501, 998), (600, 998), (999, 998)])
def test_it_starts_at_the_end_of_the_schedule(steps: int, start: int) -> None:
    """diffusers: 830, 897, 798, 500, 599 and 998, whatever the noise is there."""
    assert leading(steps)[0] == start


def test_any_number_of_steps_covers_the_schedule() -> None:
    for steps in range(1, 1001):
        found = leading(steps)
        gaps = [a - b for a, b in pairwise(found)]
        assert len(found) == steps and found[-1] == 0 and all(gap >= 1 for gap in gaps)
        assert max(gaps, default=1) - min(gaps, default=1) <= 1  # evenly
        assert 1000 - 2 * (1000 // steps) <= found[0] < 1000


@pytest.mark.parametrize("steps", [2, 6, 10, 250])
@pytest.mark.parametrize("clips", [False, True])
def test_a_step_is_diffusers_to_the_last_bit(generator: LatentDiffusion, steps: int, clips: bool) -> None:
    from diffusers import DDIMScheduler

    generator.scheduler = scheduler = DDIMScheduler(clip_sample=clips, set_alpha_to_one=False)
    scheduler.set_timesteps(steps)
    latents, predicted = torch.randn(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    timesteps = generator.timesteps(steps)
    for at, before in zip(timesteps, [*timesteps[1:], None], strict=True):
        expected = scheduler.step(predicted, at, latents, eta=0.0).prev_sample
        assert torch.equal(generator.denoised(latents, predicted, at, before), expected)


@pytest.mark.parametrize("steps", [1, 2, 6, 7, 300, 501, 600, 999])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_the_path_leads_along_the_forward_process(steps: int, spacing: str) -> None:
    """A model that knows the noise is led from q(z_t | z_0, eps) to z_0 as noisy as at the end, through every z_t.

    diffusers' own step, which goes by 1000 // steps whatever the distance, leaves that line.
    """
    from diffusers import DDIMScheduler

    generator = tiny_generator()
    generator.scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, timestep_spacing=spacing)
    clean, noise = torch.randn(2, 2, 2, 8, 8, generator=torch.Generator().manual_seed(1)).unbind(0)

    def predict(noisy: Tensor, at: Tensor, condition: Any) -> Tensor:
        torch.testing.assert_close(noisy, generator.add_noise(clean, noise, at), atol=2e-4, rtol=2e-4)
        return noise

    generator.predict_noise = predict  # type: ignore[method-assign]
    timesteps = generator.timesteps(steps)
    start = generator.add_noise(clean, noise, timesteps[:1].expand(2))
    found = generator.sample(generator.class_condition(torch.tensor([0, 1])), start, steps, 1.0)
    end = generator.add_noise(clean, noise, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(found, end, atol=2e-3, rtol=2e-3)
