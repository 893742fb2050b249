"""Phase 1 as steps that are kept: pre-training on unlabelled pools, then tuning on the training set (sec. 3.2, 8.2)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from cnd.decoders.cnd.phase1.settings import EncoderConfig, Phase1Config
from cnd.json_files import write_json
from cnd.settings import FileOf
from cnd.steps import Step

if TYPE_CHECKING:
    from cnd.protocols import Bench, FmriDataset, Given

WEIGHTS = "model.safetensors"


def phase1_steps(encoder: EncoderConfig, phase1: Phase1Config, given: Given) -> dict[str, Step]:
    """``pretrain``, where there are pools to pre-train on, and ``phase1``, which begins where that ended."""
    settings = {"encoder": encoder, "phase1": phase1, "seed": given.seed}
    initial = None if phase1.initial_weights is None else FileOf(path=phase1.initial_weights)
    start: Step | None = None
    if phase1.initial_subject is not None:
        plain = phase1.model_copy(update={"initial_subject": None})
        start = phase1_steps(encoder, plain, given.of_subject(phase1.initial_subject))["phase1"]
    found = {}
    if given.pools is not None and phase1.pretrain_epochs:
        own = settings | {"epochs": phase1.pretrain_epochs, "initial": initial}
        start = found["pretrain"] = Step("pretrain", pretrain, own, {"pools": given.pools, "start": start})
        initial = None
    own = settings | {"epochs": phase1.tune_epochs, "initial": initial}
    return found | {"phase1": Step("phase1", tune, own, {"data": given.data, "start": start})}


def pretrain(
    bench: Bench,
    folder: Path,
    encoder: EncoderConfig,
    phase1: Phase1Config,
    seed: int,
    epochs: int,
    initial: FileOf | None,
    pools: Step,
    start: Step | None,
) -> None:
    """Train on one pool after the other; each may have its own number of voxels."""
    patterns: tuple[np.ndarray, ...] = bench.value(pools)
    first = _start(bench, initial, start)
    train(bench, folder, encoder, phase1, seed, "pretrain", [(pool, epochs) for pool in patterns], first, (0.0, 0.5))


def tune(
    bench: Bench,
    folder: Path,
    encoder: EncoderConfig,
    phase1: Phase1Config,
    seed: int,
    epochs: int,
    initial: FileOf | None,
    data: Step,
    start: Step | None,
) -> None:
    """Train on the fMRI of the training set, without its pairs; with that of the test set where ``transductive``."""
    dataset: FmriDataset = bench.value(data)
    fmri = dataset.train.fmri
    if phase1.transductive:
        fmri = np.concatenate([fmri, dataset.test.fmri])
    span = (0.0, 1.0) if start is None else (0.5, 1.0)
    train(bench, folder, encoder, phase1, seed, "tune", [(fmri, epochs)], _start(bench, initial, start), span)


def _start(bench: Bench, initial: FileOf | None, start: Step | None) -> Path | None:
    """The weights to begin with; None begins with random ones."""
    if start is not None:
        result: Path = bench.value(start)
        return result / WEIGHTS
    return None if initial is None else initial.path


def train(
    bench: Bench,
    folder: Path,
    encoder: EncoderConfig,
    phase1: Phase1Config,
    seed: int,
    phase: Literal["pretrain", "tune"],
    parts: list[tuple[np.ndarray, int]],
    start: Path | None,
    span: tuple[float, float],
) -> None:
    """Train the autoencoder on one array of patterns after the other, and write weights, history and facts.

    Args:
        parts: (patterns, epochs).
        span: where this step begins and ends in the progress of Phase 1.
    """
    import pandas as pd
    from safetensors.torch import save_file

    from cnd.decoders.cnd.phase1.checkpoints import load_initial_weights
    from cnd.decoders.cnd.phase1.model import MaskedAutoencoder
    from cnd.decoders.cnd.phase1.training import fit
    from cnd.decoders.training import HISTORY

    began, history = time.time(), []
    model: MaskedAutoencoder | None = None
    for index, (patterns, epochs) in enumerate(parts):

        def on_step(fraction: float, seen: int, metrics: dict[str, float], part: int = index) -> None:
            bench.report("phase1", span[0] + (span[1] - span[0]) * (part + fraction) / len(parts), seen, metrics)

        before = model
        model = MaskedAutoencoder(encoder, patterns.shape[1], seed=seed)
        if before is not None:  # no parameter depends on the number of voxels
            model.load_state_dict(before.state_dict())
        elif start is not None:
            load_initial_weights(model, start)
        model.to(bench.device)
        if epochs:
            resume = bench.scratch / str(index)
            rest, held = hold_out(patterns, phase1.curve_patterns)
            history += fit(model, rest, phase1, epochs, seed, phase, on_step, resume=resume, held=held)
    assert model is not None  # there is at least one part
    save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS)
    pd.DataFrame(history, columns=HISTORY).to_parquet(folder / "history.parquet")
    n_patterns = sum(len(patterns) for patterns, _ in parts)
    write_json(folder / "info.json", {"seconds": time.time() - began, "n_patterns": n_patterns})


def hold_out(patterns: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Patterns to train on, and ``n`` of them, evenly spaced and at most a tenth, to score; None of fewer than two."""
    n = min(n, len(patterns) // 10)
    if n < 2:
        return patterns, None
    held = np.unique(np.linspace(0, len(patterns) - 1, n).astype(int))
    return np.delete(patterns, held, axis=0), patterns[held]
