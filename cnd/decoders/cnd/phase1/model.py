"""Masked autoencoder of fMRI patterns (sec. 3.2, 8.2): the network of Phase 1.

Parts: wrap padding, sin-cos positions, random masks, weights; then the encoder and the autoencoder around it.
The paper's size is ``EncoderConfig()``: 24 blocks of width 1024, patches of 16 voxels, MLP ratio 1.

No parameter depends on the number of voxels, so a state dict of one subject or dataset loads strictly into a
model built for another voxel count. Positions follow a formula and are not in the state dict, unless they came with
a checkpoint that has its own (:meth:`Positions.set_positions`) or the layout stores them.

What ``encoder.layout`` decides stands in :class:`cnd.decoders.cnd.phase1.settings.EncoderConfig`; each function notes
its part.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cnd._compat import make_torchvision_importable
from cnd.decoders.cnd.phase1.settings import EncoderConfig, Layout
from cnd.errors import UserError
from cnd.onednn import with_onednn

make_torchvision_importable()

from timm.models.vision_transformer import Block  # noqa: E402

EPSILON: dict[Layout, float] = {"cnd": 1e-6, "mind_vis": 1e-5}
"""Of all layer norms. Given to timm too, whose default depends on its version."""

# ---------------------------------------------------------------- parts


def count_patches(n_voxels: int, patch_size: int, layout: Layout = "cnd") -> int:
    """Patches that cover ``n_voxels``. Only MinD-Vis has an extra one when it is already a multiple of ``patch_size``
    (``pad_to_patch_size`` of its ``dataset.py``)."""
    if layout == "mind_vis":
        return n_voxels // patch_size + 1
    return -(-n_voxels // patch_size)


def to_patches(
    fmri: Float[Tensor, "batch voxels"], patch_size: int, layout: Layout = "cnd"
) -> Float[Tensor, "batch patches patch_size"]:
    """Cut patterns into patches; the last one is filled up by starting again at voxel 0 (wrap padding)."""
    n_voxels = fmri.shape[1]
    n_patches = count_patches(n_voxels, patch_size, layout)
    n_repeats = -(-n_patches * patch_size // n_voxels)  # above 2 only where a pattern is smaller than a patch
    if n_repeats > 1:
        fmri = fmri.repeat(1, n_repeats)
    return fmri[:, : n_patches * patch_size].reshape(len(fmri), n_patches, patch_size)


def sincos_positions(n_tokens: int, width: int) -> Float[Tensor, "tokens width"]:
    """Fixed positions of the Transformer: sin(p w_j) in the first half of the channels, cos(p w_j) in the second,
    w_j = 10000^(-2j / width), j < width / 2."""
    frequencies = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.arange(n_tokens, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def random_order(
    n_patterns: int, n_patches: int, generator: torch.Generator, device: torch.device | None = None
) -> Int[Tensor, "batch patches"]:
    """A random order of the patches for each pattern; a mask keeps the first ones of it."""
    # drawn where the generator lives (CPU), so that a seed means the same masks on every device
    noise = torch.rand(n_patterns, n_patches, generator=generator, device=generator.device)
    return noise.argsort(dim=1).to(device)


def n_kept(n_patches: int, mask_ratio: float) -> int:
    """Patches left visible: the nearest number to (1 - mask_ratio) n_patches that keeps one and masks one.

    Raises:
        UserError: a single patch cannot be both kept and masked.
    """
    if n_patches < 2:
        raise UserError("masking needs at least two patches: set encoder.patch_size below the number of voxels")
    return min(max(round((1 - mask_ratio) * n_patches), 1), n_patches - 1)


def patch_mask(order: Int[Tensor, "batch patches"], mask_ratio: float) -> Bool[Tensor, "batch patches"]:
    """True where a patch is hidden: its rank in ``order`` is beyond the kept ones."""
    ids_restore = order.argsort(dim=1)
    return ids_restore >= n_kept(order.shape[1], mask_ratio)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Xavier-uniform matrices, zero biases, unit norms, N(0, 0.02) tokens; random numbers from ``generator`` only."""
    for name, parameter in module.named_parameters():
        if name.endswith("token"):
            nn.init.normal_(parameter, std=0.02, generator=generator)
        elif parameter.ndim > 1:  # the convolution's kernel [width, 1, patch] counts as a matrix
            nn.init.xavier_uniform_(parameter.data.flatten(1), generator=generator)
        else:
            nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)


def _blocks(width: int, depth: int, heads: int, config: EncoderConfig) -> nn.Sequential:
    norm = partial(nn.LayerNorm, eps=EPSILON[config.layout])
    made = (Block(width, heads, config.mlp_ratio, qkv_bias=True, norm_layer=norm) for _ in range(depth))
    return nn.Sequential(*made)


