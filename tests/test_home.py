"""A home folder that cannot be written, or is not there, holds up no sweep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweeps.home import writable_home


@pytest.mark.parametrize("home", ["usable", "file/below", None])
def test_only_a_home_that_cannot_be_written_is_replaced(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder can be made below it, even by root")
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    else:
        monkeypatch.setenv("HOME", str(tmp_path / home))
    before = os.environ.get("HOME")
    with writable_home(tmp_path / "instead"):
        assert os.environ["HOME"] == (before if home == "usable" else str(tmp_path / "instead"))
    assert os.environ.get("HOME") == before
