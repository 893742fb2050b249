"""Seeds spent row by row (``--seeds auto``): the price of verdicts that are asked for on the way, and what it saved.

A row whose verdict is looked at after 2, 3, ... K seeds gets as many chances to look different by luck. With L looks,
p-values of a look with n seeds are multiplied by the sum of all looks' degrees of freedom over its own, n - 1: alpha is
spent over the looks in proportion to these (Bonferroni with weights; with K = 5: 10, 20, 30 and 40 %), since two seeds
can show little. Holm's correction over rows comes after that. It keeps the error of the table whatever is looked at and
whenever a row stops: Holm errs only if one of m true hypotheses has, at some look, a product at or below alpha / m,
and over all looks and hypotheses the probabilities of that add up to no more than alpha.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from reports.collect import Records

FEWEST = 2  # seeds at the first look


@dataclass(frozen=True)
class Saved:
    """What seeds spent row by row came to.

    Attributes:
        most: seeds that a row could get.
        trials: how many were asked for, of rows and of controls.
        all_alike: how many ``most`` seeds for all would have been, of rows and of controls.
    """

    most: int
    trials: tuple[int, int]
    all_alike: tuple[int, int]

    def __str__(self) -> str:
        not_run = sum(self.all_alike) - sum(self.trials)
        of_rows = self.all_alike[0] - self.trials[0]
        return (
            f"Every row began with {FEWEST} seeds, and only undecided ones got more, up to {self.most} (--seeds auto). "
            f"{sum(self.trials)} trials were asked for; {self.most} seeds for all would have been "
            f"{sum(self.all_alike)}: {not_run} saved, {of_rows} of them of rows and {not_run - of_rows} of controls."
        )


def looked(sweep: dict[str, Any]) -> int | None:
    """The most seeds at which a verdict may be looked at, where rows were looked at on the way; None elsewhere."""
    most = sweep.get("max_seeds")
    return None if most is None else max(int(most), FEWEST, len(sweep.get("seeds", [])))


def factor(sweep: dict[str, Any], n_seeds: int) -> float:
    """What p-values of a comparison over so many seeds are multiplied by: 1 where nothing was looked at on the way."""
    most = looked(sweep)
    if most is None or n_seeds < FEWEST:
        return 1.0
    return sum(n - 1 for n in range(FEWEST, most + 1)) / (n_seeds - 1)


def corrected(sweep: dict[str, Any], p: pd.Series, n_seeds: pd.Series) -> pd.Series:
    """p-values of a table's comparisons, before Holm's correction, as the looks leave them."""
    return (p * [factor(sweep, int(n)) for n in n_seeds]).clip(upper=1.0)


def note(sweep: dict[str, Any]) -> str | None:
    """How it was corrected, for the report; None where nothing was looked at on the way."""
    most = looked(sweep)
    if most is None:
        return None
    times = ", ".join(f"{factor(sweep, n):.3g} with {n}" for n in range(FEWEST, most + 1))
    return (
        f"Seeds were added to undecided rows after looking at the verdicts (--seeds auto, up to {most}). Looking often "
        "makes false differences likelier, so p-values are multiplied before Holm's correction, and those of "
        f"equivalence likewise: by {times} seeds (alpha spent over the looks in proportion to their degrees of "
        "freedom). Intervals are those of a single look."
    )


def saved(records: Records) -> Saved | None:
    """What was spent and saved; None where every row was given the same seeds."""
    most = looked(records.sweep)
    if most is None:
        return None
    controls = {row.id for row in records.rows if row.control}
    n = [sum((trial.row in controls) is control for trial in records.trials) for control in (False, True)]
    each = most * len(records.subjects)
    return Saved(most, (n[0], n[1]), ((len(records.rows) - len(controls)) * each, len(controls) * each))


def restricted(records: Records, trials: Collection[tuple[str, str | None, int]]) -> Records:
    """What some trials, each (row, subject, seed), say when the others are not looked at."""
    kept, wanted = [t for t in records.trials if (t.row, t.subject, t.seed) in trials], set(trials)
    places = zip(*(records.items[name] for name in ("row", "subject", "seed")), strict=True)
    mask = [(row, subject if isinstance(subject, str) else None, seed) in wanted for row, subject, seed in places]
    return replace(records, trials=kept, items=records.items[mask])


def undecided(differences: pd.DataFrame) -> list[str]:
    """Rows of the table whose verdict says neither difference nor equivalence."""
    open_rows = differences[(differences["verdict"] == "undecided") & ~differences["control"].astype(bool)]
    return [str(row) for row in open_rows["row"]]
