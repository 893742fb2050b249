"""The two phases of the paper: the masked autoencoder and its training, concept-aware conditioning and its training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cnd.config.base import Config, Fraction, Positive, Rate, Weight

Precision = Literal["float32", "bfloat16", "float16"]
Layout = Literal["cnd", "mind_vis"]


class EncoderConfig(Config):
    """Masked autoencoder of fMRI patterns (sec. 3.2, 8.2).

    ``layout`` is ``mind_vis`` for networks that MinD-Vis trained (Chen et al. 2023), which differ in four things:

    - epsilon of all layer norms: 1e-5, ours 1e-6;
    - where the voxels fill whole patches, one more patch is padded;
    - positions are stored; for another number of patches rows are repeated or left out (nearest), ours are computed;
    - the class token has a position, and takes part in Phase 1 only; ours goes on to Phase 2.
    """

    layout: Layout = "cnd"
    patch_size: Positive = 16  # voxels a token; kernel and stride of the 1-D convolution
    width: Positive = 1024
    depth: Positive = 24
    heads: Positive = 16
    mlp_ratio: Rate = 1.0
    decoder_width: Positive = 512
    decoder_depth: Positive = 8
    decoder_heads: Positive = 16
    activation_checkpointing: bool = False  # recompute activations in the backward pass: less memory, a third more time

    @model_validator(mode="after")
    def _heads_divide(self) -> EncoderConfig:
        if self.width % self.heads or self.decoder_width % self.decoder_heads:
            raise ValueError("width must be a multiple of heads, and decoder_width of decoder_heads")
        if self.width % 2 or self.decoder_width % 2:
            raise ValueError("width and decoder_width must be even (sin-cos positions)")
        return self


class Phase1Config(Config):
    """Double contrastive pre-training (sec. 3.2, eq. 3 to 5, sec. 8.2)."""

    enabled: bool = True  # False: the encoder starts Phase 2 from random weights (Table 1, row 0)
    alpha_s: Weight = 1.0  # weight of the self-contrast, eq. 4
    alpha_c: Weight = 0.5  # weight of the cross-contrast, eq. 3
    reconstruction_weight: Weight = 0.0  # masked mean squared error, for baselines
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    self_contrast_view: Literal["first", "both", "independent"] = "first"  # both: duplicate self-contrast
    negatives: Literal["anchors", "positives"] = "anchors"  # anchors: as eq. 3 and 4 are printed
    temperature: Rate = 0.1  # tau of eq. 1; the paper gives none
    sparsification: Annotated[float, Field(ge=0, lt=1)] = 0.2  # voxels of a sample set to zero
    pretrain_epochs: Annotated[int, Field(ge=0)] = 500  # on the unlabelled pool, where there is one
    tune_epochs: Annotated[int, Field(ge=0)] = 500  # on the training set of the subject
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    batch_size: Annotated[int, Field(ge=2)] = 250  # contrast negatives come from the batch
    micro_batch_size: Positive | None = None  # patterns in memory at once; all batch_size negatives are kept
    initial_weights: Path | None = None  # to start from: ours (.safetensors), or MinD-Vis's (.pth; encoder.layout)
    lr: Rate = 2.5e-4
    weight_decay: Weight = 0.05
    gradient_clip: Rate = 0.8
    precision: Precision = "float32"  # of the forward pass (autocast); weights and losses stay float32
    transductive: bool = False  # True: test fMRI enters pre-training, and the report says so loudly

    @model_validator(mode="after")
    def _some_loss(self) -> Phase1Config:
        if self.enabled and self.alpha_s + self.alpha_c + self.reconstruction_weight == 0:
            raise ValueError("alpha_s, alpha_c and reconstruction_weight are all 0: nothing to train")
        return self


class Phase2Config(Config):
    """Concept-aware conditioning of the frozen latent diffusion model (sec. 3.3)."""

    concept_depth: Positive = 4  # cross-attention layers over the concept bank (CL depth)
    context_tokens: Positive = 77
    token_mapper: Literal["flatten", "conv"] = "flatten"
    mapper_width: Positive = 16  # channels a token keeps before flattening
    mapper_position: Literal["before", "after"] = "before"  # of the concept layers
    concept_heads: Positive = 8
    train_encoder: bool = True
    train_unet_cross_attention: bool = False  # DC-LDM's policy
    loss_weighting: Literal["none", "min_snr"] = "none"
    timestep_range: tuple[int, int] = (0, 1000)  # where training time-steps are drawn; all is eq. 2
    max_steps: Positive | None = None  # None: max_epochs decides
    max_epochs: Positive = 500
    batch_size: Positive = 8
    micro_batch_size: Positive | None = None  # items in memory at once; gradients are accumulated to batch_size
    precision: Precision = "float32"  # of the forward pass (autocast); weights and losses stay float32
    lr: Rate = 5.3e-5
    encoder_lr: Rate | None = None  # None: the same as lr
    weight_decay: Weight = 0.01
    warmup_fraction: Fraction = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    gradient_clip: Rate = 1.0
    checkpoint: Literal["last", "validation", "test_best"] = "validation"
    n_checkpoints: Positive = 5  # how often the candidates for ``checkpoint`` are scored
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of the training categories (or items)

    @model_validator(mode="after")
    def _range(self) -> Phase2Config:
        low, high = self.timestep_range
        if not 0 <= low < high <= 1000:
            raise ValueError("timestep_range must satisfy 0 <= low < high <= 1000")
        return self
