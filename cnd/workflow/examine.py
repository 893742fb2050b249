"""What data and settings say before anything runs: whether they go together, and what a reader must know of the data.

Loads no torch: data without files of their own (the simulated cortex) say nothing before they are made.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from cnd.data.findings import one_of_a_kind, remarks, twins, twins_told
from cnd.data.storage import META
from cnd.experiment import Experiment
from cnd.json_files import read_json
from cnd.protocols import Classes, DataSource, Twin
from cnd.workflow.cache import StageCache
from cnd.workflow.class_spaces import check_classes
from cnd.workflow.plan import all_folds

CHEAP = 100e6  # bytes of files that a plan reads; those of larger data are read when a run starts


def examine(experiment: Experiment, cache: StageCache) -> list[str]:
    """What must be known of an experiment's data, as far as it is known already or cheap to find out.

    Raises:
        UserError: data, generator and judges do not go together, or a data file is malformed.
    """
    source = experiment.data
    if source.missing():
        check_classes(experiment, None)
        return []
    steps = tuple((fold.index, fold.given.data.key) for fold in all_folds(experiment))
    check_classes(experiment, _classes(source, steps))
    return list(_told(source, steps, cache.root))


@lru_cache(maxsize=64)  # the plan asks for every trial; the keys of the data know the content of its files
def _classes(source: DataSource, steps: tuple[tuple[int, str], ...]) -> Classes | None:
    return source.classes()


@lru_cache(maxsize=64)
def _told(source: DataSource, steps: tuple[tuple[int, str], ...], root: Path) -> tuple[str, ...]:
    """Sentences on the folds (index and key of the data step) of a source, together."""
    cache = StageCache(root)
    kept = [cache.path("data", key) / META for _, key in steps]
    names: list[list[str]] = []
    found: list[list[Twin]] = []
    told: list[str] = []
    if all(path.is_file() for path in kept):
        for path in kept:
            meta = read_json(path)
            names.append(meta["test_stimulus"])
            found.append([Twin(*twin) for twin in meta["twins"]])
            told += meta["remarks"]
    elif _is_cheap(source) and (source.stores_images or not source.has_fmri):
        _without_pools(source).check()
    elif _is_cheap(source):
        for index in source.folds():
            dataset = source.load(index)
            names.append(dataset.test.stimulus)
            found.append(twins(dataset.train, dataset.test))
            told += [*dataset.remarks, *remarks(dataset)]
    shared = twins_told(names, found)
    return (*([shared] if shared else []), *(f"Data: {sentence}" for sentence in one_of_a_kind(told)))


def _without_pools(source: DataSource) -> DataSource:
    return source.model_copy(update={"unlabelled": ()}) if "unlabelled" in type(source).model_fields else source


def _is_cheap(source: DataSource) -> bool:
    files = source.files()
    images = source.image_source()
    files = [*files, *(images.files if images is not None else [])]
    return bool(files) and sum(path.stat().st_size for path in files) <= CHEAP
