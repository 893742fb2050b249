"""Rendered object stimuli: 200 categories = 20 shapes x 10 surfaces.

Each image shows one object (a signed-distance-function shape with a surface pattern) at a random
pose, size and position, under a random light, before a cluttered background of low contrast. The
renderer replaces ImageNet for the embedded benchmark: it is fast, licence-free, and the truth of
every image is known.

Random numbers come from NumPy and the fMRI stimuli are rendered in float64 before they are rounded to
8 bits, so the same seed gives the same bytes on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cnd.data.simulation.names import IMAGE_SIZE, N_SURFACES, SHAPE_NAMES


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    dx, dy = x.abs() - half_width, y.abs() - half_height
    outside = torch.sqrt(dx.clamp_min(0) ** 2 + dy.clamp_min(0) ** 2)
    return outside + torch.maximum(dx, dy).clamp_max(0)


def _polygon(x: Tensor, y: Tensor, vertices: list[tuple[float, float]]) -> Tensor:
    """Signed distance to a simple polygon: distance to the nearest edge, sign by crossing number."""
    nearest = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(vertices, vertices[1:] + vertices[:1], strict=True):
        ex, ey = bx - ax, by - ay
        along = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        crosses = (y < ay) != (y < by)
        inside ^= crosses & ((x - ax) * (by - ay) - (y - ay) * ex).mul(math.copysign(1, by - ay)).lt(0)
    return torch.where(inside, -1.0, 1.0) * nearest.sqrt()


def _radial(points: int, inner: float, phase: float = math.pi / 2) -> list[tuple[float, float]]:
    """Vertices of a star (inner < 1) or, with ``inner`` = 1, a regular polygon of 2 x points."""
    radii = [1.0 if k % 2 == 0 else inner for k in range(2 * points)]
    angles = [phase + math.pi * k / points for k in range(2 * points)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _disc(x: Tensor, y: Tensor, radius: float = 0.85, cx: float = 0.0, cy: float = 0.0) -> Tensor:
    return torch.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius


def _minimum(*distances: Tensor) -> Tensor:
    return torch.stack(distances).amin(0)


_S = math.sqrt(0.5)
SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disc": _disc,
    "ring": lambda x, y: (_disc(x, y, 0.68)).abs() - 0.2,
    "half-disc": lambda x, y: torch.maximum(_disc(x, y, 0.95, 0, -0.4), -y - 0.4),
    "crescent": lambda x, y: torch.maximum(_disc(x, y, 0.9), -_disc(x, y, 0.75, 0.45, 0.1)),
    "lens": lambda x, y: torch.maximum(_disc(x, y, 1.2, 0.75), _disc(x, y, 1.2, -0.75)),
    "square": lambda x, y: _box(x, y, 0.75, 0.75),
    "frame": lambda x, y: _box(x, y, 0.65, 0.65).abs() - 0.17,
    "triangle": lambda x, y: _polygon(x, y, [(0, 0.95), (-0.9, -0.7), (0.9, -0.7)]),
    "wedge": lambda x, y: _polygon(x, y, [(-0.85, 0.85), (-0.85, -0.85), (0.85, -0.85)]),
    "star": lambda x, y: _polygon(x, y, _radial(5, 0.42)),
    "plus": lambda x, y: _minimum(_box(x, y, 0.9, 0.27), _box(x, y, 0.27, 0.9)),
    "saltire": lambda x, y: _minimum(
        _box((x + y) * _S, (y - x) * _S, 1.0, 0.24), _box((x + y) * _S, (y - x) * _S, 0.24, 1.0)
    ),
    "heart": lambda x, y: _minimum(
        _disc(x, y, 0.48, -0.4, 0.35),
        _disc(x, y, 0.48, 0.4, 0.35),
        _polygon(x, y, [(-0.8, 0.1), (0, -0.95), (0.8, 0.1), (0, 0.5)]),
    ),
    "arrow": lambda x, y: _polygon(
        x,
        y,
        [(0, 0.95), (-0.75, 0.1), (-0.28, 0.1), (-0.28, -0.9), (0.28, -0.9), (0.28, 0.1), (0.75, 0.1)],
    ),
    "hourglass": lambda x, y: _polygon(
        x, y, [(-0.75, 0.85), (-0.12, 0), (-0.75, -0.85), (0.75, -0.85), (0.12, 0), (0.75, 0.85)]
    ),
    "ell": lambda x, y: _minimum(_box(x + 0.5, y, 0.27, 0.85), _box(x, y + 0.58, 0.77, 0.27)),
    "tee": lambda x, y: _minimum(_box(x, y - 0.6, 0.85, 0.26), _box(x, y + 0.1, 0.26, 0.8)),
    "cup": lambda x, y: _minimum(
        _box(x + 0.6, y, 0.22, 0.8), _box(x - 0.6, y, 0.22, 0.8), _box(x, y + 0.58, 0.82, 0.22)
    ),
    "dumbbell": lambda x, y: _minimum(_disc(x, y, 0.42, -0.55), _disc(x, y, 0.42, 0.55), _box(x, y, 0.5, 0.14)),
    "trefoil": lambda x, y: torch.sqrt(x**2 + y**2) - 0.6 - 0.3 * torch.cos(3 * (torch.atan2(y, x) - math.pi / 2)),
}
"""Signed distance functions of the shapes over [-1, 1]^2 (negative inside), by name."""

assert tuple(SHAPES) == SHAPE_NAMES

# Two colours a surface (RGB in 0..1); the pattern mixes them.
_COLOURS = np.array(
    [
        [[0.85, 0.12, 0.12], [0.85, 0.12, 0.12]],
        [[0.10, 0.25, 0.85], [0.90, 0.92, 0.98]],
        [[0.10, 0.60, 0.20], [0.75, 0.95, 0.55]],
        [[0.98, 0.85, 0.10], [0.15, 0.13, 0.10]],
        [[0.97, 0.97, 0.95], [0.85, 0.20, 0.25]],
        [[0.05, 0.75, 0.80], [0.02, 0.25, 0.40]],
        [[1.00, 0.85, 0.30], [0.85, 0.30, 0.02]],
        [[0.50, 0.15, 0.70], [0.90, 0.75, 0.98]],
        [[0.98, 0.55, 0.70], [0.60, 0.25, 0.35]],
        [[0.08, 0.08, 0.10], [0.70, 0.72, 0.75]],
    ]
)


def _pattern(surface: int, u: Tensor, v: Tensor, phase: Tensor) -> Tensor:
    """Share of the second colour at object coordinates (u, v), in 0..1."""
    wave = 2 * math.pi * 1.6  # periods per unit; 64 pixels resolve it after the 8-fold autoencoder
    sharp = 4.0
    soft = {
        0: lambda: torch.zeros_like(u) - 9,
        1: lambda: torch.sin(wave * v + phase),
        2: lambda: torch.sin(wave * u + phase),
        3: lambda: torch.sin(wave * 0.8 * u + phase) * torch.sin(wave * 0.8 * v + phase),
        4: lambda: torch.cos(wave * u + phase) + torch.cos(wave * v + phase) - 0.9,
        5: lambda: torch.sin(wave * 1.1 * torch.sqrt(u * u + v * v) + phase),
        6: lambda: (u * u + v * v - 0.25) * 0.8,
        7: lambda: torch.sin(wave * 0.75 * (u + v) + phase),
        8: lambda: torch.sin(wave * (v + 0.18 * torch.sin(5 * u)) + phase),
        9: lambda: torch.maximum(torch.cos(wave * u + phase), torch.cos(wave * v + phase)) - 0.75,
    }[surface]()
    return torch.sigmoid(sharp * soft)


def _background(n: int, rng: np.random.Generator, x: Tensor, y: Tensor) -> Tensor:
    """Grey gradient with three faint blurred blobs, [n, 3, h, w]."""

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.as_tensor(rng.uniform(low, high, (n, *shape)), dtype=x.dtype)[..., None, None]

    image = draw(0.42, 0.62, 3) + draw(-0.08, 0.08, 1) * x + draw(-0.08, 0.08, 1) * y
    for _ in range(3):
        cx, cy, width, tint = draw(-1, 1, 1), draw(-1, 1, 1), draw(0.1, 0.4, 1), draw(-0.12, 0.12, 3)
        blob = torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
        image = image + tint * blob
    return image


def render(category: np.ndarray, rng: np.random.Generator, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """Render one image a category index.

    Args:
        category: int array [n], values in 0..199.
        rng: source of pose, light and clutter.
        dtype: arithmetic of the renderer; float64 for stimuli whose bytes must not depend on the machine.

    Returns:
        uint8 array [n, 3, 64, 64].
    """
    n = len(category)
    axis = (torch.arange(IMAGE_SIZE, dtype=dtype) + 0.5) / IMAGE_SIZE * 2 - 1
    x, y = axis[None, None, :], -axis[None, :, None]

    def draw(low: float, high: float) -> Tensor:
        return torch.as_tensor(rng.uniform(low, high, n), dtype=dtype)[:, None, None]

    angle, size = draw(-0.3, 0.3), draw(0.62, 0.8)
    shift_x, shift_y = draw(-0.12, 0.12), draw(-0.12, 0.12)
    phase, light, tilt_x, tilt_y = draw(0, 2 * math.pi), draw(0.85, 1.1), draw(-0.2, 0.2), draw(-0.2, 0.2)
    tint = torch.as_tensor(rng.uniform(-0.05, 0.05, (n, 3, 1, 1)), dtype=dtype)
    background = _background(n, rng, x[:, None], y[:, None])

    dx, dy = x - shift_x, y - shift_y
    u = (torch.cos(angle) * dx + torch.sin(angle) * dy) / size
    v = (-torch.sin(angle) * dx + torch.cos(angle) * dy) / size
    shape, surface = np.divmod(np.asarray(category), N_SURFACES)
    distance, share = torch.empty_like(u), torch.empty_like(u)
    for index, sdf in enumerate(SHAPES.values()):
        rows = torch.as_tensor(np.flatnonzero(shape == index))
        if len(rows):
            distance[rows] = sdf(u[rows], v[rows])
    for index in range(N_SURFACES):
        rows = torch.as_tensor(np.flatnonzero(surface == index))
        if len(rows):
            share[rows] = _pattern(index, u[rows], v[rows], phase[rows])

    colours = torch.as_tensor(_COLOURS[surface], dtype=dtype)[..., None, None]
    paint = colours[:, 0] * (1 - share[:, None]) + colours[:, 1] * share[:, None] + tint
    shading = (light * (1 + tilt_x * u + tilt_y * v))[:, None]
    edge = IMAGE_SIZE / 2 * size  # one pixel of anti-aliasing at the silhouette
    coverage = (0.5 - distance * edge).clamp(0, 1)[:, None]
    image = coverage * paint * shading + (1 - coverage) * background
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
