"""MinD-Vis (Chen et al. 2023, "Seeing Beyond the Brain"; github.com/zjc062/mind-vis): the rival closest to CnD.

Phase A, masked brain modelling: a masked autoencoder of fMRI learns by reconstructing what was hidden. Phase B,
double-conditioned latent diffusion (DC-LDM): convolutions over the encoder's tokens give the context of the UNet's
cross-attention and a vector that joins its time embedding; by eq. 2 it trains the encoder, these projections and the
cross-attention of a copy of the UNet. There are no contrasts, no concept bank and no concept layers: it is
:class:`cnd.decoders.cnd.decoder.CndDecoder` with other switches, and :meth:`DcLdmDecoder.as_cnd` says which.

Differences from its code: DDIM instead of PLMS; stimuli are not cropped at random, since their latents are computed
once; padding enters no loss; with ``transductive`` the test set's fMRI joins the training set's in Phase A, where its
code tunes for 15 more epochs on the test set's alone.

Its published checkpoints: ``phase1.initial_weights`` starts from ``fmri_encoder.pth``, Phase A; ``finetuned_weights``
takes ``finetuned.pth``, the whole decoder, and trains nothing (:mod:`cnd.decoders.mind_vis`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from cnd.decoders.cnd.decoder import CndDecoder
from cnd.decoders.cnd.phase1.settings import EncoderConfig, Layout, MaskedTraining, Phase1Config
from cnd.decoders.cnd.phase2.settings import ConditionTraining, Phase2Config
from cnd.decoders.mind_vis_step import finetuned_step
from cnd.protocols import Decoder, Fitted, GeneratorChoice, Given, Lab, TrainingSet
from cnd.settings import Positive, Rate
from cnd.steps import Step

if TYPE_CHECKING:
    from torch import Tensor

    from cnd.decoders.cnd.phase2.model import ConditionModule


WHERE = "MinD-Vis's lie at https://figshare.com/s/94cd778e6afafb00946e, pretrains/GOD and pretrains/BOLD5000"


class MindVisEncoder(EncoderConfig):
    """The masked autoencoder as MinD-Vis has it; the same sizes as CnD's."""

    layout: Layout = "mind_vis"


class MaskedModelling(MaskedTraining):
    """Phase A: mean squared error of the masked patches."""

    warmup_epochs: Annotated[int, Field(ge=0)] = 40
    batch_size: Annotated[int, Field(ge=2)] = 100

    def of_cnd(self) -> Phase1Config:
        """As Phase 1 of CnD."""
        return Phase1Config(alpha_s=0, alpha_c=0, reconstruction_weight=1, **self.model_dump())


class DoubleConditioning(ConditionTraining):
    """Phase B: two ways into the UNet, whose cross-attention is trained along."""

    batch_size: Positive = 5
    gradient_clip: Rate = 0.5
    checkpoint: Literal["last", "validation", "test_best"] = "last"

    def of_cnd(self) -> Phase2Config:
        """As Phase 2 of CnD."""
        own = {"concept_depth": 0, "token_mapper": "conv", "projections": "conv", "train_unet_cross_attention": True}
        return Phase2Config.model_validate(own | self.model_dump())


