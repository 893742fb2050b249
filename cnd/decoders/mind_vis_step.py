"""The published outcome of MinD-Vis's training in the place of a training: a step that reads it once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from cnd.decoders.cnd.phase1.settings import EncoderConfig
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.json_files import write_json
from cnd.protocols import GeneratorChoice
from cnd.settings import FileOf
from cnd.steps import Step

if TYPE_CHECKING:
    from cnd.protocols import Bench, Given, TrainingSet


def finetuned_step(encoder: EncoderConfig, phase2: Phase2Config, weights: Path, given: Given) -> Step:
    """Stands for ``phase2``, whose files it writes; of the data it asks for the number of voxels alone."""
    settings = {"encoder": encoder, "phase2": phase2, "generator": given.generator, "weights": FileOf(path=weights)}
    return Step("phase2", take_finetuned, settings, {"training": given.training})


def take_finetuned(
    bench: Bench,
    folder: Path,
    encoder: EncoderConfig,
    phase2: Phase2Config,
    generator: GeneratorChoice,
    weights: FileOf,
    training: Step,
) -> None:
    """Write the published weights under our names, the UNet's included.

    Raises:
        UserError: the file does not fit the settings, the generator or the data.
    """
    from safetensors.torch import save_file

    from cnd.decoders.cnd.phase2.model import count_parameters
    from cnd.decoders.cnd.phase2.step import MODULE, UNET, condition_module
    from cnd.decoders.cnd.phase2.training import trainable_parameters
    from cnd.decoders.mind_vis import load_finetuned

    start = time.time()
    train: TrainingSet = bench.value(training)
    own = bench.generator(generator).copy()
    module = condition_module(encoder, phase2, train.items.fmri.shape[1], own, seed=0)
    load_finetuned(module, own, weights.path)
    trainable_parameters(phase2, module, own)  # marks what was trained there
    save_file({k: v.cpu().contiguous() for k, v in module.state_dict().items()}, folder / MODULE)
    save_file({k: v.cpu().contiguous() for k, v in own.unet.state_dict().items()}, folder / UNET)
    write_json(folder / "info.json", {"seconds": time.time() - start} | count_parameters(module, own))
