"""The one place where the stages meet: data -> Phase 1 -> Phase 2 -> samples -> scores.

A stage is a pure function of its config, its inputs and its seed, and is kept under the hash of those and of its code
(:class:`cnd.cache.StageCache`). Rows that share a stage compute it once; a run that was killed goes on where it was.
A sweep calls ``check``, ``stages``, ``warm_up``, ``prepare`` and ``run``.
Importing this module, and :func:`stages`, load no torch.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cnd import data
from cnd.cache import StageCache
from cnd.config import CndDecoder, Experiment, HcpPool, OracleDecoder, RidgeDecoder, SimulatedData, override
from cnd.errors import UserError
from cnd.inputs import Inputs, Listener, Progress, device, ignore
from cnd.stages import (
    Fold,
    Stage,
    analysis_stage,
    code,
    figures_stage,
    missing,
    record_stage,
    recorded_folds,
    stages,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cnd.analysis.analyse import FoldInputs
    from cnd.phase2.model import ConditionModule
    from cnd.protocols import Condition, FmriDataset, FmriSplit

__all__ = ["Progress", "Run", "analyse", "analyse_record", "check", "missing", "prepare", "run", "stages", "warm_up"]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


class Run(Inputs):
    """One experiment over one cache; builds what is missing, loads what is there."""

    # ---- Phase 1

    def phase1(self, fold: Fold, dataset: FmriDataset) -> Path | None:
        """Pre-trained encoder weights (sec. 3.2): first the unlabelled pools, then the training set."""
        import numpy as np

        if fold.phase1 is None:
            return None
        config = self.experiment.phase1
        start = config.initial_weights
        if fold.pretrain is not None:
            pools = [(pool, config.pretrain_epochs) for pool in dataset.unlabelled]
            start = self._train_encoder(fold.pretrain, "pretrain", pools, start, (0.0, 0.5))
        labelled = dataset.train.fmri
        if config.transductive:
            labelled = np.concatenate([labelled, dataset.test.fmri])
        span = (0.5, 1.0) if fold.pretrain is not None else (0.0, 1.0)
        return self._train_encoder(fold.phase1, "tune", [(labelled, config.tune_epochs)], start, span)

    def _train_encoder(
        self,
        stage: Stage,
        phase: Literal["pretrain", "tune"],
        parts: list[tuple[np.ndarray, int]],
        start: Path | None,
        span: tuple[float, float],
    ) -> Path:
        """Train the autoencoder on one array of patterns after the other; each may have its own number of voxels.

        Args:
            parts: (patterns, epochs).
            start: checkpoint to begin with, or the folder of an earlier stage; None begins with random weights.
            span: where this stage begins and ends in the progress of Phase 1.
        """

        def make(folder: Path) -> None:
            import pandas as pd
            from safetensors.torch import save_file

            from cnd.phase1.checkpoints import load_initial_weights
            from cnd.phase1.model import MaskedAutoencoder
            from cnd.phase1.training import fit
            from cnd.record import HISTORY

            e, began, history = self.experiment, time.time(), []
            model: MaskedAutoencoder | None = None
            for index, (patterns, epochs) in enumerate(parts):

                def on_step(fraction: float, seen: int, metrics: dict[str, float], part: int = index) -> None:
                    done = span[0] + (span[1] - span[0]) * (part + fraction) / len(parts)
                    self.report("phase1", done, seen, metrics)

                before = model
                model = MaskedAutoencoder(e.encoder, patterns.shape[1], seed=e.seed)
                if before is not None:  # no parameter depends on the number of voxels
                    model.load_state_dict(before.state_dict())
                elif start is not None:
                    load_initial_weights(model, start / "model.safetensors" if start.is_dir() else start)
                model.to(device())
                if epochs:
                    history += fit(
                        model, patterns, e.phase1, epochs, e.seed, phase, on_step,
                        resume=self.cache.scratch(stage.name, stage.key) / str(index),
                    )  # fmt: skip
            assert model is not None  # there is at least one part
            save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
            pd.DataFrame(history, columns=HISTORY).to_parquet(folder / "history.parquet")
            _write_json(folder / "info.json", {"seconds": time.time() - began})

        return self.build(stage, make)

    # ---- Phase 2

    def condition_module(self, dataset: FmriDataset) -> ConditionModule:
        """The module with fresh weights; the encoder's come from Phase 1 where it ran."""
        import torch

        from cnd.phase1.model import FmriEncoder
        from cnd.phase2.model import ConditionModule

        e = self.experiment
        encoder = FmriEncoder(e.encoder, dataset.train.fmri.shape[1], seed=e.seed)
        torch.manual_seed(e.seed)
        bank, time_width = self.generator.concept_bank, self.generator.time_embedding_width
        return ConditionModule(e.phase2, encoder, 1 + encoder.n_patches, e.encoder.width, bank, time_width)

    def phase2(self, fold: Fold, dataset: FmriDataset, phase1: Path | None) -> Path:
        """Weights of the condition module (sec. 3.3)."""
        assert fold.phase2 is not None  # every CnD decoder has this stage
        stage = fold.phase2

        def make(folder: Path) -> None:
            import numpy as np
            import pandas as pd
            from safetensors.torch import load_file, save_file

            from cnd.phase2.model import count_parameters
            from cnd.phase2.training import fit, split_validation, validation_score
            from cnd.record import HISTORY

            e, start = self.experiment, time.time()
            latents = self.latents(fold, dataset)
            if e.phase2.train_unet_cross_attention:
                self._generator = None  # the fold before left its own weights in it
            module = self.condition_module(dataset)
            if phase1 is not None:
                weights = load_file(phase1 / "model.safetensors")
                prefix = "encoder."
                module.encoder.load_state_dict(
                    {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
                )
            fmri, category = dataset.train.fmri, dataset.train.category
            if e.shuffle_pairs:
                fmri = fmri[np.random.default_rng([e.seed, 5]).permutation(len(fmri))]
            rows = np.arange(len(fmri))
            score = None
            if e.phase2.checkpoint == "validation":
                rows, held = split_validation(category, e.phase2.validation_fraction, e.seed)
                score = lambda: validation_score(module, self.generator, e.phase2, fmri[held], latents[held])  # noqa: E731
            elif e.phase2.checkpoint == "test_best":
                score = lambda: self._test_score(module, dataset)  # noqa: E731
            module.to(device())
            self.generator.to(device())
            fitted = fit(
                e.phase2, module, self.generator, fmri[rows], latents[rows], e.seed, score,
                resume=self.cache.scratch(stage.name, stage.key),
                report=lambda fraction, seen, metrics: self.report("phase2", fraction, seen, metrics),
            )  # fmt: skip
            tensors = {k: v.cpu().contiguous() for k, v in module.state_dict().items()}
            save_file(tensors, folder / "condition_module.safetensors")
            if e.phase2.train_unet_cross_attention:
                unet = {k: v.cpu().contiguous() for k, v in self.generator.unet.state_dict().items()}
                save_file(unet, folder / "unet.safetensors")
            pd.DataFrame(fitted.history, columns=HISTORY).to_parquet(folder / "history.parquet")
            info = {"seconds": time.time() - start, "chosen_step": fitted.chosen_step}
            _write_json(folder / "info.json", info | count_parameters(module, self.generator))

        return self.build(fold.phase2, make)

    def _test_score(self, module: ConditionModule, dataset: FmriDataset) -> float:
        """Table score of the module on the test set: optimistic when it chooses the checkpoint."""
        from cnd.evaluation.scores import score_items, score_name
        from cnd.phase2.sampling import reconstruct

        condition, _ = _conditions(module, dataset.test.fmri)
        images = reconstruct(self.experiment.sampling, self.generator, condition, self.experiment.seed)
        config = self.experiment.evaluation
        items = score_items(config, self.judges, dataset, images, self.labels(dataset))
        return float(items[score_name(config, config.n_way[0])].mean())

    # ---- samples

    def decode(
        self, fold: Fold, dataset: FmriDataset, split: FmriSplit
    ) -> tuple[Condition, Tensor | None, dict[str, Any]]:
        """Conditions of a split's items by the experiment's decoder, concept attention, and notes for the summary."""
        import torch
        from safetensors.torch import load_file

        decoder = self.experiment.decoder
        bank = self.generator.concept_bank
        if isinstance(decoder, OracleDecoder):
            return self.generator.class_condition(torch.from_numpy(self.classes(dataset, split))), None, {}
        if isinstance(decoder, RidgeDecoder):
            from cnd.baselines.ridge import fit_predict

            embeddings = bank.cpu().numpy()[self.classes(dataset, dataset.train)]
            predicted, alpha = fit_predict(decoder, dataset.train, split.fmri, embeddings)
            return self.generator.embedding_condition(torch.from_numpy(predicted)), None, {"ridge_alpha": alpha}
        trained = self.phase2(fold, dataset, self.phase1(fold, dataset))
        module = self.condition_module(dataset)
        module.load_state_dict(load_file(trained / "condition_module.safetensors"))
        if (trained / "unet.safetensors").exists():
            self.generator.unet.load_state_dict(load_file(trained / "unet.safetensors"))
        module.eval().to(device())
        condition, attention = _conditions(module, split.fmri)
        return condition, attention, {}

    def sample(self, fold: Fold) -> Path:
        """Reconstructions of the fold's test items."""

        def make(folder: Path) -> None:
            import torch
            from safetensors.torch import save_file

            from cnd.phase2.sampling import reconstruct

            dataset = self.dataset(fold)
            condition, attention, notes = self.decode(fold, dataset, dataset.test)
            start = time.time()
            self.generator.to(device())
            condition = type(condition)(*(part.to(device()) for part in condition))
            images = reconstruct(
                self.experiment.sampling, self.generator, condition, self.experiment.seed,
                lambda fraction, seen, metrics: self.report("sample", fraction, seen, metrics),
            )  # fmt: skip
            tensors = {"reconstructions": torch.from_numpy(images).contiguous()}
            if attention is not None:
                tensors["attention"] = attention.cpu().contiguous()
            save_file(tensors, folder / "samples.safetensors")
            _write_json(folder / "info.json", {"seconds": time.time() - start} | notes)

        path = self.build(fold.sample, make)
        self.folds_done += 1
        return path

    # ---- scores

    def notes(self, dataset: FmriDataset) -> list[str]:
        """What a reader must know besides what follows from the settings."""
        notes = []
        if not dataset.train.images.size:
            notes.append("Labels without images: Phase 2 learned from images that the generator drew of each class.")
        if self.generator.note:
            notes.append(self.generator.note)
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
            from cnd.analysis.analyse import analyse

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
            from cnd.analysis.draw import draw

            draw(analysis, folder, f"{self.experiment.name}, seed {self.experiment.seed}")

        return self.build(figures_stage(analysis_stage(self.experiment, self.folds)), make)

    def _analysis_inputs(self, fold: Fold) -> FoldInputs:
        from cnd.analysis.analyse import FoldInputs

        dataset = self.dataset(fold)
        splits = (dataset.train, dataset.test)
        train, test = (self.decode(fold, dataset, split)[0] for split in splits)
        latents = None
        if dataset.train.images.size and dataset.test.images.size:
            latents = (self.latents(fold, dataset).to(device()), self.generator.encode(dataset.test.images))
        self.generator.to(device())
        classes = (self.classes(dataset, dataset.train), self.classes(dataset, dataset.test))
        return FoldInputs(dataset, self.generator, (train, test), classes, latents)


def _conditions(module: ConditionModule, fmri: np.ndarray) -> tuple[Condition, Tensor]:
    """Conditions and concept attention of patterns, without gradient."""
    import torch

    with torch.no_grad():
        condition, attention = module(torch.from_numpy(fmri).to(module.bank.device))
    return condition, attention


def check(experiment: Experiment) -> None:
    """Look at the experiment's data before anything runs; loads no torch.

    Raises:
        UserError: a data file is missing or malformed.
    """
    data.check(experiment.data)


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
