"""Fabricated analysis folders with real vertices of the HCP-MMP1 atlas, for the tests of what is drawn."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from cnd.cortex.drawing.surface import load_hemisphere

AREAS = ("V1", "V2", "V3", "V4", "V3A", "V3B", "LO1", "LO2", "V8", "FFC", "MIP", "PGi")
LAYERS, STEPS = (4, 9, 14), (0.0, 0.2, 0.6, 1.0)
EARLY = {"V1": 1.0, "V2": 0.9, "V3": 0.8, "V4": 0.5, "V3A": 0.5, "V3B": 0.4}


def cortex_table(n_voxels: int, rng: np.random.Generator) -> pd.DataFrame:
    """Voxels drawn from the vertices of AREAS in both hemispheres; xyz unknown, as in the simulated data."""
    vertex, roi, offset = [], [], 0
    for side in ("L", "R"):
        hemisphere = load_hemisphere("fs_LR_32k", side)  # type: ignore[arg-type]
        assert hemisphere.area is not None
        names = hemisphere.area[hemisphere.cortical]
        inside = np.flatnonzero(np.isin(names, AREAS))
        vertex.append(offset + inside)
        roi += [f"{side}_{name}" for name in names[inside]]
        offset += len(hemisphere.cortical)
    chosen = np.sort(rng.choice(len(roi), n_voxels, replace=False))
    table = {"voxel": np.arange(n_voxels), "roi": np.array(roi)[chosen], "vertex": np.concatenate(vertex)[chosen]}
    return pd.DataFrame(table | {axis: np.nan for axis in "xyz"})


def write_analysis(
    folder: Path,
    *,
    n_voxels: int = 1200,
    seed: int = 0,
    n_categories: int = 12,
    cortex: pd.DataFrame | None = None,
    gain: float = 0.0,
    layers: tuple[int, ...] = LAYERS,
    steps: tuple[float, ...] = STEPS,
    drives: tuple[str, ...] = ("reconstruction", "stimulus"),
    **summary: Any,
) -> Path:
    """An analysis folder; early areas are predicted best by early layers. ``gain`` lowers the errors of V1's voxels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    table = cortex_table(n_voxels, np.random.default_rng(1)) if cortex is None else cortex
    table.to_parquet(folder / "cortex.parquet")
    area = table["roi"].str[2:]
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in ("voxels", "states", "rois", "areas", "targets")}
    for drive, side, layer, step in product(drives, ("encoder", "decoder"), layers, steps):
        at = {"drive": drive, "side": side, "layer": layer, "step": step}
        depth = LAYERS.index(layer)
        voxels, r2 = _voxels(rng, area, depth, step), 0.25 - 0.05 * depth + 0.02 * step
        targets = pd.DataFrame({"component": range(3), "r2": r2, "p": 0.01, "q": 0.02, "alpha": 10.0})
        by_area = voxels.groupby(area.to_numpy())["encoding_r2"].agg(["size", "mean"]).reset_index()
        by_area.columns = ["area", "n_voxels", "r2"]
        cell = {"voxels": voxels, "states": pd.DataFrame([_state(r2, layer, side)]), "areas": by_area}
        for name, frame in (cell | {"rois": _rois(voxels, table["roi"]), "targets": targets}).items():
            tables[name].append(frame.assign(**at))
    for name, frames in tables.items():
        pd.concat(frames, ignore_index=True).to_parquet(folder / f"{name}.parquet")
    _write_errors(folder, area, n_categories, gain, seed)
    content = {"n_train": 1200, "n_test": 2 * n_categories, "n_voxels": len(table), "n_folds": 1, "simulated": True}
    content |= {"surface": "fs_LR_32k", "n_permutations": 199, "notes": ["Made for a test."]}
    (folder / "summary.json").write_text(json.dumps(content | summary))
    return folder


def _rois(voxels: pd.DataFrame, roi: pd.Series) -> pd.DataFrame:
    groups = voxels.groupby(roi.to_numpy())
    means = groups[["weight", "weight_signed", "pattern", "pattern_signed", "encoding_r2"]].mean()
    means = means.assign(n_voxels=groups.size(), share_significant=groups["q"].agg(lambda q: (q <= 0.05).mean()))
    return means.rename_axis("roi").reset_index()


def _voxels(rng: np.random.Generator, area: pd.Series, depth: int, step: float) -> pd.DataFrame:
    early = area.map(EARLY).fillna(0.1).to_numpy()
    strength = early * (1 - depth / 2) + (1 - early) * depth / 2
    r2 = 0.1 * strength * (1 - 0.3 * step) + rng.normal(0, 0.01, len(area))
    p = np.clip(np.exp(-160 * np.maximum(r2, 0)), 1e-5, 1)
    weight = 0.02 * rng.gamma(4, 0.25, len(area)) * (1 + strength)
    table = {"voxel": np.arange(len(area)), "weight": weight, "weight_signed": rng.normal(0, 0.01, len(area))}
    table |= {"pattern": 0.2 * strength + 0.02 * rng.random(len(area)), "pattern_signed": rng.normal(0, 0.1, len(area))}
    return pd.DataFrame(table | {"encoding_r2": r2, "p": p, "q": np.minimum(1, 1.5 * p)})


def _state(r2: float, layer: int, side: str) -> dict[str, Any]:
    found = {
        "step_index": 0,
        "module": f"{side}.blocks.{layer}",
        "n_components": 300,
        "explained_variance": 0.9,
        "r2": r2,
    }
    return found | {"r2_p": 0.005, "n_targets": 300, "n_significant": 40, "r2_null_95": 0.004}


def _write_errors(folder: Path, area: pd.Series, n_categories: int, gain: float, seed: int) -> None:
    """Errors of two images a category; ``gain`` is the same for every item of V1."""
    rng = np.random.default_rng([seed, 7])
    item = np.arange(2 * n_categories)
    names = [f"stimulus{i}" for i in item]
    pd.DataFrame({"item": item, "stimulus": names, "category": item % n_categories}).to_parquet(
        folder / "items.parquet"
    )
    shared = np.random.default_rng(3).gamma(2, 0.5, (len(item), len(area)))  # hard items are hard for every run
    errors = {}
    for drive in ("reconstruction", "stimulus"):
        for side in ("encoder", "decoder"):
            noise = rng.normal(0, 0.05, shared.shape)
            errors[f"{drive}.{side}"] = (shared + noise - gain * (area == "V1").to_numpy()).astype(np.float32)
    save_file(errors, folder / "item_errors.safetensors")
