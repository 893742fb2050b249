"""What a data set holds, in numbers, warnings and pictures; for ``python -m cnd.data check``."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnd.data.findings import findings, twins_told
from cnd.protocols import FmriDataset, FmriSplit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_PICTURES = 8  # of each split

Summary = dict[str, Any]

# ---------------------------------------------------------------- numbers


def summarise(dataset: FmriDataset) -> Summary:
    """Numbers of a data set, as JSON values."""
    train, test = dataset.train, dataset.test
    in_train, in_test = set(train.category.tolist()), set(test.category.tolist())
    snr, of_what = split_snr(dataset)
    return {
        "description": dataset.description,
        "voxels": train.fmri.shape[1],
        "items": {"train": len(train), "test": len(test)},
        "stimuli": {"train": len(set(train.stimulus)), "test": len(set(test.stimulus))},
        "classes": {
            "named": len(dataset.class_names),
            "train": len(in_train),
            "test": len(in_test),
            "test_not_in_train": len(in_test - in_train),
        },
        "images": list(train.images.shape[1:]) if 0 not in train.images.shape else None,
        "roi": dict(sorted(Counter(dataset.roi).items())),
        "surface": dataset.surface if dataset.vertex is not None else None,
        "z_range": {name: [_rounded(s.fmri.min()), _rounded(s.fmri.max())] for name, s in _splits(dataset)},
        "median_snr": None if snr is None else _rounded(np.median(snr)),
        "snr_of": of_what,
        "facts": {name: _rounded(value) for name, value in dataset.facts.items()},
        "warnings": warn(dataset),
    }


def summarise_pool(pool: np.ndarray, description: str) -> Summary:
    """Numbers of unlabelled patterns [patterns, voxels], as JSON values."""
    constant = int((pool.std(0) == 0).sum())
    return {
        "description": description,
        "voxels": pool.shape[1],
        "patterns": len(pool),
        "z_range": [_rounded(pool.min()), _rounded(pool.max())],
        "warnings": [f"{constant} of {pool.shape[1]} voxels are constant"] if constant else [],
    }


def _splits(dataset: FmriDataset) -> list[tuple[str, FmriSplit]]:
    return [("train", dataset.train), ("test", dataset.test)]


def _rounded(value: float) -> float:
    return float(f"{float(value):.4g}")


def voxel_snr(fmri: np.ndarray, group: np.ndarray) -> np.ndarray | None:
    """Signal-to-noise ratio of each voxel: variance between groups over variance within (one-way random effects).

    The variance between is estimated without the noise that group means carry, and is 0 at least.

    Args:
        fmri: [n, voxels].
        group: [n], items of one group should have the same response.

    Returns:
        float64 [voxels]; None where no group has two items, or there is one group.
    """
    names, member, counts = np.unique(group, return_inverse=True, return_counts=True)
    n, n_groups = len(fmri), len(names)
    if n_groups < 2 or n_groups == n:
        return None
    values = fmri.astype(np.float64)
    means = np.stack([values[member == g].mean(0) for g in range(n_groups)])
    within = ((values - means[member]) ** 2).sum(0) / (n - n_groups)
    between = (counts[:, None] * (means - values.mean(0)) ** 2).sum(0) / (n_groups - 1)
    size = (n - (counts**2).sum() / n) / (n_groups - 1)
    return np.maximum(between - within, 0) / size / np.where(within > 0, within, 1)


def split_snr(dataset: FmriDataset) -> tuple[np.ndarray | None, str | None]:
    """SNR of each voxel from what repeats: test stimuli, else training stimuli, else training classes; and which."""
    groups = (
        ("test stimuli", dataset.test, np.array(dataset.test.stimulus)),
        ("training stimuli", dataset.train, np.array(dataset.train.stimulus)),
        ("training classes", dataset.train, dataset.train.category),
    )
    for name, split, group in groups:
        if (snr := voxel_snr(split.fmri, group)) is not None:
            return snr, name
    return None, None


# ---------------------------------------------------------------- warnings


def warn(dataset: FmriDataset) -> list[str]:
    """What is allowed but seldom meant: remarks of the source and of its data, and stimuli that are trained on."""
    found = findings(dataset)
    told = twins_told([found.stimulus], [found.twins])
    return [*([told] if told else []), *found.remarks]


# ---------------------------------------------------------------- pictures


def draw(dataset: FmriDataset, folder: Path) -> list[Path]:
    """``stimuli.png`` (where there are images) and ``voxels.png``."""
    from matplotlib.figure import Figure

    written = []
    if 0 not in dataset.train.images.shape:
        figure = Figure(figsize=(1.4 * N_PICTURES, 3.6), layout="constrained")
        places = figure.subplots(2, N_PICTURES, squeeze=False)
        for axes in places.flat:
            axes.axis("off")
        for line, (name, split) in zip(places, _splits(dataset), strict=True):
            for axes, row in zip(line, _spread(len(split)), strict=False):
                _picture(axes, split.images[row], f"{name}: {dataset.class_names[split.category[row]]}")
        written.append(folder / "stimuli.png")
        figure.savefig(written[-1], dpi=80)
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    _histogram(left, {name: split.fmri for name, split in _splits(dataset)}, "fMRI (z-scored)")
    snr, of_what = split_snr(dataset)
    if snr is None:
        _histogram(right, {"test": dataset.test.fmri.std(0)}, "standard deviation of a voxel")
    else:
        _histogram(right, {str(of_what): snr}, "signal-to-noise ratio of a voxel")
    written.append(folder / "voxels.png")
    figure.savefig(written[-1], dpi=80)
    return written


def draw_pool(pool: np.ndarray, folder: Path) -> list[Path]:
    """``voxels.png``: values, and how alike successive patterns are."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    _histogram(left, {"patterns": pool}, "fMRI (z-scored)")
    _histogram(right, {"voxels": (pool[1:] * pool[:-1]).mean(0)}, "autocorrelation of a voxel at lag 1")
    figure.savefig(folder / "voxels.png", dpi=80)
    return [folder / "voxels.png"]


