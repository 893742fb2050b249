"""MLflow's store: whole or set aside, filled again from the records, moved with its folder; what may be named how."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import fake_pipeline
import pytest

from cnd.data.simulated import SimulatedData
from cnd.experiment import Experiment
from cnd.store import database
from cnd.store.tracking import Tracker, accepted, sqlite_uri
from cnd.workflow.cache import StageCache


@pytest.fixture
def output(tmp_path: Path, empty_store: Path) -> Path:
    """An output folder with a sound store."""
    folder = tmp_path / "output"
    folder.mkdir()
    shutil.copy(empty_store, folder / database.FILE)
    return folder


def _tracker(output: Path) -> Tracker:
    return Tracker(sqlite_uri(output), output / database.ARTIFACTS, "table-base")


def _aside(output: Path) -> list[Path]:
    return list(output.glob("mlflow.db.damaged-*"))


def test_a_store_is_there_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / database.FILE

    def killed(new: Path) -> None:
        new.write_bytes(b"half")
        raise SystemExit

    with pytest.raises(SystemExit):
        database.make(path, killed)
    assert not path.exists()
    database.make(path, lambda new: new.write_bytes(b"whole") and None)
    assert [file.name for file in tmp_path.iterdir()] == [database.FILE] and path.read_bytes() == b"whole"


@pytest.mark.parametrize("damage", ["empty", "truncated", "random", "page", "half made"])
def test_a_damaged_store_is_set_aside_and_said(output: Path, damage: str) -> None:
    path = output / database.FILE
    assert database.opened(output) == (set(), [])  # a sound one is left alone
    content = path.read_bytes()
    noise = random.Random(0).randbytes
    middle = len(content) // 2 // 4096 * 4096
    damaged = {
        "empty": b"",
        "truncated": content[: len(content) // 3],
        "random": noise(len(content)),
        "page": content[:middle] + noise(4096) + content[middle + 4096 :],
    }
    path.write_bytes(damaged.get(damage, b""))
    if damage == "half made":
        with sqlite3.connect(path) as store:
            store.execute("create table alembic_version (version_num text)")
    runs, told = database.opened(output)
    assert runs == set() and len(told) == 1 and "filled again from the records" in told[0]
    assert not path.exists() and len(_aside(output)) == 1


def test_a_store_whose_tables_were_half_made_is_made_again(output: Path, quick_stores: None) -> None:
    """As a process of an earlier version left it, that was killed meanwhile: MLflow itself never gets over it."""
    with sqlite3.connect(output / database.FILE) as store:
        store.execute("update alembic_version set version_num = '451aebb31d03'")
    tracker = _tracker(output)
    assert tracker.client.get_run(tracker.parent).info.status == "RUNNING" and len(_aside(output)) == 1


def test_artifacts_move_with_their_folder(output: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    experiment = Experiment(name="base", data=SimulatedData())
    record = fake_pipeline.run(experiment, StageCache(tmp_path / "cache"), lambda progress: None)
    tracker = _tracker(output)
    run = tracker.start("10-seed0", "key", {}, {})
    tracker.record(run, record, ["p1"])
    copy = tmp_path / "a % copy"
    shutil.copytree(output, copy)
    shutil.move(output / database.ARTIFACTS, tmp_path / "hidden")  # nothing may be read or written there
    runs, told = database.opened(copy)
    assert run in runs and "moved or copied" in told[0] and database.opened(copy)[1] == []
    moved = _tracker(copy)
    assert {file.path for file in moved.client.list_artifacts(run)} >= {"summary.json"}
    assert moved.start("10-seed0", "key", {}, {}) == run
    moved.record(moved.start("8-seed0", "other", {}, {}), record)
    assert not (output / database.ARTIFACTS).exists()
    with sqlite3.connect(copy / database.FILE) as store:
        places = store.execute(
            "select artifact_location from experiments where experiment_id > 0 union select artifact_uri from runs"
        )
        assert all(place.startswith((copy / database.ARTIFACTS).as_uri()) for (place,) in places)


def test_an_experiment_deleted_in_the_pages_of_mlflow_is_restored(output: Path) -> None:
    tracker = _tracker(output)
    tracker.end(tracker.start("10-seed0", "key", {}, {}), "FINISHED")
    assert len(database.finished_runs(output / database.FILE)) == 1
    tracker.client.delete_experiment(tracker.sweep)
    assert database.finished_runs(output / database.FILE) == set()  # so what is finished is written again
    again = _tracker(output)
    assert again.sweep == tracker.sweep and "had been deleted; it is restored" in again.told[0]
    assert again.start("10-seed0", "key", {}, {}) == tracker.known["10-seed0", "key"]


def test_names_that_mlflow_refuses_are_mended_and_stay_apart(output: Path) -> None:
    names = ["L_α", "L_β", "a//b", "../x", "/etc", ".", "", "x" * 300, "x" * 301, "α_S (%)", "fine/name: 1"]
    mended = accepted(names)
    assert len(set(mended.values())) == len(names) and mended["fine/name: 1"] == "fine/name: 1"
    tracker = _tracker(output)
    run = tracker.start("10-seed0", "key", dict.fromkeys(names, 1), {})
    tracker._log(run, [(name, 0.5, 0) for name in names], 0)
    kept = tracker.client.get_run(run).data
    assert set(kept.params) == set(mended.values()) == set(kept.metrics)
