"""What data and settings say before anything runs: whether they go together, and what a reader must know of the data.

Loads no torch: data without files of their own (the simulated cortex) say nothing before they are made.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from cnd.data import validation
from cnd.data.findings import Findings, findings
from cnd.experiment import AUTO, Experiment
from cnd.protocols import Classes, DataSource
from cnd.workflow.assigned import read_assigned
from cnd.workflow.assigned import told as in_words
from cnd.workflow.cache import StageCache
from cnd.workflow.choices import check_choices
from cnd.workflow.class_spaces import check_classes
from cnd.workflow.findings import read_findings, told
from cnd.workflow.plan import all_folds, findings_step

CHEAP = 100e6  # bytes of files that a plan reads; those of larger data are read when a run starts


def examine(experiment: Experiment, cache: StageCache) -> list[str]:
    """What must be known of an experiment's data, as far as it is known already or cheap to find out.

    Raises:
        UserError: data, generator and judges do not go together, or a data file is malformed.
    """
    source, share = experiment.data, experiment.split.validation
    if source.missing():
        check_classes(experiment, None)
        return []
    steps = tuple((index, findings_step(source, index, share).key) for index in source.folds())
    classes = _classes(source, steps)
    check_classes(experiment, classes)
    known = all(cache.has("findings", key) for _, key in steps)
    found = _found(source, steps, cache.root, share, known)
    check_choices(experiment, classes, found)
    return [*(_rule(share) if found is None else _told(found)), *_assigned(experiment, cache)]


def _assigned(experiment: Experiment, cache: StageCache) -> list[str]:
    """Classes that an earlier run assigned by similarity."""
    if experiment.label_map != AUTO:
        return []
    needed = [fold.given.assigned for fold in all_folds(experiment)]
    found = [cache.find(step.name, step.key) for step in needed if step is not None]
    return in_words([read_assigned(path) for path in found if path is not None]) if all(found) else []


@lru_cache(maxsize=64)  # the plan asks for every trial; the keys of the data know the content of its files
def _classes(source: DataSource, steps: tuple[tuple[int, str], ...]) -> Classes | None:
    return source.classes()


@lru_cache(maxsize=64)
def _found(
    source: DataSource, steps: tuple[tuple[int, str], ...], root: Path, share: float | None, known: bool
) -> list[Findings] | None:
    """What is to be known of the folds (index and key of what was found of them); None while that takes too long.

    Args:
        share: ``split.validation``.
        known: whether an earlier run has looked already.
    """
    cache = StageCache(root)
    if known:
        return [read_findings(cache.path("findings", key)) for _, key in steps]
    if not _is_cheap(source):
        return None
    if source.stores_images or not source.has_fmri:
        _without_pools(source).check()
        return None
    if share is None:
        return [findings(source.load(index)) for index in source.folds()]
    return [findings(validation.load(source, share, index)) for index in source.folds()]


def _told(found: list[Findings]) -> tuple[str, ...]:
    """Sentences on all folds together."""
    warnings, remarks = told(found)
    return (*warnings, *(f"Data: {remark}" for remark in remarks))


def _rule(share: float | None) -> tuple[str, ...]:
    """What is scored in place of the test set, before the data are loaded."""
    if share is None:
        return ()
    return (
        f"Data: Validation: {100 * share:g} % of the training categories are held out and scored in place of the test "
        "set; of runs or stimuli, where categories are few or the test set has no others.",
    )


def _without_pools(source: DataSource) -> DataSource:
    return source.model_copy(update={"unlabelled": ()}) if "unlabelled" in type(source).model_fields else source


def _is_cheap(source: DataSource) -> bool:
    files = source.files()
    images = source.image_source()
    files = [*files, *(images.files if images is not None else [])]
    return bool(files) and sum(path.stat().st_size for path in files) <= CHEAP