def _run(blocks: nn.Sequential, tokens: Tensor, checkpointing: bool) -> Float[Tensor, "batch tokens width"]:
    """The blocks one after the other; with ``checkpointing`` the backward pass computes each one's activations anew,
    so that only what enters the blocks is kept (Chen et al. 2016)."""
    if not (checkpointing and torch.is_grad_enabled()):
        return blocks(tokens)
    for block in blocks:  # nothing in a block is random, so no state of a generator has to be kept
        tokens = checkpoint(block, tokens, use_reentrant=False, preserve_rng_state=False)
    return tokens


def interpolate_positions(
    positions: Float[Tensor, "tokens width"], n_tokens: int, layout: Layout = "cnd"
) -> Float[Tensor, "n_tokens width"]:
    """Positions for another number of tokens: linear along the sequence, the first and the last stay what they are.

    MinD-Vis repeats rows or leaves some out (``interpolate_pos_embed`` of its ``sc_mbm/utils.py``): row i is the old
    row floor(i * old / new), as PyTorch rounds it. It does so in the encoder; we also do in the decoder, where MinD-Vis
    never has another number.
    """
    if len(positions) == n_tokens:
        return positions
    rule: dict[str, Any] = {"mode": "linear", "align_corners": True} if layout == "cnd" else {"mode": "nearest"}
    stretched = nn.functional.interpolate(positions.T[None], size=n_tokens, **rule)
    return stretched[0].T.contiguous()


class Positions(nn.Module):
    """A module with a buffer ``positions``, one row a token: by formula, or a checkpoint's own.

    Those of the formula are a constant and stay out of the state dict. A checkpoint's own are part of it, as are all
    those of layout ``mind_vis``; where such a state dict is loaded into a model with another number of tokens, they
    are interpolated.
    """

    positions: Tensor
    config: EncoderConfig
    n_fixed = 0  # leading rows that are no place in the pattern: the class token's

    def _register_formula(self, n_patches: int, width: int) -> None:
        """Positions by formula, and zeros for the class token where it has a row."""
        # the only tensor whose shape depends on n_voxels
        positions = nn.functional.pad(sincos_positions(n_patches, width), (0, 0, self.n_fixed, 0))
        self.register_buffer("positions", positions, persistent=self.config.layout == "mind_vis")

    def set_positions(self, positions: Float[Tensor, "tokens width"]) -> None:
        """Take over positions, stretched to our number of tokens; from now on they are in the state dict."""
        fixed, places = positions[: self.n_fixed], positions[self.n_fixed :]
        places = interpolate_positions(places, len(self.positions) - self.n_fixed, self.config.layout)
        self.register_buffer("positions", torch.cat([fixed, places]).to(self.positions), persistent=True)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}positions" in state_dict:
            self.set_positions(state_dict[f"{prefix}positions"])
            state_dict[f"{prefix}positions"] = self.positions
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _take(rows: Float[Tensor, "batch tokens width"], ids: Int[Tensor, "batch k"]) -> Float[Tensor, "batch k width"]:
    """``rows[i, ids[i]]`` for every i; one flat index_select is several times faster than gather."""
    offsets = torch.arange(0, rows.shape[0] * rows.shape[1], rows.shape[1], device=ids.device)
    return rows.flatten(0, 1).index_select(0, (ids + offsets[:, None]).flatten()).view(*ids.shape, rows.shape[2])


# ---------------------------------------------------------------- whole


