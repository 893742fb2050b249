"""The runs of a recipe: their files by BIDS' names, their events as items, their confounds. Loads no time series."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cnd.data.tools.nifti.recipe import Recipe, RunFiles
from cnd.data.tools.nifti.series import Series, open_series
from cnd.errors import UserError, nearest

BOLD = ("*_bold.nii.gz", "*_bold.nii", "*_bold.dtseries.nii", "*hemi-L*_bold.func.gii")
ITEM = ("onset", "duration", "stimulus", "label", "file")
MISSING = ("n/a", "")  # what BIDS writes where there is no value
DERIVED = ("desc", "space", "res", "den", "hemi", "part", "echo")  # entities that events and confounds may lack


@dataclass(frozen=True)
class Run:
    """One run, checked but not read.

    Attributes:
        items: one line an item in the order of onsets: onset and duration in seconds, stimulus, label ("" where there
            is none), file: its image, "" where there is none.
        others: events that are no items and no rest: onset, duration, trial_type.
        confounds: [volumes, columns]; no columns where none are asked for.
        files: what was read, for the key of what becomes of it.
    """

    name: str
    series: Series
    t_r: float
    items: pd.DataFrame
    others: pd.DataFrame
    confounds: pd.DataFrame
    files: tuple[Path, ...]

    @property
    def times(self) -> np.ndarray:
        """Seconds at which volumes are taken, the first at 0."""
        return np.arange(self.series.n_volumes) * self.t_r


def find_runs(recipe: Recipe, folder: Path) -> list[Run]:
    """All runs, in the recipe's order or that of their names.

    Raises:
        UserError: none, or a file is missing or malformed.
    """
    listed = recipe.runs or tuple(
        RunFiles(bold=path.relative_to(folder)) for path in sorted(p for kind in BOLD for p in folder.rglob(kind))
    )
    if not listed:
        raise UserError(
            f"{folder}: no {' or '.join(BOLD[:2])} in it or below; name the files under runs in recipe.yaml"
        )
    names = [files.name or _run_name(files.bold) for files in listed]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise UserError(
            f"{folder}: {Counter(names)[twice[0]]} runs are called '{twice[0]}'; give each a name under runs"
        )
    return [_run(recipe, folder, files, name) for files, name in zip(listed, names, strict=True)]


def _run(recipe: Recipe, folder: Path, files: RunFiles, name: str) -> Run:
    bold = folder / files.bold
    series = open_series(bold)
    t_r = recipe.t_r or series.t_r
    if t_r is None:
        raise UserError(f"{bold}: its header does not say the seconds from volume to volume; set t_r in the recipe")
    events = folder / files.events if files.events else _beside(folder, bold, "events", ("_events.tsv",))
    items, others = _events(recipe, folder, events, bold, series.n_volumes * t_r)
    read, confounds = [bold, events], pd.DataFrame(index=range(series.n_volumes))
    if recipe.confounds:
        kinds = ("_desc-confounds_timeseries.tsv", "_desc-confounds_regressors.tsv", "_confounds.tsv")
        path = folder / files.confounds if files.confounds else _beside(folder, bold, "confounds", kinds)
        confounds = _confounds(recipe, path, series.n_volumes)
        read.append(path)
    return Run(name, series, t_r, items, others, confounds, tuple(read))


# ---------------------------------------------------------------- names


def _entities(path: Path) -> set[str]:
    """``{"sub-01", "run-1"}`` of ``sub-01_run-1_bold.nii.gz``."""
    return {part for part in path.name.split("_")[:-1] if "-" in part}


def _run_name(path: Path) -> str:
    """The number of the session and run in a BIDS name, else the name without its suffixes."""
    entities = dict(part.split("-", 1) for part in _entities(path))
    if "run" in entities:
        return "-".join(entities[key] for key in ("ses", "run") if key in entities)
    return re.sub(r"(_bold)?(\.nii\.gz|\.nii|\.dtseries\.nii|\.func\.gii)$", "", path.name)


def _beside(folder: Path, bold: Path, what: str, endings: tuple[str, ...]) -> Path:
    """The file of a run by its entities, anywhere below the folder; else of the same name with another ending."""
    stem = re.sub(r"(_bold)?(\.nii\.gz|\.nii|\.dtseries\.nii|\.func\.gii)$", "", bold.name)
    for ending in endings:
        if (path := bold.with_name(stem + ending)).is_file():
            return path
    ours = {e for e in _entities(bold) if e.split("-")[0] not in DERIVED}
    found = [
        path
        for ending in endings
        for path in sorted(folder.rglob(f"*{ending}"))
        if ours and {e for e in _entities(path) if e.split("-")[0] not in DERIVED} == ours
    ]
    if len(found) != 1:
        told = (
            f"{len(found)} files would do, {found[0]} and {found[1]}" if found else f"no {stem}{endings[0]} beside it"
        )
        raise UserError(f"{bold}: its {what} are not clear: {told}; name the file under runs in recipe.yaml ({what})")
    return found[0]


# ---------------------------------------------------------------- events


def _events(recipe: Recipe, folder: Path, path: Path, bold: Path, seconds: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Items and other events of a run of that many seconds."""
    table = _table(path)
    column = recipe.stimulus or ("stim_file" if "stim_file" in table else "trial_type")
    asked_for = recipe.stimuli is None or "label" in recipe.model_fields_set
    label = recipe.label if asked_for or recipe.label in table else None
    for needed in ("onset", "duration", column, *([label] if label else [])):
        if needed not in table:
            raise UserError(
                f"{path}: no column '{needed}'{nearest(needed, table.columns)}; add it, or name another one"
            )
    times = table[["onset", "duration"]].apply(pd.to_numeric, errors="coerce")
    if (bad := ~np.isfinite(times).all(axis=1)).any():
        row = int(bad.to_numpy().argmax())
        told = f"{table['onset'][row]}/{table['duration'][row]}"
        raise UserError(f"{path}: onset/duration in row {row} are {told}, expected seconds; correct the row or drop it")
    types = table["trial_type"] if "trial_type" in table else pd.Series("event", index=table.index)
    rest = types.isin(recipe.rest) | table[column].isin(recipe.rest)
    is_item = ~rest & ~table[column].isin(MISSING)
    if not is_item.any():
        raise UserError(f"{path}: no event has a '{column}' besides rest; name the column of stimuli with stimulus")
    late = is_item & (times["onset"] + recipe.hrf_delay >= seconds)
    if late.any():
        row = int(late.to_numpy().argmax())
        raise UserError(
            f"{path}: the event in row {row} begins at {times['onset'][row]:g} s, so its response "
            f"({recipe.hrf_delay:g} s later, hrf_delay) lies beyond the end of {bold.name} at {seconds:g} s; drop it, "
            "or correct onset or t_r"
        )
    items = times.assign(stimulus=table[column], label=table[label] if label else "")[is_item]
    if (unnamed := items["label"].isin(MISSING)).any() and label:
        row = int(items.index[unnamed][0])
        raise UserError(f"{path}: '{label}' has no value in row {row}, which shows a stimulus; fill it, or set label")
    files = [_image(recipe, folder, path, name) for name in items["stimulus"]]
    others = times.assign(trial_type=types)[~is_item & ~rest]
    order = np.argsort(items["onset"].to_numpy(), kind="stable")
    items = items.assign(file=files).iloc[order].reset_index(drop=True)
    return items[list(ITEM)], others.reset_index(drop=True)


