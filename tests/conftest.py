from __future__ import annotations

import os
from pathlib import Path

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
