"""All pictures of one analysis, each with the words that belong to it: for files, MLflow and the report.

python -c "from pathlib import Path; from cnd.cortex.drawing.draw import draw; draw(Path(FOLDER), Path(INTO), TITLE)"
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from cnd.cortex.drawing import figures, maps
from cnd.cortex.drawing.captions import ORIGIN, caution, percent
from cnd.cortex.drawing.maps import ENCODING, PATTERN, QUANTITIES, WEIGHT, Analysis, Quantity
from cnd.cortex.drawing.sheets import Sheet, flat_sheet, view_sheet
from cnd.cortex.drawing.surface import Placement, Side, borrowed_share, place, why_no_surface
from cnd.cortex.drawing.viewer import NamedMap, cortex_page
from cnd.json_files import read_json, write_json

DPI = 110
DRAWINGS = "drawings.json"  # what was drawn, for the report
LINE = 160  # characters of a caption below a picture
BY: tuple[Literal["layer", "step"], ...] = ("layer", "step")
FIGURE = {"layer": "Figure 5", "step": "Figure 6"}
FIRST = {"reconstruction": WEIGHT, "stimulus": ENCODING}  # the paper's maps, and those that can be believed


class Drawing(NamedTuple):
    """A finished figure. ``part``: states, areas, or the drive it belongs to; ``folded``: not shown at first sight."""

    name: str
    part: str
    title: str
    caption: str
    figure: Figure
    folded: bool = False


class Cortex(NamedTuple):
    """Everything that maps are drawn on; made once for an analysis."""

    placements: dict[Side, Placement]
    flat: Sheet
    views: Sheet
    note: str


def draw(folder: Path, into: Path, title: str) -> list[Path]:
    """Write every picture of one analysis as PNG, and the interactive view as HTML.

    Args:
        folder: of the analysis; see :mod:`cnd.cortex.tables`.
        into: made where it does not exist.
        title: stands above every picture.

    Returns:
        The files written.

    Raises:
        UserError: the analysis cannot be read.
    """
    analysis = maps.read_analysis(folder)
    into.mkdir(parents=True, exist_ok=True)
    written, shown = [], []
    cortex = on_cortex(analysis)
    heading = f"{title} – SIMULATED DATA" if analysis.simulated else title
    for drawing in drawings(analysis, cortex):
        path = into / f"{drawing.name}.png"
        caption = f"{ORIGIN.get(drawing.part, '')} {drawing.caption}".strip()
        figure, above, below = _parts(drawing.figure, f"{heading}: {drawing.title}", caption)
        path.write_bytes(_encoded([*above, figure, *below]))
        rows = {"top": sum(map(len, above)), "height": len(figure), "width": drawing.figure.get_figwidth()}
        shown.append({name: value for name, value in drawing._asdict().items() if name != "figure"} | rows)
        written.append(path)
    write_json(into / DRAWINGS, shown)
    if cortex is not None:
        path = into / "cortex.html"
        path.write_text(interactive(analysis, cortex, title), encoding="utf-8")
        written.append(path)
    return written


def read_drawings(folder: Path) -> list[tuple[dict[str, Any], bytes]]:
    """What :func:`draw` wrote: name, part, title, caption, folded and width (inches) of each figure, and it as a PNG.

    The PNG is without the words around it. Empty where nothing was written, or by older code.
    """
    if not (folder / DRAWINGS).is_file():
        return []
    found = []
    for entry in read_json(folder / DRAWINGS):
        with Image.open(folder / f"{entry['name']}.png") as image:
            figure = image.crop((0, entry["top"], image.width, entry["top"] + entry["height"]))
        found.append((entry, _saved(figure)))
    return found


def png(figure: Figure, title: str = "", caption: str = "") -> bytes:
    """A PNG, with a line of text above the figure and its caption below, where it will stand alone.

    A palette of 256 colours makes it a quarter of the size.
    """
    pixels, above, below = _parts(figure, title, caption)
    return _encoded([*above, pixels, *below])


def _parts(
    figure: Figure, title: str, caption: str
) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Pixels of a figure, and of the words above and below it."""
    above, below = [], []
    if title:
        heading = Figure(figsize=(figure.get_figwidth(), 0.35))
        heading.text(0.5, 0.5, title, ha="center", va="center", fontsize=11, fontweight="bold")
        above.append(_pixels(heading))
    if caption:
        lines = wrap(caption, LINE)
        words = Figure(figsize=(figure.get_figwidth(), 0.2 + 0.155 * len(lines)))
        words.text(0.01, 0.5, "\n".join(lines), va="center", fontsize=8, linespacing=1.3)
        below.append(_pixels(words))
    return _pixels(figure), above, below


