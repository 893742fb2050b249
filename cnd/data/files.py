"""What data sources that read the user's files share: what identifies them, what is missing, pools for pre-training."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
        settings = self.model_dump(mode="json", exclude=set(PLACES))
        return settings | {"files": _content(self, "files"), "images": _content(self, "image_files")}

    def pool_identity(self) -> Any:
        """As :meth:`identity`, of the training fMRI alone: what another subject takes as a pool."""
        settings = self.model_dump(mode="json", exclude={*PLACES, "image_size", "test_trials"})
        return settings | {"files": _content(self, "files")}

    def image_files(self) -> list[Path]:
        """Files that hold images and nothing else.

        Raises:
            UserError: one is missing.
        """
        source = self.image_source()
        return [] if source is None else list(source.files)

    def missing(self) -> list[str]:
        """What is not there, a line each; below the first, where to get it and where to put it."""
        found = list(dict.fromkeys([*_complaint(self.files), *_complaint(self.image_files)]))
        if found and self.setup:
            found[0] += f"\n{self.setup}"
        return found + [line for pool in self.unlabelled for line in self._missing_of(pool)]

    def _missing_of(self, pool: Pool) -> list[str]:
        try:
            return pool.of(self).missing()
        except UserError as error:
            return [str(error)]

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


def _content(source: FileSource, what: Literal["files", "image_files"]) -> str:
    """Hash of the names and content of files, or ``missing``."""
    try:
        return _known_content(source, what)
    except UserError:
        return "missing"


@lru_cache(maxsize=128)  # the plan asks for every trial; what is missing is looked for again
def _known_content(source: FileSource, what: str) -> str:
    return files_hash(getattr(source, what)())


def _complaint(step: Callable[[], Any]) -> list[str]:
    try:
        step()
    except UserError as error:
        return [str(error)]
    return []


def one_file(path: Path | None, sign: str, kind: str, hint: str) -> list[Path]:
    """The one file of a data source, which is ``path`` or matches ``sign`` in that folder.

    Raises:
        UserError: no path was given, nothing lies there, or several do.
    """
    if path is None:
        raise UserError(f"data.path is not set: {kind} reads a file that cannot be shipped; {hint}")
    found = [path] if path.is_file() else sorted(path.glob(sign))
    if not found:
        raise UserError(f"{path}: no such file (data.path); {hint}")
    if len(found) > 1:
        raise UserError(f"{found[0]}: {found[1].name} lies beside it; name the file that counts with data.path")
    return found


def mat_content(path: Path) -> dict[str, Any]:
    """Arrays of a MATLAB file before version 7.3, by name.

    Raises:
        UserError: it is none, or is damaged.
    """
    from scipy.io import loadmat  # not at the top: the plan imports this module
    from scipy.io.matlab import MatReadError

    try:
        return dict(loadmat(path))
    except (MatReadError, ValueError, OSError, NotImplementedError, TypeError) as error:
        raise UserError(f"{path}: not a readable MATLAB file ({error}); download it again") from error
