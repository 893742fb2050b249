"""Which metrics stand in the main table, and all of them side by side."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd

from cnd.errors import UserError
from reports.collect import UNSEEN, MetricFacts, Records

MARK = ": not computed. "  # of a metric's note, between its title and the reason
N_SHOWN = 4  # columns of the main table, unless some are asked for


class Column(NamedTuple):
    """A metric of the table of all metrics.

    Attributes:
        title: what tells it from the others of its group; the whole title where it is alone.
        level: of chance, as people read it; "" where there is none.
    """

    metric: MetricFacts
    title: str
    level: str


def shown(records: Records) -> list[MetricFacts]:
    """The table's metric first, then those that were asked for (``--metrics``), else the next ones that were measured.

    Of stimuli that the judge had not seen, the table's metric comes second. Names that no record knows are left out:
    the command that chose them has checked them, and trials may have failed.
    """
    by_name = {metric.name: metric for metric in records.metrics}
    asked = [str(name) for name in records.sweep.get("metrics") or () if name in by_name]
    wanted = [records.metric, *(asked or [f"{records.metric}/{UNSEEN}", *by_name])]
    chosen = [by_name[name] for name in dict.fromkeys(wanted) if name in by_name]
    return chosen if asked else chosen[:N_SHOWN]


def measured(name: str, known: Collection[str]) -> bool:
    """Whether a metric is among those with such names; any may be asked for stimuli that were not seen."""
    return name in known or name.removesuffix(f"/{UNSEEN}") in known


def check(names: Sequence[str], known: Collection[str]) -> None:
    """Raises:
    UserError: a name is none of those that are measured.
    """
    for name in names:
        if not measured(name, known):
            raise UserError(f"--metrics: '{name}' is not measured; choose among {', '.join(known) or 'none'}")


def section(records: Records, scores: pd.DataFrame) -> dict[str, Any]:
    """What the table of all metrics prints, and why some metrics were not computed.

    Args:
        scores: the score table.

    Returns:
        ``groups``, each with a title and its columns (empty where the main table has all); ``rows`` with a table of
        scores each, by metric; ``reasons``, each with the titles of the metrics that it kept from being computed.
    """
    rest = len(records.metrics) > len(shown(records))
    cells: dict[str, dict[str, Any]] = {}
    for line in scores.to_dict("records"):
        cells.setdefault(line["row"], {})[line["metric"]] = line
    rows = [{"row": row, "scores": cells[row.id]} for row in records.rows if row.id in cells]
    return {"groups": grouped(records.metrics) if rest else [], "rows": rows, "reasons": reasons(records)}


def grouped(metrics: Sequence[MetricFacts]) -> list[dict[str, Any]]:
    """Metrics whose titles begin alike (up to a comma) together, in the order in which their groups come up."""
    kinds = list(dict.fromkeys(_kind(m) for m in metrics))
    ordered = sorted(metrics, key=lambda m: kinds.index(_kind(m)))
    found = []
    for kind, members in groupby(ordered, _kind):
        columns = [Column(m, m.title[len(kind) :].lstrip(", "), _level(m)) for m in members]
        alone = len(columns) == 1
        title = columns[0].metric.title if alone else kind
        unit = ", %" if columns[0].metric.percent else ""
        found.append({"title": title + unit, "columns": [c._replace(title="") for c in columns] if alone else columns})
    return found


def _kind(metric: MetricFacts) -> str:
    return metric.title.partition(", ")[0]


def _level(metric: MetricFacts) -> str:
    return "" if metric.chance is None else metric.scale.number(metric.chance)


def computed(notes: Sequence[str]) -> list[str]:
    """Notes on metrics without those that say why one was not computed, which :func:`reasons` tells."""
    return [note for note in notes if MARK not in note]


def reasons(records: Records) -> dict[str, list[str]]:
    """Titles of the metrics that no record has a score of, by why that is, as far as they tell."""
    found: dict[str, list[str]] = {}
    for metric in records.metrics:
        title, mark, reason = metric.note.partition(MARK)
        if mark and title == metric.title.removesuffix(f", {UNSEEN}"):
            found.setdefault(reason, []).append(metric.title)
    return found