def _encoded(parts: list[NDArray[np.uint8]]) -> bytes:
    image = Image.fromarray(np.concatenate(parts))
    return _saved(image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))


def _saved(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, format="png")
    return content.getvalue()


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    figure.set_dpi(DPI)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def on_cortex(analysis: Analysis) -> Cortex | None:
    """The cortex of these voxels, or None where they have no surface (see :func:`why_no_surface`)."""
    if why_no_surface(analysis.cortex):
        return None
    placements = place(analysis.cortex, analysis.summary.get("surface", "fs_LR_32k"))
    return Cortex(placements, flat_sheet(placements), view_sheet(placements), _note(analysis, placements))


def _note(analysis: Analysis, placements: dict[Side, Placement]) -> str:
    share, n = borrowed_share(placements), len(analysis.cortex)
    vertices = analysis.cortex.loc[analysis.cortex["vertex"] >= 0, "vertex"]
    unknown, shared = n - len(vertices), int(vertices.duplicated().sum())
    words = f"{n - unknown:,} voxels."
    if share > 0.005:
        words += (
            f" {100 * share:.0f} % of the coloured vertices have no voxel of their own and show the nearest voxel of "
            "the same area and hemisphere, for drawing only."
        )
    if unknown:
        words += f" {unknown:,} voxels without a known vertex are not drawn."
    if shared:
        words += f" {shared:,} of them cannot be seen: another voxel has the same vertex."
    return words


# ---------------------------------------------------------------- what is drawn


def drawings(analysis: Analysis, cortex: Cortex | None) -> Iterator[Drawing]:
    """Every picture of an analysis, made one at a time: they are large."""
    yield states_drawing(analysis)
    for drive in analysis.drives:
        for quantity in (WEIGHT, ENCODING, PATTERN):
            yield from paper_drawings(analysis, cortex, drive, quantity)
        if cortex is not None:
            yield inflated_drawing(analysis, cortex, drive)
        elif analysis.cortex[["x", "y", "z"]].notna().all(axis=1).any():
            yield volume_drawing(analysis, drive)
        yield area_drawing(analysis, drive)
    if analysis.areas is not None and len(analysis.areas):
        yield decoding_drawing(analysis, analysis.areas)


def states_drawing(analysis: Analysis) -> Drawing:
    """Held-out R^2 by layer and step, beside the null."""
    tested = analysis.summary.get("n_permutations")
    caption = (
        "Can the hidden states be predicted from the voxels at all? Share of variance of the hidden states' components "
        "explained on test items, below it the level under which 95 % of fits to permuted pairs stay"
        + (f" ({tested} permutations)" if tested else "")
        + f"; * p ≤ 0.05 for that cell alone, not corrected over cells; last, how many components are predicted better "
        f"than permuted ones (FDR {percent(analysis.fdr)} over components). Where a cell does not pass its null, maps "
        "of that layer and step show noise."
    )
    figure = figures.r2_heatmap(analysis.states)
    return Drawing("r2_layers_steps", "states", "Prediction of hidden states from voxels", caption, figure)


def paper_drawings(analysis: Analysis, cortex: Cortex | None, drive: str, quantity: Quantity) -> Iterator[Drawing]:
    """The paper's Figures 5 and 6, on the cortex or, without a surface, by area."""
    for by in BY:
        if cortex is None:
            yield area_map_drawing(analysis, drive, quantity, by)
        else:
            yield map_drawing(analysis, cortex, drive, quantity, by)


