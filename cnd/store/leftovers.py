"""What killed commands leave in the midst of a write: removed by the next one."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

BEGUN = re.compile(r"\..+\.(\d+)")  # of cnd.json_files, with the number of its process
UPLOADING = ".artifact.uploading.*"  # of MLflow


def remove_begun(folder: Path) -> None:
    """Delete files that a process began to write which runs no more; not those in folders below."""
    with contextlib.suppress(OSError):
        for path in [entry for entry in os.scandir(folder) if entry.name.startswith(".")]:
            found = BEGUN.fullmatch(path.name)
            if found and not runs(int(found[1])):
                os.unlink(path)


def remove_uploading(artifacts: Path) -> None:
    """Delete half-copied artifacts of a run; for the one process that writes them."""
    for path in artifacts.rglob(UPLOADING):
        path.unlink(missing_ok=True)


def runs(process: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True