def _spread(n: int) -> list[int]:
    """Up to eight rows, evenly spread."""
    return np.unique(np.linspace(0, n - 1, N_PICTURES).round().astype(int)).tolist()


def _picture(axes: Axes, image: np.ndarray, title: str) -> None:
    pixels = image.transpose(1, 2, 0)
    axes.imshow(pixels[..., 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title[:22].replace("$", r"\$"), fontsize=7)


def _histogram(axes: Axes, values: dict[str, np.ndarray], label: str) -> None:
    for name, part in values.items():
        axes.hist(part.ravel()[:: max(1, part.size // 200_000)], bins=60, density=True, histtype="step", label=name)
    axes.set_xlabel(label)
    axes.set_yticks([])
    axes.legend(fontsize=7)


# ---------------------------------------------------------------- pages


def text(summary: Summary) -> str:
    """A summary in aligned lines."""
    rows = [(key.replace("_", " "), _shown(value)) for key, value in summary.items() if value not in (None, {}, [])]
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_shown(part)}" for key, part in value.items())
    if isinstance(value, list):
        return "; ".join(map(str, value)) if value and isinstance(value[0], str) else " x ".join(map(str, value))
    return str(value)


def write_page(summary: Summary, pictures: list[Path], folder: Path) -> Path:
    """``index.html``: summary and pictures."""
    images = "".join(f'<p><img src="{html.escape(path.name)}" alt="{html.escape(path.stem)}"></p>' for path in pictures)
    title = html.escape(str(summary["description"]))
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<body style="font-family: sans-serif; margin: 2em">
<h1>{title}</h1><pre>{html.escape(text(summary))}</pre>{images}</body></html>
"""
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    return path
