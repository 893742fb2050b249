"""The one exception that is shown to the user as a single line (exit code 2)."""

from __future__ import annotations

import difflib
import errno
import unicodedata
from collections.abc import Iterable

REMEDIES = {
    errno.ENOSPC: "; the disk is full: free some space, then the same command goes on",
    errno.EDQUOT: "; your quota is used up: free some space, then the same command goes on",
    errno.EROFS: "; choose an --output that can be written",
    errno.EACCES: "; choose an --output that can be written",
    errno.EPERM: "; choose an --output that can be written",
    errno.ENAMETOOLONG: "; choose a shorter name, or a shorter --output",
}


class UserError(Exception):
    """Bad input: the message names the file or option, the key, and the remedy."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'mask_ratio'?``, or the list of what is valid."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(valid)}" if valid else ""


def in_one_line(error: BaseException) -> str:
    """The kind and the message of an error, without what would steer a terminal."""
    message = printable(" ".join(str(error).split()))
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def printable(text: str) -> str:
    """A text whose control characters are shown and not sent: an escape as ``\\x1b``."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c)[0] == "C" else c for c in text)


def told_by_the_system(error: OSError) -> str:
    """What the operating system refused, on one line with the file and a remedy where there is one."""
    what = " ".join(str(error.strerror or error).split())
    remedy = REMEDIES.get(error.errno or 0, "")
    return (f"{error.filename}: {what}" if error.filename else what) + remedy
