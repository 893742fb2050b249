"""What caching latents and freezing the UNet save in Phase 2: seconds of a training step, ours and the plain way.

    python experiments/benchmarks/phase2.py

The plain way encodes the images of every batch anew and keeps gradients of the UNet's weights that nobody uses.
Both are measured in turns in one process, one thread, in seconds of the processor, on the sizes of the ``simulated``
experiment.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import torch

from cnd.data.simulation.stimuli import render
from cnd.decoders.cnd.phase1.model import FmriEncoder
from cnd.decoders.cnd.phase2.model import ConditionModule, denoising_loss
from cnd.experiment import load_experiment

ROOT = Path(__file__).resolve().parents[2]
N_VOXELS, REPEATS = 1200, 10


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    experiment = load_experiment(ROOT / "experiments" / "simulated.yaml")
    decoder = experiment.decoder
    config = decoder.phase2
    generator = experiment.generator.load()
    encoder = FmriEncoder(decoder.encoder, N_VOXELS)
    width = decoder.encoder.width
    module = ConditionModule(config, encoder, 1 + encoder.n_patches, width, generator.concept_bank)
    images = render(np.arange(config.batch_size), np.random.default_rng(0))
    latents = generator.encode(images)
    fmri = torch.randn(config.batch_size, N_VOXELS)

    def step(clean: torch.Tensor) -> None:
        timesteps = torch.randint(*config.timestep_range, (len(clean),))
        noise = torch.randn_like(clean)
        condition, _ = module(fmri)
        predicted = generator.predict_noise(generator.add_noise(clean, noise, timesteps), timesteps, condition)
        denoising_loss(predicted, noise, generator.alphas_cumprod, timesteps, "none").backward()

    def ours() -> None:
        generator.requires_grad_(False)
        step(latents)

    def plain() -> None:
        generator.unet.requires_grad_(True)
        step(generator.encode(images))

    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for repeat in range(REPEATS + 2):
        for name, function in (("ours", ours), ("plain", plain)):
            start = time.process_time()
            function()
            if repeat >= 2:  # the first ones warm up
                seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"batch {config.batch_size}, one thread, median of {REPEATS} steps")
    print(f"cached latents, frozen UNet: {medians['ours'] * 1e3:7.1f} ms")
    print(f"plain:                       {medians['plain'] * 1e3:7.1f} ms")
    print(f"ratio: {medians['plain'] / medians['ours']:.2f}x")


if __name__ == "__main__":
    main()
