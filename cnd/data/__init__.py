"""Data sets: one file each, all giving :class:`cnd.protocols.FmriDataset`.

:func:`folds`, :func:`fingerprint` and :func:`check` need no torch; :func:`load` may. A data set read from files is a
module with ``files``, ``check``, ``load`` and ``SETUP``.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cnd.cache import code_version, file_hash
from cnd.config import DataConfig, Digits69Data, FileData, SimulatedData
from cnd.errors import UserError

if TYPE_CHECKING:
    from cnd.protocols import FmriDataset

HERE = Path(__file__).parent


def folds(config: DataConfig) -> list[int]:
    """Indices of the train / test partitions to run; one where the data set has a fixed split."""
    if isinstance(config, Digits69Data):
        return list(range(config.n_folds)) if config.fold is None else [config.fold]
    return [0]


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """What identifies the data of a config: its settings for simulated data, the files' content for real data.

    Raises:
        UserError: a file is missing.
    """
    if isinstance(config, SimulatedData):
        weights = file_hash(HERE / "weights" / "visual_network" / "model.safetensors")
        return config.model_dump(mode="json") | {
            "code": code_version(HERE / "simulated.py", HERE / "stimuli.py"),
            "network": weights,
        }
    module = _module(config)
    settings = config.model_dump(mode="json", exclude={"path", "images", "fold"})
    return settings | {
        "files": {path.name: file_hash(path) for path in module.files(config)},
        "code": code_version(Path(str(module.__file__))),
    }


def check(config: DataConfig) -> None:
    """Read real data once, without torch, so that a malformed file is told before any training starts.

    Raises:
        UserError: a file is missing or malformed.
    """
    if not isinstance(config, SimulatedData):
        _module(config).check(config)


def load(config: DataConfig, fold: int) -> FmriDataset:
    """One train / test partition.

    Raises:
        UserError: a file is missing or malformed.
    """
    if isinstance(config, SimulatedData):
        from cnd.data.simulated import simulate

        return simulate(config)
    dataset: FmriDataset = _module(config).load(config, fold)
    return dataset


def _module(config: FileData) -> ModuleType:
    """The file that reads this kind of data."""
    if isinstance(config, Digits69Data):
        from cnd.data import digits69

        return digits69
    raise UserError(f"data.kind '{config.kind}' is not available yet")
