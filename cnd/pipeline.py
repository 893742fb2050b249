"""The one place where the stages meet: data -> Phase 1 -> Phase 2 -> samples -> scores.

Training and sampling are in :mod:`cnd.decoding`. A stage is a pure function of its config, its inputs and its seed, and
is kept under the hash of those and of its code (:class:`cnd.cache.StageCache`). Rows that share a stage compute it
once; a run that was killed goes on where it was. A sweep calls ``check``, ``stages``, ``warm_up``, ``prepare`` and
``run``. Importing this module, and :func:`stages`, load no torch.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd import data
from cnd.cache import StageCache
from cnd.config import CndDecoder, Experiment, HcpPool, SimulatedData, override
from cnd.decoding import Decoding
from cnd.errors import UserError
from cnd.inputs import Listener, Progress, device, ignore
from cnd.stages import (
    Fold,
    analysis_stage,
    code,
    figures_stage,
    missing,
    record_stage,
    recorded_folds,
    stages,
)

if TYPE_CHECKING:
    from cnd.cortex.compute.analyse import FoldInputs
    from cnd.protocols import FmriDataset

__all__ = ["Progress", "Run", "analyse", "analyse_record", "check", "missing", "prepare", "run", "stages", "warm_up"]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


class Run(Decoding):
    """One experiment over one cache, from its data to its scores and maps."""

    # ---- scores

    def notes(self, dataset: FmriDataset) -> list[str]:
        """What a reader must know besides what follows from the settings."""
        notes = []
        if not dataset.train.images.size:
            notes.append("Labels without images: Phase 2 learned from images that the generator drew of each class.")
        if not isinstance(self.experiment.data, SimulatedData):
            from cnd.data.hcp import describe_pool

            pools = [pool for pool in self.experiment.data.unlabelled if isinstance(pool, HcpPool)]
            notes += [f"Unlabelled fMRI: {describe_pool(pool)}" for pool in pools if self.experiment.phase1.enabled]
        return notes

    def record(self) -> Path:
        """Everything that reports need, pooled over folds; see README.md, 'What a run leaves behind'."""

        def make(folder: Path) -> None:
            from cnd.record import FoldResult, write_record

            results = []
            for fold in self.folds:
                folders = {"sample": self.sample(fold)}
                for stage in (fold.pretrain, fold.phase1, fold.phase2):
                    path = self.cache.find(stage.name, stage.key) if stage else None
                    if stage and path:
                        folders[stage.name] = path
                dataset = self.dataset(fold)
                results.append(FoldResult(fold.index, dataset, folders, self.labels(dataset)))
            write_record(folder, self.experiment, results, self.judges, self.notes(results[0].dataset), code("."))

        return self.build(record_stage(self.experiment, self.folds), make)

    # ---- linear decoding analysis

    def analysis(self) -> Path:
        """Which voxels carry the hidden states of the frozen UNet (sec. 3.4, 5.2), as tables."""
        stage = analysis_stage(self.experiment, self.folds)

        def make(folder: Path) -> None:
            from cnd.cortex.compute.analyse import analyse

            e = self.experiment
            analyse(
                e.analysis, e.sampling, e.seed, [partial(self._analysis_inputs, fold) for fold in self.folds], folder,
                lambda fraction, seen, metrics: self.listener(Progress("analysis", fraction, seen, metrics)),
            )  # fmt: skip

        return self.build(stage, make)

    def figures(self) -> Path:
        """The pictures of the analysis (Figures 5 and 6, and what the paper does not show)."""
        analysis = self.analysis()

        def make(folder: Path) -> None:
            from cnd.cortex.drawing.draw import draw

            draw(analysis, folder, f"{self.experiment.name}, seed {self.experiment.seed}")

        return self.build(figures_stage(analysis_stage(self.experiment, self.folds)), make)

    def _analysis_inputs(self, fold: Fold) -> FoldInputs:
        from cnd.cortex.compute.analyse import FoldInputs

        dataset = self.dataset(fold)
        splits = (dataset.train, dataset.test)
        train, test = (self.decode(fold, dataset, split)[0] for split in splits)
        latents = None
        if dataset.train.images.size and dataset.test.images.size:
            latents = (self.latents(fold, dataset).to(device()), self.generator.encode(dataset.test.images))
        self.generator.to(device())
        classes = (self.classes(dataset, dataset.train), self.classes(dataset, dataset.test))
        return FoldInputs(dataset, self.generator, (train, test), classes, latents)


def check(experiment: Experiment) -> None:
    """Look at the experiment's files before anything runs; loads torch only for a checkpoint to start from.

    Raises:
        UserError: a data file or a checkpoint is missing or malformed.
    """
    data.check(experiment.data)
    if experiment.phase1.initial_weights is not None:
        from cnd.phase1.checkpoints import check_initial_weights

        check_initial_weights(experiment.encoder, experiment.phase1.initial_weights)


def warm_up() -> None:
    """Import what a trial needs; takes seconds, so a worker does it while another one prepares."""
    import cnd.generators.latent_diffusion
    import cnd.phase1.training
    import cnd.phase2.training
    import cnd.record  # noqa: F401


def prepare(experiment: Experiment, cache: StageCache, listener: Listener = ignore) -> None:
    """Build the stages that all rows share: data and latents. Uses every core of the calling process."""
    run_ = Run(experiment, cache, listener)
    for fold in run_.folds:
        if cache.find(fold.latents.name, fold.latents.key) is None:
            run_.latents(fold, run_.dataset(fold))


def run(experiment: Experiment, cache: StageCache, listener: Listener = ignore) -> Path:
    """Do what is missing of one experiment and return its record folder.

    Raises:
        UserError: bad data file.
        FloatingPointError: a loss is not finite; names quantity and step.
    """
    path = Run(experiment, cache, listener).record()
    listener(Progress("done", 1.0, metrics=_read_json(path / "summary.json")["scores"]))
    return path


def analyse(experiment: Experiment, cache: StageCache, listener: Listener = ignore) -> tuple[Path, Path]:
    """The linear decoding analysis of an experiment: folders of its tables and of its figures; runs what is missing.

    Raises:
        UserError: a layer that the generator does not have.
    """
    run_ = Run(experiment, cache, listener)
    return run_.analysis(), run_.figures()


def analyse_record(
    record: Path, cache: StageCache, edits: dict[str, Any] | None = None, listener: Listener = ignore
) -> tuple[Path, Path]:
    """The same for a finished run, from the weights it left: nothing is trained, whatever the code is today.

    Args:
        record: its record folder.
        edits: settings to change, e.g. ``{"analysis.n_components": 50}``.

    Raises:
        UserError: the run's stages are gone, or it trained no decoder.
    """
    experiment = Experiment.model_validate(_read_json(record / "experiment.json"))
    if not isinstance(experiment.decoder, CndDecoder):
        raise UserError(f"{record}: decoder '{experiment.decoder.kind}' has nothing to analyse; choose a run of CnD")
    experiment = override(experiment, edits or {}, "--set")
    run_ = Run(experiment, cache, listener, recorded_folds(cache, record))
    return run_.analysis(), run_.figures()
