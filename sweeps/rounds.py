"""``--seeds auto``: rounds of trials, further seeds only for rows whose verdict is open. Loads no pandas by itself.

What a round holds follows from the records of the rounds before it alone, so that the same command after a crash asks
for the same trials, whatever else has been finished meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from cnd.errors import UserError
from sweeps.options import FEWEST
from sweeps.spec import Sweep
from sweeps.trials import Trial

Undecided = Callable[[list[Trial]], list[str]]


def begun(trials: list[Trial]) -> list[Trial]:
    """The first round: every row and control with the fewest seeds."""
    first = min(trial.seed for trial in trials)
    return [trial for trial in trials if trial.seed < first + FEWEST]


def most(trials: list[Trial]) -> list[Trial]:
    """All that the rounds may come to: controls stay with the seeds of the first one."""
    first = min(trial.seed for trial in trials)
    return [trial for trial in trials if not trial.control or trial.seed < first + FEWEST]


def rounds(
    sweep: Sweep, trials: list[Trial], undecided: Undecided, say: Callable[[str], None]
) -> Iterator[list[Trial]]:
    """The trials of the first round, then those with the ones of the second, and so on until no row is open.

    Args:
        trials: with as many seeds as a row may get.
        undecided: rows whose verdict is open, by the records of some trials; asked when these have run.
        say: hears which rows go on.

    Raises:
        UserError: there is nothing to compare.
    """
    reference, rows = sweep.reference, {trial.row for trial in trials if not trial.control}
    if reference not in rows or len(rows) < 2:
        raise UserError(
            f"--seeds auto: compares rows with row {reference}; --rows must name it and at least one other row"
        )
    first, last = min(trial.seed for trial in trials), max(trial.seed for trial in trials)
    spent = dict.fromkeys((trial.row for trial in trials), FEWEST)
    while True:
        asked = [trial for trial in trials if trial.seed < first + spent[trial.row]]
        yield asked
        further = [row for row in undecided(asked) if first + spent[row] <= last]
        if not further:
            return
        for row in further:
            spent[row] += 1
        spent[reference] = max(spent[row] for row in rows)
        listed = f"row{'s' if len(further) > 1 else ''} {', '.join(further)}"
        say(f"undecided: {listed}; one more seed each (--seeds auto, up to {last - first + 1})")


def by_records(output: Path, sweep_dir: Path) -> Undecided:
    """Asks the records of the trials, as the report does: rows of earlier commands stay in the family of the table."""

    def undecided(trials: list[Trial]) -> list[str]:
        from reports.collect import read_sweep
        from reports.looks import restricted, undecided
        from reports.tables import difference_table

        records, rows = read_sweep(output, sweep_dir), {trial.row for trial in trials}
        asked = {(trial.row, trial.subject, trial.seed) for trial in trials}
        asked |= {(trial.row, trial.subject, trial.seed) for trial in records.trials if trial.row not in rows}
        found = undecided(difference_table(restricted(records, asked)))
        return [row for row in found if row in rows]

    return undecided
