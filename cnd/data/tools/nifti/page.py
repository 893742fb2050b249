"""Pictures and numbers of what was prepared: mask, design, and how reliable the voxels are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnd.data.tables import zscore
from cnd.data.tools.inspection import voxel_snr, write_page
from cnd.data.tools.nifti.estimate import design_matrix, events_of
from cnd.data.tools.nifti.prepare import Prepared
from cnd.data.tools.nifti.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_SLICES = 8
LETTERS = 40  # of a name in a picture


def split_half(done: Prepared) -> np.ndarray | None:
    """Reliability of each voxel, float64 [voxels]: correlation of the means of odd and even trials of training stimuli.

    Over stimuli with two trials or more, z-scored by run over training items; None where there are fewer than three.
    """
    fmri, group = _training(done)
    halves: list[list[np.ndarray]] = [[], []]
    for name in dict.fromkeys(group):
        rows = np.flatnonzero(group == name)
        if len(rows) > 1:
            for half in (0, 1):
                halves[half].append(fmri[rows[half::2]].mean(0))
    if len(halves[0]) < 3:
        return None
    a, b = (np.stack(half).astype(np.float64) for half in halves)
    a, b = a - a.mean(0), b - b.mean(0)
    norm = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return np.divide((a * b).sum(0), norm, out=np.zeros(a.shape[1]), where=norm > 0)


def _training(done: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Patterns of training items z-scored by run, and the stimulus of each."""
    train = ~done.items["test"].to_numpy()
    run, fmri = done.items["run"].to_numpy()[train], done.fmri[train]
    scaled = np.concatenate([zscore(fmri[run == name]) for name in dict.fromkeys(run)])
    return scaled, done.items["stimulus"].to_numpy()[train]


def summarise(recipe: Recipe, done: Prepared, source: Path) -> dict[str, Any]:
    """Numbers, as JSON values."""
    items, test = done.items, done.items["test"]
    reliability, snr = split_half(done), voxel_snr(*_training(done))
    constant = int((done.fmri == done.fmri[:1]).all(0).sum())
    shared = set(items["stimulus"][test]) & set(items["stimulus"][~test])
    warnings = [f"{constant} voxels are constant and will stand as 0"] if constant else []
    if shared:
        warnings.append(
            f"{len(shared)} test stimuli were trained on in other runs: set data.shared_stimuli=true; scores then say "
            "in part how well known stimuli are recognised"
        )
    return {
        "description": f"{source.name}: {recipe.estimate}, split by {recipe.split}",
        "runs": len(done.runs),
        "volumes": [run.series.n_volumes for run in done.runs],
        "seconds_a_volume": sorted({run.t_r for run in done.runs}),
        "voxels": int(done.inside.sum()),
        "items": {"train": int((~test).sum()), "test": int(test.sum())},
        "stimuli": {"train": items["stimulus"][~test].nunique(), "test": items["stimulus"][test].nunique()},
        "classes": items["label"].nunique() if (items["label"] != "").all() else None,
        "median_split_half": None if reliability is None else float(f"{np.median(reliability):.3g}"),
        "median_snr": None if snr is None else float(f"{np.median(snr):.3g}"),
        "warnings": warnings,
    }


def write(recipe: Recipe, done: Prepared, source: Path, output: Path) -> tuple[dict[str, Any], Path]:
    """``page/index.html`` with its pictures; the summary, and the page."""
    folder = output / "page"
    folder.mkdir(exist_ok=True)
    summary = summarise(recipe, done, source)
    reliability = split_half(done)
    figures = {"design": design(recipe, done), "reliability": histogram(reliability, voxel_snr(*_training(done)))}
    if done.space.surface is None:
        figures["mask"] = slices(done, done.inside.astype(float), "mask", "gray")
        if reliability is not None:
            values = np.full(len(done.inside), np.nan)
            values[done.inside] = reliability
            figures["reliability_map"] = slices(done, values, "split-half reliability of training stimuli", "viridis")
    paths = []
    for name in ("mask", "design", "reliability", "reliability_map"):
        if name in figures:
            paths.append(folder / f"{name}.png")
            figures[name].savefig(paths[-1], dpi=80)
    return summary, write_page(summary, paths, folder)


