"""Phase 2 as a step that is kept (sec. 3.3): the condition module, trained in front of a frozen generator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from cnd.decoders.cnd.phase1.settings import EncoderConfig
from cnd.decoders.cnd.phase2.inversion import inversion_step
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.json_files import write_json
from cnd.protocols import Condition, GeneratorChoice, SamplingConfig
from cnd.steps import Step

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from cnd.decoders.cnd.phase2.model import ConditionModule
    from cnd.decoders.cnd.phase2.targets import ClassTargets
    from cnd.decoders.cnd.phase2.training import Phase2State
    from cnd.protocols import Bench, FmriDataset, Generator, Given, TrainingSet

MODULE, UNET = "condition_module.safetensors", "unet.safetensors"
CURVE = "curve.parquet"


def phase2_step(encoder: EncoderConfig, phase2: Phase2Config, phase1: Step | None, given: Given) -> Step:
    """The step ``phase2``; ``phase1`` gives the encoder, None leaves it at its random weights."""
    by_test = phase2.checkpoint == "test_best"
    settings = {"encoder": encoder, "phase2": phase2, "generator": given.generator, "seed": given.seed}
    needs = {"training": given.training, "latents": given.latents, "phase1": phase1}
    if phase2.uses_labels:
        needs["classes"] = given.classes
    if phase2.target.generated:
        needs["class_latents"] = given.drawn(phase2.target.n_generated)
    if phase2.warm_start == "inversion":
        needs["inverted"] = inversion_step(phase2, given)
    if by_test:
        settings["sampling"], needs["data"], needs["test_score"] = given.sampling, given.data, given.test_score
    if phase2.curve_items:
        settings["curve_sampling"] = given.sampling.model_copy(update={"samples_per_item": 1})
        needs["validation_score"] = given.validation_score
    return Step("phase2", train_condition_module, settings, needs)


def train_condition_module(
    bench: Bench,
    folder: Path,
    encoder: EncoderConfig,
    phase2: Phase2Config,
    generator: GeneratorChoice,
    seed: int,
    training: Step,
    latents: Step,
    phase1: Step | None,
    sampling: SamplingConfig | None = None,
    data: Step | None = None,
    test_score: Step | None = None,
    curve_sampling: SamplingConfig | None = None,
    validation_score: Step | None = None,
    classes: Step | None = None,
    class_latents: Step | None = None,
    inverted: Step | None = None,
) -> None:
    """Train by eq. 2, or what else is aimed at; write weights, history, the curve of the validation score, facts.

    Args:
        sampling, data, test_score: where the checkpoint is chosen by the test set.
        curve_sampling, validation_score: where there is a curve.
        classes, class_latents: where labels are aimed at.
        inverted: where the warm start aims at what inversion found.
    """
    import numpy as np
    import pandas as pd
    from safetensors.torch import save_file

    from cnd.decoders.cnd.phase2.checkpoints import Checkpoints, curve_items
    from cnd.decoders.cnd.phase2.model import count_parameters
    from cnd.decoders.cnd.phase2.targets import class_conditions, class_targets
    from cnd.decoders.cnd.phase2.training import fit
    from cnd.decoders.cnd.phase2.warm_start import warm_up
    from cnd.decoders.training import HISTORY

    start = time.time()
    train: TrainingSet = bench.value(training)
    clean: Tensor = bench.value(latents)
    frozen = bench.generator(generator)
    if phase2.train_unet_cross_attention:
        frozen = frozen.copy()
    fmri = train.items.fmri
    module = condition_module(encoder, phase2, fmri.shape[1], frozen, seed)
    if phase1 is not None:
        _take_encoder(module, bench.value(phase1))
    module.to(bench.device)
    frozen.to(bench.device)
    score = None if validation_score is None else bench.value(validation_score)
    shown = curve_items(train, phase2.curve_items)
    labels = None if classes is None else bench.value(classes)(train.items)
    latents_of = None if class_latents is None else bench.value(class_latents)

    aims = phase2.attention_loss > 0

    def targets(rows: np.ndarray) -> ClassTargets:
        return class_targets(phase2.target, frozen, None if labels is None else labels[rows], latents_of, aims)

    measure = Checkpoints(module, frozen, phase2, seed, train, clean, shown, curve_sampling, score, targets)
    if data is not None and test_score is not None and sampling is not None:
        dataset: FmriDataset = bench.value(data)
        measure.test = (dataset.test, sampling, bench.value(test_score))
    held_out = score is not None or phase2.checkpoint == "validation"
    rows = train.fitting if held_out else np.arange(len(fmri))
    before = []
    aim: Condition | None = None if inverted is None else bench.value(inverted)
    if phase2.warm_start == "classes" and labels is not None:
        aim = class_conditions(frozen, labels)
    if aim is not None:
        before = warm_up(phase2, module, frozen, fmri[rows], Condition(aim.context[rows], aim.pooled[rows]), seed)
    fitted = fit(
        phase2, module, frozen, fmri[rows], clean[rows], seed, measure if measure.wanted() else None,
        resume=bench.scratch, report=lambda fraction, seen, metrics: bench.report("phase2", fraction, seen, metrics),
        targets=targets(rows),
    )  # fmt: skip
    save_file({k: v.cpu().contiguous() for k, v in module.state_dict().items()}, folder / MODULE)
    if phase2.train_unet_cross_attention:
        save_file({k: v.cpu().contiguous() for k, v in frozen.unet.state_dict().items()}, folder / UNET)
    pd.DataFrame(before + fitted.history, columns=HISTORY).to_parquet(folder / "history.parquet")
    if fitted.curve:
        _curve(fitted, train, shown).to_parquet(folder / CURVE)
    info = {"seconds": time.time() - start, "seconds_scoring": measure.seconds, "chosen_step": fitted.chosen_step}
    info |= {"steps": fitted.step, "samples_seen": fitted.samples_seen, "n_left_out": len(fmri) - len(rows)}
    write_json(folder / "info.json", info | count_parameters(module, frozen))


def _curve(fitted: Phase2State, train: TrainingSet, rows: np.ndarray) -> pd.DataFrame:
    """The score of each item at each checkpoint: samples_seen, item (its position), category, stimulus, value."""
    import pandas as pd

    names = dict(item=rows, category=train.items.category[rows], stimulus=[train.items.stimulus[i] for i in rows])
    parts = [pd.DataFrame(names | dict(samples_seen=seen, value=values)) for seen, values in fitted.curve]
    return pd.concat(parts, ignore_index=True)


def condition_module(
    encoder: EncoderConfig, phase2: Phase2Config, n_voxels: int, generator: Generator, seed: int
) -> ConditionModule:
    """The module with fresh weights."""
    import torch

    from cnd.decoders.cnd.phase1.model import FmriEncoder
    from cnd.decoders.cnd.phase2.model import ConditionModule

    network = FmriEncoder(encoder, n_voxels, seed=seed)
    torch.manual_seed(seed)
    bank, time_width = generator.concept_bank.cpu(), generator.time_embedding_width  # the same start on any device
    module = ConditionModule(phase2, network, network.n_tokens, encoder.width, bank, time_width)
    return module


def trained_module(
    encoder: EncoderConfig, phase2: Phase2Config, n_voxels: int, generator: Generator, folder: Path
) -> tuple[ConditionModule, Generator]:
    """The trained module, and the generator that it steers: a copy where its cross-attention was trained."""
    from safetensors.torch import load_file

    module = condition_module(encoder, phase2, n_voxels, generator, seed=0)
    module.load_state_dict(load_file(folder / MODULE))
    if (folder / UNET).exists():
        generator = generator.copy()
        generator.unet.load_state_dict(load_file(folder / UNET))
    module.eval()
    return module, generator


def _take_encoder(module: ConditionModule, phase1: Path) -> None:
    """Start from the encoder of Phase 1."""
    from safetensors.torch import load_file

    from cnd.decoders.cnd.phase1.step import WEIGHTS

    weights = load_file(phase1 / WEIGHTS)
    prefix = "encoder."
    module.encoder.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
