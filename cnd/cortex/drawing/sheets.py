"""Pictures of the cortex that only wait for a value per voxel: flat maps and inflated views as arrays of pixels.

A pixel knows which voxel it shows, so one :class:`Sheet` serves every map of a run and painting it is an array lookup.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from cnd.cortex.drawing.surface import BoolArray, FloatArray, Hemisphere, IntArray, Placement, Side

View = Literal["lateral", "medial", "posterior", "ventral"]
VIEWS: tuple[View, ...] = ("lateral", "medial", "posterior", "ventral")
OUTLINED = ("V1", "V2", "V3", "V4", "V3A", "V3B", "MIP", "PGi")  # the areas that sec. 5.2 speaks of
FLAT_PIXEL, VIEW_PIXEL = 0.5, 0.6  # mm
MARGIN = 10.0  # mm around the areas on a flat map
TOO_SMALL, BESIDE = ("V3B",), 17.0  # area too small to hold its name; mm from there to the name
SPECK = 20  # points; a shorter outline is a single stray vertex
SMOOTHING = 1.5  # pixels; of outlines, which otherwise follow the pixels
FLAT_REACH = 4.0  # mm; a pixel of the flat map further than this from all vertices is not cortex


class Label(NamedTuple):
    """A name to be written at x, y (pixels); ``point`` is the place it means, where that is another one."""

    name: str
    x: float
    y: float
    point: tuple[float, float] | None


@dataclass(frozen=True)
class Sheet:
    """A picture of the cortex, [height, width] pixels, that only waits for a value per voxel.

    Attributes:
        voxel: voxel shown at each pixel, -1 where none is.
        cortex: there is cortex at the pixel.
        shade: brightness 0..1 of the surface.
        outlines: borders of the outlined areas, each [points, (x, y)] in pixels.
        labels: the outlined areas and where to write their names.
        titles: text, x (pixels) of the parts of the picture.
        pixel: mm per pixel.
    """

    voxel: IntArray
    cortex: BoolArray
    shade: FloatArray
    outlines: tuple[FloatArray, ...]
    labels: tuple[Label, ...]
    titles: tuple[tuple[str, float], ...]
    pixel: float


def flat_sheet(placements: dict[Side, Placement]) -> Sheet:
    """Both flat maps side by side, cropped to the outlined areas and to all that is painted."""
    titles: dict[Side, str] = {"L": "left", "R": "right"}
    sheets = [_flat(placement, titles[side]) for side, placement in placements.items()]
    return join(sheets, gap=round(6 / FLAT_PIXEL))


def _flat(placement: Placement, title: str) -> Sheet:
    hemisphere = placement.hemisphere
    on_map = np.unique(hemisphere.flat_faces)
    framed = on_map[np.isin(placement.area[on_map], OUTLINED) | (placement.voxel[on_map] >= 0)]
    framed = framed if len(framed) else on_map
    low, high = hemisphere.flat[framed].min(0) - MARGIN, hemisphere.flat[framed].max(0) + MARGIN
    x, y = np.arange(low[0], high[0], FLAT_PIXEL), np.arange(high[1], low[1], -FLAT_PIXEL)
    pixels = np.stack(np.meshgrid(x, y), axis=-1)
    _, nearest = cKDTree(hemisphere.flat[on_map]).query(pixels, distance_upper_bound=FLAT_REACH)
    vertex = np.append(on_map, -1)[nearest]  # the tree answers len(on_map) where nothing is in reach
    return _sheet(placement, vertex, np.ones_like(hemisphere.sulcal_depth), title, FLAT_PIXEL, labelled=True)


def view_sheet(placements: dict[Side, Placement], views: tuple[View, ...] = VIEWS) -> Sheet:
    """Inflated hemispheres, left before right, for each view."""
    return join(
        [_inflated(placement, view) for view in views for placement in placements.values()],
        gap=round(4 / VIEW_PIXEL),
    )


def _inflated(placement: Placement, view: View) -> Sheet:
    hemisphere = placement.hemisphere
    right, up, toward = _camera(hemisphere.side, view)
    normals = _vertex_normals(hemisphere.inflated, hemisphere.faces)
    light = toward + 0.5 * up
    shade = 0.55 + 0.45 * np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)
    vertex = _visible(hemisphere, right, up, toward)
    return _sheet(placement, vertex, shade, f"{hemisphere.side} {view}", VIEW_PIXEL, labelled=False)


def _camera(side: Side, view: View) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Unit vectors to the picture's right, its top and the viewer."""
    outward = -1.0 if side == "L" else 1.0
    toward, up = {
        "lateral": ((outward, 0, 0), (0, 0, 1)),
        "medial": ((-outward, 0, 0), (0, 0, 1)),
        "posterior": ((0, -1, 0), (0, 0, 1)),
        "ventral": ((0, 0, -1), (0, 1, 0)),
    }[view]
    return np.cross(up, toward).astype(float), np.array(up, dtype=float), np.array(toward, dtype=float)


