"""Raw HCP packed to V1..V4: 20 MB a subject instead of 440 (:mod:`cnd.data.hcp`, shapes a and b)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cnd.data.hcp import HINT, PACKED, RAW, raw_files, read_grayordinates
from cnd.data.tables import zscore
from cnd.errors import UserError


def prepare(
    folder: Path,
    output: Path,
    pattern: str = RAW,
    progress: Callable[[Iterable[tuple[str, Path]]], Iterable[tuple[str, Path]]] = iter,
) -> tuple[int, int]:
    """Pack raw HCP: ``output/<subject>/HCP_visual_voxel.npz`` with V1..V4 z-scored over time, float32.

    One subject is in memory at a time. A file appears whole or not at all, so a killed run goes on where it was. A
    subject that cannot be read is told at the end and does not stop the others.

    Args:
        progress: wraps the subjects, e.g. in a progress bar.

    Returns:
        subjects packed now, and those that had been packed before.

    Raises:
        UserError: there is no raw file, or some could not be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {HINT}")
    subjects = raw_files(folder, pattern)
    if not subjects:
        raise UserError(f"{folder}: no file {pattern} in it or below; {HINT}")
    made, failures = 0, []
    waiting = {subject: path for subject, path in subjects.items() if not (output / subject / PACKED).is_file()}
    for subject, path in progress(waiting.items()):
        try:
            _pack(path, output / subject / PACKED)
            made += 1
        except UserError as error:
            failures.append(error)
    if failures:
        raise UserError(f"{failures[0]} ({len(failures)} of {len(subjects)} subjects failed, {made} were packed)")
    return made, len(subjects) - len(waiting)


def _pack(path: Path, target: Path) -> None:
    areas: dict[str, Any] = {area: zscore(series) for area, series in read_grayordinates(path).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **areas)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
