"""The report's section on the linear decoding analysis (sec. 5.2), from the folders that it left behind."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from cnd import registry
from cnd.cortex.drawing import draw, maps
from cnd.cortex.drawing.captions import ORIGIN
from cnd.cortex.drawing.differences import difference_drawing, differences
from cnd.cortex.drawing.maps import Analysis
from cnd.errors import UserError
from reports.collect import RecordedTrial, Records


@dataclass(frozen=True)
class Section:
    """What the template prints, and the interactive page that is written beside the report (None without surface)."""

    content: dict[str, Any]
    page: str | None


def section(records: Records) -> Section | None:
    """The section for the reference row, or the first row that was analysed, and which rows have nothing to analyse."""
    analysed = [trial for trial in records.trials if trial.analysis is not None]
    nothing = _without_condition(records)
    if not analysed:
        return Section({"problems": nothing, "states": None}, None) if nothing else None
    first = next((trial for trial in analysed if trial.row == records.reference), analysed[0])
    title = _title(records, first)
    try:
        analysis = _analysis(first)
        cortex = draw.on_cortex(analysis)
    except UserError as error:
        return Section({"title": title, "problems": [*nothing, str(error)], "states": None}, None)
    difference: dict[str, Any] | None = None
    problems: list[str] = []
    if first.row == records.reference:
        difference, problems = _differences(records, analysed, (title, first.seed, analysis), cortex)
    others, failed = _others(records, [trial for trial in analysed if trial is not first], (analysis, cortex))
    kept = draw.read_drawings(first.figures) if first.figures is not None else []
    drawings = [_kept(*drawing) for drawing in kept] or list(map(_shown, draw.drawings(analysis, cortex)))
    content = {
        "title": title,
        "problems": list(dict.fromkeys(nothing + problems + failed)),
        "simulated": analysis.simulated,
        "facts": _facts(analysis),
        "notes": [str(note) for note in analysis.summary.get("notes", [])],
        "states": next(d for d in drawings if d["part"] == "states"),
        "drives": [_drive(analysis, drive, drawings) for drive in analysis.drives],
        "areas": next((d for d in drawings if d["part"] == "areas"), None),
        "difference": difference,
        "others": others,
        "tables": {drive: maps.area_means(analysis.rois, drive).to_dict("records") for drive in analysis.drives},
    }
    page = None if cortex is None else draw.interactive(analysis, cortex, f"{records.sweep.get('title', '')}: {title}")
    return Section(content, page)


def _without_condition(records: Records) -> list[str]:
    """A sentence a row whose decoder learns from fMRI and has no condition to analyse; controls aside."""
    known, told = registry.classes("cnd.decoders"), []
    for row in (row for row in records.rows if not row.control):
        kinds = {str(t.experiment.get("decoder", {}).get("kind")) for t in records.of(row.id) if t.folder is not None}
        for kind in sorted(kinds & known.keys()):
            decoder: Any = known[kind]
            if decoder.learns and not decoder.has_condition:
                why = (
                    "its condition alone does not give its images, so it is not analysed"
                    if decoder.uses_generator
                    else "it reconstructs without the diffusion model, so there are no hidden states to analyse"
                )
                told.append(f"{row.title}: of the decoder {kind}, {why}.")
    return told


def _analysis(trial: RecordedTrial) -> Analysis:
    assert trial.analysis is not None
    return maps.read_analysis(trial.analysis)


def _title(records: Records, trial: RecordedTrial) -> str:
    row = next(row for row in records.rows if row.id == trial.row)
    subject = [f"subject {trial.subject}"] if len(records.subjects) > 1 else []
    seed = [f"seed {trial.seed}"] if len(records.seeds) > 1 else []
    return ", ".join([row.title, *subject, *seed])


def _shown(drawing: draw.Drawing) -> dict[str, Any]:
    """A drawing as the template wants it; its figure is let go of."""
    told = {"part": drawing.part, "title": drawing.title, "caption": drawing.caption, "folded": drawing.folded}
    return _kept(told | {"width": drawing.figure.get_figwidth()}, draw.png(drawing.figure))


def _kept(entry: dict[str, Any], png: bytes) -> dict[str, Any]:
    encoded = base64.b64encode(png).decode("ascii")
    shown = {name: entry[name] for name in ("part", "title", "caption", "folded")}
    source = {"source": f"data:image/png;base64,{encoded}", "description": entry["title"]}
    return shown | source | {"width": round(entry["width"] * 105)}


def _drive(analysis: Analysis, drive: str, drawings: list[dict[str, Any]]) -> dict[str, Any]:
    mine = [d for d in drawings if d["part"] == drive]
    return {
        "name": drive,
        "origin": ORIGIN[drive],
        "circular": drive == "reconstruction",
        "pictures": [d for d in mine if not d["folded"]],
        "folded": [d for d in mine if d["folded"]],
        "agreement": maps.agreement(analysis.voxels, drive, analysis.fdr).to_dict("records"),
    }


def _differences(
    records: Records, analysed: list[RecordedTrial], reference: tuple[str, int, Analysis], cortex: draw.Cortex | None
) -> tuple[dict[str, Any] | None, list[str]]:
    """Maps of every other analysed row with the reference's seed."""
    title, seed, analysis = reference
    rows, problems = [], []
    for trial in analysed:
        if trial.row != records.reference and trial.seed == seed:
            try:
                rows.append((_title(records, trial), _analysis(trial)))
            except UserError as error:
                problems.append(str(error))
    found, failed = differences(rows, analysis)
    drawing = _shown(difference_drawing(found, (title, analysis), cortex)) if found else None
    return drawing, problems + failed


def _others(
    records: Records, trials: list[RecordedTrial], first: tuple[Analysis, draw.Cortex | None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Title and Figures 5 and 6 of the other analysed runs, as in the paper; and what could not be read.

    The stimulus-driven states do not depend on the row, so those of one run are enough.
    """
    shown, problems = [], []
    for trial in trials:
        try:
            analysis = _analysis(trial)
            cortex = first[1] if analysis.cortex.equals(first[0].cortex) else draw.on_cortex(analysis)
        except UserError as error:
            problems.append(str(error))
            continue
        if "reconstruction" in analysis.drives:
            pictures = draw.paper_drawings(analysis, cortex, "reconstruction", maps.WEIGHT)
            shown.append({"title": _title(records, trial), "pictures": list(map(_shown, pictures))})
    return shown, problems


def _facts(analysis: Analysis) -> str:
    s = analysis.summary
    folds = f", {s['n_folds']} folds" if s.get("n_folds", 1) > 1 else ""
    voxels, train, test = (s.get(key, 0) for key in ("n_voxels", "n_train", "n_test"))
    return f"{voxels:,} voxels, {train:,} training and {test:,} test items{folds}."
