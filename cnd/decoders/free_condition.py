"""Ceiling of the loss: a free condition of each class, trained by Phase 2's loss without any fMRI.

Phase 2 can decode no better than the minimum of its loss. Where the generator does not know the stimuli's style, that
minimum draws another class. A condition is trained for each class of the items to be scored, on all stimuli of that
class, training and test: test classes need not occur in training (sec. 4.1). So it knows the truth, as the oracle does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from cnd.decoders.cnd.phase2.settings import TargetConfig
from cnd.decoders.conditioned import ByCondition
from cnd.errors import UserError
from cnd.json_files import write_json
from cnd.protocols import Condition, Decoder, Fitted, Given, Lab, Patterns, TrainingSet
from cnd.settings import Positive, Rate
from cnd.steps import Step

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cnd.decoders.cnd.phase2.targets import ClassTargets
    from cnd.protocols import Bench, FmriDataset, Generator, GeneratorChoice

FILE = "conditions.safetensors"
IN_MEMORY = 64  # items at a time


class FreeConditionDecoder(Decoder):
    """A free condition of each true class, trained by Phase 2's loss: no decoder, the ceiling of that loss."""

    learns: ClassVar[bool] = False
    needs_truth: ClassVar[bool] = True
    shares: ClassVar[Mapping[str, float]] = {"free_conditions": 0.8}
    takes_over: ClassVar[Mapping[str, str]] = {
        name: f"phase2.{name}"
        for name in (
            "target", "timestep_range", "loss_weighting", "context_tokens", "max_steps", "max_epochs", "batch_size",
        )
    }  # fmt: skip
    kind: Literal["free_condition"] = "free_condition"
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

    def steps(self, given: Given) -> dict[str, Step]:
        """The training of the conditions."""
        needs = {"data": given.data, "latents": given.latents, "classes": given.classes}
        if self.target.generated:
            needs["drawn"] = given.drawn(self.target.n_generated)
        settings = {"decoder": self, "generator": given.generator, "seed": given.seed}
        return {"free_conditions": Step("free_conditions", train_conditions, settings, needs)}

    def fit(self, train: TrainingSet, lab: Lab) -> Fitted:
        """The trained conditions."""
        from safetensors.torch import load_file

        return _Free(load_file(lab.value(self.steps(lab.given)["free_conditions"]) / FILE), lab)


class _Free(ByCondition):
    def __init__(self, table: dict[str, Tensor], lab: Lab) -> None:
        super().__init__(lab.generator, lab)
        self.table = table

    def condition(self, items: Patterns) -> Condition:
        """That of each item's class."""
        import torch

        assert items.truth is not None  # declared by ``needs_truth``
        rows = torch.searchsorted(self.table["classes"], torch.from_numpy(items.truth))
        return Condition(self.table["context"][rows], self.table["pooled"][rows])


def train_conditions(
    bench: Bench,
    folder: Path,
    decoder: FreeConditionDecoder,
    generator: GeneratorChoice,
    seed: int,
    data: Step,
    latents: Step,
    classes: Step,
    drawn: Step | None = None,
) -> None:
    """Train a condition of each class among the test items, and write them and facts.

    Raises:
        UserError: the data has labels only, so that there are no stimuli to aim at.
    """
    import torch
    from safetensors.torch import save_file

    from cnd.decoders.cnd.phase2.targets import class_targets

    start = time.time()
    dataset: FmriDataset = bench.value(data)
    frozen, find = bench.generator(generator).to(bench.device), bench.value(classes)
    if not dataset.test.images.size and decoder.target.stimuli:
        raise UserError("decoder.kind = free_condition: the data has labels and no stimuli; leave this control out")
    known, wanted = find(dataset.train), find(dataset.test)
    clean, category = bench.value(latents), np.concatenate([known, wanted])
    if dataset.test.images.size:
        clean = torch.cat([clean, frozen.encode(dataset.test.images).cpu()])
    else:
        category = wanted if not len(known) else category
        clean = torch.cat([clean, torch.zeros(len(wanted), *frozen.latent_shape)])
    targets = class_targets(decoder.target, frozen, category, None if drawn is None else bench.value(drawn))
    found = np.unique(wanted)
    members = [torch.from_numpy(np.flatnonzero(category == c)) for c in found]
    report = lambda fraction, seen: bench.report("free_conditions", fraction, seen, {})  # noqa: E731
    trained = fit(decoder, frozen, clean, members, targets, seed, report)
    tensors = {"classes": torch.from_numpy(found), "context": trained.context, "pooled": trained.pooled}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / FILE)
    write_json(folder / "info.json", {"seconds": time.time() - start})


def fit(
    config: FreeConditionDecoder,
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
    config: FreeConditionDecoder,
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
