from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

# Before any test imports torch: several processes that share two cores must not each use both.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def digits69_file() -> Path | None:
    """The real fMRI file: $CND_DIGITS69, or beside the repository; None where it is not."""
    named = os.environ.get("CND_DIGITS69")
    path = Path(named) if named else ROOT.parent / "shared" / "data" / "digit69" / "digit69_28x28.mat"
    return path if path.is_file() else None


@pytest.fixture(scope="session")
def miyawaki_file() -> Path | None:
    """The real fMRI file: $CND_MIYAWAKI, or beside the repository; None where it is not."""
    named = os.environ.get("CND_MIYAWAKI")
    path = Path(named) if named else ROOT.parent / "shared/data/miyawaki/miyawaki_structured_28x28.mat"
    return path if path.is_file() else None


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of MLflow without runs, made once because that takes seconds."""
    from cnd.store import database, tracking

    path = tmp_path_factory.mktemp("store") / database.FILE
    database.make(path, tracking._create_tables)
    return path


@pytest.fixture
def quick_stores(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New stores are copies of the empty one."""
    from cnd.store import tracking

    monkeypatch.setattr(tracking, "_create_tables", lambda path: shutil.copy(empty_store, path))


@pytest.fixture(scope="session")
def smoke_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache to which tests may add; data and latents of ``smoke`` are made once for all of them."""
    from cnd.workflow.cache import StageCache

    return StageCache(tmp_path_factory.mktemp("smoke") / "cache")


@pytest.fixture(scope="session")
def smoke_record(smoke_cache: Any) -> Path:
    """The record of a run of ``smoke``."""
    from cnd.experiment import load_experiment
    from cnd.workflow.run import run

    return run(load_experiment(ROOT / "experiments" / "smoke.yaml"), smoke_cache)
