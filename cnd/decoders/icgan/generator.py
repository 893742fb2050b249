"""The generator of an instance-conditioned GAN (Casanova et al. 2021): BigGAN (Brock et al. 2019) without classes.

A noise vector is cut into chunks. The first goes through a linear layer to the smallest maps, the *dense vector*; each
of the others joins the embedded instance features, and sets gain and bias of the batch norms of one block. Every weight
but those of the last batch norm is divided by its largest singular value (Miyato et al. 2018), as one power iteration
estimates it. Names and shapes of the parameters are those of the published code, at any size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cnd.errors import UserError

EPSILON = 1e-6  # of the vectors' lengths in a power iteration; the published run's value
KEY_CHANNELS, VALUE_CHANNELS = 8, 2  # channels of the maps over those of the keys and of the values of attention


@dataclass(frozen=True)
class Layout:
    """Sizes of a generator. In brackets those of the published one for 256x256 pixels.

    Attributes:
        n_features: of an instance [2048].
        embedding: width of the embedded instance features [512].
        chunk: width of a chunk of the noise [17].
        channels: of the smallest maps, then of each block [1536, 1536, 768, 768, 384, 192, 96].
        attention: blocks that end with attention, counted from 0 [3: at 64x64 pixels].
        smallest: side of the smallest maps, pixels; each block doubles it [4].
        image_channels: [3].
    """

    n_features: int
    embedding: int
    chunk: int
    channels: tuple[int, ...]
    attention: tuple[int, ...] = ()
    smallest: int = 4
    image_channels: int = 3

    @property
    def n_blocks(self) -> int:
        return len(self.channels) - 1

    @property
    def n_noise(self) -> int:
        """Width of a noise vector [119]."""
        return self.chunk * (self.n_blocks + 1)

    @property
    def n_dense(self) -> int:
        """Numbers in a dense vector [24,576]."""
        return self.channels[0] * self.smallest**2

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        side = self.smallest * 2**self.n_blocks
        return self.image_channels, side, side


class InstanceGenerator(nn.Module):
    """From instance features and noise, or a dense vector in place of its first chunk, to images between -1 and 1."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.shared_feat = SpectralLinear(layout.n_features, layout.embedding)
        self.linear = SpectralLinear(layout.chunk, layout.n_dense)
        condition = layout.embedding + layout.chunk
        self.blocks = nn.ModuleList()
        for index in range(layout.n_blocks):
            block: list[nn.Module] = [Block(layout.channels[index], layout.channels[index + 1], condition)]
            if index in layout.attention:
                block.append(Attention(layout.channels[index + 1]))
            self.blocks.append(nn.ModuleList(block))
        last = layout.channels[-1]
        # published as a Sequential whose second part, a ReLU, has no parameters
        convolution = SpectralConv2d(last, layout.image_channels, 3, padding=1)
        self.output_layer = nn.Sequential(BatchNorm(last), nn.ReLU(), convolution)

    def dense(self, noise: Float[Tensor, "n noise"]) -> Float[Tensor, "n dense"]:
        """The dense vector of a noise vector's first chunk."""
        return self.linear(noise[:, : self.layout.chunk])

    def dense_scale(self) -> float:
        """Root mean square of the entries of the dense vectors of normal noise, without the bias."""
        return float(self.linear.normalised().detach().square().sum(1).mean().sqrt())

    def forward(
        self,
        noise: Float[Tensor, "n noise"],
        features: Float[Tensor, "n features"],
        dense: Float[Tensor, "n dense"] | None = None,
    ) -> Float[Tensor, "n c h w"]:
        """Images; ``dense`` takes the place of the first chunk's dense vector."""
        embedded = self.shared_feat(features)
        x = self.dense(noise) if dense is None else dense
        x = x.unflatten(1, (self.layout.channels[0], self.layout.smallest, self.layout.smallest))
        for block, chunk in zip(self.blocks, noise.split(self.layout.chunk, 1)[1:], strict=True):
            condition = torch.cat([embedded, chunk], 1)
            for part in block.children():
                x = part(x, condition)
        return torch.tanh(self.output_layer(x))


# ---------------------------------------------------------------- parts


class Spectral:
    """A weight over its largest singular value, estimated by one power iteration from the vector that is kept.

    In training the vector moves on; in evaluation it stays, so that the same input gives the same image.
    """

    u0: Tensor
    sv0: Tensor
    weight: Tensor
    training: bool

    def normalised(self) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            right = F.normalize(self.u0 @ matrix, eps=EPSILON)
            left = F.normalize(right @ matrix.T, eps=EPSILON)
        sigma = (left @ matrix @ right.T).squeeze()
        if self.training:
            with torch.no_grad():
                self.u0.copy_(left)
                self.sv0.fill_(sigma)
        return self.weight / sigma


