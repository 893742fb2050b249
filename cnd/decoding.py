"""Training and decoding: Phase 1 -> Phase 2 -> samples, each a stage that is kept. Importing it loads no torch."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cnd.config import OracleDecoder, RidgeDecoder
from cnd.inputs import Inputs, device
from cnd.stages import Fold, Stage

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cnd.phase2.model import ConditionModule
    from cnd.protocols import Condition, FmriDataset, FmriSplit


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")


class Decoding(Inputs):
    """One experiment's decoder, trained where it is missing, and what it reconstructs."""

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
        return ConditionModule(e.phase2, encoder, encoder.n_tokens, e.encoder.width, bank, time_width)

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


def _conditions(module: ConditionModule, fmri: np.ndarray) -> tuple[Condition, Tensor]:
    """Conditions and concept attention of patterns, without gradient."""
    import torch

    with torch.no_grad():
        condition, attention = module(torch.from_numpy(fmri).to(module.bank.device))
    return condition, attention
