"""The steps that all decoders share: data, images, latents, classes, reconstructions."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.data.images import STORE, write_store
from cnd.errors import UserError
from cnd.generators.sampling import SamplingConfig
from cnd.json_files import write_json
from cnd.metrics.evaluation import EvaluationConfig, judge_all, mean_scores, score_table
from cnd.protocols import (
    Bench,
    DataSource,
    Decoder,
    FmriDataset,
    FmriSplit,
    GeneratorChoice,
    Given,
    JudgeChoice,
    Noise,
    Patterns,
    TrainingSet,
    Truth,
)
from cnd.settings import Config
from cnd.steps import Step
from cnd.workflow.lab import Laboratory

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

DRAWN_STEPS = 25  # of DDIM, for images of classes where the data has labels only


class StoredImagesOf(Config):
    """The images of a data source, whoever of its subjects saw them."""

    source: DataSource

    def identity(self) -> Any:
        whole = self.source.identity()
        return {"images": whole["images"], "size": whole.get("image_size")}


def store_images(bench: Bench, folder: Path, images: StoredImagesOf) -> None:
    """Write the images of a data source once for all of its subjects."""
    source = images.source.image_source()
    assert source is not None  # declared by ``stores_images``
    write_store(source, folder / STORE)


def stored_images(bench: Bench, folder: Path, images: StoredImagesOf) -> Path:
    """The file of the store."""
    return folder / STORE


def make_data(bench: Bench, folder: Path, source: DataSource, fold: int, images: Step | None) -> None:
    """Load one fold and write it."""
    from cnd.data.storage import save_dataset

    bench.report("data", 0.0, 0, {})
    store = None if images is None else bench.value(images)
    with every_core():
        save_dataset(source.load(fold, store), folder)


def load_data(bench: Bench, folder: Path, source: DataSource, fold: int, images: Step | None) -> FmriDataset:
    """Read what :func:`make_data` wrote."""
    from cnd.data.storage import load_dataset

    return load_dataset(folder, None if images is None else bench.value(images))


def make_latents(bench: Bench, folder: Path, generator: GeneratorChoice, data: Step) -> None:
    """Encode the training images once for all rows.

    Where there are labels but no images, the generator draws an image of each item's class.
    """
    from safetensors.torch import save_file

    dataset: FmriDataset = bench.value(data)
    frozen = bench.generator(generator)
    with every_core():
        if dataset.train.images.size:
            encoded = frozen.encode(dataset.train.images).cpu().contiguous()
        else:
            encoded = _drawn(bench, generator, by_label(generator, dataset, dataset.train))
    save_file({"train": encoded}, folder / "latents.safetensors")


def load_latents(bench: Bench, folder: Path, generator: GeneratorChoice, data: Step) -> Tensor:
    """Latents of the training images, [n, c, h, w]."""
    from safetensors.torch import load_file

    return load_file(folder / "latents.safetensors")["train"]


def _drawn(bench: Bench, generator: GeneratorChoice, classes: np.ndarray) -> Tensor:
    import torch

    frozen = bench.generator(generator)
    noise = Noise(0, 1).latents(len(classes), frozen.latent_shape)[:, 0]
    parts = zip(torch.from_numpy(classes).split(50), noise.split(50), strict=True)
    return torch.cat(
        [frozen.sample(frozen.class_condition(part), start, DRAWN_STEPS, 1.0) for part, start in parts]
    )


def find_classes(
    bench: Bench, generator: GeneratorChoice, judge: JudgeChoice | None, data: Step
) -> Callable[[FmriSplit], np.ndarray]:
    """A function that gives the generator's class of each item: by its label, else the judge's top-1 on the stimulus."""
    dataset: FmriDataset = bench.value(data)
    return lambda items: by_label(generator, dataset, items, None if judge is None else lambda: bench.judge(judge))


def by_label(
    generator: GeneratorChoice, dataset: FmriDataset, items: FmriSplit, judge: Callable[[], Any] | None = None
) -> np.ndarray:
    """The generator's class of each item, int64 [n].

    Raises:
        UserError: labels that the generator does not know, and no stimuli to judge.
    """
    import numpy as np

    known = generator.class_indices(dataset.class_names, dataset.wnid)
    found = [known[category] for category in items.category]
    unknown = np.array([index is None for index in found], dtype=bool)
    classes = np.array([-1 if index is None else index for index in found], dtype=np.int64)
    if unknown.any():
        if not items.images.size or judge is None:
            name = dataset.class_names[items.category[unknown.argmax()]]
            raise UserError(
                f"data: class '{name}' is none of the generator's, and there are no stimuli to find its class by, or no "
                "classifier to ask; name classes as the generator does (for ImageNet by WordNet id), or add images and "
                "evaluation.classifiers"
            )
        classes[unknown] = judge().probabilities(items.images[np.flatnonzero(unknown)]).argmax(1)
    return classes


def test_scorer(
    bench: Bench,
    evaluation: EvaluationConfig,
    judges: tuple[JudgeChoice, ...],
    data: Step,
    classes: Step | None,
) -> Callable[[np.ndarray], float]:
    """A function from reconstructions of the test items to the table's score."""
    dataset: FmriDataset = bench.value(data)
    test, metric = dataset.test, evaluation.all_metrics()[:1]

    def score(images: np.ndarray) -> float:
        labels = None if classes is None else bench.value(classes)(test)
        first = {name: bench.judge(judge) for name, judge in zip(evaluation.judges[:1], judges[:1], strict=True)}
        judgements = judge_all(evaluation, first, test.images, images, labels)
        truth = Truth(test.stimulus, test.category, dataset.class_names, judgements)
        return mean_scores(score_table(metric, test.images, images, truth))[metric[0].name]

    return score


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
    **needs: Any,
) -> None:
    """Fit the decoder, or take up its trainings, and reconstruct the test items.

    Args:
        given: what the decoder's own steps start from; all of it that matters is among the other arguments.
        needs: the decoder's own steps, and the generator; the decoder asks the lab for them.
    """
    import torch
    from safetensors.torch import save_file

    dataset: FmriDataset = bench.value(data)
    train: TrainingSet = bench.value(training)
    lab = Laboratory(bench, given, classes)
    fitted = decoder.fit(train, lab)
    start = time.time()
    items = patterns(decoder, lab, dataset.test)
    found = fitted.reconstruct(items, Noise(seed, sampling.samples_per_item))
    check_images(decoder, found.images, (len(items), sampling.samples_per_item))
    tensors = {"reconstructions": torch.from_numpy(found.images).contiguous()}
    if found.attention is not None:
        tensors["attention"] = torch.from_numpy(found.attention).contiguous()
    save_file(tensors, folder / "samples.safetensors")
    write_json(folder / "info.json", {"seconds": time.time() - start, "facts": dict(found.facts)})


def patterns(decoder: Decoder, lab: Laboratory, items: FmriSplit) -> Patterns:
    """What a decoder may see of items: their fMRI, and their classes only if it declares that it needs the truth."""
    truth = lab.classes_of(items) if decoder.needs_truth else None
    return Patterns(items.fmri, list(items.stimulus), truth)


def check_images(decoder: Decoder, images: np.ndarray, expected: tuple[int, int]) -> None:
    """Raises:
    UserError: a decoder gave something else than images of all items and samples.
    """
    if images.ndim != 5 or images.shape[:2] != expected or str(images.dtype) != "uint8":
        raise UserError(
            f"decoder.kind = {decoder.kind}: gave images {images.dtype} {list(images.shape)}, expected uint8 "
            f"[{expected[0]}, {expected[1]}, channels, height, width] (items, samples)"
        )


@contextlib.contextmanager
def every_core() -> Iterator[None]:
    """Let torch use all cores for a step that the other trials wait for; trials themselves use one each.

    The number of threads is the same whoever builds the step, so its bytes are too.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
