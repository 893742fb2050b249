"""Data sets: one file each, all giving :class:`cnd.protocols.FmriDataset`.

:func:`folds` and :func:`fingerprint` need no torch; :func:`load` may.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.cache import code_version, file_hash
from cnd.config import Digits69Data, SimulatedData
from cnd.errors import UserError

if TYPE_CHECKING:
    from cnd.protocols import FmriDataset


def folds(config: SimulatedData | Digits69Data) -> list[int]:
    """Indices of the train / test partitions to run; one where the data set has a fixed split."""
    if isinstance(config, SimulatedData):
        return [0]
    return list(range(config.n_folds)) if config.fold is None else [config.fold]


def fingerprint(config: SimulatedData | Digits69Data) -> dict[str, Any]:
    """What identifies the data of a config: its settings for simulated data, the file's content for real data.

    Raises:
        UserError: a file is missing.
    """
    here = Path(__file__).parent
    if isinstance(config, SimulatedData):
        weights = file_hash(here / "weights" / "visual_network" / "model.safetensors")
        return config.model_dump(mode="json") | {
            "code": code_version(here / "simulated.py", here / "stimuli.py"),
            "network": weights,
        }
    return {
        "kind": config.kind,
        "n_folds": config.n_folds,
        "file": file_hash(data_file(config)),
        "code": code_version(here / "digits69.py"),
    }


def data_file(config: Digits69Data) -> Path:
    """The file, checked to be there.

    Raises:
        UserError: no path was given, or nothing lies there.
    """
    remedy = "pass the file with --set data.path=/path/to/digit69_28x28.mat (see README.md, digits69)"
    if config.path is None:
        raise UserError(f"data.path is not set: digits69 reads a file that cannot be shipped; {remedy}")
    if not config.path.is_file():
        raise UserError(f"{config.path}: no such file (data.path); {remedy}")
    return config.path


def check(config: SimulatedData | Digits69Data) -> None:
    """Read real data once, without torch, so that a malformed file is told before any training starts.

    Raises:
        UserError: a file is missing or malformed.
    """
    if isinstance(config, Digits69Data):
        from cnd.data.digits69 import read

        read(config)


def load(config: SimulatedData | Digits69Data, fold: int) -> FmriDataset:
    """One train / test partition.

    Raises:
        UserError: a file is missing or malformed.
    """
    if isinstance(config, SimulatedData):
        from cnd.data.simulated import simulate

        return simulate(config)
    from cnd.data.digits69 import load_fold

    return load_fold(config, fold)