class SpectralLinear(Spectral, nn.Linear):
    """A linear layer with a spectrally normalised weight."""

    def __init__(self, n_in: int, n_out: int, bias: bool = True) -> None:
        nn.Linear.__init__(self, n_in, n_out, bias=bias)
        nn.init.orthogonal_(self.weight)
        self.register_buffer("u0", torch.randn(1, n_out))
        self.register_buffer("sv0", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


class SpectralConv2d(Spectral, nn.Conv2d):
    """A convolution with a spectrally normalised weight."""

    def __init__(self, n_in: int, n_out: int, kernel: int, padding: int = 0, bias: bool = True) -> None:
        nn.Conv2d.__init__(self, n_in, n_out, kernel, padding=padding, bias=bias)
        nn.init.orthogonal_(self.weight)
        self.register_buffer("u0", torch.randn(1, n_out))
        self.register_buffer("sv0", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalised(), self.bias, padding=self.padding)


class Statistics(nn.Module):
    """Batch norm without gain and bias, its running statistics under their published names."""

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.register_buffer("stored_mean", torch.zeros(n_channels))
        self.register_buffer("stored_var", torch.ones(n_channels))

    def standardised(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.stored_mean, self.stored_var, training=self.training)


class BatchNorm(Statistics):
    """Batch norm with a gain and a bias of its own."""

    def __init__(self, n_channels: int) -> None:
        super().__init__(n_channels)
        self.gain = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.standardised(x) * self.gain[:, None, None] + self.bias[:, None, None]


class ConditionalBatchNorm(Statistics):
    """Batch norm whose gain and bias are linear in a condition."""

    def __init__(self, n_channels: int, n_condition: int) -> None:
        super().__init__(n_channels)
        self.gain = SpectralLinear(n_condition, n_channels, bias=False)
        self.bias = SpectralLinear(n_condition, n_channels, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain, bias = 1 + self.gain(condition), self.bias(condition)
        return self.standardised(x) * gain[..., None, None] + bias[..., None, None]


class Block(nn.Module):
    """Residual block that doubles height and width."""

    def __init__(self, n_in: int, n_out: int, n_condition: int) -> None:
        super().__init__()
        self.conv1 = SpectralConv2d(n_in, n_out, 3, padding=1)
        self.conv2 = SpectralConv2d(n_out, n_out, 3, padding=1)
        self.conv_sc = SpectralConv2d(n_in, n_out, 1)
        self.bn1 = ConditionalBatchNorm(n_in, n_condition)
        self.bn2 = ConditionalBatchNorm(n_out, n_condition)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(_doubled(F.relu(self.bn1(x, condition))))
        h = self.conv2(F.relu(self.bn2(h, condition)))
        # a convolution of one pixel and copying of pixels can change places: it costs a quarter before
        return h + _doubled(self.conv_sc(x))


class Attention(nn.Module):
    """Self-attention over positions, keys and values from maps of half the size (Zhang et al. 2019)."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        keys, values = n_channels // KEY_CHANNELS, n_channels // VALUE_CHANNELS
        self.theta = SpectralConv2d(n_channels, keys, 1, bias=False)
        self.phi = SpectralConv2d(n_channels, keys, 1, bias=False)
        self.g = SpectralConv2d(n_channels, values, 1, bias=False)
        self.o = SpectralConv2d(values, n_channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        queries = self.theta(x).flatten(2)  # [n, k, positions]
        keys, values = (F.max_pool2d(part(x), 2).flatten(2) for part in (self.phi, self.g))
        weights = (queries.transpose(1, 2) @ keys).softmax(2)  # no scale, as published
        attended = (values @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return self.gamma * self.o(attended) + x


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2)


# ---------------------------------------------------------------- weights of others

UNUSED = ("shared.weight", "num_batches_tracked", "accumulation_counter")
"""Endings of names in published files that take no part: embeddings of classes, counters."""

RENAMED = (
    (re.compile(r"output_layer\.0\.bn\.weight$"), "output_layer.0.gain"),
    (re.compile(r"output_layer\.0\.bn\.bias$"), "output_layer.0.bias"),
    (re.compile(r"\.bn\.(?:running|stored)_"), ".stored_"),
)
"""Names where batch norms are modules of their own, as the published code has them when trained on several machines."""


def from_tensors(tensors: Mapping[str, Tensor]) -> InstanceGenerator:
    """The generator of a state dict with the published names, frozen and in evaluation mode; sizes are read from it.

    Raises:
        UserError: it is of another network; the message names the tensor, but not its file.
    """
    named = dict(_renamed(tensors))
    try:
        layout = layout_of(named)
    except (LookupError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"no weights of an instance-conditioned BigGAN generator ({error})") from error
    generator = InstanceGenerator(layout)
    wanted = generator.state_dict()
    for name in [*wanted, *named]:
        found, shape = named.get(name), wanted.get(name)
        if found is None or shape is None:
            raise UserError(f"'{name}' is {'missing' if found is None else 'not part of an IC-GAN generator'}")
        if found.shape != shape.shape:
            raise UserError(f"'{name}' has shape {[*found.shape]}, expected {[*shape.shape]}")
    generator.load_state_dict(named)
    return generator.eval().requires_grad_(False)


def layout_of(named: Mapping[str, Any]) -> Layout:
    """Sizes of a generator from the shapes of its tensors.

    Raises:
        LookupError: a tensor is missing.
        ValueError: its shape fits no generator.
    """
    embedding, n_features = named["shared_feat.weight"].shape
    n_dense, chunk = named["linear.weight"].shape
    found = {int(match[1]) for name in named if (match := re.match(r"blocks\.(\d+)\.0\.", name))}
    kernels = [named[f"blocks.{index}.0.conv1.weight"].shape for index in range(len(found))]
    channels = (kernels[0][1], *(kernel[0] for kernel in kernels))
    attention = tuple(index for index in sorted(found) if f"blocks.{index}.1.gamma" in named)
    image_channels = named["output_layer.2.weight"].shape[0]
    smallest = isqrt(n_dense // channels[0])
    return Layout(n_features, embedding, chunk, channels, attention, smallest, image_channels)


def _renamed(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        if name.endswith(UNUSED):
            continue
        for pattern, plain in RENAMED:
            name = pattern.sub(plain, name)
        yield name, tensor
