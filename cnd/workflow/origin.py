"""Which code a process runs: its hash, where it lies, and the git commit where there is one.

A key names the code of one step (:mod:`cnd.keys`); this names that of a whole process, so that a worker can refuse to
answer for a command of other code, and a record can tell a reader which commit to look at.
"""

from __future__ import annotations

import difflib
import os
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cnd
from cnd.keys import code_hash

RUN = "cnd.workflow.run"
SECONDS = 10.0  # git has to answer; a repository on a slow network must not hold up a trial


@dataclass(frozen=True)
class Origin:
    """The code of a process.

    Attributes:
        code: hash of what a run executes, by the rules of keys: comments do not count, the version of Python does.
        folder: that the package lies in.
        commit: that is checked out there, with "and changes" where files differ from it; None: no git repository.
    """

    code: str
    folder: str
    commit: str | None

    def described(self) -> dict[str, str | None]:
        """As a record keeps it, which may be given away: without the place on this machine."""
        return {"hash": self.code, "commit": self.commit}

    def __str__(self) -> str:
        return f"{self.folder} (code {self.code[:12]}{f', commit {self.commit}' if self.commit else ''})"


@lru_cache(maxsize=8)
def origin(pipeline: str = RUN) -> Origin:
    """Of this process, found once: what is edited later does not run here.

    Args:
        pipeline: module that runs trials.
    """
    package = Path(str(cnd.__file__)).resolve().parent
    return Origin(code_hash(pipeline), str(package), commit(package))


def commit(package: Path) -> str | None:
    """The commit of a package that lies at the top of a git repository; None elsewhere, or without git.

    A repository that merely encloses it, such as one that an environment was made in, says nothing of its code.
    """
    known = _git(package, "rev-parse", "--show-toplevel", "HEAD")
    if known is None or len(known) != 2 or Path(known[0]).resolve() != package.parent:
        return None
    changed = _git(package, "status", "--porcelain", "--", str(package))
    return f"{known[1][:12]} and changes" if changed else known[1][:12]


def changes(package: Path) -> str:
    """What of a package is not as its commit has it, as a patch: edits, and files that git does not know yet."""
    edits = _git(package, "diff", "--no-ext-diff", "--no-color", "HEAD", "--", str(package)) or []
    new = _git(package, "ls-files", "--others", "--exclude-standard", "--full-name", "--", str(package)) or []
    for name in new:
        try:
            lines = (package.parent / name).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):  # gone meanwhile, or no text
            lines = ["(no text)"]
        edits += [f"diff --git a/{name} b/{name}", "new file mode 100644"]
        edits += difflib.unified_diff([], lines, "/dev/null", f"b/{name}", lineterm="")
    return "".join(f"{line}\n" for line in edits)


def _git(folder: Path, *words: str) -> list[str] | None:
    """Lines that git answers; None where it cannot."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as in a hook
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]  # the user's own git may be at work there
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()
