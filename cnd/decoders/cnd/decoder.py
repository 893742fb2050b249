"""The paper's decoder: Phase 1 (sec. 3.2), then Phase 2 (sec. 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cnd.decoders.cnd.phase1.settings import EncoderConfig, Phase1Config
from cnd.decoders.cnd.phase1.step import phase1_steps
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.decoders.cnd.phase2.step import phase2_step, trained_module
from cnd.decoders.conditioned import ByCondition
from cnd.errors import UserError
from cnd.protocols import Condition, Decoder, GeneratorChoice, Given, Lab, Patterns, TrainingSet
from cnd.steps import Step

if TYPE_CHECKING:
    from torch import Tensor

    from cnd.decoders.cnd.phase2.model import ConditionModule
    from cnd.protocols import Generator


class CndDecoder(Decoder):
    """The paper's two phases."""

    has_condition: ClassVar[bool] = True
    interventions: ClassVar[str | None] = "cnd.decoders.cnd.phase2.interventions:ConceptInterventions"
    shares: ClassVar[Mapping[str, float]] = {"phase1": 0.2, "phase2": 0.65}
    kind: Literal["cnd"] = "cnd"
    encoder: EncoderConfig = EncoderConfig()
    phase1: Phase1Config = Phase1Config()
    phase2: Phase2Config = Phase2Config()

    def suits(self, generator: GeneratorChoice) -> None:
        """Raises:
        ValueError: cross-attention shall be trained where there is none.
        """
        if self.phase2.train_unet_cross_attention and not generator.has_cross_attention:
            raise ValueError(
                f"decoder.phase2.train_unet_cross_attention: generator.kind '{generator.kind}' has no cross-attention; "
                "leave it out"
            )

    def learns_from_labels(self) -> bool:
        """Only where Phase 2 aims at classes; the paper's loss asks for none."""
        return self.phase2.uses_labels

    def fused_with(self) -> Any | None:
        """Batches and precision of Phase 2, and how long it takes; None where it trains part of the UNet."""
        if self.phase2.train_unet_cross_attention:
            return None
        names = ("batch_size", "micro_batch_size", "precision", "max_steps", "max_epochs")
        return tuple(getattr(self.phase2, name) for name in names)

    def steps(self, given: Given) -> dict[str, Step]:
        """``pretrain`` and ``phase1``, where there is a Phase 1, and ``phase2``."""
        first = phase1_steps(self.encoder, self.phase1, given) if self.phase1.enabled else {}
        return first | {"phase2": phase2_step(self.encoder, self.phase2, first.get("phase1"), given)}

    def fit(self, train: TrainingSet, lab: Lab) -> FittedCnd:
        """The trained module in front of its generator."""
        return self.fitted(lab.value(self.steps(lab.given)["phase2"]), train, lab)

    def fitted(self, folder: Path, train: TrainingSet, lab: Lab) -> FittedCnd:
        """The module that lies in ``folder``, as step ``phase2`` writes it, in front of its generator."""
        n_voxels = train.items.fmri.shape[1]
        module, generator = trained_module(self.encoder, self.phase2, n_voxels, lab.generator, folder)
        return FittedCnd(module.to(lab.device), generator, lab)

    def missing(self) -> list[str]:
        """The checkpoint to start from, where it is not there."""
        path = self.phase1.initial_weights
        if path is None or path.is_file():
            return []
        return [f"{path}: no such file (decoder.phase1.initial_weights); give the path of an encoder checkpoint"]

    def check(self) -> None:
        """See that the checkpoint to start from fits; loads torch only where there is one.

        Raises:
            UserError: it cannot be read, or is of a network of another size.
        """
        if self.phase1.enabled and self.phase1.initial_weights is not None:
            from cnd.decoders.cnd.phase1.checkpoints import check_initial_weights

            check_initial_weights(self.encoder, self.phase1.initial_weights)

    def warnings(self) -> list[str]:
        """Where test data had a say."""
        found = []
        if self.phase1.enabled and self.phase1.transductive:
            found.append(
                "Transductive: fMRI of the test set entered Phase 1; scores are not comparable with an inductive "
                "protocol."
            )
        if self.learns_from_labels():
            found.append(
                "Labels: Phase 2 aims at the classes of training items (decoder.phase2.target, attention_loss, "
                "warm_start); the paper's loss asks for no labels. Compare with the same decoder on shuffled pairs."
            )
        if self.phase2.checkpoint == "test_best":
            found.append(
                "Test-set checkpoint: Phase 2 keeps the one that scored best on the test set, so scores are optimistic."
            )
        return found

    def network(self, n_voxels: int, bank: Tensor, time_embedding_width: int | None) -> ConditionModule:
        """The untrained module, with the bank and the positions among its weights: what an exported decoder holds."""
        from cnd.decoders.cnd.phase1.model import FmriEncoder
        from cnd.decoders.cnd.phase2.model import ConditionModule

        encoder = FmriEncoder(self.encoder, n_voxels)
        module = ConditionModule(self.phase2, encoder, encoder.n_tokens, self.encoder.width, bank, time_embedding_width)
        module.register_buffer("bank", bank, persistent=True)
        encoder.set_positions(encoder.positions)  # whatever they are, they are among the weights from here on
        return module

    def export(self, lab: Lab, n_voxels: int, experiment: dict[str, Any], folder: Path) -> None:
        """Write the trained decoder as a :class:`cnd.generators.pipeline.CndPipeline`."""
        self.write(lab.value(self.steps(lab.given)["phase2"]), lab, n_voxels, experiment, folder)

    def write(self, trained: Path, lab: Lab, n_voxels: int, experiment: dict[str, Any], folder: Path) -> None:
        """The same of the module that lies in ``trained``."""
        from safetensors.torch import load_file

        from cnd.decoders.cnd.phase2.step import MODULE
        from cnd.generators.pipeline import write_pipeline

        if not lab.given.generator.has_cross_attention:
            kind = lab.given.generator.kind
            raise UserError(f"generator.kind = {kind}: cannot be exported as a pipeline; use 'embedded' or 'ldm'")
        _, generator = trained_module(self.encoder, self.phase2, n_voxels, lab.generator, trained)
        write_pipeline(experiment, n_voxels, load_file(trained / MODULE), generator, folder)


class FittedCnd(ByCondition):
    """The trained condition module (:class:`cnd.protocols.Conditioning`)."""

    def __init__(self, module: ConditionModule, generator: Generator, lab: Lab) -> None:
        super().__init__(generator, lab)
        self.module = module

    def condition(self, items: Patterns) -> Condition:
        """What the module makes of the patterns."""
        return self._both(items)[0]

    def attention(self, items: Patterns) -> Tensor | None:
        """Attention over the concept bank, averaged over heads, tokens and layers, [item, concepts]."""
        return self._both(items)[1]

    def _both(self, items: Patterns) -> tuple[Condition, Tensor | None]:
        import torch

        with torch.no_grad():
            condition, attention = self.module(torch.from_numpy(items.fmri).to(self.module.bank.device))
        return condition, attention
