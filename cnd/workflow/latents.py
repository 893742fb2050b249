"""Latents of the training images as a step: encoded once for all rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cnd.protocols import Bench, FmriDataset, GeneratorChoice, Noise
from cnd.settings import FileOf
from cnd.steps import Step
from cnd.workflow.classes import by_label
from cnd.workflow.inputs import every_core

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

DRAWN_STEPS = 25  # of DDIM, for images of classes where the data has labels only


def make_latents(
    bench: Bench, folder: Path, generator: GeneratorChoice, data: Step, label_map: FileOf | None = None
) -> None:
    """Encode the training images once for all rows.

    Where there are labels but no images, the generator draws an image of each item's class.
    """
    from safetensors.torch import save_file

    dataset: FmriDataset = bench.value(data)
    frozen = bench.generator(generator)
    with every_core():
        if dataset.train.images.size:
            encoded = frozen.encode(dataset.train.images).cpu().contiguous()
        else:
            encoded = _drawn(bench, generator, by_label(generator, dataset, dataset.train, label_map))
    save_file({"train": encoded}, folder / "latents.safetensors")


def load_latents(
    bench: Bench, folder: Path, generator: GeneratorChoice, data: Step, label_map: FileOf | None = None
) -> Tensor:
    """Latents of the training images, [n, c, h, w]."""
    from safetensors.torch import load_file

    return load_file(folder / "latents.safetensors")["train"]


def _drawn(bench: Bench, generator: GeneratorChoice, classes: np.ndarray) -> Tensor:
    import torch

    frozen = bench.generator(generator)
    noise = Noise(0, 1).latents(len(classes), frozen.latent_shape)[:, 0].to(frozen.device)
    parts = zip(torch.from_numpy(classes).split(50), noise.split(50), strict=True)
    return torch.cat([frozen.sample(frozen.class_condition(part), start, DRAWN_STEPS, 1.0) for part, start in parts])
