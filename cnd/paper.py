"""stub"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def departures(experiment: Any, factors: Collection[str] = ()) -> list[str]:
    return []


def open_choices(experiment: Any) -> list[str]:
    return []
