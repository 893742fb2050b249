"""Data sets: one file each, all giving :class:`cnd.protocols.FmriDataset`.

:func:`folds`, :func:`fingerprint`, :func:`missing` and :func:`check` need no torch; :func:`load` may. A data set read
from files is a module with ``files``, ``check``, ``load`` and ``SETUP``; one that keeps its images in a store
(:mod:`cnd.data.images`) has ``image_source`` too, and its ``load`` takes the store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cnd.cache import StageCache, code_version, file_hash
from cnd.config import (
    Bold5000Data,
    DataConfig,
    Digits69Data,
    FileData,
    FolderData,
    GodData,
    HcpPool,
    PoolConfig,
    SimulatedData,
)
from cnd.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from cnd.data.images import ImageSource
    from cnd.protocols import FmriDataset

HERE = Path(__file__).parent
COMMON = (HERE / "checks.py", HERE / "images.py", HERE / "tables.py")


def folds(config: DataConfig) -> list[int]:
    """Indices of the train / test partitions to run; one where the data set has a fixed split."""
    if isinstance(config, Digits69Data):
        return list(range(config.n_folds)) if config.fold is None else [config.fold]
    return [0]


# ---------------------------------------------------------------- identity


@lru_cache(maxsize=64)  # the plan asks for every trial
def fingerprint(config: DataConfig, planning: bool = False) -> dict[str, Any]:
    """What identifies the data of a config: its settings for simulated data, the files' content for real data.

    Args:
        planning: let the word ``missing`` stand for files that are not there, so that a plan can be made without them.

    Raises:
        UserError: a file is missing, unless planning.
    """
    if isinstance(config, SimulatedData):
        weights = file_hash(HERE / "weights" / "visual_network" / "model.safetensors")
        return config.model_dump(mode="json") | {
            "code": code_version(HERE / "simulated.py", HERE / "cortex.py", HERE / "stimuli.py"),
            "network": weights,
        }
    module = _module(config)
    settings = config.model_dump(mode="json", exclude={"path", "images", "fold", "unlabelled"})
    return settings | {
        "files": _hash(partial(module.files, config), planning),
        "code": code_version(*sorted(HERE.glob(f"{config.kind}*.py")), *COMMON),
        "images": _hash(partial(image_files, config), planning),
        "pools": pool_fingerprint(config, planning),
    }


def pool_fingerprint(config: DataConfig, planning: bool = False) -> list[dict[str, Any]]:
    """What identifies the unlabelled pools; an empty list where there are none.

    Raises:
        UserError: a file is missing, unless planning; another subject's pool is asked for where there is none.
    """
    if isinstance(config, SimulatedData):
        return [fingerprint(config)] if config.n_unlabelled else []
    return [_pool_identity(config, pool, planning) for pool in config.unlabelled]


def _pool_identity(config: FileData, pool: PoolConfig, planning: bool) -> dict[str, Any]:
    if isinstance(pool, HcpPool):
        from cnd.data import hcp

        settings = pool.model_dump(mode="json", exclude={"path"})
        return settings | {
            "files": _hash(partial(hcp.pool_files, pool), planning),
            "code": code_version(HERE / "hcp.py", HERE / "tables.py"),
        }
    other = _other_subject(config, pool.subject)
    settings = other.model_dump(mode="json", exclude={"path", "images", "image_size", "test_trials"})
    module = _module(other)
    return settings | {
        "files": _hash(partial(module.files, other), planning),
        "code": code_version(*sorted(HERE.glob(f"{config.kind}*.py")), *COMMON),
    }


def _hash(find: Callable[[], list[Path]], planning: bool) -> str:
    """Hash of the files that a function finds."""
    from cnd.data.images import files_hash

    try:
        return files_hash(find())
    except UserError:
        if not planning:
            raise
        return "missing"


# ---------------------------------------------------------------- files


def missing(config: DataConfig) -> str | None:
    """What is not there, where to get it and where to put it, in lines; None when every file is there."""
    if isinstance(config, SimulatedData):
        return None
    module = _module(config)
    problems = _problems([partial(module.files, config), partial(image_files, config)])
    setup = [module.SETUP] if problems and module.SETUP not in problems[0] else []
    pools = _problems([partial(_pool_identity, config, pool, False) for pool in config.unlabelled])
    return "\n".join(dict.fromkeys([*problems, *setup, *pools])) or None


def _problems(steps: list[Callable[[], object]]) -> list[str]:
    """What the steps complain about."""
    found = []
    for step in steps:
        try:
            step()
        except UserError as error:
            found.append(str(error))
    return found


def check(config: DataConfig) -> None:
    """Read real data once, without torch, so that a malformed file is told before any training starts.

    Raises:
        UserError: a file is missing or malformed.
    """
    if isinstance(config, SimulatedData):
        return
    _module(config).check(config)
    for pool in config.unlabelled:
        if isinstance(pool, HcpPool):
            _load_pool(config, pool, None)
        else:
            _module(config).check(_other_subject(config, pool.subject))


def image_store(config: DataConfig, cache: StageCache) -> Path | None:
    """The file that holds the images of a data set once for all of its subjects, written if it is missing.

    None where images are kept with the data set itself.

    Raises:
        UserError: an image is missing or malformed.
    """
    from cnd.data.images import store

    source = _image_source(config)
    return None if source is None else store(source, cache)


def _image_source(config: DataConfig) -> ImageSource | None:
    """Images that lie in files of their own."""
    if not isinstance(config, GodData | Bold5000Data):
        return None
    source: ImageSource | None = _module(config).image_source(config)
    return source


def image_files(config: DataConfig) -> list[Path]:
    """Files that hold images and nothing else.

    Raises:
        UserError: one is missing.
    """
    source = _image_source(config)
    return [] if source is None else source.files


def load(config: DataConfig, fold: int, cache: StageCache) -> FmriDataset:
    """One train / test partition with its unlabelled pools, each voxel of which is z-scored.

    Args:
        cache: where the store of the images lies, for data sets that have one.

    Raises:
        UserError: a file is missing or malformed.
    """
    if isinstance(config, SimulatedData):
        from cnd.data.simulated import simulate

        return simulate(config)
    images = image_store(config, cache)
    pools = tuple(_load_pool(config, pool, images) for pool in config.unlabelled)
    return replace(_load(config, fold, images), unlabelled=pools)


def _load(config: FileData, fold: int, images: Path | None) -> FmriDataset:
    module = _module(config)
    dataset: FmriDataset = module.load(config, fold) if images is None else module.load(config, fold, images)
    return dataset


def _load_pool(config: FileData, pool: PoolConfig, images: Path | None) -> np.ndarray:
    """Patterns float32 [n, voxels] for pre-training."""
    if isinstance(pool, HcpPool):
        from cnd.data.hcp import load_pool
        from cnd.data.tables import zscore

        return zscore(load_pool(pool))
    return _load(_other_subject(config, pool.subject), 0, images).train.fmri


def _other_subject(config: FileData, subject: int) -> FileData:
    """The config of another subject of the same data set."""
    if isinstance(config, Digits69Data):
        raise UserError("data.unlabelled: digits69 has one subject; use a pool of kind 'hcp'")
    number = str(subject) if isinstance(config, FolderData) else subject
    if number == config.subject:
        raise UserError(f"data.unlabelled: subject {subject} is the target itself; name another subject")
    return type(config).model_validate(config.model_dump() | {"subject": number, "unlabelled": ()})


def _module(config: FileData) -> ModuleType:
    """The file that reads this kind of data."""
    from cnd.data import bold5000, digits69, god

    if isinstance(config, FolderData):
        from cnd.data import folder

        return folder
    return {"digits69": digits69, "god": god, "bold5000": bold5000}[config.kind]
