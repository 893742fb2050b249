"""Settings of Phase 2: concept-aware conditioning and its training (sec. 3.3, 4.2, 8.2)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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


class TargetConfig(Config):
    """What Phase 2 aims at: a weight for each loss. One word, such as ``generated``, stands for that loss alone.

    ``stimuli`` and ``generated`` are eq. 2. They are mixed by items: each item of a batch takes its stimulus or a drawn
    image, by chance in the ratio of the two weights, so that the sum costs one pass through the UNet.
    """

    stimuli: Weight = 1.0  # eq. 2 on the latents of the stimuli: the paper
    generated: Weight = 0.0  # eq. 2 on latents that the generator draws of the item's class, another one each step
    embedding: Weight = 0.0  # squared error of the condition to that of the item's class
    n_generated: Positive = 48  # latents drawn of each class

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        words = ("stimuli", "generated", "embedding")
        if not isinstance(value, str):
            return value
        if value not in words:
            raise ValueError(f"'{value}' is none of {', '.join(words)}")
        return {"stimuli": 0.0, value: 1.0}

    @model_validator(mode="after")
    def _aims_at_something(self) -> TargetConfig:
        if not self.denoising + self.embedding:
            raise ValueError("one of stimuli, generated and embedding must have a weight above 0")
        return self

    @property
    def denoising(self) -> float:
        """Weight of eq. 2."""
        return self.stimuli + self.generated

    @property
    def uses_labels(self) -> bool:
        """Whether it asks for the classes of training items; the paper's does not."""
        return self.generated + self.embedding > 0


class ConditionTraining(Config):
    """Training of what steers a latent diffusion model (eq. 2; sec. 4.2, 8.2), whatever its network."""

    context_tokens: Positive = 77
    target: TargetConfig = TargetConfig()
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

    @property
    def uses_labels(self) -> bool:
        """Whether training asks for the classes of training items; the paper's does not."""
        return self.target.uses_labels

    @model_validator(mode="after")
    def _range(self) -> ConditionTraining:
        low, high = self.timestep_range
        if not 0 <= low < high <= 1000:
            raise ValueError("timestep_range must satisfy 0 <= low < high <= 1000")
        return self

    @model_validator(mode="after")
    def _flat(self) -> ConditionTraining:
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


class Phase2Config(ConditionTraining):
    """Concept-aware conditioning of the frozen latent diffusion model (sec. 3.3)."""

    concept_depth: Annotated[int, Field(ge=0)] = 4  # cross-attention layers over the concept bank (CL depth)
    token_mapper: Literal["flatten", "conv"] = "flatten"
    mapper_width: Positive = 16  # channels a token keeps before flattening
    mapper_position: Literal["before", "after"] = "before"  # of the concept layers
    concept_heads: Positive = 8
    concept_attention: Literal["dot", "cosine"] = "dot"  # cosine: with a learned scale, see ConceptLayer
    attention_loss: Weight = 0.0  # of the cross-entropy of attention over the bank to the item's class: uses labels
    projections: Literal["bank", "conv"] = "bank"  # to the UNet; conv: DC-LDM's, see ConditionModule
    train_encoder: bool = True
    # what is aimed at before eq. 2: the condition of the item's class (uses labels), or the stimulus's by inversion
    warm_start: Literal["none", "classes", "inversion"] = "none"
    warm_start_steps: Positive = 300
    train_unet_cross_attention: bool = False  # DC-LDM's policy

    @property
    def uses_labels(self) -> bool:
        """Whether training asks for the classes of training items; the paper's does not."""
        return super().uses_labels or self.attention_loss > 0 or self.warm_start == "classes"

    @model_validator(mode="after")
    def _attends(self) -> Phase2Config:
        if self.attention_loss and not self.concept_depth:
            raise ValueError("attention_loss needs concept layers: set it to 0, or concept_depth above 0")
        return self
