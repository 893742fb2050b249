"""A latent diffusion model of the embedded ones' shape, with random weights and a tenth of their width."""

from __future__ import annotations

import torch

from cnd.generators.latent_diffusion import LatentDiffusion


def tiny_generator(n_classes: int = 12) -> LatentDiffusion:
    """Latents are [2, 8, 8]; there is no autoencoder."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8, attention_head_dim=2, norm_num_groups=4, class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=8,
    )  # fmt: skip
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
    return LatentDiffusion(None, unet, scheduler, torch.randn(n_classes + 1, 8))
