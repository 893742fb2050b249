"""Fabricated sweeps with the records of finished trials, for the tests of the reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from cnd.data.simulated import SimulatedData
from cnd.experiment import Experiment, override
from cnd.metrics.nway import NWay
from cnd.steps import FORMAT

COLUMNS = {
    "alpha_s": "α_S",
    "alpha_c": "α_C",
    "mask_ratio": "mask ratio",
    "cl_depth": "CL depth",
    "dup": "dup. self-contrast",
}


def table_row(row: str, *settings: object, paper: float | None = None, **more: Any) -> dict[str, Any]:
    chosen = dict(zip(COLUMNS, settings, strict=True)) if settings else {}
    return {"id": row, "label": None, "settings": chosen, "paper": paper, "control": False} | more


ROWS = [
    table_row("0", "-", "-", "-", 4, "-", paper=4.9),
    table_row("10", 1, 0.5, 0.75, 4, "N", paper=10.5),
    table_row("11", 1, 0.5, 0.5, 4, "N", paper=6.8),
    table_row("12", 1, 0.5, 0.25, 4, "N", paper=8.12),
]
CONTROLS = [
    table_row("ridge", label="Ridge into the concept bank", control=True, role="rival"),
    table_row("shuffled", label="Shuffled pairs", control=True, role="null"),
    table_row("oracle", label="Oracle class", control=True, role="ceiling"),
]
LEVELS = {"oracle": 0.95, "shuffled": 0.02, "ridge": 0.6}


def write_sweep(output: Path, rows: list[dict[str, Any]], seeds: list[int], **more: Any) -> Path:
    """sweep.json under ``output/sweeps/table-fake``; returns that folder."""
    folder = output / "sweeps" / "table-fake"
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    sweep = {
        "format": FORMAT,
        "name": "table",
        "title": "A fabricated table",
        "description": "Made for a test.",
        "experiment": "fake",
        "reference": "10",
        "columns": [{"key": key, "title": title} for key, title in COLUMNS.items()],
        "rows": rows,
        "trials": [],
        "stages": [],
        "factors": [{"title": "Mask ratio", "x": "mask_ratio", "rows": ["12", "11", "10"]}],
        "seeds": seeds,
        "set": {"data.snr": 0.02},
        "paper_metric": NWay(n=50).describe(),
    }
    (folder / "sweep.json").write_text(json.dumps(sweep | more))
    return folder


def write_trial(sweep_dir: Path, row: str, seed: int, state: str = "complete", **more: Any) -> None:
    trial = {
        "row": row,
        "subject": None,
        "seed": seed,
        "control": row in LEVELS,
        "state": state,
        "record": f"cache/record/{row}-{seed}",
    }
    trial |= {"key": f"key-{row}-{seed}", "run_id": f"run-{row}-{seed}", "seconds": 61.5, "error": None}
    if state != "complete":
        trial |= {"record": None, "run_id": None}
    (sweep_dir / "trials" / f"{row}-seed{seed}.json").write_text(json.dumps(trial | more))


def write_record(
    output: Path,
    row: str,
    seed: int = 0,
    *,
    level: float | None = None,
    n_categories: int = 12,
    per_category: int = 2,
    n_samples: int = 1,
    n_folds: int = 1,
    channels: int = 3,
    size: int = 8,
    n_way: tuple[int, ...] = (50, 100),
    experiment: dict[str, Any] | None = None,
    **summary: Any,
) -> Path:
    """The record folder of one finished trial, with random but seeded content."""
    rng = np.random.default_rng([seed, *row.encode()])
    folder = output / "cache" / "record" / f"{row}-{seed}"
    folder.mkdir(parents=True)
    n_items = n_categories * per_category
    table = _items(
        rng, n_items, n_categories, n_samples, n_folds, n_way, LEVELS.get(row, 0.4) if level is None else level
    )
    metrics = [NWay(n=n) for n in n_way]
    names = [metric.name for metric in metrics]
    items = table.drop(columns=["sample", *names]).drop_duplicates("item")
    items.to_parquet(folder / "items.parquet")
    scores = table.melt(["item", "sample"], names, var_name="metric", value_name="value")
    scores.to_parquet(folder / "scores.parquet")
    _history(rng, row, n_folds).to_parquet(folder / "history.parquet")
    _images(rng, n_items, n_samples, channels, size, folder)
    if row not in LEVELS:
        _attention(rng, n_items).to_parquet(folder / "attention.parquet")
    chosen: dict[str, Any] = {"seed": seed, "evaluation.n_way": n_way} | (experiment or {})
    if "decoder.kind" not in chosen:
        chosen = {"phase1.enabled": row != "0", "phase2.timestep_range": (400, 560)} | chosen
    resolved = override(Experiment(name="fake", data=SimulatedData()), chosen, "test")
    (folder / "experiment.json").write_text(resolved.model_dump_json())
    content = {
        "metrics": [metric.describe() for metric in metrics],
        "parameters": {"trainable": 1_234_567, "frozen": 7_654_321},
        "seconds": {"phase1": 20.0, "phase2": 35.0, "sample": 6.0},
        "simulated": True,
        "data": {
            "description": "Fabricated brain.",
            "n_voxels": 1200,
            "n_train": 90,
            "n_test": n_items,
            "noise_ceiling": 0.71,
        },
        "versions": {"python": "3.11", "torch": "2.13"},
    }
    (folder / "summary.json").write_text(json.dumps(content | summary))
    return folder


def _items(
    rng: np.random.Generator,
    n: int,
    n_categories: int,
    n_samples: int,
    n_folds: int,
    n_way: tuple[int, ...],
    level: float,
) -> pd.DataFrame:
    item, sample = np.repeat(np.arange(n), n_samples), np.tile(np.arange(n_samples), n)
    category = item % n_categories
    ease = np.random.default_rng(7).normal(0, 0.25, n_categories)[category]  # shared by all rows
    score = np.clip(
        level + (ease if 0.1 < level < 0.9 else 0) + rng.normal(0, 0.02 if level < 0.1 else 0.1, n * n_samples), 0, 1
    )
    names = [f"category {c}" for c in category]
    table = {"item": item, "stimulus": [f"stimulus{i}" for i in item], "category": category, "category_name": names}
    table |= {
        "truth": category,
        "fold": item % n_folds,
        "sample": sample,
    }
    return pd.DataFrame(table | {NWay(n=k).name: score ** (1 + 0.2 * i) for i, k in enumerate(n_way)})


def _history(rng: np.random.Generator, row: str, n_folds: int) -> pd.DataFrame:
    if row in ("oracle", "ridge"):
        return pd.DataFrame({c: [] for c in ["phase", "fold", "samples_seen", "name", "value"]})
    names = {
        "phase1.pretrain": ["loss", "cross_contrast"],
        "phase1.tune": ["loss"],
        "phase2": ["loss", "validation_loss", "lr"],
    }
    lines = [
        {
            "phase": phase,
            "fold": fold,
            "samples_seen": 250 * step,
            "name": name,
            "value": 2 / step + rng.normal(0, 0.02),
        }
        for phase, recorded in names.items()
        for name in recorded
        for fold in range(n_folds)
        for step in range(1, 13)
    ]
    return pd.DataFrame(lines)


def _images(rng: np.random.Generator, n: int, n_samples: int, channels: int, size: int, folder: Path) -> None:
    shape = (n, channels, size, size)
    stimuli = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)  # of every row
    drawn = rng.integers(0, 256, (n, n_samples, channels, size, size), dtype=np.uint8)
    save_file({"stimuli": stimuli, "reconstructions": drawn}, folder / "images.safetensors")


def _attention(rng: np.random.Generator, n: int) -> pd.DataFrame:
    item, concept = np.repeat(np.arange(n), 10), np.tile(np.arange(10), n)
    names = [f"concept {c}" for c in concept]
    weight = rng.random(10 * n) / 10
    return pd.DataFrame({"item": item, "concept": concept, "concept_name": names, "weight": weight, "even": 0.01})


def finished_sweep(
    output: Path, rows: list[dict[str, Any]] | None = None, seeds: tuple[int, ...] = (0,), **record: Any
) -> Path:
    """A sweep whose every trial is complete; ``record`` goes to :func:`write_record`."""
    rows = ROWS + CONTROLS if rows is None else rows
    sweep_dir = write_sweep(output, rows, list(seeds))
    for row in rows:
        for seed in seeds:
            write_trial(sweep_dir, row["id"], seed)
            write_record(output, row["id"], seed, **record)
    return sweep_dir
