"""What a finished run leaves for reports: scores, histories, images and a summary, pooled over folds."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file

from cnd import generators
from cnd.config import Experiment
from cnd.evaluation.scores import chance, mean_scores, score_items, top_concepts
from cnd.paper import deviations, warnings_of
from cnd.protocols import Classifier, FmriDataset

HISTORY = ["phase", "samples_seen", "name", "value"]
"""Columns of a training history; the record adds the fold."""


@dataclass(frozen=True)
class FoldResult:
    """What one train / test partition gave."""

    index: int
    dataset: FmriDataset
    folders: dict[str, Path]  # of the stages pretrain, phase1, phase2 and sample, as far as they ran
    labels: np.ndarray | None = None  # class of each test item among the judges' classes, where labels are the truth


def write_record(
    folder: Path,
    experiment: Experiment,
    results: list[FoldResult],
    judges: dict[str, Classifier],
    notes: list[str],
    code_version: str,
) -> None:
    """Write items, history, images, attention (Parquet, safetensors), experiment and summary (JSON).

    Args:
        notes: what a reader must know besides what follows from the experiment's settings.
    """
    items, concepts, images = [], [], []
    offset = 0
    for result in results:
        tensors = load_file(result.folders["sample"] / "samples.safetensors")
        reconstructions = tensors["reconstructions"]
        table = score_items(experiment.evaluation, judges, result.dataset, reconstructions, result.labels, result.index)
        items.append(table.assign(item=table["item"] + offset))
        stimuli = np.asarray(result.dataset.test.images)
        if not stimuli.size:  # a data set of labels only: white pictures stand for the stimuli
            stimuli = np.full_like(reconstructions[:, 0], 255)
        images.append((stimuli, reconstructions))
        if "attention" in tensors:
            found = top_concepts(tensors["attention"], generators.class_names(experiment.generator))
            concepts.append(found.assign(item=found["item"] + offset))
        offset += len(result.dataset.test)
    scores = pd.concat(items, ignore_index=True)
    scores.to_parquet(folder / "items.parquet")
    _history(results).to_parquet(folder / "history.parquet")
    if concepts:
        pd.concat(concepts, ignore_index=True).to_parquet(folder / "attention.parquet")
    stimuli, reconstructions = (np.concatenate(parts) for parts in zip(*images, strict=True))
    save_file({"stimuli": stimuli, "reconstructions": reconstructions}, folder / "images.safetensors")
    _write_json(folder / "experiment.json", experiment.model_dump(mode="json"))
    summary = _summary(experiment, scores, results)
    summary |= {"remarks": notes, "code_version": code_version, "classifiers": list(judges)}
    _write_json(folder / "summary.json", summary)


def _history(results: list[FoldResult]) -> pd.DataFrame:
    files = [(r.index, path / "history.parquet") for r in results for path in r.folders.values()]
    tables = [pd.read_parquet(path).assign(fold=index) for index, path in files if path.exists()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*HISTORY, "fold"])


def _summary(e: Experiment, items: pd.DataFrame, results: list[FoldResult]) -> dict[str, Any]:
    stages = {path: name for r in results for name, path in r.folders.items()}  # folds may share a stage
    infos = [{"stage": name} | json.loads((path / "info.json").read_text()) for path, name in stages.items()]
    trained = [info for info in infos if info["stage"] == "phase2"]
    dataset, n_items = results[0].dataset, int(items["item"].nunique())
    return dict(
        scores=mean_scores(e.evaluation, items),
        chance=chance(e.evaluation),
        n_items=n_items,
        n_samples=e.sampling.samples_per_item,
        parameters={k: trained[0][k] for k in ("trainable", "frozen")} if trained else {},
        seconds={
            phase: sum(i["seconds"] for i in infos if i["stage"] in names)
            for phase, names in {"phase1": ("pretrain", "phase1"), "phase2": ("phase2",), "sample": ("sample",)}.items()
        },
        notes=[{k: v for k, v in i.items() if k in ("ridge_alpha", "chosen_step")} for i in infos],
        simulated=dataset.simulated,
        deviations=deviations(e),
        warnings=warnings_of(e),
        data=dict(
            description=dataset.description,
            n_voxels=dataset.train.fmri.shape[1],
            n_train=len(dataset.train),
            n_test=n_items,
            n_unlabelled=sum(map(len, dataset.unlabelled)),
            **dataset.facts,
        ),
        versions=dict(python=platform.python_version(), torch=torch.__version__, machine=platform.machine()),
    )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")
