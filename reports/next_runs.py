"""What to run next: more training seeds or more test items, from the variance components of undecided differences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cnd import statistics
from reports import looks
from reports.collect import Records
from reports.drawn import MOST, listed
from reports.provenance import command, trained

MANY = 10  # seeds beyond which no command is proposed
ALPHA = 0.05
PARTS = {"items": ("item",), "seeds": ("seed",), "both": ("item", "seed")}  # of the error, by what they come from


@dataclass(frozen=True)
class Line:
    """What would decide one undecided row.

    Attributes:
        shares: of the variance of its difference, in % by the names of ``PARTS``, and ``subjects`` where there are
            several.
        error: standard error of the difference as the components predict it, in the score's units.
        n_seeds, n_units: at hand.
        seeds, units: needed in all, the other as at hand; None where no number is enough.
        text: the same in words.
    """

    row: str
    title: str
    shares: dict[str, float]
    error: float
    n_seeds: int
    n_units: int
    seeds: int | None
    units: int | None
    text: str


def section(records: Records, differences: pd.DataFrame, unit: str) -> dict[str, Any] | None:
    """What the template prints; None where nothing is trained or compared.

    Args:
        differences: of :func:`reports.tables.difference_table`.
        unit: "category" or "item", the sampling unit.
    """
    rows = differences[~differences["control"].astype(bool)]
    if rows.empty or not trained(records):
        return None
    spent = looks.saved(records)
    units = "categories" if unit == "category" else "items"
    told: dict[str, Any] = {"saved": str(spent) if spent else "", "unit": units}
    told |= {"lines": [], "sentences": [], "commands": [], "cost": ""}
    judged = rows[rows["verdict"] != ""]
    if judged.empty:
        return told | _with_one_seed(records)
    alpha = ALPHA / len(judged)
    undecided = judged[judged["verdict"] == "undecided"]
    known = np.array([found.components is not None for found in undecided["crossed"]], dtype=bool)  # not of unpaired
    nearest = undecided[known].nsmallest(MOST, "p").index
    lines = [_line(records, row, alpha, units) for _, row in undecided[known].iterrows() if row.name in nearest]
    if not known.all():
        others = listed(list(undecided.loc[~known, "title"]))
        told["sentences"] = [f"Not paired, so that it is not known what more seeds or items would bring: {others}."]
    if len(lines) < known.sum():
        shown = f"Of {known.sum():,} undecided rows these are the {len(lines)} with the smallest p of no difference."
        told["sentences"].append(shown)
    if not lines and len(undecided):
        return told
    if not lines:
        return told | {"sentences": ["Every row has a verdict: nothing needs to be run for one."]}
    proposal = _proposal(records, lines)
    told |= {"lines": lines, "summary": _summary(lines, len(judged), units) if len(lines) == known.sum() else ""}
    return told | proposal | {"sentences": [*told["sentences"], *proposal["sentences"]]}


def _with_one_seed(records: Records) -> dict[str, Any]:
    sentence = (
        "No row shares two seeds with the reference, so nothing is known of how much seeds matter here. Two are the "
        "least for a verdict, and for saying here how many it takes; --seeds auto begins with two and adds seeds only "
        "to rows of which these do not say enough."
    )
    return {"sentences": [sentence], "commands": [command(records, "auto")]}


def _summary(lines: list[Line], n_judged: int, units: str) -> str:
    """Seeds or items, over the whole table."""
    by_seeds = sum(line.seeds is not None and line.seeds <= MANY for line in lines)
    by_units = sum(line.units is not None for line in lines)
    return (
        f"{len(lines)} of {n_judged} rows {'is' if len(lines) == 1 else 'are'} undecided. More seeds alone, at most "
        f"{MANY} in all, would decide {by_seeds} of them; more {units} alone, with the seeds at hand, {by_units}. Few "
        "seeds are short in two ways: they leave their own part of the error large, and they tell badly how large the "
        f"error is, which no number of {units} mends."
    )


def _line(records: Records, row: pd.Series, alpha: float, units: str) -> Line:
    found: statistics.CrossedMean = row["crossed"]
    components = found.components
    assert components is not None  # a verdict rests on two units or more
    n_units, margin = components.levels["item"], records.margin
    # as the verdict is made: corrected for the other rows, and for looks on the way
    alpha /= looks.factor(records.sweep, max(found.n_seeds, looks.looked(records.sweep) or 0))
    needed = statistics.needed(components, margin, alpha=alpha)
    goal = f"would find a difference of {records.scale.difference(margin, signed=False)}"
    distance = margin - abs(found.estimate)
    if needed.seeds is not None and needed.seeds <= found.n_seeds and distance > 0:
        # what is large would mostly have been found: what remains is to show that it is small
        needed = statistics.needed(components, distance, alpha=2 * alpha)
        goal = "would show that it is equivalent, if the difference is what it looks like"
    shares, error = _shares(components)
    text = _words(row["title"], needed, found.n_seeds, n_units, units, goal, shares)
    return Line(row["row"], row["title"], shares, error, found.n_seeds, n_units, needed.seeds, needed.units, text)


def _shares(components: statistics.Components) -> tuple[dict[str, float], float]:
    """Percentages of the variance of the mean by where they come from, and its square root."""
    levels = components.levels
    parts = {effect: v / math.prod(levels[name] for name in effect) for effect, v in components.variance.items()}
    total = sum(parts.values())
    shares = {name: parts.get(effect, 0.0) for name, effect in PARTS.items()}
    if "subject" in levels:
        shares["subjects"] = total - sum(shares.values())
    return {name: 100 * part / total if total > 0 else 0.0 for name, part in shares.items()}, math.sqrt(total)


def _words(
    title: str,
    needed: statistics.Needed,
    n_seeds: int,
    n_units: int,
    units: str,
    goal: str,
    shares: dict[str, float],
) -> str:
    if needed.seeds is None and needed.units is None:
        ways = f"neither more seeds with these {units} nor more {units} with these seeds {goal}"
    else:
        seeds = None if needed.seeds is None else f"{needed.seeds} seeds ({_more(needed.seeds, n_seeds)})"
        items = None if needed.units is None else f"{needed.units} {units} ({_more(needed.units, n_units)})"
        ways = f"{' or '.join(way for way in (seeds, items) if way)} {goal}"
        if seeds is None:
            ways += f"; no number of seeds does with these {units}"
        if items is None:
            ways += f"; no number of {units} does with {n_seeds} seeds"
    return f"{title}: {ways}. {_largest(shares, units)}"


def _more(needed: int, at_hand: int) -> str:
    return f"{needed - at_hand} more" if needed > at_hand else "no more than at hand"


def _largest(shares: dict[str, float], units: str) -> str:
    """Which part of the error is the largest, and what makes it smaller."""
    helps = {
        "items": f"what only more {units} make smaller",
        "seeds": "what only more seeds make smaller",
        "both": f"what seeds and {units} make together: more of either makes it smaller",
        "subjects": "what subjects add: only more of them make it smaller",
    }
    if not any(shares.values()):
        return "Its error is too small to have parts."
    largest = max(shares, key=lambda name: shares[name])
    return f"The largest part of its error, {shares[largest]:.0f} %, is {helps[largest]}."


def _proposal(records: Records, lines: list[Line]) -> dict[str, Any]:
    """Commands that bring the seeds, and what they cost."""
    wanted = [line for line in lines if line.seeds is not None and line.seeds <= MANY]
    sentences = []
    if left := [line.row for line in lines if line not in wanted]:
        sentences.append(
            f"Row{'s' if len(left) > 1 else ''} {listed(left)}: more than {MANY} seeds, or no number of them. More "
            "test data beside more seeds, or a wider --margin, is the shorter way."
        )
    seeds = max((max(line.seeds or 0, line.n_seeds + 1) for line in wanted), default=0)
    if not wanted:
        return {"sentences": sentences}
    rows = [row.id for row in records.rows if row.id in {line.row for line in wanted} or row.id == records.reference]
    commands = [command(records, str(seeds), rows), command(records, f"auto --max-seeds {max(seeds, 2)}", rows)]
    missing = sum(seeds - len({t.seed for t in records.of(row) if t.folder is not None}) for row in rows) * len(
        records.subjects
    )
    seconds = [t.seconds for t in records.complete if t.seconds is not None and t.row in rows]
    cost = f"{missing} trials of these rows are missing for it"
    if seconds:
        hours = missing * sum(seconds) / len(seconds) / 3600
        cost += f", about {hours:.1f} hours of computing as trials took here"
    return {"sentences": sentences, "commands": commands, "cost": f"{cost}."}
