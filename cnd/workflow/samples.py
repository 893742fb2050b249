"""Reconstructions of the test items as a step: fit, then reconstruct."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from cnd.errors import UserError
from cnd.json_files import write_json
from cnd.protocols import (
    Bench,
    Decoder,
    FmriDataset,
    FmriSplit,
    GeneratorChoice,
    Given,
    Noise,
    Patterns,
    SamplingConfig,
    TrainingSet,
)
from cnd.steps import Step
from cnd.workflow.lab import Laboratory

SAMPLES = "samples.safetensors"


def reconstruct(
    bench: Bench,
    folder: Path,
    decoder: Decoder,
    sampling: SamplingConfig,
    seed: int,
    data: Step,
    training: Step,
    given: Given,
    classes: Step | None = None,
    generator: GeneratorChoice | None = None,
    **needs: Step | None,
) -> None:
    """Fit the decoder, or take up its trainings, and reconstruct the test items.

    Args:
        given: what the decoder's own steps start from; all of it that matters is among the other arguments.
        needs: what the decoder may ask the lab for: its own steps or, where it has none, pools and latents.
    """
    import torch
    from safetensors.torch import save_file

    dataset: FmriDataset = bench.value(data)
    train: TrainingSet = bench.value(training)
    lab = Laboratory(bench, given, classes, generator, [data, training, *needs.values()])
    start = time.time()
    fitted = decoder.fit(train, lab)
    fit = {} if decoder.steps(given) else {"seconds_fit": time.time() - start}  # steps of its own are timed there
    start = time.time()
    items = patterns(decoder, lab, dataset.test)
    found = fitted.reconstruct(items, Noise(seed, sampling.samples_per_item))
    check_images(decoder, found.images, (len(items), sampling.samples_per_item))
    tensors = {"reconstructions": torch.from_numpy(found.images).contiguous()}
    if found.attention is not None:
        tensors["attention"] = torch.from_numpy(found.attention).contiguous()
    save_file(tensors, folder / SAMPLES)
    write_json(folder / "info.json", {"seconds": time.time() - start, "facts": dict(found.facts)} | fit)


def patterns(decoder: Decoder, lab: Laboratory, items: FmriSplit) -> Patterns:
    """What a decoder may see of items: their fMRI; classes and images only if it declares that it needs the truth."""
    if not decoder.needs_truth:
        return Patterns(items.fmri, list(items.stimulus))
    return Patterns(items.fmri, list(items.stimulus), lab.classes_of(items), items.images)


def check_images(decoder: Decoder, images: np.ndarray, expected: tuple[int, int]) -> None:
    """Raises:
    UserError: a decoder gave something else than images of all items and samples.
    """
    if images.ndim != 5 or images.shape[:2] != expected or str(images.dtype) != "uint8":
        raise UserError(
            f"decoder.kind = {decoder.kind}: gave images {images.dtype} {list(images.shape)}, expected uint8 "
            f"[{expected[0]}, {expected[1]}, channels, height, width] (items, samples)"
        )
