"""Ceiling: the true class conditions the generator; what the generator and the judge allow at best."""

from __future__ import annotations

from typing import ClassVar, Literal

from cnd.decoders.conditioned import ByCondition
from cnd.protocols import Condition, Decoder, Fitted, Lab, Patterns, TrainingSet


class OracleDecoder(Decoder):
    """The true class of each test item: no decoder, a ceiling."""

    learns: ClassVar[bool] = False
    in_steps: ClassVar[bool] = False
    needs_truth: ClassVar[bool] = True
    kind: Literal["oracle"] = "oracle"

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """Nothing is learned."""
        return _Oracle(lab.generator, lab)


class _Oracle(ByCondition):
    def condition(self, items: Patterns) -> Condition:
        import torch

        assert items.truth is not None  # declared by ``needs_truth``
        return self.generator.class_condition(torch.from_numpy(items.truth).to(self.generator.device))