class DcLdmDecoder(Decoder):
    """MinD-Vis: masked modelling of fMRI, then double conditioning of a latent diffusion model."""

    has_condition: ClassVar[bool] = True
    shares: ClassVar[Mapping[str, float]] = CndDecoder.shares
    # what belongs to the data, the generator and how long a row may train; rates and batches are its own
    takes_over: ClassVar[Mapping[str, str]] = {
        place: place
        for place in (
            "encoder.patch_size", "encoder.width", "encoder.depth", "encoder.heads", "encoder.mlp_ratio",
            "encoder.decoder_width", "encoder.decoder_depth", "encoder.decoder_heads",
            "encoder.activation_checkpointing", "phase1.enabled", "phase1.pretrain_epochs", "phase1.tune_epochs",
            "phase1.warmup_epochs", "phase1.micro_batch_size", "phase1.curve_patterns", "phase1.precision",
            "phase2.context_tokens", "phase2.target", "phase2.loss_weighting", "phase2.timestep_range",
            "phase2.max_steps", "phase2.max_epochs", "phase2.micro_batch_size", "phase2.precision",
            "phase2.checkpoint", "phase2.n_checkpoints", "phase2.curve_items", "phase2.until_converged",
        )
    }  # fmt: skip
    kind: Literal["dc_ldm"] = "dc_ldm"
    encoder: MindVisEncoder = MindVisEncoder()
    phase1: MaskedModelling = MaskedModelling()
    phase2: DoubleConditioning = DoubleConditioning()
    finetuned_weights: Path | None = None  # finetuned.pth of MinD-Vis: the trained decoder, used as it is; None: train

    def as_cnd(self) -> CndDecoder:
        """The same method in the terms of CnD, whose parts do the work."""
        encoder = EncoderConfig.model_validate(self.encoder.model_dump())
        return CndDecoder(encoder=encoder, phase1=self.phase1.of_cnd(), phase2=self.phase2.of_cnd())

    def suits(self, generator: GeneratorChoice) -> None:
        """Raises:
        ValueError: there is no cross-attention to train.
        """
        if not generator.has_cross_attention:
            raise ValueError(
                f"decoder.kind = dc_ldm trains the UNet's cross-attention, and generator.kind '{generator.kind}' has "
                "none; choose another generator, or another decoder"
            )

    def learns_from_labels(self) -> bool:
        """Only where it aims at classes; MinD-Vis's loss asks for none."""
        return self.phase2.uses_labels

    def steps(self, given: Given) -> dict[str, Step]:
        """``pretrain`` and ``phase1``: Phase A, where there is one; ``phase2``: Phase B, or the published outcome."""
        own = self.as_cnd()
        if self.finetuned_weights is None:
            return own.steps(given)
        return {"phase2": finetuned_step(own.encoder, own.phase2, self.finetuned_weights, given)}

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """The trained network in front of its own copy of the generator."""
        return self.as_cnd().fitted(lab.value(self.steps(lab.given)["phase2"]), train, lab)

    def missing(self) -> list[str]:
        """The checkpoint to start from, or to use, where it is not there."""
        path = self.finetuned_weights
        if path is None:
            return self.as_cnd().missing()
        return [] if path.is_file() else [f"{path}: no such file (decoder.finetuned_weights); {WHERE}"]

    def check(self) -> None:
        """See that the checkpoint to start from, or to use, fits.

        Raises:
            UserError: it cannot be read, or is of a network of another size.
        """
        own = self.as_cnd()
        if self.finetuned_weights is None:
            return own.check()
        from cnd.decoders.mind_vis import check_finetuned

        check_finetuned(own.encoder, own.phase2, self.finetuned_weights)

    def warnings(self) -> list[str]:
        """Where test data or labels had a say."""
        if self.finetuned_weights is None:
            return self.as_cnd().warnings()
        return [
            "Published weights: nothing was trained here. MinD-Vis tunes its encoder on the fMRI of its test set and "
            "scores checkpoints on it, so where the test items are the same, scores are optimistic "
            "(decoder.finetuned_weights)."
        ]

    def network(self, n_voxels: int, bank: Tensor, time_embedding_width: int | None) -> ConditionModule:
        """The untrained network: what an exported decoder holds."""
        return self.as_cnd().network(n_voxels, bank, time_embedding_width)

    def export(self, lab: Lab, n_voxels: int, experiment: dict[str, Any], folder: Path) -> None:
        """Write the trained decoder, its UNet included, as a :class:`cnd.generators.pipeline.CndPipeline`."""
        trained: Path = lab.value(self.steps(lab.given)["phase2"])
        self.as_cnd().write(trained, lab, n_voxels, experiment, folder)
