"""Inversion of the frozen UNet: the condition under which it denoises each training stimulus best (eq. 2, no fMRI).

No label enters. It is a step that all rows and seeds share which have Phase 2's loss in common.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from cnd.decoders.cnd.phase2.free import FreeConditions, fit
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.json_files import write_json
from cnd.protocols import Condition, GeneratorChoice
from cnd.steps import Step

if TYPE_CHECKING:
    from torch import Tensor

    from cnd.protocols import Bench, Given

FILE = "conditions.safetensors"
PASSES = 32  # of each stimulus through the UNet, each with another noise and time-step


def inversion_step(phase2: Phase2Config, given: Given) -> Step:
    """The step ``inversion``, which gives a condition of each training item."""
    loss = FreeConditions(
        timestep_range=phase2.timestep_range,
        loss_weighting=phase2.loss_weighting,
        context_tokens=phase2.context_tokens,
        max_epochs=PASSES,
        max_samples=1_000_000_000,  # no limit
        per_class=1,
    )
    return Step("inversion", invert, {"loss": loss, "generator": given.generator}, {"latents": given.latents}, load)


def invert(bench: Bench, folder: Path, loss: FreeConditions, generator: GeneratorChoice, latents: Step) -> None:
    """Train a free condition of each training stimulus; write context [n, tokens, width] and pooled [n, width]."""
    import torch
    from safetensors.torch import save_file

    from cnd.decoders.cnd.phase2.targets import ClassTargets

    start = time.time()
    clean: Tensor = bench.value(latents)
    frozen = bench.generator(generator).to(bench.device)
    report = lambda fraction, seen: bench.report("inversion", fraction, seen, {})  # noqa: E731
    found = fit(loss, frozen, clean, list(torch.arange(len(clean)).split(1)), ClassTargets(), 0, report)
    save_file({name: tensor.cpu().contiguous() for name, tensor in found._asdict().items()}, folder / FILE)
    write_json(folder / "info.json", {"seconds": time.time() - start})


def load(bench: Bench, folder: Path, loss: FreeConditions, generator: GeneratorChoice, latents: Step) -> Condition:
    """What :func:`invert` wrote."""
    from safetensors.torch import load_file

    return Condition(**load_file(folder / FILE))