def map_drawing(
    analysis: Analysis, cortex: Cortex, drive: str, quantity: Quantity, by: Literal["layer", "step"]
) -> Drawing:
    """The paper's Figure 5 (by layer) or 6 (by step), for one drive and quantity."""
    panels = maps.voxel_maps(analysis.voxels, drive, by, quantity, analysis.fdr)
    title = panels["at"].map(lambda at: _named(at, by)) + ", " + panels["side"]
    panels = panels.assign(row=panels["at"], column=panels["side"], title=title)
    panels = panels.sort_values(["at", "side"], ascending=[True, False], kind="stable")  # encoder on the left
    figure = figures.cortex_maps(cortex.flat, panels, quantity.unit, hidden="not significant")
    caption = (
        f"{_figure_of_the_paper(quantity, by)}, encoder left and decoder right, one colour scale for all panels (99 % "
        f"of the values lie below its end). {caution(quantity, analysis.fdr)} {cortex.note} "
        f"{_averaged(analysis.states, by)}"
    )
    return _figure_drawing(figure, caption, drive, quantity, by)


def area_map_drawing(analysis: Analysis, drive: str, quantity: Quantity, by: Literal["layer", "step"]) -> Drawing:
    """The paper's Figure 5 or 6 of voxels without a surface: means by area."""
    means = maps.area_maps(analysis.rois, drive, by, quantity).sort_values(["at", "side"], ascending=[True, False])
    said = means["value"].map("{:.2g}".format)
    means = means.assign(line=means["at"].map(lambda at: _named(at, by)), said=said)
    figure = figures.area_heatmap(means, maps.area_order(list(means["area"])), quantity.unit)
    hint = "" if quantity is ENCODING else f" {caution(quantity, analysis.fdr)}"  # here no voxel is left out
    caption = (
        f"{_figure_of_the_paper(quantity, by)} and the voxels of an area in both hemispheres (number of voxels in "
        f"brackets), one colour scale.{hint} No map is drawn: {why_no_surface(analysis.cortex)}. "
        f"{_averaged(analysis.states, by)}"
    )
    return _figure_drawing(figure, caption, drive, quantity, by)


def _figure_drawing(figure: Figure, caption: str, drive: str, quantity: Quantity, by: str) -> Drawing:
    title = f"{FIGURE[by]}, {drive}-driven: {quantity.title} by {'layer' if by == 'layer' else 'denoising step'}"
    file = f"{FIGURE[by].lower().replace(' ', '')}_{drive}_{quantity.column}"
    return Drawing(file, drive, title, caption, figure, folded=quantity is not FIRST[drive])


def _figure_of_the_paper(quantity: Quantity, by: str) -> str:
    instead = "" if quantity is WEIGHT else f", drawn with {quantity.title} instead of raw weights"
    return f"{FIGURE[by]} of the paper{instead}: mean over {'steps' if by == 'layer' else 'layers'}"


def _named(at: float, by: str) -> str:
    return f"layer {at}" if by == "layer" else f"{percent(at)} denoised"


def _averaged(states: pd.DataFrame, by: str) -> str:
    """Which modules the layers are, or which calls of the UNet the steps are."""
    return _modules(states) if by == "layer" else _steps(states)


def _modules(states: pd.DataFrame) -> str:
    found = states.drop_duplicates(["side", "layer"]).sort_values(["side", "layer"], ascending=[False, True])
    named = [f"{line['side']} {line['layer']} = {line['module']}" for line in found.to_dict("records")]
    return f"Layers: {', '.join(named)}."


def _steps(states: pd.DataFrame) -> str:
    found = states.drop_duplicates("step").sort_values("step")
    named = [f"{percent(line['step'])} = {line['step_index']}" for line in found.to_dict("records")]
    return f"Calls of the UNet, counted from 0: {', '.join(named)}."


