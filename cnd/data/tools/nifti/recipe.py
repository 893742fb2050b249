"""``recipe.yaml``: which runs there are, and how their events become items. Paths are relative to the file.

::

    runs:                                  # left out: every *_bold.nii.gz below the folder
      - {bold: run-1_bold.nii.gz}          # events and confounds by BIDS' names: run-1_events.tsv,
      - {bold: b.nii.gz, events: b.tsv}    # run-1_desc-confounds_timeseries.tsv; or named
    mask: mask.nii.gz                      # or atlas: areas.nii.gz, and areas: areas.tsv with index and name
    confounds: [trans_*, rot_*]            # columns
    estimate: lss                          # block_mean, lsa or lss
    stimuli: stimuli                       # folder of the images that stim_file (or trial_type) names
    split: stimulus                        # or run
    simulated: true                        # where no brain was scanned: everything made of it says so
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ValidationError

from cnd.errors import UserError
from cnd.reading import explain, read_yaml
from cnd.settings import Config, Rate, Weight

RECIPE = "recipe.yaml"

Name = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]


class RunFiles(Config):
    """The files of one run."""

    bold: Path  # 4-D NIfTI, CIFTI (.dtseries.nii), or the left of two GIFTI files (hemi-L, .func.gii)
    events: Path | None = None  # None: by BIDS' names
    confounds: Path | None = None  # None: by BIDS' names, where columns are asked for
    name: Name | None = None  # None: its run entity, else the file's name


class Recipe(Config):
    """How runs and events become items."""

    runs: tuple[RunFiles, ...] = ()  # none: every *_bold.nii.gz, *_bold.dtseries.nii, *hemi-L*_bold.func.gii there is
    mask: Path | None = None  # voxels other than 0 are used; of surfaces all vertices by default
    atlas: Path | None = None  # number of each voxel's area, 0: none; without a mask it is the mask
    areas: Path | None = None  # names of the atlas's areas: a table with the columns index and name
    t_r: Rate | None = None  # seconds; None: what the header says
    confounds: tuple[str, ...] = ()  # columns of the confounds file, or patterns of them, e.g. trans_*
    high_pass: Rate | None = 0.008  # Hz, cosines below it are taken out; None: a line only
    scale: Literal["percent", "none"] = "percent"  # of the voxel's mean over the run, or as it is
    estimate: Literal["block_mean", "lsa", "lss"] = "block_mean"
    hrf_delay: Weight = 5.0  # seconds from an event to its response
    hrf_model: Literal["glover", "spm"] = "glover"  # of lsa and lss
    stimulus: str | None = None  # column of events; None: stim_file where there is one, else trial_type
    label: str | None = "trial_type"  # column of events; None: every stimulus is its own class
    stimuli: Path | None = None  # folder of images; None: labels only
    rest: tuple[Name, ...] = ("rest", "baseline", "fixation")  # trial types that are no events
    split: Literal["run", "stimulus"] = "run"
    simulated: bool = False  # whether no brain was scanned; the prepared folder notes it
    test: tuple[Name, ...] = ()  # runs or stimuli of the test set; none: the last run, a fifth of each label's stimuli


def read_recipe(source: Path, edits: list[str]) -> tuple[Recipe, Path]:
    """The recipe at a path, and the folder that its paths start from.

    Args:
        source: the file; a folder that holds ``recipe.yaml``; or a folder of runs whose recipe is all in the edits.
        edits: ``KEY=VALUE`` each, on top.

    Raises:
        UserError: nothing there, or a key or value that is not known.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; give a recipe.yaml, or the folder of the runs")
    folder = source if source.is_dir() else source.parent
    file = source / RECIPE if source.is_dir() else source
    content, lines = read_yaml(file) if file.is_file() else ({}, {})
    edited = {key: value for key, value in map(_assignment, edits)}

    def where(key: tuple[str, ...]) -> str:
        if key and key[0] in edited:
            return f"--set {key[0]}"
        while key and key not in lines:
            key = key[:-1]
        return f"{file}:{lines[key]}" if key else str(file)

    try:
        return Recipe.model_validate(content | edited), folder
    except ValidationError as error:
        raise explain(error, Recipe, where) from error


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text}: expected key=value, e.g. --set estimate=lss")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not valid YAML") from error
