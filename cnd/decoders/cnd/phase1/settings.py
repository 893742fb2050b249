"""Settings of Phase 1: the masked autoencoder and its training (sec. 3.2, 8.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cnd.settings import Config, Positive, Precision, Rate, Weight

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


class MaskedTraining(Config):
    """Training of the masked autoencoder (sec. 3.2, 8.2), whatever its loss."""

    enabled: bool = True  # False: the encoder starts Phase 2 from random weights (Table 1, row 0)
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    sparsification: Annotated[float, Field(ge=0, lt=1)] = 0.2  # voxels of a sample set to zero
    pretrain_epochs: Annotated[int, Field(ge=0)] = 500  # on the unlabelled pool, where there is one
    tune_epochs: Annotated[int, Field(ge=0)] = 500  # on the training set of the subject
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    batch_size: Annotated[int, Field(ge=2)] = 250  # contrast negatives come from the batch
    micro_batch_size: Positive | None = None  # patterns in memory at once; all batch_size negatives are kept
    curve_patterns: Annotated[int, Field(ge=0)] = (
        64  # left out, at most a tenth, and scored along the training; 0: none
    )
    initial_weights: Path | None = None  # to start from: ours (.safetensors), or MinD-Vis's (.pth; encoder.layout)
    initial_subject: int | str | None = None  # start from the Phase 1 of another subject of the same data source
    lr: Rate = 2.5e-4
    weight_decay: Weight = 0.05
    gradient_clip: Rate = 0.8
    precision: Precision = "float32"  # of the forward pass (autocast); weights and losses stay float32
    transductive: bool = False  # True: test fMRI enters pre-training, and the report says so loudly

    @model_validator(mode="after")
    def _one_start(self) -> MaskedTraining:
        if self.initial_weights is not None and self.initial_subject is not None:
            raise ValueError("initial_weights, initial_subject: Phase 1 starts from one of them; leave the other out")
        return self

    def identity(self) -> Any:
        """Without what a training step names itself: how many epochs, and where it starts."""
        own = {"pretrain_epochs", "tune_epochs", "initial_weights", "initial_subject", "enabled"}
        return self.model_dump(mode="json", exclude=own)


class Phase1Config(MaskedTraining):
    """Double contrastive pre-training (sec. 3.2, eq. 3 to 5, sec. 8.2)."""

    alpha_s: Weight = 1.0  # weight of the self-contrast, eq. 4
    alpha_c: Weight = 0.5  # weight of the cross-contrast, eq. 3
    reconstruction_weight: Weight = 0.0  # masked mean squared error, for baselines
    self_contrast_view: Literal["first", "both", "independent"] = "first"  # both: duplicate self-contrast
    negatives: Literal["anchors", "positives"] = "anchors"  # anchors: as eq. 3 and 4 are printed
    temperature: Rate = 0.1  # tau of eq. 1; the paper gives none

    @model_validator(mode="after")
    def _some_loss(self) -> Phase1Config:
        if self.enabled and self.alpha_s + self.alpha_c + self.reconstruction_weight == 0:
            raise ValueError("alpha_s, alpha_c and reconstruction_weight are all 0: nothing to train")
        return self
