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


@contextlib.contextmanager
def ray_folder() -> Iterator[Path]:
    """A new folder in the system's temporary one, or where that is too long or cannot be written, in another.

    Those of commands that were killed are removed, too.

    Raises:
        UserError: there is none.
    """
    for place in dict.fromkeys(map(Path, (_asked_for(), "/tmp", "/var/tmp", "/dev/shm"))):
        _remove_left(place)
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
