"""Ceiling of the loss: a free condition of each class, trained by Phase 2's loss without any fMRI.

Phase 2 can decode no better than the minimum of its loss. Where the generator does not know the stimuli's style, that
minimum draws another class. A condition is trained for each class of the items to be scored, on all stimuli of that
class, training and test: test classes need not occur in training (sec. 4.1). So it knows the truth, as the oracle does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from cnd.decoders.cnd.phase2.free import FreeConditions, fit
from cnd.decoders.conditioned import ByCondition
from cnd.errors import UserError
from cnd.json_files import write_json
from cnd.protocols import Condition, Decoder, Fitted, Given, Lab, Patterns, TrainingSet
from cnd.steps import Step

if TYPE_CHECKING:
    from torch import Tensor

    from cnd.protocols import Bench, FmriDataset, GeneratorChoice

FILE = "conditions.safetensors"


class FreeConditionDecoder(FreeConditions, Decoder):
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
