"""What can be replaced in a trained CnD decoder (:mod:`cnd.decoders.cnd.phase2.concepts`); loads no torch by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from cnd.protocols import Condition, Interventions, Patterns

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cnd.decoders.cnd.decoder import FittedCnd


class ConceptInterventions(Interventions):
    """Of :class:`cnd.decoders.cnd.decoder.CndDecoder`."""

    if_equal: ClassVar[Mapping[str, str]] = {
        "even attention": "attention carries nothing that even attention over the bank does not",
        "top concept only": "one concept a head carries what all of them do",
        "no attention": "nothing that comes from the bank is needed",
        "no concept layers": "the concept layers are not needed",
    }

    def conditions(self, fitted: FittedCnd) -> Mapping[str, Callable[[Patterns], Condition]]:
        """The condition with every concept layer's pass replaced by each of the others there are."""
        from cnd.decoders.cnd.phase2.concepts import PASSES, Pass, condition_with

        if not fitted.module.concept_layers:
            return {}

        def replaced(each: Pass) -> Callable[[Patterns], Condition]:
            return lambda items: condition_with(fitted.module, _fmri(fitted, items), each)

        return {name: replaced(each) for name, each in PASSES.items()}

    def measures(self, fitted: FittedCnd, items: Patterns) -> dict[str, float]:
        """``attention_entropy`` (0..1) and ``bank_share``."""
        from cnd.decoders.cnd.phase2.concepts import attention_entropy, bank_share

        if not fitted.module.concept_layers:
            return {}
        fmri = _fmri(fitted, items)
        return {
            "attention_entropy": attention_entropy(fitted.module, fmri),
            "bank_share": bank_share(fitted.module, fmri),
        }

    def class_scores(self, fitted: FittedCnd, items: Patterns) -> np.ndarray | None:
        """Attention over the concept bank, averaged over heads, tokens and layers, [item, class]."""
        import torch

        with torch.no_grad():
            _, attention = fitted.module(_fmri(fitted, items))
        return None if attention is None else attention.cpu().numpy()


def _fmri(fitted: FittedCnd, items: Patterns) -> Tensor:
    import torch

    return torch.from_numpy(items.fmri).to(fitted.module.bank.device)