def inflated_drawing(analysis: Analysis, cortex: Cortex, drive: str) -> Drawing:
    """Encoding R^2 on inflated hemispheres."""
    panels = maps.voxel_maps(analysis.voxels, drive, None, ENCODING, analysis.fdr)
    panels = panels.assign(row=panels["side"], column="", title=panels["side"]).sort_values(
        "side", ascending=False, kind="stable"
    )
    figure = figures.cortex_maps(cortex.views, panels, ENCODING.unit, hidden="not significant")
    caption = (
        f"Encoding R², mean over layers and steps, on the inflated cortex (darker grey: sulci). "
        f"{caution(ENCODING, analysis.fdr)} {cortex.note}"
    )
    return Drawing(f"inflated_{drive}", drive, f"Inflated cortex, {drive}-driven: encoding R²", caption, figure, True)


def volume_drawing(analysis: Analysis, drive: str) -> Drawing:
    """Encoding R^2 where voxels have coordinates but no surface."""
    panels = maps.voxel_maps(analysis.voxels, drive, None, ENCODING, analysis.fdr).merge(analysis.cortex, on="voxel")
    panels = panels.assign(row=panels["side"]).sort_values("side", ascending=False, kind="stable")
    caption = (
        "Encoding R², mean over layers and steps; every voxel is a point, grey where it is not significant. "
        f"{caution(ENCODING, analysis.fdr)} No surface is drawn: {why_no_surface(analysis.cortex)}. No outline of a "
        "standard brain either: the coordinates are the subject's own, not MNI."
    )
    figure = figures.volume_scatter(panels.dropna(subset=["x", "y", "z"]), ENCODING.unit)
    return Drawing(f"volume_{drive}", drive, f"Voxels in the volume, {drive}-driven: encoding R²", caption, figure)


def area_drawing(analysis: Analysis, drive: str) -> Drawing:
    """Bars by area."""
    caption = (
        "Means over layers, steps and the voxels of an area in both hemispheres (number of voxels in brackets). "
        "Weights and patterns have no test; the last panel counts voxels that the encoding model predicts "
        f"(FDR {percent(analysis.fdr)} within each layer and step)."
    )
    if reason := why_no_surface(analysis.cortex):
        caption += f" No map is drawn: {reason}."
    figure = figures.area_bars(maps.area_means(analysis.rois, drive))
    return Drawing(f"areas_{drive}", drive, f"By area, {drive}-driven", caption, figure)


def decoding_drawing(analysis: Analysis, areas: pd.DataFrame) -> Drawing:
    """Which area's voxels alone predict which layer."""
    caption = (
        "Held-out R² of each layer's hidden states (mean over steps) from the voxels of one area alone (number of "
        "voxels in brackets). Below 0 is worse than guessing the mean. Areas differ in signal-to-noise, so compare the "
        "order of the layers within an area before you compare areas."
    )
    order = maps.area_order([str(area) for area in areas["area"]])
    return Drawing("areas_decoding", "areas", "Decoding from one area", caption, figures.area_decoding(areas, order))


# ---------------------------------------------------------------- the interactive view


def interactive(analysis: Analysis, cortex: Cortex, title: str) -> str:
    """The interactive page: encoding R^2 first, then pattern and weight; means, single layers and single steps."""
    entries = []
    for drive in reversed(analysis.drives):  # what is not circular comes first
        for quantity in reversed(QUANTITIES):
            whole, layers, steps = (
                maps.voxel_maps(analysis.voxels, drive, by, quantity, analysis.fdr) for by in (None, "layer", "step")
            )
            named = [
                whole.assign(at="all layers and steps"),
                layers.assign(at="layer " + layers["at"].astype(str)),
                steps.assign(at=steps["at"].map(percent) + " denoised"),
            ]
            every = pd.concat(named, ignore_index=True)
            _, norm = figures.color_scale(every, signed=False)
            for (at, side), table in every.groupby(["at", "side"], sort=False):
                name = f"{quantity.title}, {drive}-driven: {side}, {at}"
                entries.append(NamedMap(name, quantity.unit, float(norm.vmax or 1.0), table))
    notes = [*(f"{drive}-driven: {ORIGIN[drive]}" for drive in analysis.drives), cortex.note]
    return cortex_page(cortex.placements, entries, len(analysis.cortex), title, notes, analysis.simulated)
