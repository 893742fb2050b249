"""The networks of latent diffusion (Rombach et al. 2022, sec. 3 and app. E) written again, with the checkpoint's names.

Our own code, sharing nothing with diffusers: the reference that the converted cin256-v2 is compared with.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=eps)


def conv(n_in: int, n_out: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, size, padding=size // 2)


# ---------------------------------------------------------------- UNet


class ResBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, n_time: int):
        super().__init__()
        self.in_layers = nn.Sequential(group_norm(n_in, 1e-5), nn.SiLU(), conv(n_in, n_out))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(n_time, n_out))
        self.out_layers = nn.Sequential(group_norm(n_out, 1e-5), nn.SiLU(), nn.Identity(), conv(n_out, n_out))
        self.skip_connection = nn.Identity() if n_in == n_out else conv(n_in, n_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    def __init__(self, width: int, context_width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            f(y).unflatten(-1, (self.heads, -1))
            for f, y in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
        return self.to_out(torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2))


class Geglu(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class Block(nn.Module):
    def __init__(self, width: int, context_width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn1, self.attn2 = Attention(width, width, heads), Attention(width, context_width, heads)
        self.ff = nn.Module()
        self.ff.net = nn.Sequential(Geglu(width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff.net(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, channels: int, context_width: int, heads: int):
        super().__init__()
        self.norm = group_norm(channels, 1e-6)
        self.proj_in, self.proj_out = conv(channels, channels, 1), conv(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([Block(channels, context_width, heads)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        tokens = self.transformer_blocks[0](tokens, context)
        return x + self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))


class Down(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)


class Up(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv(channels, channels)


class Unet(nn.Module):
    def __init__(self, p: dict[str, Any]):
        super().__init__()
        base, mults, depth = p["model_channels"], p["channel_mult"], p["num_res_blocks"]
        self.base, n_time = base, 4 * base

        def layers(n_in: int, n_out: int, level: int) -> list[nn.Module]:
            attends = 2**level in p["attention_resolutions"]
            found: list[nn.Module] = [ResBlock(n_in, n_out, n_time)]
            return found + [SpatialTransformer(n_out, p["context_dim"], p["num_heads"])] * attends

        self.time_embed = nn.Sequential(nn.Linear(base, n_time), nn.SiLU(), nn.Linear(n_time, n_time))
        blocks, skips, width = [[conv(p["in_channels"], base)]], [base], base
        for level, mult in enumerate(mults):
            for _ in range(depth):
                blocks.append(layers(width, mult * base, level))
                width = mult * base
                skips.append(width)
            if level < len(mults) - 1:
                blocks.append([Down(width)])
                skips.append(width)
        self.input_blocks = nn.ModuleList(nn.ModuleList(b) for b in blocks)
        middle = SpatialTransformer(width, p["context_dim"], p["num_heads"])
        self.middle_block = nn.ModuleList([ResBlock(width, width, n_time), middle, ResBlock(width, width, n_time)])
        blocks = []
        for level, mult in reversed(list(enumerate(mults))):
            for i in range(depth + 1):
                blocks.append(layers(width + skips.pop(), mult * base, level))
                width = mult * base
                if level and i == depth:
                    blocks[-1].append(Up(width))
        self.output_blocks = nn.ModuleList(nn.ModuleList(b) for b in blocks)
        self.out = nn.Sequential(group_norm(width, 1e-5), nn.SiLU(), conv(width, p["out_channels"]))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, added: Tensor | float = 0.0) -> Tensor:
        """``added`` joins the time embedding after its two linears, as DC-LDM's condition does."""
        half = self.base // 2
        angle = timesteps[:, None].float() * torch.exp(-math.log(10000.0) * torch.arange(half) / half)
        time = self.time_embed(torch.cat([angle.cos(), angle.sin()], 1)) + added

        def apply(block: Any, h: Tensor) -> Tensor:
            for layer in block:
                if isinstance(layer, ResBlock):
                    h = layer(h, time)
                elif isinstance(layer, SpatialTransformer):
                    h = layer(h, context)
                elif isinstance(layer, Down):
                    h = layer.op(h)
                elif isinstance(layer, Up):
                    h = layer.conv(h.repeat_interleave(2, 2).repeat_interleave(2, 3))
                else:
                    h = layer(h)
            return h

        skips, h = [], x
        for block in self.input_blocks:
            h = apply(block, h)
            skips.append(h)
        h = apply(self.middle_block, h)
        for block in self.output_blocks:
            h = apply(block, torch.cat([h, skips.pop()], 1))
        return self.out(h)


# ---------------------------------------------------------------- VQ autoencoder


class VqBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.norm1, self.norm2 = group_norm(n_in, 1e-6), group_norm(n_out, 1e-6)
        self.conv1, self.conv2 = conv(n_in, n_out), conv(n_out, n_out)
        if n_in != n_out:
            self.nin_shortcut = conv(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class VqAttention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels, 1e-6)
        self.q, self.k, self.v, self.proj_out = (conv(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (f(y).flatten(2) for f in (self.q, self.k, self.v))
        weight = (torch.einsum("bci,bcj->bij", q, k) / math.sqrt(x.shape[1])).softmax(-1)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weight, v).unflatten(2, x.shape[2:]))


