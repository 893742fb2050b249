"""``python -m cnd analyse RUN_ID``: the linear decoding analysis of a finished run, without training anything.

RUN_ID is the run's id in MLflow, the beginning of it, or the name of the trial such as ``10-seed0``. With ``--minus``
another run is analysed too, and the difference of the two is drawn and tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.errors import UserError
from cnd.experiment import parse_assignments
from cnd.json_files import write_json
from cnd.store.trials import find_trial
from cnd.watching import watching
from cnd.workflow.cache import StageCache

if TYPE_CHECKING:
    from cnd.store.tracking import Tracker


@dataclass(frozen=True)
class Analysed:
    """A trial's file, what it says, and the folders of its tables and figures."""

    path: Path
    trial: dict[str, Any]
    tables: Path
    figures: Path


def analyse(output: Path, cache: Path, run_id: str, minus: str | None, assignments: list[str]) -> list[str]:
    """Analyse one run, or two and their difference; tells where everything lies, a line each.

    Args:
        minus: the other run.
        assignments: changed settings of the analysis, such as ``analysis.noise_seeds=3``.

    Raises:
        UserError: no such finished run, other settings, or runs that cannot be compared.
    """
    edits = parse_assignments(assignments)
    if wrong := [key for key in edits if not key.startswith("analysis.")]:
        raise UserError(f"--set {wrong[0]}: only settings of the analysis can change, e.g. analysis.noise_seeds=3")
    if minus is not None:
        find_trial(output, minus)  # a typing error shows before the work begins
    found = run(output, cache, run_id, edits)
    told = [f"tables: {found.tables}", f"figures: {found.figures}"]
    if (volumes := as_volumes(output, found)) is not None:
        told.append(f"NIfTI maps: {volumes}")
    if minus is not None:
        told.append(f"difference: {compare(output, found, run(output, cache, minus, edits))}")
    return told


def run(output: Path, cache: Path, run_id: str, edits: dict[str, Any]) -> Analysed:
    """Analyse, note it in the trial's file for the report, and log it in MLflow."""
    from cnd.workflow.run import analyse_record

    path, trial = find_trial(output, run_id)
    with watching(path.stem) as listener:
        tables, figures = analyse_record(output / trial["record"], StageCache(cache), edits, listener)
    write_json(path, trial | {"analysis": named(output, tables), "figures": named(output, figures)})
    found = Analysed(path, trial, tables, figures)
    log(output, path, trial, lambda tracker, run: tracker.analysis(run, tables, figures))
    return found


def as_volumes(output: Path, found: Analysed) -> Path | None:
    """The maps as NIfTI files beside the reports, where the data says on which grid its voxels lie.

    Raises:
        UserError: the voxels do not lie on it.
    """
    from cnd.commands.volumes import write_volumes
    from cnd.workflow.run import read_experiment

    grid = read_experiment(output / found.trial["record"]).data.volume()
    if grid is None:
        return None
    into = output / "reports" / f"{found.path.parents[1].name}-{found.path.stem}-maps"
    write_volumes(found.tables, grid, into)
    return into


def named(output: Path, folder: Path) -> str:
    """How a trial's file names a folder: relative to the output folder, where it lies inside."""
    return folder.relative_to(output).as_posix() if folder.is_relative_to(output) else str(folder)


def compare(output: Path, row: Analysed, reference: Analysed) -> Path:
    """Difference of two analysed runs, as a picture beside the reports and a table beside that; both to MLflow.

    Raises:
        UserError: they have other voxels, layers, steps or test items.
    """
    import pandas as pd

    from cnd.cortex.drawing.differences import difference_drawing, differences
    from cnd.cortex.drawing.draw import on_cortex, png
    from cnd.cortex.drawing.maps import read_analysis

    analysis = read_analysis(reference.tables)
    found, problems = differences([(row.path.stem, read_analysis(row.tables))], analysis)
    if problems:
        raise UserError(problems[0])
    drawing = difference_drawing(found, (reference.path.stem, analysis), on_cortex(analysis))
    picture = output / "reports" / f"{row.path.parents[1].name}-{row.path.stem}-minus-{reference.path.stem}.png"
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(png(drawing.figure, f"{row.path.stem} minus {reference.path.stem}", drawing.caption))
    table = picture.with_suffix(".parquet")
    pd.concat([map_.assign(side=side) for _, side, map_ in found]).to_parquet(table, index=False)

    def write(tracker: Tracker, run: str) -> None:
        for file in (picture, table):
            tracker.client.log_artifact(run, str(file), "analysis")

    log(output, row.path, row.trial, write)
    return picture


def log(output: Path, path: Path, trial: dict[str, Any], write: Callable[[Tracker, str], object]) -> None:
    """Let ``write`` log into the trial's run in MLflow, where it has one."""
    from cnd.store.tracking import Tracker

    uri, run = trial.get("tracking_uri"), trial.get("run_id")
    if uri and run:
        local = uri.startswith("sqlite")
        tracker = Tracker(uri, output / "mlartifacts" if local else None, path.parents[1].name)
        write(tracker, run)
        tracker.end(tracker.parent, "FINISHED")  # opening the tracker set it running
