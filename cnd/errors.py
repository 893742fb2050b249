"""The one exception that is shown to the user as a single line (exit code 2)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: the message names the file or option, the key, and the remedy."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'mask_ratio'?``, or the list of what is valid."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(valid)}" if valid else ""
