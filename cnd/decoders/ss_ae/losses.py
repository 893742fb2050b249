"""Losses of SS-AE: of fMRI (Beliy et al. 2019, sec. 3.1), and of images (Gaziv et al. 2022 and their code)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cnd.decoders.ss_ae.settings import SsAeDecoderConfig

TV_POWER = 2.5  # of the gradient's length, as in the authors' code


def fmri_loss(predicted: Float[Tensor, "n voxels"], measured: Float[Tensor, "n voxels"], cosine: float) -> Tensor:
    """Mean squared error + ``cosine`` (1 - cos of the angle between the patterns); the mean over patterns.

    Beliy et al. subtract alpha cos with alpha = 0.1, which differs by a constant.
    """
    angle = F.cosine_similarity(predicted, measured, dim=1)
    return F.mse_loss(predicted, measured) + cosine * (1 - angle).mean()


def perceptual_loss(predicted: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """1 - cos between the channels of two feature maps at each position; the mean over positions, then over maps.

    Args:
        predicted, wanted: feature maps [n, c_l, h_l, w_l].
    """
    distances = [(1 - F.cosine_similarity(p, w, dim=1)).mean() for p, w in zip(predicted, wanted, strict=True)]
    return torch.stack(distances).mean()


def total_variation(images: Float[Tensor, "n c h w"]) -> Tensor:
    """Mean over pixels of |gradient|^2.5, by differences to the left and upper neighbour."""
    across = images[..., 1:, 1:] - images[..., 1:, :-1]
    down = images[..., 1:, 1:] - images[..., :-1, 1:]
    return (across.square() + down.square()).pow(TV_POWER / 2).mean()


def image_loss(
    config: SsAeDecoderConfig, features: nn.Module, predicted: Float[Tensor, "n c h w"], wanted: Tensor
) -> Tensor:
    """Absolute error of pixels, perceptual loss and total variation, weighted; images between 0 and 1."""
    loss = config.pixel * F.l1_loss(predicted, wanted) + config.total_variation * total_variation(predicted)
    if config.perceptual:
        with torch.no_grad():
            aims = features(wanted)
        loss = loss + config.perceptual * perceptual_loss(features(predicted), aims)
    return loss
