"""MLflow's SQLite file below an output folder: found whole or set aside, made whole, moved along with its folder.

By SQL alone, so that a command that has nothing to write need not import MLflow. Nothing here is the truth of a sweep:
trial files and records are, from which a store that was lost is filled again.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

FILE, ARTIFACTS = "mlflow.db", "mlartifacts"  # below an output folder
BESIDE = ("-journal", "-wal", "-shm")  # SQLite's own, which belong to the file of that name
TABLES = {"alembic_version", "experiments", "runs"}
SECONDS = 30.0  # to wait while another process writes


def lock(database: Path) -> Any:
    """What a process holds while it makes, judges or moves a store."""
    from filelock import FileLock

    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(database.with_name(f".{database.name}.lock"))


def problem(database: Path) -> str | None:
    """What is wrong with a store, in words; None where it is sound, busy, or not there."""
    if not database.exists():
        return None
    try:
        with closing(_open(database)) as store:
            if (told := store.execute("pragma quick_check(1)").fetchone()[0]) != "ok":
                return f"is damaged ({' '.join(told.split())})"
            tables = {name for (name,) in store.execute("select name from sqlite_master where type = 'table'")}
            if not tables >= TABLES:
                return "is empty, or was left half made"
            store.execute("select count(*) from runs join experiments using (experiment_id)").fetchone()
    except sqlite3.DatabaseError as error:
        return None if _busy(error) else f"is damaged ({error})"
    return None


def set_aside(database: Path) -> Path:
    """Rename a store, and what SQLite keeps beside it; returns where it is now."""
    aside = database.with_name(f"{database.name}.damaged-{time.time_ns()}")
    database.rename(aside)
    for suffix in BESIDE:
        beside = database.with_name(database.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return aside


def make(database: Path, fill: Callable[[Path], None]) -> None:
    """Create a store that is whole whenever it is there; for the holder of the lock.

    One that is there already is set aside if its tables are of another version: without runs, it was left half made.

    Args:
        fill: creates the tables in a file that is not there yet, and closes it.
    """
    for leftover in database.parent.glob(f".{database.name}.new*"):  # its maker was killed
        leftover.unlink()
    new = database.with_name(f".{database.name}.new{os.getpid()}")
    fill(new)
    if database.exists() and _version(database) == _version(new):
        new.unlink()
        return
    if database.exists():
        set_aside(database)
    new.rename(database)


def _version(database: Path) -> str | None:
    """Of the tables."""
    try:
        with closing(_open(database)) as store:
            (version,) = store.execute("select version_num from alembic_version").fetchone()
            return str(version)
    except sqlite3.DatabaseError as error:
        if _busy(error):
            raise
        return None
    except TypeError:  # no line in that table
        return None


def finished_runs(database: Path) -> set[str]:
    """Ids of the runs that were ended as finished; none of an experiment that was deleted."""
    if not database.exists():
        return set()
    with closing(_open(database)) as store:
        found = store.execute(
            "select run_uuid from runs join experiments using (experiment_id) "
            "where runs.status = 'FINISHED' and experiments.lifecycle_stage = 'active'"
        )
        return {run for (run,) in found}


def left_open(database: Path, name: str) -> bool:
    """Whether a run of that name is there that was not ended as finished."""
    if not database.exists():
        return False
    with closing(_open(database)) as store:
        found = store.execute("select 1 from runs where name = ? and status != 'FINISHED' limit 1", (name,))
        return found.fetchone() is not None


def holds_runs(database: Path) -> bool:
    """Whether anything was ever logged there."""
    try:
        with closing(_open(database)) as store:
            return store.execute("select 1 from runs limit 1").fetchone() is not None
    except sqlite3.DatabaseError as error:
        if _busy(error):
            raise
        return False


def settle(database: Path, artifacts: Path) -> bool:
    """Point a store to the artifacts beside it, after its folder was moved or copied; whether there was need.

    Args:
        artifacts: where they are now; runs had them in another folder of the same name.
    """
    here = artifacts.absolute().as_uri()
    with closing(_open(database)) as store, store:
        known = [place for (place,) in store.execute("select distinct artifact_location from experiments")]
        moved = [place for place in known if (place or "").rpartition("/")[2] == artifacts.name and place != here]
        moved = [place for place in moved if place.startswith("file:")]
        for place in moved:
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                store.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) "
                    f"where {column} = ? or substr({column}, 1, ?) = ?",
                    (here, len(place) + 1, place, len(place) + 1, f"{place}/"),
                )
    return bool(moved)


def opened(output: Path) -> tuple[set[str], list[str]]:
    """The finished runs of the store below an output folder, made fit for use; and what to say of it."""
    database, told = output / FILE, list[str]()
    if not database.exists():
        return set(), told
    with lock(database):
        if (wrong := problem(database)) is not None:
            aside = set_aside(database)
            told.append(f"{database}: {wrong}; moved to {aside.name}, and filled again from the records")
        elif settle(database, output / ARTIFACTS):
            told.append(f"{database}: its folder was moved or copied; runs now point to the artifacts beside it")
    return finished_runs(database), told


def _open(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", timeout=SECONDS, uri=True)  # never a new file


def _busy(error: sqlite3.DatabaseError) -> bool:
    return "locked" in str(error) or "busy" in str(error)
