"""Rows that differ in more than they say: a comparison with such a row tells nothing of the factor that it is about."""

from __future__ import annotations

from collections.abc import Iterable

from cnd.errors import UserError
from cnd.experiment import Experiment, today
from cnd.store.tracking import flatten

NO_FACTORS = {"name", "description", "rivals", "minutes_per_trial"}


def differing(one: Experiment, other: Experiment) -> list[str]:
    """Dotted keys of the settings in which two experiments differ, whatever they are called."""
    contents = [flatten(e.model_dump(mode="json", exclude=NO_FACTORS)) for e in (one, other)]
    missing = object()
    keys = dict.fromkeys([*contents[0], *contents[1]])
    return [key for key in keys if contents[0].get(key, missing) != contents[1].get(key, missing)]


def check(row: Experiment, reference: Experiment, varies: Iterable[str], where: str) -> None:
    """Look whether a row differs from its reference in the declared factors only.

    Args:
        varies: dotted settings, or groups of them such as ``decoder``.
        where: names the row.

    Raises:
        UserError: it differs in something else, too.
    """
    allowed = [today(key) for key in varies]
    stray = [k for k in differing(row, reference) if not any(k == a or k.startswith(f"{a}.") for a in allowed)]
    if stray:
        raise UserError(
            f"{where}: differs from the reference in {', '.join(stray[:3])}, which the sweep does not vary; set it "
            "alike in both, or add it to varies"
        )
