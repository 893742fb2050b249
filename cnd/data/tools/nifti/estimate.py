"""One pattern an event from the time series of a run: block means, or a GLM's betas one (LSS) or all (LSA) at a time.

The design matrices are nilearn's (``make_first_level_design_matrix``), fitted by ordinary least squares
(``run_glm``). LSA has a regressor for each event. LSS fits one model an event, with a regressor for the event and one
for all others together (Mumford et al. 2012). Both, and the block means, have the same drift, constant and confounds,
which take nothing from other runs.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from cnd.data.tools.nifti.recipe import Recipe
from cnd.data.tools.nifti.runs import Run
from cnd.errors import UserError


def patterns(recipe: Recipe, run: Run, inside: np.ndarray) -> np.ndarray:
    """Estimates of all items of a run, float32 [items, voxels], in percent of the voxel's mean, or as scanned.

    Raises:
        UserError: a damaged file, NaN, means that give no percentages, or a design that cannot be estimated.
    """
    series = scaled(recipe, run, run.series.read(inside))
    if recipe.estimate == "block_mean":
        found = block_means(run, without_nuisance(recipe, run, series), recipe.hrf_delay)
    elif recipe.estimate == "lsa":
        found = lsa(recipe, run, series)
    else:
        found = lss(recipe, run, series)
    return found.astype(np.float32)


def scaled(recipe: Recipe, run: Run, series: np.ndarray) -> np.ndarray:
    """The series in percent of each voxel's mean over the run, or as it is; float64 [volumes, voxels].

    A constant voxel becomes 0.
    """
    values = series.astype(np.float64)
    if recipe.scale == "none":
        return values
    mean = values.mean(0)
    varies = (values != values[:1]).any(0)
    if (senseless := varies & (mean <= 0)).any():
        raise UserError(
            f"{run.series.space.file}: {senseless.sum()} of {len(mean)} voxels have a mean of 0 or less, so that "
            "nothing is a percentage of it; set scale to none, or take them out of the mask"
        )
    return np.where(varies, 100 * (values / np.where(varies, mean, 1) - 1), 0.0)


# ---------------------------------------------------------------- block means


def block_means(run: Run, series: np.ndarray, delay: float) -> np.ndarray:
    """Mean over the volumes taken from ``delay`` seconds after an event's onset to as long after its end.

    Where no volume is taken in that time, as of events shorter than it takes from volume to volume, the one taken
    nearest to its middle.
    """
    times, found = run.times, []
    for onset, duration in run.items[["onset", "duration"]].to_numpy(dtype=float):
        begin, end = onset + delay, onset + delay + duration
        volumes = np.flatnonzero((times >= begin - 1e-6) & (times < end - 1e-6))
        if not len(volumes):
            volumes = np.array([np.abs(times - (begin + end) / 2).argmin()])
        found.append(series[volumes].mean(0))
    return np.stack(found)


def without_nuisance(recipe: Recipe, run: Run, series: np.ndarray) -> np.ndarray:
    """The series less its least-squares fit by drift, constant and confounds."""
    design = design_matrix(recipe, run, None).to_numpy()
    return series - design @ np.linalg.lstsq(design, series, rcond=None)[0]


# ---------------------------------------------------------------- general linear model


def lsa(recipe: Recipe, run: Run, series: np.ndarray) -> np.ndarray:
    """Least squares, all: one model with a regressor for each event."""
    names = [f"item_{i:05d}" for i in range(len(run.items))]
    return _betas(recipe, run, series, events_of(run, names), names)


def lss(recipe: Recipe, run: Run, series: np.ndarray) -> np.ndarray:
    """Least squares, separate: a model for each event, the others together in one regressor."""
    found = []
    for i in range(len(run.items)):
        names = ["item" if j == i else "other_items" for j in range(len(run.items))]
        found.append(_betas(recipe, run, series, events_of(run, names), ["item"])[0])
    return np.stack(found)


def events_of(run: Run, names: list[str]) -> pd.DataFrame:
    """Events of a model: items under these names, events that are no items by their types."""
    items = run.items[["onset", "duration"]].assign(trial_type=names)
    others = run.others.assign(trial_type="event_" + run.others["trial_type"].astype(str))
    return pd.concat([items, others], ignore_index=True) if len(others) else items


def _betas(recipe: Recipe, run: Run, series: np.ndarray, events: pd.DataFrame, wanted: list[str]) -> np.ndarray:
    """[wanted, voxels]"""
    from nilearn.glm.first_level import run_glm

    design = design_matrix(recipe, run, events)
    if np.linalg.matrix_rank(design.to_numpy()) < design.shape[1]:
        raise UserError(
            f"{run.series.space.file}: {recipe.estimate} has {design.shape[1]} regressors that depend on each other in "
            f"{len(design)} volumes; take another estimate (lss, block_mean) or fewer confounds"
        )
    labels, results = run_glm(series, design.to_numpy(), noise_model="ols")
    columns = [list(design.columns).index(name) for name in wanted]
    (label,) = np.unique(labels)
    betas: np.ndarray = np.asarray(results[label].theta)[columns]
    return betas


def design_matrix(recipe: Recipe, run: Run, events: pd.DataFrame | None) -> pd.DataFrame:
    """nilearn's design matrix, [volumes, regressors]; without events drift, constant and confounds alone."""
    from nilearn.glm.first_level import make_first_level_design_matrix

    drift = {"drift_model": "polynomial", "drift_order": 1}
    if recipe.high_pass is not None:
        drift = {"drift_model": "cosine", "high_pass": recipe.high_pass}
    confounds = run.confounds.add_prefix("confound_") if run.confounds.shape[1] else None
    return make_first_level_design_matrix(run.times, events, hrf_model=recipe.hrf_model, add_regs=confounds, **drift)
