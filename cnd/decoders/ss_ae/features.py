"""What the image encoder sees of an image, and what the perceptual loss compares: features that nothing here trains.

The authors take those of VGG networks trained on ImageNet (``decoder.perceptual_weights``). Without such a file they
are the local contrast energy of Gabor filters at several scales, as in the standard model of early visual cortex
(Kay et al. 2008). Features of the judge are never used, because it scores the result.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cnd.checkpoint_files import check_values, find_weights, open_checkpoint
from cnd.errors import UserError

ORIENTATIONS = 4
PERIOD, KERNEL = 4.0, 7  # of a Gabor filter, pixels of its scale
SMALLEST = 4  # height and width of the coarsest feature map, at least
OF_THE_AUTHORS = ("input_fc.", "blocks.", "top.", "multi_branch_bbn.", "space_maps.", "chan_mixes.", "fc_head.")
"""Beginnings of names in the encoder and the decoder that SelfSuperReconst trains."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, as torchvision's VGG expect


def load_features(weights: Path | None, shape: tuple[int, int, int]) -> nn.Module:
    """From images [n, c, h, w] between 0 and 1 to a list of feature maps [n, c_l, h_l, w_l], finest first.

    Args:
        weights: of a VGG network; None takes Gabor energy.
        shape: channels, height and width of the images.

    Raises:
        UserError: the file is not one of a VGG network.
    """
    features = GaborEnergy(shape) if weights is None else Vgg(weights)
    return features.requires_grad_(False).eval()


class GaborEnergy(nn.Module):
    """Quadrature pairs of Gabor filters on luminance, in four orientations, an octave between scales."""

    kernels: Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.n_scales = max(1, int(math.log2(min(shape[1:]) / SMALLEST)))
        self.register_buffer("kernels", gabor_kernels(), persistent=False)

    def forward(self, images: Float[Tensor, "n c h w"]) -> list[Tensor]:
        maps, scale = [], images.mean(1, keepdim=True)
        for _ in range(self.n_scales):
            padded = F.pad(scale, [KERNEL // 2] * 4, mode="replicate")
            even, odd = F.conv2d(padded, self.kernels).unflatten(1, (2, ORIENTATIONS)).unbind(1)
            energy = (even.square() + odd.square() + 1e-6).sqrt()  # the gradient of a root is infinite at 0
            scale = F.avg_pool2d(scale, 2, ceil_mode=True)
            maps.append(F.avg_pool2d(energy, 2, ceil_mode=True))
        return maps


def gabor_kernels() -> Float[Tensor, "filters 1 size size"]:
    """Even filters of each orientation, then odd ones; each sums to zero and has norm 1."""
    x = torch.arange(KERNEL, dtype=torch.float64) - KERNEL // 2
    angle = torch.arange(ORIENTATIONS, dtype=torch.float64) * (math.pi / ORIENTATIONS)
    along = angle.cos()[:, None, None] * x[None, None, :] + angle.sin()[:, None, None] * x[None, :, None]
    envelope = torch.exp(-(x[:, None] ** 2 + x[None, :] ** 2) / (2 * (KERNEL / 4) ** 2))
    phase = 2 * math.pi * along / PERIOD
    filters = torch.cat([phase.cos() * envelope, phase.sin() * envelope])
    even = filters[:ORIENTATIONS]
    even -= envelope * (even.sum((1, 2), keepdim=True) / envelope.sum())
    return (filters / filters.flatten(1).norm(dim=1)[:, None, None]).float()[:, None]


class Vgg(nn.Module):
    """Outputs of the five blocks of a VGG network (Simonyan & Zisserman 2015), after their pooling.

    Layers and widths are read from the file, whose names are torchvision's (``features.0.weight``, ...); a classifier
    in it is left alone.

    Raises:
        UserError: the file is of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.blocks = nn.ModuleList(_vgg_blocks(path))

    def forward(self, images: Float[Tensor, "n c h w"]) -> list[Tensor]:
        x, maps = (images.expand(-1, 3, -1, -1) - self.mean) / self.std, []
        for block in self.blocks:
            if min(x.shape[2:]) < 2:
                break  # an image too small for all the poolings
            x = block(x)
            maps.append(x)
        return maps


def _vgg_blocks(path: Path) -> list[nn.Sequential]:
    """Convolutions of a file, in blocks that end with a pooling: before it, names count on by three instead of two."""
    told = (
        f"{path}: no weights of a VGG network without batch norm as torchvision names them (decoder.perceptual_weights)"
    )
    try:
        content, _ = open_checkpoint(path, "state_dict")
    except OSError as error:
        raise UserError(f"{path}: cannot be read (decoder.perceptual_weights): {error.strerror}") from error
    tensors = find_weights(content, lambda name: name.startswith(("features.", *OF_THE_AUTHORS)))
    if any(name.startswith(OF_THE_AUTHORS) for name in tensors):
        raise UserError(
            f"{path}: a network trained by SelfSuperReconst, of another architecture than ours (decoder.kind = ss_ae "
            "says what differs), so it cannot be taken over (decoder.perceptual_weights); take vgg16 or vgg19"
        )
    kernels = {key: value for key, value in tensors.items() if key.startswith("features.")}
    first = kernels.get("features.0.weight")
    if first is not None and first.ndim == 4 and first.shape[1] != 3:
        raise UserError(
            f"{path}: features.0.weight: expected 3 channels, found {first.shape[1]}: a network of images with depth, "
            "which ours have not (decoder.perceptual_weights); take vgg16 or vgg19"
        )
    try:
        check_values(kernels)
        places = sorted(int(key.split(".")[1]) for key in kernels if key.endswith(".weight"))
        blocks: list[list[nn.Module]] = [[]]
        for place, following in zip(places, [*places[1:], places[-1] + 3], strict=True):
            weight, bias = kernels[f"features.{place}.weight"], kernels[f"features.{place}.bias"]
            convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            convolution.load_state_dict({"weight": weight, "bias": bias})
            blocks[-1] += [convolution, nn.ReLU()]
            if following - place == 3:
                blocks[-1].append(nn.MaxPool2d(2))
                blocks.append([])
    except (UserError, LookupError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{told}; take those of vgg16 or vgg19") from error
    return [nn.Sequential(*block) for block in blocks if block]
