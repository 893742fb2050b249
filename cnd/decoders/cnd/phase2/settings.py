"""Settings of Phase 2: concept-aware conditioning and its training (sec. 3.3, 4.2, 8.2)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cnd.settings import Config, Fraction, Positive, Precision, Rate, Weight

Momentum = Annotated[float, Field(ge=0, lt=1)]


class UntilConverged(Config):
    """Train on, after the ordinary steps, until the validation score is flat.

    It is flat at a checkpoint when it lies no more than ``tolerance`` above what it was when three quarters of the
    steps so far were done.
    """

    tolerance: Weight = 0.02  # in units of the score: 2 points of accuracy
    patience: Positive = 2  # checkpoints in a row at which the score must be flat
    cap: Positive | None = None  # steps at most; None: eight times the ordinary number


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
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)  # AdamW's
    weight_decay: Weight = 0.01
    # gamma of the power-function average of the weights, which is then what is scored and kept; None: the last weights
    weight_average: Rate | None = None
    warmup_fraction: Fraction = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    gradient_clip: Rate = 1.0
    checkpoint: Literal["last", "validation", "test_best"] = "validation"
    n_checkpoints: Positive = 8  # evenly spaced; at each the weights are scored
    curve_items: Annotated[int, Field(ge=0)] = 60  # held-out items whose reconstructions are scored there; 0: no curve
    until_converged: UntilConverged | None = None  # None: the ordinary number of steps, converged or not

    @model_validator(mode="after")
    def _range(self) -> Phase2Config:
        low, high = self.timestep_range
        if not 0 <= low < high <= 1000:
            raise ValueError("timestep_range must satisfy 0 <= low < high <= 1000")
        return self

    @model_validator(mode="after")
    def _flat(self) -> Phase2Config:
        if self.until_converged is None:
            return self
        if not self.curve_items:
            raise ValueError("until_converged needs the curve of the validation score: set curve_items above 0")
        if self.schedule != "constant":
            raise ValueError(
                "until_converged: a cosine falls to 0 at a step that must be known beforehand, and there a score is "
                "flat whatever is left to learn; set schedule to constant"
            )
        return self
