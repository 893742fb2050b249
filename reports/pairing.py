"""One row against another, of the same sweep or of another one: paired where the stimuli are the same, else not.

Where stimuli and training seeds are the same the difference is paired; where they are not it is that of two
independent means, whose errors add up. Where the metric or the judge is another one, or one side is simulated and the
other is not, there is no verdict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from cnd import statistics
from cnd.statistics import CrossedMean, Error
from reports.collect import MetricFacts, Records, TableRow
from reports.inference import (
    Crossed,
    Scored,
    by_run,
    categories,
    crossed,
    crossed_scores,
    difference_line,
    finished_runs,
)
from reports.stimuli import shared

LEAST_SHARED = 0.5  # of either side's stimuli, for a paired difference
BOTH = "stimulus and seed"  # what a whole difference is paired by
NAN = float("nan")


class Place(NamedTuple):
    """A row of a sweep."""

    records: Records
    row: str

    @property
    def simulated(self) -> bool:
        trial = self.records.first(self.row)
        return bool(trial and trial.summary.get("simulated"))

    @property
    def judge(self) -> str:
        """What gives the classes of n-way scores; a judge without settings of its own is the generator's."""
        trial = self.records.first(self.row)
        experiment = trial.experiment if trial else {}
        evaluation = experiment.get("evaluation", {})
        first = (evaluation.get("classifiers") or [{}])[0]
        named = {"judge": first, "truth": evaluation.get("truth"), "top_k": evaluation.get("top_k")}
        owner = {"generator": experiment.get("generator")} if set(first) <= {"kind"} else {}
        return json.dumps(named | owner, sort_keys=True)

    def measures(self, metric: str) -> bool:
        """Whether its sweep has scores of a metric."""
        return any(m.name == metric for m in self.records.metrics)


def obstacles(own: Place, reference: Place, metric: MetricFacts) -> list[str]:
    """Why nothing may be concluded of a row against another one.

    Args:
        metric: as the reference has it.
    """
    found = []
    if own.simulated != reference.simulated:
        found.append("simulated against real data" if own.simulated else "real against simulated data")
    if not own.measures(metric.name):
        return [*found, f"another metric, {own.records.scale.title}"]
    facts = own.records.facts_of(own.row, metric.name)
    if replace(facts, note="", title="") != replace(metric, note="", title=""):
        found.append(f"{metric.title} with other bounds, direction or chance level")
    if metric.name.startswith("nway") and own.judge != reference.judge:
        found.append(f"another judge of {metric.title}, so that scores do not compare")
    return found


def difference(own: Place, reference: Place, metric: MetricFacts, margin: float) -> tuple[dict[str, Any], str]:
    """A row less another, as :func:`reports.inference.difference_line`, and what was paired; nothing without scores.

    Args:
        margin: within which two rows count as equivalent.
    """
    better = 1 if metric.higher_is_better else -1
    places = (own, reference)
    runs = finished_runs(*own) & finished_runs(*reference)
    found, n_shared = paired(own, reference, metric.name)
    if found is not None:
        sides = [crossed_scores(*place, metric.name, runs) for place in places]
        by = BOTH
        if not all(side is not None and len(side.items) == n_shared for side in sides):
            by += f", {n_shared} stimuli of both"
        return difference_line(found, metric.bounds, better, margin), by
    one, two = (crossed_scores(*place, metric.name) for place in places)
    if one is None or two is None:
        return {}, ""
    why = "other stimuli" if runs else "other seeds or subjects"
    return unpaired(one, two, metric.bounds, margin), f"not paired: {why}"


def of_some_runs(own: Place, reference: Place) -> str:
    """How many runs two rows share, where one has more; "" where they share all, or none."""
    sides = [finished_runs(*place) for place in (own, reference)]
    n_shared, most = len(set.intersection(*sides)), max(map(len, sides))
    return f", {n_shared} of {most} runs" if 0 < n_shared < most else ""


