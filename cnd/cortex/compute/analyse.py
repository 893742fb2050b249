"""The linear decoding analysis of one run, from hidden states to tables (sec. 3.4, 5.2; Figures 5 and 6)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from cnd.cortex import tables
from cnd.cortex.compute.components import Components, principal_components
from cnd.cortex.compute.significance import permutations
from cnd.cortex.compute.states import Cell, Drive, places, record, state_name, step_indices
from cnd.cortex.compute.tallies import Tallies
from cnd.cortex.settings import AnalysisConfig
from cnd.errors import UserError
from cnd.protocols import Condition, FmriDataset, Generator, OnProgress, SamplingConfig, no_progress
from cnd.statistics import FEWEST_CATEGORIES

RECORDING = 0.7  # expected share of the time


@dataclass(frozen=True)
class FoldInputs:
    """What the analysis needs of one train / test partition; pairs are (training items, test items).

    Attributes:
        condition: decoded from the fMRI of each item.
        classes: the generator's class of each item, int64 [n].
        latents: clean latents of the stimuli; None where there are no stimuli, and then no drive ``stimulus``.
    """

    dataset: FmriDataset
    generator: Generator
    condition: tuple[Condition, Condition]
    classes: tuple[np.ndarray, np.ndarray]
    latents: tuple[Tensor, Tensor] | None


def analyse(
    config: AnalysisConfig,
    sampling: SamplingConfig,
    seed: int,
    folds: Sequence[Callable[[], FoldInputs]],
    folder: Path,
    report: OnProgress = no_progress,
) -> None:
    """Decode hidden states from voxels and write the tables of :mod:`cnd.cortex.tables` into ``folder``.

    Folds are analysed one after the other, each with its own decoder, and one is in memory at a time.

    Args:
        sampling: the run's; its steps, guidance and batch size are used.
        folds: each loads one partition when it is called.
        folder: also holds the raw states while the analysis runs, 2 bytes x features x items for every layer and
            step of one drive.

    Raises:
        UserError: a layer or module that the UNet does not have, or nothing that could drive it.
        FloatingPointError: a hidden state is not finite.
    """
    begin = time.time()
    tallies = Tallies(config, seed, "torch_cuda" if torch.cuda.is_available() else "numpy")
    counts: list[tuple[int, int]] = []
    for index, load in enumerate(folds):

        def on_progress(fraction: float, fold: int = index) -> None:
            report((fold + fraction) / len(folds), 0, {})

        inputs = load()
        dataset = inputs.dataset
        counts.append((len(dataset.train), len(dataset.test)))
        found = _components(config, sampling, seed, inputs, folder, on_progress)
        permuted = permutations(dataset.train, dataset.test, len(folds) > 1, config.n_permutations, seed)
        tallies.add(dataset, found, permuted)
        on_progress(1.0)
    summary = _summary(config, dataset, tallies, counts)
    errors, items = tallies.item_errors()
    save_file(errors, folder / "item_errors.safetensors")
    items.to_parquet(folder / "items.parquet", index=False)
    tables.write(folder, tallies.tables(dataset), summary | {"seconds": round(time.time() - begin, 1)})


def _components(
    config: AnalysisConfig,
    sampling: SamplingConfig,
    seed: int,
    inputs: FoldInputs,
    folder: Path,
    on_progress: Callable[[float], None],
) -> dict[Cell, Components]:
    """Record and reduce the states of one fold, one drive at a time (the raw states of a drive lie on disk)."""
    where, steps = places(config, inputs.generator.unet), step_indices(config.steps, sampling.steps)
    modules = [place.module for place in where]
    noise_seeds = [seed + 2_000_003 + k for k in range(config.noise_seeds)]
    drives = _drives(config, inputs)
    found: dict[Cell, Components] = {}
    for index, (name, drive) in enumerate(drives.items()):

        def on_items(fraction: float, seen: int, metrics: dict[str, float], before: int = index) -> None:
            on_progress(RECORDING * (before + fraction) / len(drives))

        with TemporaryDirectory(dir=folder, prefix="states-") as scratch:
            store = record(inputs.generator, modules, steps, sampling, drive, noise_seeds, Path(scratch), on_items)
            for place in where:
                for fraction, step in zip(config.steps, steps, strict=True):
                    state = state_name(place.module, step)
                    found[Cell(name, place, fraction, step)] = principal_components(
                        store.blocks(state), len(inputs.dataset.train), config.n_components, store.mean_square(state)
                    )
    return found


def _drives(config: AnalysisConfig, inputs: FoldInputs) -> dict[str, Drive]:
    """What steers the UNet for all items of a fold, training items first."""
    drives = {}
    if "reconstruction" in config.drives:
        pairs = zip(*inputs.condition, strict=True)
        drives["reconstruction"] = Drive(Condition(*(torch.cat(pair) for pair in pairs)), None)
    if "stimulus" in config.drives and inputs.latents is not None:
        classes = torch.from_numpy(np.concatenate(inputs.classes)).to(inputs.generator.device)
        drives["stimulus"] = Drive(inputs.generator.class_condition(classes), torch.cat(inputs.latents))
    if not drives:
        raise UserError(
            "analysis.drives: only 'stimulus' is asked for, but the data has no images; add 'reconstruction'"
        )
    return drives


def _summary(
    config: AnalysisConfig, dataset: FmriDataset, tallies: Tallies, counts: list[tuple[int, int]]
) -> dict[str, Any]:
    drives = {cell.drive for cell in tallies.cells}
    averaged = f" (states are averaged over {config.noise_seeds} noise seeds)" if config.noise_seeds > 1 else ""
    notes = [f"All items start from the same noise{averaged}, so their states differ only by what drives them."]
    if "reconstruction" in drives:
        notes.append(
            "Drive reconstruction is the paper's and circular: the condition that steers the states was decoded from "
            "the same fMRI. A replication, not evidence about the brain."
        )
        notes.append(
            "In that drive the decoder has been trained on the training items, so their states carry the noise of "
            "their fMRI: a voxel's encoding R² on test items can lie far below 0 even where it beats permuted pairs."
        )
    if missing := set(config.drives) - drives:
        notes.append(f"Drive {', '.join(missing)} is left out: the data has no images.")
    n_train, n_test = (sum(column) for column in zip(*counts, strict=True))
    fewest = min(train for train, _ in counts)
    if fewest <= config.n_components:
        notes.append(f"{fewest} training items allow at most {fewest - 1} components, not {config.n_components}.")
    n_categories = len(np.unique(dataset.train.category))
    if n_categories < FEWEST_CATEGORIES:
        notes.append(
            f"Only {n_categories} categories: what passes its null may tell which of them an item is, and no more."
        )
    constant = [cell for cell, tally in tallies.cells.items() if not tally.alpha[0].size]
    if constant:
        notes.append(f"{len(constant)} of {len(tallies.cells)} states do not differ between items and have no R^2.")
    return {
        "n_train": counts[0][0] if len(counts) > 1 else n_train,
        "n_test": n_test,
        "n_voxels": dataset.train.fmri.shape[1],
        "n_folds": len(counts),
        "n_permutations": config.n_permutations,
        "fdr": config.fdr,
        "simulated": dataset.simulated,
        "surface": dataset.surface if dataset.vertex is not None else None,
        "modules": {f"{c.place.side} {c.place.layer}": c.place.module for c in tallies.cells},
        "notes": notes,
    }
