"""What Phase 2 aims at beside the stimuli, for ``phase2.target``: all of it follows from the labels of the items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cnd.decoders.cnd.phase2.settings import TargetConfig
from cnd.errors import UserError
from cnd.protocols import Condition, DrawnLatents, Generator


class Wanted(NamedTuple):
    """What the labels of a batch ask for beside eq. 2; None: nothing.

    Attributes:
        condition: of the items' classes.
        classes: of the items, which attention over the concept bank shall find.
    """

    condition: Condition | None = None
    classes: Int[Tensor, " b"] | None = None

    def take(self, rows: Tensor) -> Wanted:
        """Of some of the items."""
        near = self.condition
        return Wanted(
            None if near is None else Condition(near.context[rows], near.pooled[rows]),
            None if self.classes is None else self.classes[rows],
        )


@dataclass(frozen=True)
class ClassTargets:
    """What labels tell of items.

    Attributes:
        share: of the items of a batch whose latents are drawn ones.
        condition: of each item's class, where the condition itself is aimed at.
        drawn: where latents are.
        place: of each item's class in ``drawn``.
        classes: of each item, where attention is aimed at them.
    """

    share: float = 0.0
    condition: Condition | None = None
    drawn: DrawnLatents | None = None
    place: Int[Tensor, " n"] | None = None
    classes: Int[Tensor, " n"] | None = None

    def latents(self, rows: Tensor, stimuli: Tensor, rng: torch.Generator) -> Float[Tensor, "b c h w"]:
        """Latents to aim at for a batch: of the stimulus, or one at random of those drawn of the item's class.

        Args:
            rows: positions of the items, [b].
            stimuli: latents of all stimuli, [n, c, h, w].
        """
        if self.drawn is None or self.place is None:
            return stimuli[rows]
        image = torch.randint(self.drawn.latents.shape[1], (len(rows),), generator=rng)
        drawn = self.drawn.latents[self.place[rows], image]
        if self.share == 1:
            return drawn
        chosen = torch.rand(len(rows), generator=rng) < self.share
        return torch.where(chosen.view(-1, 1, 1, 1), drawn, stimuli[rows])

    def wanted(self, rows: Tensor) -> Wanted:
        """All that labels ask for of a batch beside eq. 2."""
        return Wanted(self.conditions(rows), None if self.classes is None else self.classes[rows])

    def conditions(self, rows: Tensor) -> Condition | None:
        """Conditions to aim at for a batch, None where none are."""
        if self.condition is None:
            return None
        return Condition(self.condition.context[rows], self.condition.pooled[rows])


def class_targets(
    config: TargetConfig,
    generator: Generator,
    classes: np.ndarray | None,
    drawn: DrawnLatents | None,
    attention: bool = False,
) -> ClassTargets:
    """The targets of items.

    Args:
        classes: the generator's class of each item, int64 [n]; None where no label is asked for.
        drawn: for ``generated``.
        attention: whether attention over the concept bank is aimed at the classes.

    Raises:
        UserError: no image was drawn of a class.
    """
    condition = place = None
    if classes is not None and config.embedding:
        condition = class_conditions(generator, classes)
    if classes is not None and drawn is not None:
        place = _places(drawn, classes)
    share = config.generated / config.denoising if config.denoising else 0.0
    return ClassTargets(
        share, condition, drawn, place, torch.from_numpy(classes) if classes is not None and attention else None
    )


def class_conditions(generator: Generator, classes: np.ndarray) -> Condition:
    """The condition of each item's class, on the CPU."""
    return generator.class_condition(torch.from_numpy(classes).to(generator.concept_bank.device)).to("cpu")


def attention_loss(attention: Float[Tensor, "b concepts"], classes: Int[Tensor, " b"]) -> Tensor:
    """Cross-entropy of attention over the concept bank to the class of each item."""
    return F.nll_loss(attention.clamp_min(torch.finfo(attention.dtype).tiny).log(), classes)


def condition_loss(condition: Condition, wanted: Condition) -> Tensor:
    """Mean squared error to the condition of the class: of every context token, and of the pooled vector."""
    context = F.mse_loss(condition.context, wanted.context.expand_as(condition.context))
    return context + F.mse_loss(condition.pooled, wanted.pooled)


def _places(drawn: DrawnLatents, classes: np.ndarray) -> Int[Tensor, " n"]:
    """Where each item's class stands among the drawn ones."""
    known = {int(c): place for place, c in enumerate(drawn.classes)}
    if unknown := sorted({int(c) for c in classes} - known.keys()):
        raise UserError(
            f"decoder.phase2.target: no image was drawn of class {unknown[0]}, which the first fold of the data does "
            "not have; use target 'stimuli'"
        )
    return torch.tensor([known[int(c)] for c in classes], dtype=torch.long)
