"""What data sources that read the user's files share: what identifies them, what is missing, pools for pre-training."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnd import registry
from cnd.errors import UserError
from cnd.keys import files_hash
from cnd.protocols import DataSource, Pool
from cnd.steps import Step

if TYPE_CHECKING:
    from cnd.protocols import Bench

    AnyPool = Pool
else:
    AnyPool = registry.union("cnd.pools")

PLACES = frozenset({"path", "images", "fold", "unlabelled"})  # settings that say where, not what


class FileSource(DataSource):
    """A data source that reads files which the user brings."""

    unlabelled: tuple[AnyPool, ...] = ()  # for pre-training; their voxels need not match

    def identity(self) -> Any:
        """Settings and the content of the files; ``missing`` stands for files that are not there."""
        return dict(_identity(self))

    def pool_identity(self) -> Any:
        """As :meth:`identity`, of the training fMRI alone: what another subject takes as a pool."""
        settings = self.model_dump(mode="json", exclude={*PLACES, "image_size", "test_trials"})
        return settings | {"files": _hash(self.files)}

    def image_files(self) -> list[Path]:
        """Files that hold images and nothing else.

        Raises:
            UserError: one is missing.
        """
        source = self.image_source()
        return [] if source is None else list(source.files)

    def missing(self) -> list[str]:
        """What is not there, where to get it and where to put it."""
        found = _problems([self.files, self.image_files])
        setup = [self.setup] if found and self.setup not in found[0] else []
        pools = _problems([pool.of(self).identity for pool in self.unlabelled])
        pools += [line for pool in self.unlabelled for line in _problems([pool.of(self).missing])]
        text = "\n".join(dict.fromkeys([*found, *setup, *pools]))
        return [text] if text else []

    def check(self) -> None:
        """Read the files once, without torch.

        Raises:
            UserError: a file is missing or malformed.
        """
        self.check_files()
        for pool in self.unlabelled:
            pool.of(self).check()

    def check_files(self) -> None:
        """As :meth:`check`, without the pools."""
        raise NotImplementedError

    def pools(self, data: Step) -> Step | None:
        """The user's pools; subjects of one data source and folds share their step."""
        if not self.unlabelled:
            return None
        return Step("pools", load_pools, {"pools": tuple(pool.of(self) for pool in self.unlabelled)}, kept=False)

    def notes(self) -> list[str]:
        """What was done to the pools."""
        return [f"Unlabelled fMRI: {told}" for pool in self.unlabelled if (told := pool.of(self).describe())]


def load_pools(bench: Bench, pools: tuple[Pool, ...]) -> tuple[np.ndarray, ...]:
    """The patterns of each pool, float32 [m, voxels of the pool]."""
    return tuple(pool.patterns() for pool in pools)


@lru_cache(maxsize=64)  # the plan asks for every trial
def _identity(source: FileSource) -> dict[str, Any]:
    settings = source.model_dump(mode="json", exclude=set(PLACES))
    return settings | {"files": _hash(source.files), "images": _hash(source.image_files)}


def _hash(find: Callable[[], list[Path]]) -> str:
    """Hash of the files that a function finds."""
    try:
        return files_hash(find())
    except UserError:
        return "missing"


def _problems(steps: list[Callable[[], Any]]) -> list[str]:
    """What the steps complain about."""
    found = []
    for step in steps:
        try:
            told = step()
            found += [line for line in told if isinstance(line, str)] if isinstance(told, list) else []
        except UserError as error:
            found.append(str(error))
    return found
