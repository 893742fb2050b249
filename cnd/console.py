"""The console command ``cnd``: ``sweeps/run.py`` of this installation, whatever folder it is started from."""

from __future__ import annotations

import importlib
import sys

from cnd.places import APP


def main() -> int:
    """The command; returns its exit code.

    Its packages come first, before the working directory and ``PYTHONPATH``: a user's ``reports`` is not ours.
    """
    sys.path.insert(0, str(APP))
    code: int = importlib.import_module("sweeps.run").main()
    return code