def _vertex_normals(points: FloatArray, faces: IntArray) -> FloatArray:
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    face_normals = np.cross(b - a, c - a)
    normals = np.stack(
        [np.bincount(faces.ravel(), np.repeat(face_normals[:, axis], 3), len(points)) for axis in range(3)], axis=1
    )
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _visible(hemisphere: Hemisphere, right: FloatArray, up: FloatArray, toward: FloatArray) -> IntArray:
    """Vertex seen at each pixel, -1 for none: triangles facing the viewer, sampled densely, the nearest one on top."""
    points, faces = hemisphere.inflated, hemisphere.faces
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    faces = faces[np.cross(b - a, c - a) @ toward > 0]
    longest = np.quantile(np.linalg.norm(b - a, axis=1), 0.99)
    steps = np.linspace(0, 1, 2 + int(longest / VIEW_PIXEL))
    weights = np.array([(u, v, 1 - u - v) for u in steps for v in steps if u + v <= 1 + 1e-9])
    corners = points[faces] @ np.stack([right, up, toward], axis=1)  # [faces, corner, (x, y, depth)]
    samples = np.einsum("sk,fkd->fsd", weights, corners).reshape(-1, 3)
    seen = faces[:, weights.argmax(1)].ravel()
    low, high = samples.min(0), samples.max(0)
    column = ((samples[:, 0] - low[0]) / VIEW_PIXEL).astype(np.int64)
    row = ((high[1] - samples[:, 1]) / VIEW_PIXEL).astype(np.int64)
    picture = np.full((row.max() + 1, column.max() + 1), -1, dtype=np.int64)
    order = np.argsort(samples[:, 2])  # far to near: the last value assigned to a pixel stays
    picture[row[order], column[order]] = seen[order]
    return _without_pinholes(picture)


def _without_pinholes(picture: IntArray) -> IntArray:
    """The picture with gaps of a pixel or two, left by the largest triangles, filled from beside."""
    padded = np.pad(picture, 3, constant_values=-1)
    holes = ndimage.binary_closing(padded >= 0, iterations=2) & (padded < 0)
    row, column = ndimage.distance_transform_edt(padded < 0, return_distances=False, return_indices=True)
    padded[holes] = padded[row[holes], column[holes]]
    return padded


def _sheet(
    placement: Placement, vertex: IntArray, shade: FloatArray, title: str, pixel: float, labelled: bool
) -> Sheet:
    """The picture whose pixels show mesh vertices ``vertex`` (-1 none), with outlines drawn between pixels."""
    inside = vertex >= 0
    area = np.where(inside, placement.area[vertex], "")
    masks = {name: area == name for name in OUTLINED if (area == name).any()}
    voxel = np.where(inside, placement.voxel[vertex], -1)
    brightness = np.where(inside, shade[vertex], 1.0)
    if not labelled:  # on a view of the brain, darker sulci help to find one's way
        brightness[inside & (voxel < 0) & (placement.hemisphere.sulcal_depth[vertex] > 0)] *= 0.9
    outlines = tuple(line for mask in masks.values() for line in _outline(mask))
    labels = _labels(masks) if labelled else ()
    return Sheet(voxel, inside, brightness, outlines, labels, ((title, vertex.shape[1] / 2),), pixel)


def _outline(mask: BoolArray) -> list[FloatArray]:
    """Smooth border lines of an area."""
    blurred = ndimage.gaussian_filter(np.pad(mask, 1).astype(np.float64), SMOOTHING)
    lines = [np.asarray(line, dtype=np.float64) - 1 for line in contour_generator(z=blurred).lines(0.5)]
    return [line for line in lines if len(line) > SPECK]


def _labels(masks: dict[str, BoolArray]) -> tuple[Label, ...]:
    """Names in the middle of the areas; beside them, on the side away from V1, where an area is too small."""
    centres = {name: _centre(mask) for name, mask in masks.items()}
    labels = []
    for name, (x, y) in centres.items():
        if name in TOO_SMALL and "V1" in centres:
            away = np.sign(x - centres["V1"][0]) * BESIDE / FLAT_PIXEL
            labels.append(Label(name, x + away, y + 0.5 * abs(away), (x, y)))
        else:
            labels.append(Label(name, x, y, None))
    return tuple(labels)


def _centre(mask: BoolArray) -> tuple[float, float]:
    """The point deepest inside, where a label has most room: x, y in pixels."""
    depth = ndimage.distance_transform_edt(mask)
    row, column = np.unravel_index(int(np.argmax(depth)), mask.shape)
    return float(column), float(row)


def join(sheets: list[Sheet], gap: int) -> Sheet:
    """Sheets side by side, centred vertically, ``gap`` pixels apart."""
    height = max(sheet.voxel.shape[0] for sheet in sheets)
    parts: dict[str, list[NDArray[Any]]] = {"voxel": [], "cortex": [], "shade": []}
    fill = {"voxel": -1, "cortex": False, "shade": 1.0}
    outlines: list[FloatArray] = []
    labels: list[Label] = []
    titles: list[tuple[str, float]] = []
    left = 0
    for number, sheet in enumerate(sheets):
        above = (height - sheet.voxel.shape[0]) // 2
        padding = [(above, height - sheet.voxel.shape[0] - above), (0, gap if number < len(sheets) - 1 else 0)]
        for name, arrays in parts.items():
            arrays.append(np.pad(getattr(sheet, name), padding, constant_values=fill[name]))
        outlines += [line + np.array([left, above]) for line in sheet.outlines]
        labels += [_moved(label, left, above) for label in sheet.labels]
        titles += [(text, x + left) for text, x in sheet.titles]
        left += parts["voxel"][-1].shape[1]
    whole = {name: np.concatenate(arrays, axis=1) for name, arrays in parts.items()}
    return Sheet(**whole, outlines=tuple(outlines), labels=tuple(labels), titles=tuple(titles), pixel=sheets[0].pixel)


def _moved(label: Label, right: float, down: float) -> Label:
    point = None if label.point is None else (label.point[0] + right, label.point[1] + down)
    return Label(label.name, label.x + right, label.y + down, point)
