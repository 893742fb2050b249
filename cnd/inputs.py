"""What every stage starts from: settings, cache, data, latents, generator and judges. Importing it loads no torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd import data, generators
from cnd.cache import StageCache
from cnd.config import Experiment
from cnd.errors import UserError
from cnd.stages import Fold, Stage, fold_stages

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cnd.generators.latent_diffusion import LatentDiffusion
    from cnd.protocols import Classifier, FmriDataset, FmriSplit

SPAN = {"phase1": (0.0, 0.2), "phase2": (0.2, 0.85), "sample": (0.85, 1.0)}
"""Where a phase begins and ends in the expected time of a fold, for the progress of a trial."""


@dataclass(frozen=True)
class Progress:
    """What a running trial tells."""

    phase: str  # data, phase1, phase2, sample, evaluate, done
    fraction: float  # of the whole trial, 0..1
    samples_seen: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


Listener = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """The listener of a run that nobody watches."""


class Inputs:
    """One experiment over one cache; builds what is missing, loads what is there."""

    def __init__(
        self,
        experiment: Experiment,
        cache: StageCache,
        listener: Listener = ignore,
        folds: list[Fold] | None = None,
    ):
        """``folds``: those of a finished run (:func:`cnd.stages.recorded_folds`); None works them out."""
        self.experiment, self.cache, self.listener = experiment, cache, listener
        self.folds = folds or [fold_stages(experiment, index) for index in data.folds(experiment.data)]
        self._generator: LatentDiffusion | None = None
        self._judges: dict[str, Classifier] = {}
        self.folds_done = 0

    @property
    def generator(self) -> LatentDiffusion:
        if self._generator is None:
            self._generator = generators.load(self.experiment.generator)
        return self._generator

    @property
    def judges(self) -> dict[str, Classifier]:
        """The classifiers that score, by name; the first one gives the table's score."""
        from cnd.evaluation import classifiers

        if not self._judges:
            folder = generators.folder(self.experiment.generator)
            loaded = [classifiers.load(config, folder) for config in self.experiment.evaluation.classifiers]
            self._judges = {judge.name: judge for judge in loaded}
        return self._judges

    def classes(self, dataset: FmriDataset, split: FmriSplit) -> np.ndarray:
        """The generator's class of each item, int64 [n]: by its label, else the first judge's top-1 on the stimulus.

        Raises:
            UserError: labels that the generator does not know, and no stimuli to judge.
        """
        import numpy as np

        known = generators.class_indices(self.experiment.generator, dataset.class_names, dataset.wnid)
        found = [known[category] for category in split.category]
        unknown = np.array([index is None for index in found])
        classes = np.array([-1 if index is None else index for index in found], dtype=np.int64)
        if unknown.any():
            if not split.images.size:
                name = dataset.class_names[split.category[unknown.argmax()]]
                raise UserError(
                    f"data: class '{name}' is none of the generator's, and there are no stimuli to find its class by; "
                    f"name classes as the generator does (for ImageNet by WordNet id), or add images"
                )
            judge = next(iter(self.judges.values()))
            classes[unknown] = judge.probabilities(split.images[np.flatnonzero(unknown)]).argmax(1)
        return classes

    def labels(self, dataset: FmriDataset) -> np.ndarray | None:
        """Class of each test item for ``truth: label``, else None."""
        return self.classes(dataset, dataset.test) if self.experiment.evaluation.truth == "label" else None

    def build(self, stage: Stage, make: Callable[[Path], None]) -> Path:
        """The stage's folder; made if it is missing."""
        return self.cache.build(stage.name, stage.key, stage.inputs, make)

    def report(
        self, phase: str, fraction: float, samples_seen: int = 0, metrics: dict[str, float] | None = None
    ) -> None:
        """Tell the listener how far the whole run is."""
        begin, end = SPAN.get(phase, (0.0, 0.0))
        whole = (self.folds_done + begin + (end - begin) * fraction) / len(self.folds)
        self.listener(Progress(phase, whole, samples_seen, metrics or {}))

    # ---- data

    def dataset(self, fold: Fold) -> FmriDataset:
        """The fold's data."""
        from cnd.data.storage import load_dataset, save_dataset

        if self.cache.find(fold.data.name, fold.data.key) is None:
            self.report("data", 0.0)

        def make(folder: Path) -> None:
            with every_core():
                save_dataset(data.load(self.experiment.data, fold.index, self.cache), folder)

        return load_dataset(self.build(fold.data, make), data.image_store(self.experiment.data, self.cache))

    def latents(self, fold: Fold, dataset: FmriDataset) -> Tensor:
        """Latents of the training images, [n, c, h, w]: encoded once for all rows.

        Where there are labels but no images, the generator draws an image of each item's class.
        """
        from safetensors.torch import load_file, save_file

        def make(folder: Path) -> None:
            with every_core():
                if dataset.train.images.size:
                    encoded = self.generator.encode(dataset.train.images).cpu().contiguous()
                else:
                    encoded = self._drawn(self.classes(dataset, dataset.train))
            save_file({"train": encoded}, folder / "latents.safetensors")

        return load_file(self.build(fold.latents, make) / "latents.safetensors")["train"]

    def _drawn(self, classes: np.ndarray) -> Tensor:
        import torch

        from cnd.phase2.sampling import initial_noise

        noise = initial_noise(len(classes), 1, self.generator.latent_shape, seed=0)[:, 0]
        parts = zip(torch.from_numpy(classes).split(50), noise.split(50), strict=True)
        drawn = [self.generator.sample(self.generator.class_condition(part), start, 25, 1.0) for part, start in parts]
        return torch.cat(drawn)


@contextlib.contextmanager
def every_core() -> Iterator[None]:
    """Let torch use all cores for a stage that the other trials wait for; trials themselves use one each.

    The number of threads is the same whoever builds the stage, so its bytes are too.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
