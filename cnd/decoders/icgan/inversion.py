"""Inversion of the generator: the noise and the dense vectors that give the training images, as a step that is kept.

The instance features of an image are computed. Its noise vector is found by gradient descent on the difference between
the image and the generated one; then, from that vector's dense vector on, the dense vector alone, with no tie to any
noise. The published code has no inversion, only its results in a file; here all is as simple as can be: Adam, the
mean absolute error of pixels plus 1 - cos of instance features. It starts from zeros or, with the networks that ship
with the package, from the noise that an encoder tells which was trained with the generator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.decoders.icgan.networks import Networks, Sources, load
from cnd.decoders.icgan.settings import InversionConfig
from cnd.errors import UserError
from cnd.json_files import write_json
from cnd.steps import Step

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cnd.protocols import Bench, FmriDataset, Given, ImageArray

VECTORS = "vectors.safetensors"
NAMES = ("features", "noise", "dense")


def inversion_step(config: InversionConfig, sources: Sources, given: Given) -> Step:
    """The step ``icgan_inversion``. Shuffled pairs share it: it sees images only, and no fMRI."""
    return Step("icgan_inversion", invert_training_images, {"config": config, "sources": sources}, {"data": given.data})


def invert_training_images(bench: Bench, folder: Path, config: InversionConfig, sources: Sources, data: Step) -> None:
    """Write float32 ``features`` [n, n_features], ``noise`` [n, n_noise] and ``dense`` [n, n_dense], and facts.

    Raises:
        UserError: there are no images, or the networks do not fit them.
    """
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file

    start, dataset = time.time(), bench.value(data)
    images = training_images(dataset)
    channels, height, width = images.shape[1:]
    networks = load(sources, (channels, height, width)).to(bench.device)
    parts, errors = [], []
    for at in range(0, len(images), config.batch_size):
        batch = as_tensor(np.asarray(images[at : at + config.batch_size]), bench.device)
        done = bench.scratch / f"from-{at}.safetensors"  # what a killed run had found
        if not done.exists():
            bench.scratch.mkdir(parents=True, exist_ok=True)
            found = dict(zip(NAMES, invert(networks, batch, config), strict=True))
            partial = done.with_suffix(".partial")
            save_file({name: tensor.cpu().contiguous() for name, tensor in found.items()}, partial)
            partial.replace(done)
        parts.append(load_file(done))
        errors.append(_error(networks, batch, parts[-1]))
        seen = min(at + config.batch_size, len(images))
        bench.report("inversion", seen / len(images), seen, {"inversion/absolute_error": errors[-1]})
    save_file({name: torch.cat([part[name] for part in parts]) for name in NAMES}, folder / VECTORS)
    facts = {"inversion_absolute_error": float(np.mean(errors))}  # of pixels between 0 and 1
    write_json(folder / "info.json", {"seconds": time.time() - start, "facts": facts})


def invert(networks: Networks, images: Tensor, config: InversionConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Instance features, noise vectors and dense vectors of images between -1 and 1 [n, c, h, w].

    Raises:
        FloatingPointError: the loss is not finite.
    """
    import torch
    from torch.nn import functional as F

    generator = networks.generator
    with torch.no_grad():
        features = networks.features(images)
        noise = images.new_zeros(len(images), generator.layout.n_noise)
        if networks.encoder is not None:
            noise = networks.encoder(images)

    def loss(noise: Tensor, dense: Tensor | None) -> Tensor:
        made = generator(noise, features, dense)
        total = F.l1_loss(made, images) / 2
        if config.feature_loss:
            seen = F.cosine_similarity(networks.features(made), features)
            total = total + config.feature_loss * (1 - seen).mean()
        return total * len(images)  # a sum: an image's result does not depend on its batch

    noise = descend(noise, 1.0, lambda tried: loss(tried, None), config.noise_steps, config.lr)
    with torch.no_grad():
        dense, scale = generator.dense(noise), generator.dense_scale()
    dense = descend(dense, scale, lambda tried: loss(noise, tried), config.dense_steps, config.lr)
    return features, noise, dense


def descend(start: Tensor, scale: float, loss: Callable[[Tensor], Tensor], steps: int, lr: float) -> Tensor:
    """Where Adam gets from ``start`` in some steps, each entry by about ``lr * scale`` a step at first.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    import torch

    moved = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([moved], lr=lr)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        found = loss(start + scale * moved)
        if not math.isfinite(found.item()):
            raise FloatingPointError(f"IC-GAN, inversion: the loss is {found.item()} at step {step}")
        found.backward()
        optimizer.step()
    return (start + scale * moved).detach()


def training_images(dataset: FmriDataset) -> ImageArray:
    """uint8 images of the training items [n, c, h, w].

    Raises:
        UserError: there are none.
    """
    if not dataset.train.images.size:
        raise UserError("decoder.kind = icgan: the data has labels and no images, which it learns from; add images")
    return dataset.train.images


def as_tensor(images: np.ndarray, device: Any) -> Tensor:
    """uint8 images as floats between -1 and 1."""
    import torch

    return torch.from_numpy(images).to(device).float() / 127.5 - 1


def _error(networks: Networks, images: Tensor, found: dict[str, Tensor]) -> float:
    import torch

    noise, features, dense = (found[name].to(images.device) for name in ("noise", "features", "dense"))
    with torch.no_grad():
        return float((networks.generator(noise, features, dense) - images).abs().mean() / 2)
