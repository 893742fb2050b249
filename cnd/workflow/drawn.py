"""Latents that the generator draws of each class as a step: shared by rows, seeds and folds.

Which classes are drawn is read off the first fold, so that every fold has the same step: all that occur among its
training and test items, which says nothing of any item. What is drawn follows from the generator alone.
"""

from __future__ import annotations

from pathlib import Path

from cnd.protocols import Bench, DrawnLatents, FmriDataset, GeneratorChoice, Noise, SamplingConfig
from cnd.steps import Step
from cnd.workflow.inputs import every_core


def make_drawn(
    bench: Bench, folder: Path, generator: GeneratorChoice, sampling: SamplingConfig, n: int, data: Step, classes: Step
) -> None:
    """Draw ``n`` latents of each class that occurs, as reconstructions are drawn, and write them."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    dataset: FmriDataset = bench.value(data)
    find, frozen = bench.value(classes), bench.generator(generator)
    found = np.unique(np.concatenate([find(items) for items in (dataset.train, dataset.test) if len(items)]))
    category = torch.from_numpy(found).repeat_interleave(n)
    noise = Noise(0, n).latents(len(found), frozen.latent_shape).flatten(0, 1)
    with every_core():
        parts = [
            frozen.sample(
                frozen.class_condition(category[rows].to(frozen.device)),
                noise[rows].to(frozen.device),
                sampling.steps,
                sampling.guidance,
            ).cpu()
            for rows in torch.arange(len(category)).split(sampling.batch_size)
        ]
    latents = torch.cat(parts).unflatten(0, (len(found), n)).contiguous()
    save_file({"classes": torch.from_numpy(found), "latents": latents}, folder / "drawn.safetensors")


def load_drawn(
    bench: Bench, folder: Path, generator: GeneratorChoice, sampling: SamplingConfig, n: int, data: Step, classes: Step
) -> DrawnLatents:
    """What :func:`make_drawn` wrote."""
    from safetensors.torch import load_file

    return DrawnLatents(**load_file(folder / "drawn.safetensors"))
