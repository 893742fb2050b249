"""A latent diffusion model shaped like cin256-v2, tiny, with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from cnd._compat import make_torchvision_importable

make_torchvision_importable()

from diffusers import DDIMScheduler, UNet2DConditionModel, VQModel  # noqa: E402

SCHEDULE = dict(clip_sample=False, set_alpha_to_one=False)


def write_ldm(folder: Path) -> None:
    """A tiny LDM as ``python -m cnd.generators convert`` writes it."""
    UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(32, 64), layers_per_block=1,
        cross_attention_dim=16, attention_head_dim=1, class_embed_type="identity",
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip
    VQModel(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, num_vq_embeddings=32,
        up_block_types=("UpDecoderBlock2D",) * 2, sample_size=16, scaling_factor=1.0,
    ).save_pretrained(folder / "vae")  # fmt: skip
    DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, **SCHEDULE).save_pretrained(folder / "scheduler")
    save_file({"weight": torch.randn(11, 16)}, folder / "class_embedding.safetensors")
