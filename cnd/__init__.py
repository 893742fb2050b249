"""CnD: decode images from fMRI, and measure honestly which parts of the decoder matter.

``cnd.run`` runs an experiment from Python (:func:`cnd.api.run`).
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Result", "run"]


def __getattr__(name: str) -> Any:
    """What is imported when it is asked for: every part of the package imports this module, and the API all parts."""
    if name not in __all__:
        raise AttributeError(f"module 'cnd' has no attribute '{name}'")
    return getattr(importlib.import_module("cnd.api"), name)
