"""From an analysis folder to maps, tests and pictures, against NumPy and SciPy."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from analysis_folder import cortex_table, write_analysis
from matplotlib.colors import to_rgb
from PIL import Image
from scipy import stats

from cnd.cortex.drawing import differences, draw, figures, maps
from cnd.cortex.drawing.maps import ENCODING, WEIGHT, Analysis
from cnd.cortex.drawing.sheets import Sheet
from cnd.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("analysis")
    return write_analysis(base / "run", n_voxels=400, layers=(4, 14), steps=(0.0, 1.0), drives=("stimulus",))


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return maps.read_analysis(folder)


# ---------------------------------------------------------------- maps


def test_maps_by_layer_are_means_over_steps(analysis: Analysis) -> None:
    found = maps.voxel_maps(analysis.voxels, "stimulus", "layer", WEIGHT)
    table = analysis.voxels[(analysis.voxels["side"] == "decoder") & (analysis.voxels["layer"] == 14)]
    expected = table.pivot(index="voxel", columns="step", values="weight").to_numpy().mean(1)
    mine = found[(found["side"] == "decoder") & (found["at"] == 14)].sort_values("voxel")
    np.testing.assert_allclose(mine["value"], expected)
    assert found["shown"].all()  # the paper's weights have no test
    steps = maps.voxel_maps(analysis.voxels, "stimulus", "step", WEIGHT)
    assert sorted(steps["at"].unique()) == [0.0, 1.0] and len(steps) == 2 * 2 * 400


def test_encoding_maps_hide_what_is_not_significant(analysis: Analysis) -> None:
    found = maps.voxel_maps(analysis.voxels, "stimulus", "layer", ENCODING)
    table = analysis.voxels[(analysis.voxels["side"] == "encoder") & (analysis.voxels["layer"] == 4)]
    smallest = table.pivot(index="voxel", columns="step", values="p").to_numpy().min(1)
    expected = stats.false_discovery_control(np.minimum(1, 2 * smallest)) <= 0.05
    mine = found[(found["side"] == "encoder") & (found["at"] == 4)].sort_values("voxel")
    np.testing.assert_array_equal(mine["shown"], expected)
    assert 0.1 < expected.mean() < 0.9


def test_voxels_without_a_test_are_hidden(analysis: Analysis) -> None:
    untested = analysis.voxels.assign(p=analysis.voxels["p"].where(analysis.voxels["voxel"] != 7))
    found = maps.voxel_maps(untested, "stimulus", None, ENCODING)
    assert not found.loc[found["voxel"] == 7, "shown"].any()
    assert found["shown"].any()


def test_the_rate_that_the_analysis_kept_masks_its_maps(tmp_path: Path) -> None:
    few = {"n_voxels": 200, "layers": (4,), "steps": (0.0,), "drives": ("stimulus",)}
    strict = maps.read_analysis(write_analysis(tmp_path / "a", fdr=0.001, **few))  # type: ignore[arg-type]
    usual = maps.voxel_maps(strict.voxels, "stimulus", None, ENCODING)
    found = maps.voxel_maps(strict.voxels, "stimulus", None, ENCODING, strict.fdr)
    assert 0 < found["shown"].sum() < usual["shown"].sum()
    cortex = draw.on_cortex(strict)
    drawings = {drawing.name: drawing for drawing in draw.drawings(strict, cortex)}
    for name in ("r2_layers_steps", "areas_stimulus", "figure5_stimulus_encoding_r2", "inflated_stimulus"):
        assert "FDR 0.1 %" in drawings[name].caption
    again = maps.read_analysis(write_analysis(tmp_path / "b", fdr=0.001, seed=1, gain=0.06, **few))  # type: ignore[arg-type]
    found = differences.difference_map(again, strict, "stimulus", "encoder")
    np.testing.assert_array_equal(found["shown"], found["q"] <= 0.001)


def test_area_means_weight_hemispheres_by_voxels(analysis: Analysis) -> None:
    means = maps.area_means(analysis.rois, "stimulus").set_index(["side", "area"])
    area = analysis.cortex["roi"].str[2:].to_numpy()
    mine = analysis.voxels[analysis.voxels["side"] == "encoder"]
    expected = mine[area[mine["voxel"]] == "PGi"]["encoding_r2"].mean()
    assert means.at[("encoder", "PGi"), "encoding_r2"] == pytest.approx(expected)
    assert means.at[("encoder", "PGi"), "n_voxels"] == (area == "PGi").sum()
    assert list(means.loc["encoder"].index)[:4] == ["V1", "V2", "V3", "V4"]


def test_area_maps_are_means_over_steps_and_voxels_of_both_hemispheres(analysis: Analysis) -> None:
    found = maps.area_maps(analysis.rois, "stimulus", "layer", WEIGHT).set_index(["side", "at", "area"])
    area = analysis.cortex["roi"].str[2:].to_numpy()
    mine = analysis.voxels[(analysis.voxels["side"] == "decoder") & (analysis.voxels["layer"] == 14)]
    expected = mine[area[mine["voxel"]] == "V2"]["weight"].mean()
    assert found.at[("decoder", 14, "V2"), "value"] == pytest.approx(expected)
    assert found.at[("decoder", 14, "V2"), "n_voxels"] == (area == "V2").sum()
    assert len(found) == 2 * 2 * len(np.unique(area))
    drawing = draw.area_map_drawing(analysis, "stimulus", WEIGHT, "layer")
    encoder, _, bar = drawing.figure.axes
    assert [text.get_text() for text in encoder.get_yticklabels()] == ["layer 4", "layer 14"]
    assert bar.get_xlabel() == WEIGHT.unit and encoder.images[0].norm.vmin == 0


def test_agreement_is_spearmans_correlation(analysis: Analysis) -> None:
    found = maps.agreement(analysis.voxels, "stimulus").set_index("side")
    cells = analysis.voxels[analysis.voxels["side"] == "encoder"].groupby(["layer", "step"])
    expected = np.mean([stats.spearmanr(cell["pattern"], cell["encoding_r2"]).statistic for _, cell in cells])
    assert found.at["encoder", "pattern_rho"] == pytest.approx(expected)
    assert found.at["encoder", "pattern_rho"] > found.at["encoder", "weight_rho"] + 0.1
    assert found.at["encoder", "pattern_empty"] < found.at["encoder", "weight_empty"]


# ---------------------------------------------------------------- differences of two runs


def run(path: Path, seed: int, gain: float = 0.0, **more: object) -> Analysis:
    few = {"n_voxels": 300, "n_categories": 40, "layers": (4,), "steps": (0.0,)}
    return maps.read_analysis(write_analysis(path, seed=seed, gain=gain, **(few | more)))  # type: ignore[arg-type]


def test_difference_finds_the_area_that_differs(tmp_path: Path) -> None:
    reference, better = run(tmp_path / "a", 1), run(tmp_path / "b", 2, gain=0.06)
    found = differences.difference_map(better, reference, "reconstruction", "encoder")
    in_v1 = reference.cortex["roi"].str.endswith("V1").to_numpy()
    assert found.loc[in_v1, "shown"].mean() > 0.95
    assert found.loc[in_v1, "value"].mean() == pytest.approx(0.06, abs=0.005)
    assert found.loc[~in_v1, "shown"].mean() < 0.05


def test_equal_runs_do_not_differ(tmp_path: Path) -> None:
    found = differences.difference_map(run(tmp_path / "a", 1), run(tmp_path / "b", 2), "stimulus", "decoder")
    assert found["shown"].mean() < 0.02
    assert stats.kstest(found["p"], "uniform").pvalue > 0.001
    same = run(tmp_path / "c", 3)
    assert (differences.difference_map(same, same, "stimulus", "decoder")["p"] == 1).all()


def test_voxels_whose_errors_are_not_finite_are_not_tested(tmp_path: Path) -> None:
    reference, row = run(tmp_path / "a", 1), run(tmp_path / "b", 2, gain=0.06)
    assert row.item_errors is not None and reference.item_errors is not None
    before = differences.difference_map(row, reference, "stimulus", "encoder")
    row.item_errors["stimulus.encoder"][3, 7] = np.nan
    reference.item_errors["stimulus.encoder"][0, 8] = np.inf
    after = differences.difference_map(row, reference, "stimulus", "encoder")
    assert after.index[after["p"].isna()].tolist() == [7, 8] and not after["shown"][[7, 8]].any()
    pd.testing.assert_series_equal(after["p"].drop([7, 8]), before["p"].drop([7, 8]))
    row.item_errors["stimulus.encoder"][0] = np.nan
    assert differences.difference_map(row, reference, "stimulus", "encoder")["p"].isna().all()


def test_differences_without_errors_are_not_tested(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(tmp_path / name, ord(name))
        (tmp_path / name / "item_errors.safetensors").unlink()
    row, reference = maps.read_analysis(tmp_path / "a"), maps.read_analysis(tmp_path / "b")
    found = differences.difference_map(row, reference, "stimulus", "encoder")
    both = [a.voxels.query("drive == 'stimulus' and side == 'encoder'") for a in (row, reference)]
    np.testing.assert_allclose(found["value"], both[0]["encoding_r2"].to_numpy() - both[1]["encoding_r2"].to_numpy())
    assert found["p"].isna().all() and not found["shown"].any()


def test_differences_need_the_same_voxels_and_items(tmp_path: Path) -> None:
    reference = run(tmp_path / "a", 1)
    with pytest.raises(UserError, match="same voxels"):
        differences.difference_map(run(tmp_path / "b", 2, n_voxels=200), reference, "stimulus", "encoder")
    with pytest.raises(UserError, match="same test items"):
        differences.difference_map(run(tmp_path / "c", 2, n_categories=30), reference, "stimulus", "encoder")


def test_differences_need_the_same_drive_layers_and_steps(tmp_path: Path) -> None:
    reference = run(tmp_path / "a", 1)
    with pytest.raises(UserError, match="layers and steps"):
        differences.difference_map(run(tmp_path / "b", 2, steps=(1.0,)), reference, "stimulus", "encoder")
    by_stimulus = run(tmp_path / "c", 2, drives=("stimulus",))
    found, problems = differences.differences([("Row 1", by_stimulus)], by_stimulus)
    assert not found and "Row 1: a difference map needs drive 'reconstruction'" in problems[0]


def test_without_a_surface_differences_are_drawn_by_area(tmp_path: Path) -> None:
    reference, better = run(tmp_path / "a", 1), run(tmp_path / "b", 2, gain=0.06)
    found, problems = differences.differences([("Row 1", better)], reference)
    assert not problems and [entry.side for entry in found] == ["encoder", "decoder"]
    drawing = differences.difference_drawing(found, ("Row 0", reference), None)
    assert "Means over an area" in drawing.caption and "FDR 5 %" in drawing.caption
    encoder = drawing.figure.axes[0]
    in_v1 = reference.cortex["roi"].str.endswith("V1").to_numpy()
    in_table = found[0].table[in_v1]
    assert f"+{in_table['value'].mean():.3f}\n{in_table['shown'].sum()}" in [text.get_text() for text in encoder.texts]
    assert drawing.figure.axes[1].get_xticklabels()[0].get_text() == f"V1 ({in_v1.sum()})"
    assert drawing.figure.axes[-1].get_xlabel() == "difference of encoding R² (row minus reference)"


# ---------------------------------------------------------------- pictures


def test_a_pixel_has_the_colour_of_its_voxel() -> None:
    voxel = np.array([[0, 1, 2, -1, -1]])
    sheet = Sheet(voxel, np.array([[True, True, True, True, False]]), np.ones((1, 5)), (), (), (), 1.0)
    panel = pd.DataFrame({"voxel": [0, 1, 2], "value": [0.0, 0.5, 0.4], "shown": [True, True, False]})
    cmap, norm = figures.color_scale(panel, signed=False)
    painted = figures.paint(sheet, panel, cmap, norm, signed=False)[0]
    np.testing.assert_allclose(painted[0], cmap(0.0)[:3])
    np.testing.assert_allclose(painted[1], cmap(1.0)[:3])
    np.testing.assert_allclose(painted[2:], [to_rgb(figures.HIDDEN), to_rgb(figures.EMPTY), (1, 1, 1)])


def test_scales() -> None:
    panel = pd.DataFrame({"value": [-3.0, 1.0, 2.0], "shown": [True, True, False]})
    assert figures.color_scale(panel, signed=True)[1].vmin == -figures.color_scale(panel, signed=True)[1].vmax  # type: ignore[operator]
    assert figures.color_scale(panel, signed=False)[1].vmin == 0
    assert figures.color_scale(panel.assign(value=np.nan), signed=False)[1].vmax == 1


def test_one_scale_and_a_labelled_bar(analysis: Analysis) -> None:
    cortex = draw.on_cortex(analysis)
    assert cortex is not None
    drawing = draw.map_drawing(analysis, cortex, "stimulus", WEIGHT, "layer")
    canvas, bar = drawing.figure.axes
    assert len(canvas.images) == 4 and bar.get_xlabel() == WEIGHT.unit
    titles = {text.get_text() for text in canvas.texts}
    assert {"layer 4, encoder", "layer 14, decoder", "V1", "PGi", "left"} <= titles
    assert "encoder 4 = encoder.blocks.4" in drawing.caption and "nearest voxel" in drawing.caption


def test_a_bar_tells_that_values_lie_below_it(analysis: Analysis) -> None:
    cortex = draw.on_cortex(analysis)
    assert cortex is not None
    panel = pd.DataFrame({"row": 0, "column": 0, "title": "", "voxel": [0, 1], "value": [-0.5, 0.5], "shown": True})
    for values, extend in ((panel, "both"), (panel.assign(value=0.5), "max")):
        bar = figures.cortex_maps(cortex.flat, values, "R²").axes[1]
        assert bar._colorbar.extend == extend  # type: ignore[attr-defined]


def test_words_can_be_read_on_the_palest_colour() -> None:
    means = pd.DataFrame({"line": ["a", "b"], "side": "encoder", "area": "V1", "value": [-0.9, 0.1], "n_voxels": 5})
    figure = figures.area_heatmap(means.assign(said="x"), ["V1"], "R²")
    assert [text.get_color() for text in figure.axes[0].texts] == [figures.INK, "white"]
    assert figure.axes[-1]._colorbar.extend == "min"  # type: ignore[attr-defined]


def test_bars_and_cells_name_units_and_counts(analysis: Analysis) -> None:
    bars = figures.area_bars(maps.area_means(analysis.rois, "stimulus")).axes
    assert "units of the state per SD" in bars[0].get_xlabel() and "SD × units" in bars[1].get_xlabel()
    cells = figures.r2_heatmap(analysis.states).axes[0].texts
    assert any(text.get_text() == "null 0.004\n40 of 300" for text in cells)


def test_pictures_that_stand_alone_say_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_analysis(tmp_path / "a", n_voxels=200, layers=(4,), steps=(0.0, 1.0))
    said: dict[str, str] = {}
    parts = draw._parts

    def heard(figure: Any, title: str, caption: str) -> Any:
        said[title] = caption
        return parts(figure, title, caption)

    monkeypatch.setattr(draw, "_parts", heard)
    draw.draw(folder, tmp_path / "out", "Row 10")
    for title, caption in said.items():
        assert ("a replication of the paper, not evidence" in caption) == ("reconstruction-driven" in title)
    (steps,) = (caption for title, caption in said.items() if "Figure 6, reconstruction-driven: raw" in title)
    assert "Calls of the UNet, counted from 0: 0 % = 0, 100 % = 0" in steps
    (pattern,) = (caption for title, caption in said.items() if "Figure 5, stimulus-driven: Haufe" in title)
    assert "without the inverse covariance" in pattern


def test_a_caption_stands_below_its_picture(analysis: Analysis) -> None:
    figure = figures.r2_heatmap(analysis.states)
    heights = []
    for words in ("", "word " * 40, "word " * 400):
        with Image.open(io.BytesIO(draw.png(figure, "title", words))) as image:
            heights.append(image.size[1])
    assert heights[0] < heights[1] < heights[2]


def test_voxels_on_the_same_vertex_are_counted(tmp_path: Path) -> None:
    cortex = cortex_table(100, np.random.default_rng(0))
    cortex.loc[1, "vertex"] = cortex.loc[0, "vertex"]
    few = {"layers": (4,), "steps": (0.0,), "drives": ("stimulus",)}
    doubled = draw.on_cortex(maps.read_analysis(write_analysis(tmp_path / "a", cortex=cortex, **few)))  # type: ignore[arg-type]
    assert doubled is not None and "1 of them cannot be seen" in doubled.note


def test_what_was_drawn_is_read_back_without_the_words_around_it(folder: Path, tmp_path: Path) -> None:
    assert draw.read_drawings(tmp_path) == []
    draw.draw(folder, tmp_path, "Row 10")
    analysis = maps.read_analysis(folder)
    found = draw.read_drawings(tmp_path)
    for (entry, png), drawing in zip(found[:3], draw.drawings(analysis, draw.on_cortex(analysis)), strict=False):
        assert (entry["name"], entry["part"], entry["caption"]) == (drawing.name, drawing.part, drawing.caption)
        one, other = (
            np.asarray(Image.open(io.BytesIO(p)).convert("RGB"), int) for p in (png, draw.png(drawing.figure))
        )
        assert one.shape == other.shape and np.abs(one - other).mean() < 1  # palettes may differ


def test_draw_writes_everything(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cnd.cortex.drawing.draw import draw\n"
        "for path in draw(Path(sys.argv[1]), Path(sys.argv[2]), 'Row <b>10</b>'): print(path.name)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder, tmp_path / "out"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    quantities = ("weight", "pattern", "encoding_r2")
    expected = {f"figure{n}_stimulus_{quantity}.png" for n in (5, 6) for quantity in quantities}
    expected |= {f"{name}.png" for name in ("r2_layers_steps", "inflated_stimulus", "areas_stimulus", "areas_decoding")}
    assert set(done.stdout.split()) == expected | {"cortex.html"}
    for name in expected:
        with Image.open(tmp_path / "out" / name) as image:
            assert image.size[0] > 1000 and len(set(image.convert("L").resize((40, 40)).tobytes())) > 3
        assert (tmp_path / "out" / name).stat().st_size < 400_000
    _check_page((tmp_path / "out" / "cortex.html").read_text(), maps.read_analysis(folder))


def _check_page(page: str, analysis: Analysis) -> None:
    """Nothing from the network, strings escaped, and the values inside are those of the tables."""
    assert not re.search(r"https?://|<link|src=", page) and "Row &lt;b&gt;10" in page and "SIMULATED" in page
    meta = json.loads(re.search(r"const meta = (\{.*\}), packed", page)[1])  # type: ignore[index]
    content = gzip.decompress(base64.b64decode(re.search(r'packed = "([^"]+)"', page)[1]))  # type: ignore[index]
    (start, size), *_ = [(entry[2], entry[3]) for entry in meta["layout"] if entry[0] == "values"]
    values = np.frombuffer(content, "<f4", size, start).reshape(len(meta["maps"]), -1)
    titles = [entry["title"] for entry in meta["maps"]]
    assert "encoding R², stimulus-driven: encoder, 100 % denoised" in titles
    row = titles.index("raw weight, stimulus-driven: decoder, layer 14")
    mine = analysis.voxels[(analysis.voxels["side"] == "decoder") & (analysis.voxels["layer"] == 14)]
    np.testing.assert_allclose(values[row], mine.groupby("voxel")["weight"].mean(), rtol=1e-6)


def test_volumes_get_bars_and_points_but_no_surface(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cortex = cortex_table(100, rng).assign(vertex=-1)
    cortex[["x", "y", "z"]] = rng.normal(0, 20, (100, 3))
    few = {"layers": (4,), "steps": (0.0,), "drives": ("stimulus",)}
    located = maps.read_analysis(write_analysis(tmp_path / "a", cortex=cortex, **few))  # type: ignore[arg-type]
    assert draw.on_cortex(located) is None
    drawings = {drawing.name: drawing for drawing in draw.drawings(located, None)}
    figures_5_and_6 = [f"figure{n}_stimulus_{q}" for q in ("weight", "encoding_r2", "pattern") for n in (5, 6)]
    assert list(drawings) == [
        "r2_layers_steps", *figures_5_and_6, "volume_stimulus", "areas_stimulus", "areas_decoding",
    ]  # fmt: skip
    assert "No map is drawn: no voxel has a cortical vertex" in drawings["figure6_stimulus_weight"].caption
    assert "No surface is drawn: no voxel has a cortical vertex" in drawings["volume_stimulus"].caption
    assert drawings["volume_stimulus"].figure.axes[0].get_xlabel() == "x, mm"
    unknown = cortex.assign(x=np.nan, roi="")
    nowhere = maps.read_analysis(write_analysis(tmp_path / "b", cortex=unknown, **few))  # type: ignore[arg-type]
    found = {drawing.name: drawing for drawing in draw.drawings(nowhere, None)}
    assert "volume_stimulus" not in found and "No map is drawn" in found["areas_stimulus"].caption
    assert [t.get_text() for t in found["areas_stimulus"].figure.axes[0].get_yticklabels()] == ["no area known (100)"]


def test_unreadable_folders_say_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"states\.parquet"):
        maps.read_analysis(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "rois.parquet").write_bytes(b"cut off")
    with pytest.raises(UserError, match="run it again"):
        maps.read_analysis(broken)


def test_figures_leave_no_global_state(analysis: Analysis) -> None:
    before = dict(mpl.rcParams)
    figures.r2_heatmap(analysis.states)
    figures.area_bars(maps.area_means(analysis.rois, "stimulus"))
    assert dict(mpl.rcParams) == before
