"""The two networks of SS-AE (Gaziv et al. 2022): from an image to fMRI, and from fMRI to an image.

Sizes are settings. The authors' code, for 112x112 pixels, has an encoder on VGG19's first four blocks with 32 channels
a block and 3x3 patches of them, and a decoder that starts at 64 channels of 14x14 and keeps 64, with 5x5 kernels.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cnd.decoders.ss_ae.settings import SsAeDecoderConfig, SsAeEncoderConfig
from cnd.errors import UserError
from cnd.protocols import ImageArray


class ImageEncoder(nn.Module):
    """From images to fMRI: convolutions on frozen features, then a separable readout by voxel (Klindt et al. 2017).

    Voxel v responds sum_k channel[v, k] sum_p space[v, p] x[k, p] + bias[v], where x are the channels k of all scales
    at the positions p of a common grid.
    """

    def __init__(
        self, config: SsAeEncoderConfig, features: nn.Module, shape: tuple[int, int, int], n_voxels: int
    ) -> None:
        super().__init__()
        self.features = (features,)  # a tuple: frozen, and no part of the weights
        seen = [shape[0], *(maps.shape[1] for maps in features(torch.zeros(1, *shape)))]
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(channels),
                nn.Conv2d(channels, config.width, 3, padding=1),
                nn.ReLU(),
                nn.BatchNorm2d(config.width),
                nn.AdaptiveAvgPool2d(config.grid),
            )
            for channels in seen
        )
        n_channels, n_positions = config.width * len(seen), config.grid**2
        self.space = nn.Parameter(torch.randn(n_voxels, n_positions) / n_positions)
        self.channel = nn.Parameter(torch.randn(n_voxels, n_channels) / n_channels**0.5)
        self.bias = nn.Parameter(torch.zeros(n_voxels))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n voxels"]:
        """Responses to images between 0 and 1."""
        seen = [F.avg_pool2d(images, 2, ceil_mode=True), *self.features[0](images)]
        x = torch.cat([scale(maps) for scale, maps in zip(self.scales, seen, strict=True)], 1)  # [n, k, grid, grid]
        pooled = x.flatten(2) @ self.space.T  # [n, k, voxels]
        return (pooled * self.channel.T).sum(1) + self.bias


class ImageDecoder(nn.Module):
    """From fMRI to images between 0 and 1: a linear layer to small maps, then upsampling and convolution in turn.

    Each pattern is z-scored over voxels on its way in: single trials, averages of trials and predicted patterns differ
    in scale, by how much noise they hold.
    """

    def __init__(self, config: SsAeDecoderConfig, n_voxels: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, pad = config.channels, config.kernel_size // 2
        self.start = (channels[0], *start_size(config, shape))
        self.read = nn.Linear(n_voxels, int(np.prod(self.start)))
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Upsample(scale_factor=2, mode="bilinear"),
                    nn.ReflectionPad2d(pad),
                    nn.Conv2d(before, after, config.kernel_size),
                    nn.GroupNorm(max(1, after // 2), after),
                    nn.SiLU(),
                )
                for before, after in pairwise(channels)
            )
        )
        self.top = nn.Sequential(nn.ReflectionPad2d(pad), nn.Conv2d(channels[-1], shape[0], config.kernel_size))

    @staticmethod
    def standardised(fmri: Float[Tensor, "n voxels"]) -> Float[Tensor, "n voxels"]:
        """Each pattern z-scored over its voxels."""
        return F.layer_norm(fmri, fmri.shape[1:])

    def forward(self, fmri: Float[Tensor, "n voxels"]) -> Float[Tensor, "n c h w"]:
        maps = self.read(self.standardised(fmri)).unflatten(1, self.start)
        return torch.sigmoid(self.top(self.blocks(maps)))


def start_size(config: SsAeDecoderConfig, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width that the decoder starts from.

    Raises:
        UserError: the doublings do not lead to the size of the images.
    """
    factor = 2 ** (len(config.channels) - 1)
    height, width = shape[1] // factor, shape[2] // factor
    if (height * factor, width * factor) != shape[1:] or min(height, width) * 2 <= config.kernel_size // 2:
        raise UserError(
            f"decoder.decoding.channels: {len(config.channels) - 1} doublings do not lead to images of "
            f"{shape[1]}x{shape[2]} pixels; name one number more than the times that both can be halved"
        )
    return height, width


def unit_range(images: ImageArray, rows: np.ndarray, device: torch.device) -> Float[Tensor, "n c h w"]:
    """Some of uint8 images, between 0 and 1."""
    return torch.from_numpy(np.ascontiguousarray(images[rows])).to(device).float() / 255


@torch.no_grad()
def reconstruct(decoder: ImageDecoder, fmri: np.ndarray, batch: int = 50) -> np.ndarray:
    """uint8 images [n, c, h, w] of patterns [n, voxels]."""
    device = next(decoder.parameters()).device
    parts = [decoder(part.to(device)) for part in torch.from_numpy(fmri).split(batch)]
    return torch.cat(parts).mul(255).round().to(torch.uint8).cpu().numpy()