def paired(own: Place, reference: Place, metric: str) -> tuple[Crossed | None, int]:
    """Differences at equal stimuli, seeds and subjects, and how many stimuli these are; None where they are too few.

    The two share their catalogue of stimuli.
    """
    # a subject or seed that only one of the two has finished would compare those, not rows
    runs = finished_runs(*own) & finished_runs(*reference)
    if not runs or not all(place.measures(metric) for place in (own, reference)) or not same_stimuli(own, reference):
        return None, 0
    first, second = (by_run(*place, metric) for place in (own, reference))
    both = {run: less(first[run], second[run]) for run in runs if run in first and run in second}
    found = crossed(both, categories(*reference), runs)
    return found, 0 if found is None else len(found.items)


def less(first: Scored, second: Scored) -> Scored:
    """Differences at the items of both."""
    (one, values), (other, subtracted) = first, second
    if np.array_equal(one, other):
        return one, values - subtracted
    items, here, there = np.intersect1d(one, other, return_indices=True)
    return items, values[here] - subtracted[there]


def same_stimuli(own: Place, reference: Place) -> bool:
    """Whether two rows that share their catalogue were shown the same stimuli, most of them at least."""
    one, two = (records.shown_to.get(row, frozenset()) for records, row in (own, reference))
    return shared(one, two) >= LEAST_SHARED


def may_stand_beside(own: Place, reference: Place) -> bool:
    """Whether a row's scores may be paired with the reference row's, as far as both have some."""
    if any(place.records.first(place.row) is None for place in (own, reference)):
        return True
    metric = reference.records.facts(reference.records.metric)
    return same_stimuli(own, reference) and not obstacles(own, reference, metric)


def by_stimuli(records: Records, rows: Sequence[TableRow]) -> list[list[TableRow]]:
    """Rows that were shown the same stimuli together: first those with the reference row's and those without a result.

    Each group is in order, and none is empty.
    """
    finished = [row.id for row in rows if records.first(row.id) is not None]
    leaders = [records.reference] if records.first(records.reference) is not None else finished[:1]
    groups: dict[str, list[TableRow]] = {leader: [] for leader in leaders or [""]}
    for row in rows:
        place = Place(records, row.id)
        same = (leader for leader in groups if same_stimuli(place, Place(records, leader)))
        leader = next(same, row.id) if row.id in finished else next(iter(groups))
        groups.setdefault(leader, []).append(row)
    return [group for group in groups.values() if group]


def unpaired(own: Crossed, reference: Crossed, bounds: tuple[float, float], margin: float) -> dict[str, Any]:
    """The same numbers of two independent means: their errors add up (as Welch's), each part with its own freedom.

    Where the stimuli are the same after all, the two move together and the interval is wider than it need be.
    """
    one, two = (statistics.crossed_mean(c.values, c.units) for c in (own, reference))
    error = Error(one.error.variances + two.error.variances, one.error.freedoms + two.error.freedoms)
    estimate, several = one.estimate - two.estimate, min(one.n_seeds, two.n_seeds) > 1
    known = math.isfinite(error.standard)
    half = error.half_width(0.025) if known else NAN
    widest = bounds[1] - bounds[0]
    found = CrossedMean(
        estimate, max(estimate - half, -widest), min(estimate + half, widest), min(one.n_units, two.n_units),
        min(one.n_seeds, two.n_seeds), error, 2 * error.tail(abs(estimate)) if several and known else None, None,
    )  # fmt: skip
    equivalent = statistics.equivalence_p(found, margin)
    line: dict[str, Any] = {"difference": estimate, "low": found.low, "high": found.high, "error": error.standard}
    line |= {"freedom": error.freedom() if known else NAN}
    line |= {"p": NAN if found.p_value is None else found.p_value, "n_units": found.n_units, "crossed": found}
    line |= {"p_equivalent": NAN if equivalent is None else equivalent, "detectable": found.detectable}
    return line | {"n_seeds": found.n_seeds}