def _table(path: Path) -> pd.DataFrame:
    """A tab-separated table, all text."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; correct it under runs in recipe.yaml")
    try:
        return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, skipinitialspace=True)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a readable table ({error}); expected columns separated by tabs") from error


def _image(recipe: Recipe, folder: Path, events: Path, name: str) -> str:
    """The image of a stimulus: a file of that name, with or without its ending; "" without a folder of stimuli."""
    if recipe.stimuli is None:
        return ""
    where = folder / recipe.stimuli
    if not where.is_dir():
        raise UserError(f"{where}: no such folder (stimuli); give the folder of the images")
    bare = name.removeprefix("stimuli/")  # BIDS counts stim_file from the folder stimuli
    for candidate in (where / bare, *(where / f"{bare}{ending}" for ending in (".png", ".jpg", ".jpeg", ".JPEG"))):
        if candidate.is_file():
            return str(candidate)
    raise UserError(f"{events}: '{name}' is no image in {where} ({bare} or {bare}.png); add it, or correct the name")


# ---------------------------------------------------------------- confounds


def _confounds(recipe: Recipe, path: Path, n_volumes: int) -> pd.DataFrame:
    table = _table(path)
    chosen: list[str] = []
    for pattern in recipe.confounds:
        found = fnmatch.filter(table.columns, pattern)
        if not found:
            raise UserError(f"{path}: no column '{pattern}' (confounds){nearest(pattern, list(table.columns)[:30])}")
        chosen += [name for name in found if name not in chosen]
    if len(table) != n_volumes:
        raise UserError(f"{path}: has {len(table)} rows, expected {n_volumes}, one a volume; give the run's own file")
    values = table[chosen].apply(pd.to_numeric, errors="coerce")
    values.iloc[0] = values.iloc[0].fillna(0.0)  # a derivative has no first value
    if (bad := values.isna().any()).any():
        raise UserError(f"{path}: '{bad.idxmax()}' has volumes without a number; leave the column out of confounds")
    return values
