"""Free conditions: trained by Phase 2's loss as they are, with no network and no fMRI before them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from cnd.decoders.cnd.phase2.settings import TargetConfig
from cnd.protocols import Condition
from cnd.settings import Config, Positive, Rate

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cnd.decoders.cnd.phase2.targets import ClassTargets
    from cnd.protocols import Generator

IN_MEMORY = 64  # items at a time


class FreeConditions(Config):
    """How they are trained."""

    target: TargetConfig = TargetConfig()  # this and the next six as in Phase 2, whose loss it is
    timestep_range: tuple[int, int] = (0, 1000)
    loss_weighting: Literal["none", "min_snr"] = "none"
    context_tokens: Positive = 77
    max_steps: Positive | None = None  # this and the next two: as many samples as Phase 2 sees ...
    max_epochs: Positive = 500
    batch_size: Positive = 8
    max_samples: Positive = 20_000  # ... or so many, where these are fewer
    per_class: Positive = 4  # items of each class in a batch
    lr: Rate = 0.1  # of Adam, in standard deviations of the concept bank; a cosine to zero

    def n_steps(self, n_items: int, n_classes: int) -> int:
        """Steps with ``per_class`` items of each class."""
        seen = self.max_steps * self.batch_size if self.max_steps else self.max_epochs * n_items
        return max(1, min(seen, self.max_samples) // (self.per_class * n_classes))


def fit(
    config: FreeConditions,
    generator: Generator,
    clean: Tensor,
    members: list[Tensor],
    targets: ClassTargets,
    seed: int,
    report: Any = lambda fraction, seen: None,
) -> Condition:
    """A condition of each class, context [classes, tokens, width] and pooled [classes, width], by Phase 2's loss.

    All start as the mean of what the generator's classes have.

    Args:
        clean: latents of all items, [n, c, h, w].
        members: positions of the items of each class.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    import torch

    n_classes, size = len(members), config.per_class * len(members)
    every = generator.class_condition(torch.arange(len(generator.concept_bank), device=generator.device))
    context = every.context.mean((0, 1)).repeat(n_classes, config.context_tokens, 1).requires_grad_()
    pooled = every.pooled.mean(0).repeat(n_classes, 1).requires_grad_()
    lr = config.lr * float(generator.concept_bank.std())
    optimizer = torch.optim.Adam([context, pooled], lr=lr)
    rng = torch.Generator().manual_seed(seed)
    n_steps = config.n_steps(len(clean), n_classes)
    owner = torch.arange(n_classes).repeat_interleave(config.per_class)
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        rows = torch.cat([m[torch.randint(len(m), (config.per_class,), generator=rng)] for m in members])
        optimizer.zero_grad()
        total = 0.0
        for part, loss in _losses(config, generator, context, pooled, owner, rows, clean, targets, rng):
            loss = loss * (part / size)
            generator.backward(loss)
            total += loss.item()
        if not math.isfinite(total):
            raise FloatingPointError(f"free conditions: the loss is {total} at step {step}")
        optimizer.step()
        report((step + 1) / n_steps, (step + 1) * size)
    return Condition(context.detach(), pooled.detach())


def _losses(
    config: FreeConditions,
    generator: Generator,
    context: Tensor,
    pooled: Tensor,
    owner: Tensor,
    rows: Tensor,
    clean: Tensor,
    targets: ClassTargets,
    rng: torch.Generator,
) -> Iterator[tuple[int, Tensor]]:
    """Size and mean loss of the parts of a batch, a few items at a time."""
    import torch

    from cnd.decoders.cnd.phase2.model import denoising_loss
    from cnd.decoders.cnd.phase2.targets import condition_loss

    latents, conditions = targets.latents(rows, clean, rng), targets.conditions(rows)
    noise = torch.randn(latents.shape, generator=rng)
    timesteps = torch.randint(*config.timestep_range, (len(rows),), generator=rng)
    target, device = config.target, generator.device
    for part in torch.arange(len(rows)).split(IN_MEMORY):
        z, e, t = (x[part].to(device) for x in (latents, noise, timesteps))
        own = Condition(context[owner[part]], pooled[owner[part]])
        loss = torch.zeros((), device=device)
        if target.denoising:
            predicted = generator.predict_noise(generator.add_noise(z, e, t), t, own)
            loss = target.denoising * denoising_loss(predicted, e, generator.alphas_cumprod, t, config.loss_weighting)
        if conditions is not None:
            wanted = Condition(conditions.context[part], conditions.pooled[part]).to(device)
            loss = loss + target.embedding * condition_loss(own, wanted)
        yield len(part), loss