# ---------------------------------------------------------------- figures


def slices(done: Prepared, values: np.ndarray, title: str, colours: str) -> Figure:
    """Axial slices that hold voxels, evenly spread, with values of all positions."""
    from matplotlib.figure import Figure

    volume, mask = values.reshape(done.space.shape), done.inside.reshape(done.space.shape)
    used = np.flatnonzero(mask.any((0, 1)))
    shown = used[np.unique(np.linspace(0, len(used) - 1, N_SLICES).round().astype(int))]
    figure = Figure(figsize=(1.4 * N_SLICES, 2), layout="constrained")
    figure.suptitle(title, fontsize=9)
    low, high = (0.0, 1.0) if title == "mask" else (-1.0, 1.0)
    for axes, z in zip(figure.subplots(1, N_SLICES, squeeze=False).flat, range(N_SLICES), strict=True):
        axes.axis("off")
        if z < len(shown):
            at = axes.imshow(volume[:, :, shown[z]].T, origin="lower", cmap=colours, vmin=low, vmax=high)
            axes.set_title(f"slice {shown[z]}", fontsize=7)
    if title != "mask":
        figure.colorbar(at, ax=figure.axes, fraction=0.02)
    return figure


def design(recipe: Recipe, done: Prepared) -> Figure:
    """When what was shown in each run, and the first run's model."""
    from matplotlib.figure import Figure

    labels = sorted(set(done.items["label"])) if done.items["label"].nunique() <= 20 else []
    figure = Figure(figsize=(11, 1.5 + 0.35 * len(done.runs)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 1])
    for place, run in enumerate(done.runs):
        rows = done.items[done.items["run"] == run.name]
        for test, part in rows.groupby("test"):
            blocks = [(t, max(d, run.t_r / 2)) for t, d in part[["onset", "duration"]].to_numpy(dtype=float)]
            colours = [f"C{labels.index(name) % 10}" if name in labels else "C0" for name in part["label"]]
            left.broken_barh(blocks, (place - 0.4, 0.8), facecolors=colours, edgecolors="black" if test else "none")
    _named(left, done)
    events = (
        None
        if recipe.estimate == "block_mean"
        else events_of(done.runs[0], [f"item_{i:05d}" for i in range(len(done.runs[0].items))])
    )
    model = design_matrix(recipe, done.runs[0], events).to_numpy()
    right.imshow(model / np.maximum(np.abs(model).max(0), 1e-12), aspect="auto", cmap="gray", interpolation="nearest")
    right.set_title("nuisance, first run" if events is None else "all events, first run", fontsize=8)
    right.set_xlabel("regressor", fontsize=8)
    right.set_ylabel("volume", fontsize=8)
    return figure


def _named(axes: Axes, done: Prepared) -> None:
    axes.set_yticks(range(len(done.runs)), [run.name[:LETTERS].replace("$", r"\$") for run in done.runs], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("seconds", fontsize=8)
    axes.set_title("events by run, colours by label; test items have a black edge", fontsize=8)


def histogram(reliability: np.ndarray | None, snr: np.ndarray | None) -> Figure:
    """How reliable voxels are over repeated training stimuli."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, values, label in zip(
        figure.subplots(1, 2),
        (reliability, snr),
        ("split-half reliability of a voxel", "signal-to-noise ratio of a voxel"),
        strict=True,
    ):
        axes.set_xlabel(label)
        axes.set_yticks([])
        if values is None:
            axes.text(0.5, 0.5, "no training stimulus is repeated", ha="center", transform=axes.transAxes)
        else:
            axes.hist(values, bins=60, histtype="step")
    return figure
