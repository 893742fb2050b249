"""What a terminal, or whatever stands in its place, can take."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO


def any_encoding() -> None:
    """Let stdout and stderr show a question mark for what their encoding lacks, where it is not UTF-8, and go on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors="replace")


def width(stream: TextIO) -> int | None:
    """Columns of the terminal that a stream writes to; None where it is no terminal, so that lines may have any."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else None
    except (OSError, ValueError):
        return None