class FmriEncoder(Positions):
    """ViT over patches of voxels. It sees the kept patches only, and is what Phase 2 takes over.

    Args:
        n_voxels: of the patterns it will be given; known from the data only.
        seed: of the initial weights. PyTorch's global generator is neither used nor advanced.
    """

    def __init__(self, config: EncoderConfig, n_voxels: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.n_voxels = n_voxels
        self.n_patches = count_patches(n_voxels, config.patch_size, config.layout)
        self.n_fixed = 1 if config.layout == "mind_vis" else 0
        with torch.random.fork_rng(devices=[]):  # layers draw weights when built; they are drawn again below
            self.patch_embed = nn.Conv1d(1, config.width, config.patch_size, config.patch_size)
            self.class_token = nn.Parameter(torch.empty(1, 1, config.width))
            self.blocks = _blocks(config.width, config.depth, config.heads, config)
            self.norm = nn.LayerNorm(config.width, eps=EPSILON[config.layout])
        self._register_formula(self.n_patches, config.width)
        initialise(with_onednn(self), torch.Generator().manual_seed(seed))

    @property
    def n_tokens(self) -> int:
        """Tokens of a whole pattern, which Phase 2 gets: the patches, and ours have the class token before them."""
        return self.n_patches if self.config.layout == "mind_vis" else 1 + self.n_patches

    def forward(
        self, fmri: Float[Tensor, "batch voxels"], ids_keep: Int[Tensor, "batch k"] | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Class token and the tokens of the kept patches, in the order of ``ids_keep``; None keeps all, in order.

        Without ``ids_keep``, as in Phase 2, MinD-Vis has no class token (``fmri_encoder`` of its ``mae_for_fmri.py``).
        """
        if fmri.shape[1] != self.n_voxels:
            raise ValueError(f"patterns have {fmri.shape[1]} voxels, the encoder was built for {self.n_voxels}")
        patches = to_patches(fmri, self.config.patch_size, self.config.layout)  # [b, p, patch_size]
        positions = self.positions[self.n_fixed :]  # [p, w]
        if ids_keep is not None:
            patches = _take(patches, ids_keep)  # [b, k, patch_size]
            positions = positions[ids_keep]  # [b, k, w]
        # stride = kernel: the convolution is one matrix product, here over the kept patches only
        tokens = nn.functional.linear(patches, self.patch_embed.weight.squeeze(1), self.patch_embed.bias)
        tokens = tokens + positions  # [b, k, w]
        if ids_keep is not None or self.config.layout == "cnd":
            class_token = self.class_token + self.positions[0] if self.n_fixed else self.class_token
            tokens = torch.cat([class_token.expand(len(fmri), -1, -1), tokens], dim=1)  # [b, 1 + k, w]
        encoded: Tensor = self.norm(_run(self.blocks, tokens, self.config.activation_checkpointing))
        return encoded


class FmriDecoder(Positions):
    """Light decoder that predicts every patch from the encoded tokens of the kept ones.

    Args:
        n_voxels: of the patterns to be predicted.
        seed: of the initial weights. PyTorch's global generator is neither used nor advanced.
    """

    n_fixed = 1

    def __init__(self, config: EncoderConfig, n_voxels: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.n_voxels = n_voxels
        width = config.decoder_width
        with torch.random.fork_rng(devices=[]):
            self.embed = nn.Linear(config.width, width)
            self.mask_token = nn.Parameter(torch.empty(1, 1, width))
            self.blocks = _blocks(width, config.decoder_depth, config.decoder_heads, config)
            self.norm = nn.LayerNorm(width, eps=EPSILON[config.layout])
            self.head = nn.Linear(width, config.patch_size)
        self._register_formula(count_patches(n_voxels, config.patch_size, config.layout), width)
        initialise(with_onednn(self), torch.Generator().manual_seed(seed))

    def forward(
        self, encoded: Float[Tensor, "batch tokens width"], order: Int[Tensor, "batch patches"]
    ) -> Float[Tensor, "batch voxels"]:
        """Predict every voxel; ``encoded`` is the class token and the patches that come first in ``order``.

        The blocks work in the masks' order (attention does not care, each token carries its position), so only
        the narrow output has to be put back in place.
        """
        n_masked = order.shape[1] + 1 - encoded.shape[1]
        mask_tokens = self.mask_token.expand(len(order), n_masked, -1)
        tokens = torch.cat([self.embed(encoded), mask_tokens], dim=1)  # [b, 1 + p, w]
        rank = nn.functional.pad(order + 1, (1, 0))  # 0 is the class token
        tokens = _run(self.blocks, tokens + self.positions[rank], self.config.activation_checkpointing)
        patches = self.head(self.norm(tokens))  # [b, 1 + p, patch_size]
        ids_restore = order.argsort(dim=1)
        return _take(patches, ids_restore + 1).flatten(1)[:, : self.n_voxels]


class MaskedAutoencoder(nn.Module):
    """Encoder of the kept patches and a decoder that predicts all of them (sec. 8.2).

    Args:
        n_voxels: of the patterns it will be given; known from the data only.
        seed: of the initial weights; the encoder's are those of ``FmriEncoder(config, n_voxels, seed)``.
    """

    def __init__(self, config: EncoderConfig, n_voxels: int, seed: int = 0) -> None:
        super().__init__()
        self.encoder = FmriEncoder(config, n_voxels, seed)
        self.decoder = FmriDecoder(config, n_voxels, seed=-1 - seed)  # another stream of random numbers

    def forward(
        self, fmri: Float[Tensor, "batch voxels"], mask_ratio: float, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch voxels"], Bool[Tensor, "batch patches"]]:
        """Mask each pattern at random and predict all of it.

        Returns:
            prediction: of every voxel, kept or masked; padded voxels are cut off.
            mask: True where a patch was hidden from the encoder.

        Raises:
            UserError: the pattern is a single patch.
        """
        order = random_order(len(fmri), self.encoder.n_patches, generator, fmri.device)
        return self.predict(fmri, order, mask_ratio), patch_mask(order, mask_ratio)

    def predict(
        self, fmri: Float[Tensor, "batch voxels"], order: Int[Tensor, "batch patches"], mask_ratio: float
    ) -> Float[Tensor, "batch voxels"]:
        """Predict every voxel from the patches that come first in ``order`` (of :func:`random_order`)."""
        ids_keep = order[:, : n_kept(order.shape[1], mask_ratio)]
        prediction: Tensor = self.decoder(self.encoder(fmri, ids_keep), order)
        return prediction
