"""A folder for Ray's own files: short enough for its sockets, and gone when it has ended."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cnd.errors import UserError
from cnd.store.leftovers import runs

# of the path of a socket a system takes 107 bytes (sun_path in unix(7)), on macOS 103; Ray appends
# /session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store
LONGEST = 103 - len("/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store") - len(".12345")
PREFIX = "cnd-ray-"
RAY = "ray"  # below a sweep's folder


@contextlib.contextmanager
def ray_folder() -> Iterator[Path]:
    """A new folder in the system's temporary one, or where that is too long or cannot be written, in another.

    Raises:
        UserError: there is none.
    """
    for place in _places():
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))
            if len(os.fsencode(folder)) <= LONGEST:
                break
            folder.rmdir()
    else:
        raise UserError(
            f"TMPDIR {_asked_for()}: Ray needs a temporary folder that can be written and whose path has at most "
            f"{LONGEST - len(PREFIX) - 17} bytes; set TMPDIR to one"
        )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left(folder: Path) -> None:
    """Delete what Ray left of commands that were killed.

    Args:
        folder: of a sweep, for the one process that holds it.
    """
    shutil.rmtree(folder / RAY, ignore_errors=True)
    for place in _places():
        _remove_left(place)


def _places() -> list[Path]:
    return list(dict.fromkeys(map(Path, (_asked_for(), "/tmp", "/var/tmp", "/dev/shm"))))


def _asked_for() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # none at all can be written
        return os.environ.get("TMPDIR", "/tmp")


def _remove_left(place: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in place.glob(f"{PREFIX}*"):
            found = re.fullmatch(rf"{PREFIX}(\d+)-.*", folder.name)
            if found and not runs(int(found[1])):
                shutil.rmtree(folder, ignore_errors=True)