def _middle(channels: int) -> nn.Module:
    mid = nn.Module()
    mid.block_1, mid.attn_1, mid.block_2 = (
        VqBlock(channels, channels),
        VqAttention(channels),
        VqBlock(channels, channels),
    )
    return mid


class VqCoder(nn.Module):
    """Encoder (``up`` False) or decoder."""

    def __init__(self, p: dict[str, Any], up: bool):
        super().__init__()
        widths, depth, self.is_decoder = [p["ch"] * m for m in p["ch_mult"]], p["num_res_blocks"], up
        first = p["z_channels"] if up else p["in_channels"]
        self.conv_in = conv(first, widths[-1] if up else p["ch"])
        self.mid = _middle(widths[-1])
        levels, width = [], widths[-1] if up else p["ch"]
        for i in reversed(range(len(widths))) if up else range(len(widths)):
            level, blocks = nn.Module(), []
            for _ in range(depth + up):
                blocks.append(VqBlock(width, widths[i]))
                width = widths[i]
            level.block = nn.ModuleList(blocks)
            if up and i > 0:
                level.upsample = Up(width)
            if not up and i < len(widths) - 1:
                level.downsample = nn.Module()
                level.downsample.conv = nn.Conv2d(width, width, 3, stride=2)
            levels.append(level)
        if up:
            self.up = nn.ModuleList(reversed(levels))
        else:
            self.down = nn.ModuleList(levels)
        self.norm_out = group_norm(width, 1e-6)
        self.conv_out = conv(width, p["out_ch"] if up else p["z_channels"])

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        if self.is_decoder:
            h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h)))
        for level in reversed(self.up) if self.is_decoder else self.down:
            for block in level.block:
                h = block(h)
            if hasattr(level, "upsample"):
                h = level.upsample.conv(h.repeat_interleave(2, 2).repeat_interleave(2, 3))
            if hasattr(level, "downsample"):
                h = level.downsample.conv(F.pad(h, (0, 1, 0, 1)))  # padded on the right and below only
        if not self.is_decoder:
            h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h)))
        return self.conv_out(F.silu(self.norm_out(h)))


class VqAutoencoder(nn.Module):
    def __init__(self, p: dict[str, Any]):
        super().__init__()
        z, width = p["ddconfig"]["z_channels"], p["embed_dim"]
        self.encoder, self.decoder = VqCoder(p["ddconfig"], up=False), VqCoder(p["ddconfig"], up=True)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(p["n_embed"], width)
        self.quant_conv, self.post_quant_conv = conv(z, width, 1), conv(width, z, 1)

    def encode(self, images: Tensor) -> Tensor:
        """Before quantisation: where the diffusion model lives."""
        return self.quant_conv(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        codes = self.quantize.embedding.weight
        distance = (latents[:, None] - codes[None, :, :, None, None]).square().sum(2)
        return self.decoder(self.post_quant_conv(codes[distance.argmin(1)].permute(0, 3, 1, 2)))


class OriginalLdm(nn.Module):
    """``model.params`` of a config to the modules of the checkpoint, under their names."""

    def __init__(self, params: dict[str, Any]):
        super().__init__()
        self.model = nn.Module()
        self.model.diffusion_model = Unet(params["unet_config"]["params"])
        self.first_stage_model = VqAutoencoder(params["first_stage_config"]["params"])
        cond = params["cond_stage_config"]["params"]
        self.cond_stage_model = nn.Module()
        self.cond_stage_model.embedding = nn.Embedding(cond["n_classes"], cond["embed_dim"])
        root = torch.linspace(
            params["linear_start"] ** 0.5, params["linear_end"] ** 0.5, params["timesteps"], dtype=torch.float64
        )
        self.register_buffer("alphas_cumprod", (1 - root.square()).cumprod(0).float())

    @torch.no_grad()
    def sample(self, category: Tensor, noise: Tensor, steps: int, guidance: float) -> Tensor:
        """LDM's DDIM (eta 0): every (T // steps)-th time-step counted from 1, ending at the first alpha."""
        times = torch.arange(0, 1000, 1000 // steps) + 1
        previous = torch.cat([torch.tensor([0]), times[:-1]])
        embedding, null = self.cond_stage_model.embedding.weight[category], self.cond_stage_model.embedding.weight[-1]
        x, unet = noise, self.model.diffusion_model
        for t, before in zip(reversed(times), reversed(previous), strict=True):
            batch = t.expand(len(x))
            with_class = unet(x, batch, embedding[:, None])
            without = unet(x, batch, null.expand(len(x), 1, -1))
            eps = without + guidance * (with_class - without)
            a, a_before = self.alphas_cumprod[t], self.alphas_cumprod[before]
            clean = (x - (1 - a).sqrt() * eps) / a.sqrt()
            x = a_before.sqrt() * clean + (1 - a_before).sqrt() * eps
        return x
