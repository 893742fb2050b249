"""Meshes, voxels on vertices and the sheets that maps are painted on, against the atlas itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from analysis_folder import AREAS, cortex_table

from cnd.cortex.drawing.sheets import FLAT_PIXEL, OUTLINED, Sheet, flat_sheet, view_sheet
from cnd.cortex.drawing.surface import Placement, Side, borrowed_share, load_hemisphere, place, why_no_surface
from cnd.errors import UserError


@pytest.fixture(scope="module")
def cortex() -> pd.DataFrame:
    return cortex_table(1200, np.random.default_rng(0))


@pytest.fixture(scope="module")
def placements(cortex: pd.DataFrame) -> dict[Side, Placement]:
    return place(cortex, "fs_LR_32k")


@pytest.fixture(scope="module")
def flat(placements: dict[Side, Placement]) -> Sheet:
    return flat_sheet(placements)


def test_areas_have_the_atlas_size() -> None:
    left, right = load_hemisphere("fs_LR_32k", "L"), load_hemisphere("fs_LR_32k", "R")
    assert (len(left.cortical), len(right.cortical)) == (29696, 29716)
    expected = {"V1": 831, "V2": 619, "V3": 337, "V4": 361, "V3A": 151, "V3B": 77, "MIP": 159, "PGi": 430}
    assert left.area is not None and right.area is not None
    assert {name: int((left.area == name).sum()) for name in expected} == expected
    assert sum(int((side.area == v).sum()) for side in (left, right) for v in ("V1", "V2", "V3", "V4")) == 4183  # type: ignore[operator]


@pytest.mark.parametrize("surface", ["fs_LR_32k", "fsaverage5"])
def test_hemispheres_lie_where_they_should(surface: str) -> None:
    left, right = (load_hemisphere(surface, side).anatomy for side in ("L", "R"))  # type: ignore[arg-type]
    assert left[:, 0].mean() < -20 and right[:, 0].mean() > 20
    assert len(left) == len(right) == {"fs_LR_32k": 32492, "fsaverage5": 10242}[surface]


def test_every_voxel_is_on_its_vertex_and_area(cortex: pd.DataFrame, placements: dict[Side, Placement]) -> None:
    for side, placement in placements.items():
        own = placement.voxel[placement.measured]
        assert len(own) == cortex["roi"].str.startswith(side).sum()
        assert [f"{side}_{area}" for area in placement.area[placement.measured]] == list(cortex["roi"].iloc[own])


def test_vertices_borrow_from_the_nearest_voxel_of_their_area_only(placements: dict[Side, Placement]) -> None:
    placement = placements["R"]
    for name in ("V3B", "FFC"):
        inside = np.flatnonzero(placement.area == name)
        own = inside[placement.measured[inside]]
        distance = np.linalg.norm(
            placement.hemisphere.anatomy[inside, None] - placement.hemisphere.anatomy[own], axis=2
        )
        np.testing.assert_array_equal(placement.voxel[inside], placement.voxel[own[distance.argmin(1)]])
    outside = ~np.isin(placement.area, AREAS)
    assert (placement.voxel[outside] == -1).all() and outside.sum() > 20_000
    assert 0.7 < borrowed_share(placements) < 0.9  # 1,200 voxels on about 6,300 vertices


def test_no_surface_without_vertices(cortex: pd.DataFrame) -> None:
    volume = cortex.assign(vertex=-1)
    assert why_no_surface(cortex) is None
    assert "surface transform" in str(why_no_surface(volume))
    with pytest.raises(UserError, match="vertex is -1 everywhere"):
        place(volume, "fs_LR_32k")


def test_wrong_mesh_is_refused(cortex: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="is not on fsaverage5"):
        place(cortex, "fsaverage5")
    with pytest.raises(UserError, match="expected 'fs_LR_32k' or 'fsaverage5'"):
        place(cortex, "civet")  # type: ignore[arg-type]


def test_some_unknown_vertices_are_left_out(cortex: pd.DataFrame) -> None:
    half = cortex.assign(vertex=cortex["vertex"].where(cortex["voxel"] % 2 == 0, -1))
    drawn = np.concatenate([placement.voxel for placement in place(half, "fs_LR_32k").values()])
    assert set(drawn[drawn >= 0] % 2) == {0}


def test_fsaverage5_takes_areas_from_the_voxels() -> None:
    left = load_hemisphere("fsaverage5", "L")
    near = np.argsort(np.linalg.norm(left.anatomy - left.anatomy[100], axis=1))[:60]
    table = pd.DataFrame({"voxel": range(30), "vertex": near[::2], "roi": "L_V1"})
    placement = place(table, "fsaverage5")["L"]
    painted = np.flatnonzero(placement.voxel >= 0)
    assert set(near[::2]) <= set(painted) and len(painted) > 30
    distance = np.linalg.norm(left.anatomy[painted, None] - left.anatomy[near[::2]], axis=2).min(1)
    assert distance.max() <= 4.0


# ---------------------------------------------------------------- sheets


def test_names_stand_in_their_areas(flat: Sheet, cortex: pd.DataFrame) -> None:
    assert sorted(label.name for label in flat.labels) == sorted(2 * OUTLINED)
    for label in flat.labels:
        x, y = label.point or (label.x, label.y)
        assert cortex["roi"].iloc[flat.voxel[round(y), round(x)]][2:] == label.name


def test_names_do_not_overlap(flat: Sheet) -> None:
    """At 4.7 inches a picture and 7.5 points a letter (0.65 of it wide), on the flat map of both hemispheres."""
    per_inch = flat.voxel.shape[1] / 4.7
    boxes = [
        (label.x, label.y, 0.65 * len(label.name) * 7.5 / 72 * per_inch, 0.75 * 7.5 / 72 * per_inch)
        for label in flat.labels
    ]
    for i, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[i + 1 :]:
            apart = abs(x - other_x) >= (width + other_width) / 2 or abs(y - other_y) >= (height + other_height) / 2
            assert apart, (flat.labels[i].name, x, y, other_x, other_y)


def test_flat_map_is_cropped_to_visual_cortex_and_keeps_proportions(
    flat: Sheet, placements: dict[Side, Placement]
) -> None:
    height, width = (FLAT_PIXEL * n for n in flat.voxel.shape)
    assert 150 < height < 300 and 250 < width < 450  # mm; the whole flat maps are 450 mm wide each
    painted = {int(v) for p in placements.values() for v in p.voxel[np.unique(p.hemisphere.flat_faces)] if v >= 0}
    assert painted - set(np.unique(flat.voxel)) == set() or len(painted - set(np.unique(flat.voxel))) < 5
    assert len(flat.outlines) >= 2 * len(OUTLINED)


def test_views_are_seen_from_the_right_side(placements: dict[Side, Placement], cortex: pd.DataFrame) -> None:
    early = cortex["roi"].str.endswith(("V1", "V2")).to_numpy()

    def column(side: Side, view: str) -> float:
        sheet = view_sheet({side: placements[side]}, (view,))  # type: ignore[arg-type]
        found = np.argwhere((sheet.voxel >= 0) & early[sheet.voxel])
        return float(found[:, 1].mean()) / sheet.voxel.shape[1]

    assert column("L", "lateral") > 0.9 and column("R", "lateral") < 0.1  # the back of the brain
    assert column("L", "medial") < 0.25 and column("R", "medial") > 0.75
    sheet = view_sheet({"L": placements["L"]}, ("ventral",))
    found = np.argwhere((sheet.voxel >= 0) & early[sheet.voxel])
    assert found[:, 0].mean() > 0.7 * sheet.voxel.shape[0]  # front at the top
