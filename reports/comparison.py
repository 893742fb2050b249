"""Sweeps, or single rows of them, side by side: across experiments and output folders.

Every row is compared with one reference, the first sweep's, by the rules of :mod:`reports.pairing`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cnd import statistics
from cnd.errors import UserError, nearest
from cnd.store.tracking import flatten
from reports import exports, figures, looks
from reports.collect import MetricFacts, RecordedTrial, Records, read_sweep
from reports.inference import crossed_scores
from reports.page import Picture, environment, picture, sorting, style, write
from reports.pairing import Place, difference, obstacles, of_some_runs
from reports.stimuli import Catalogue, read_pictures
from reports.tables import judged
from reports.text import words

LONGEST = 120  # characters of a page's name
NAN = float("nan")
NOT_COMPARED = ("name", "description", "seed", "rivals", "minutes_per_trial")  # settings that change no result


@dataclass(frozen=True, eq=False)
class Side:
    """One sweep of a comparison.

    Attributes:
        label: what it is called here.
        output: the folder that its results lie below.
        row: the only one of its rows that is compared; None for all.
    """

    label: str
    output: Path
    records: Records
    row: str | None

    @property
    def rows(self) -> list[str]:
        """Ids of the rows that are compared and have a result, in the table's order."""
        chosen = [r.id for r in self.records.rows if self.row in (None, r.id)]
        return [row for row in chosen if self.records.first(row) is not None]

    @property
    def anchor(self) -> str:
        """The row that stands for the sweep: the chosen one, or its reference."""
        return self.row or self.records.reference

    @property
    def trial(self) -> RecordedTrial | None:
        """The run that its settings and stimuli are read from."""
        return self.records.first(self.anchor) or next(iter(self.records.complete), None)

    @property
    def place(self) -> Place:
        """The row that stands for it, to be compared."""
        return Place(self.records, self.anchor)

    @property
    def simulated(self) -> bool:
        return bool(self.trial and self.trial.summary.get("simulated"))

    def title(self, row: str) -> str:
        return next(r.title for r in self.records.rows if r.id == row)


class Comparison(NamedTuple):
    """What a comparison found.

    Attributes:
        table: a line a row: sweep, row, title, control, reference, metric, scale, score, low, high, difference, ...
            (as :func:`reports.tables.difference_table`), paired (by what).
        loud: why some sweeps get no verdict, and that data are simulated.
        notes: further sentences.
        settings: a line a setting in which the sweeps differ: key, then a value a sweep.
    """

    sides: list[Side]
    metric: MetricFacts
    table: pd.DataFrame
    loud: list[str]
    notes: list[str]
    settings: list[tuple[str, list[str]]]

    @property
    def mixed(self) -> bool:
        """Whether some rows show another metric."""
        return bool(self.table["metric"].ne(self.metric.name).any())


# ---------------------------------------------------------------- which sweeps


def find_side(argument: str, output: Path) -> Side:
    """The sweep or row that an argument of ``compare`` means.

    Args:
        argument: ``NAME-EXPERIMENT`` below ``output``, the path of a sweep's folder, or either with ``:ROW``.
        output: the ``--output`` folder.

    Raises:
        UserError: there is no such sweep, or no such row with a result in it.
    """
    folder, row = _folder(argument, output), None
    if folder is None:
        name, _, row = argument.rpartition(":")
        folder = _folder(name, output) if name else None
    if folder is None:
        there = [path.name for path in sorted((output / "sweeps").glob("*")) if (path / "sweep.json").is_file()]
        known = f"; there: {', '.join(there)}" if there else ""
        raise UserError(
            f"compare {argument}: no such sweep in {output / 'sweeps'}, and no folder with a sweep.json"
            f"{nearest(argument.partition(':')[0], there)}{known}"
        )
    whole = folder.parent.parent
    side = Side(folder.name, whole, read_sweep(whole, folder), row)
    if row is not None and row not in (ids := [r.id for r in side.records.rows]):
        raise UserError(f"compare {argument}: there is no row '{row}' in {folder}; valid: {', '.join(ids)}")
    if not side.rows:
        raise UserError(f"compare {argument}: no finished trial in {folder}; run it first")
    return side


def _folder(name: str, output: Path) -> Path | None:
    for folder in (output / "sweeps" / name, Path(name).expanduser().absolute()):
        if (folder / "sweep.json").is_file():
            return folder.resolve()
    return None


def named_apart(sides: Sequence[Side]) -> list[Side]:
    """The sides with different labels: rows where one is meant, then output folders, then numbers."""
    labels = [side.label if side.row is None else f"{side.label}:{side.row}" for side in sides]
    if len(set(labels)) < len(labels):
        labels = [
            f"{side.output.name}/{label}" if labels.count(label) > 1 else label
            for side, label in zip(sides, labels, strict=True)
        ]
    repeated = [label for label in labels if labels.count(label) > 1]
    labels = [f"{label} ({i})" if label in repeated else label for i, label in enumerate(labels, start=1)]
    return [replace(side, label=label) for side, label in zip(sides, labels, strict=True)]


def in_one_catalogue(sides: Sequence[Side]) -> list[Side]:
    """The sides with their stimuli numbered together, those of the first one first."""
    shared = Catalogue()
    sides = [replace(side, records=replace(side.records, catalogue=shared)) for side in sides]
    for side in sides:
        _ = side.records.numbered
    return sides


# ---------------------------------------------------------------- the comparison


def compare(sides: list[Side], margin: float | None = None) -> Comparison:
    """Compare every row with the first sweep's reference, or its row where one is named.

    Args:
        margin: as ``--margin``; None takes the first sweep's.

    Raises:
        UserError: the first sweep's reference row has no result.
    """
    if margin is not None:
        first = sides[0]
        told = replace(first.records, sweep=first.records.sweep | {"margin": margin})
        sides = [replace(first, records=told), *sides[1:]]
    sides = in_one_catalogue(named_apart(sides))
    first = sides[0]
    if first.anchor not in first.rows:
        raise UserError(f"compare {first.label}: its reference row {first.anchor} has no result; run it first")
    metric = shared_metric(sides)
    against = {side.label: obstacles(side.place, first.place, metric) for side in sides}
    lines = [_line(first, side, row, metric, bool(against[side.label])) for side in sides for row in side.rows]
    table = _with_verdicts(pd.DataFrame(lines), metric, sides)
    loud = [f"{label}: {why}. No verdict." for label, reasons in against.items() for why in reasons]
    simulated = [side.label for side in sides if side.simulated]
    if simulated:
        which = "Data are simulated" if len(simulated) == len(sides) else f"Simulated: {', '.join(simulated)}"
        loud.append(f"{which}. Nothing of that is a measurement of a human brain.")
    return Comparison(sides, metric, table, loud, _notes(sides, metric, table), _settings(sides))


def shared_metric(sides: Sequence[Side]) -> MetricFacts:
    """The metric of the first sweep that most of the others measured too; of several its table's, then in order."""
    first = sides[0].records
    ordered = sorted(first.metrics, key=lambda m: m.name != first.metric)  # stable
    return max(ordered, key=lambda m: sum(side.place.measures(m.name) for side in sides))


def _line(first: Side, side: Side, row: str, metric: MetricFacts, no_verdict: bool) -> dict[str, Any]:
    records = side.records
    facts = records.facts(metric.name if side.place.measures(metric.name) else records.metric)
    told = next(r for r in records.rows if r.id == row)
    reference = side is first and row == first.anchor
    line: dict[str, Any] = {"sweep": side.label, "row": row, "title": told.title, "control": told.control}
    line |= {"role": told.role, "reference": reference, "metric": facts.name, "scale": facts.scale}
    line |= {"n_seeds_finished": len({t.seed for t in records.of(row) if t.folder is not None}), "paired": ""}
    scores = crossed_scores(records, row, facts.name)
    if scores is None:
        return line | dict.fromkeys(("score", "low", "high"), NAN)
    mean = statistics.crossed_mean(scores.values, scores.units, bounds=facts.bounds)
    line |= {"score": mean.estimate, "low": mean.low, "high": mean.high}
    if reference or not side.place.measures(metric.name):
        return line
    place = Place(records, row)
    found, by = difference(place, first.place, metric, first.records.margin)
    by += of_some_runs(place, first.place) if by and not by.startswith("not") else ""
    if no_verdict:
        found |= {"p": NAN, "p_equivalent": NAN}
    renamed = {"low": "difference_low", "high": "difference_high"}
    return line | {renamed.get(name, name): value for name, value in found.items()} | {"paired": by}


def _with_verdicts(table: pd.DataFrame, metric: MetricFacts, sides: list[Side]) -> pd.DataFrame:
    """Adjusted p-values and verdicts; of sweeps whose seeds were spent row by row, the most looks count."""
    for name in ("difference", "difference_low", "difference_high", "p", "p_equivalent", "n_seeds"):
        table[name] = table[name].astype(float) if name in table else NAN
    if "crossed" not in table:
        table["crossed"] = None
    looked_at = max((side.records.sweep for side in sides), key=lambda sweep: looks.looked(sweep) or 0)
    return judged(table, metric.higher_is_better, looked_at)


# ---------------------------------------------------------------- in words


def _notes(sides: list[Side], metric: MetricFacts, table: pd.DataFrame) -> list[str]:
    first = sides[0]
    compared = table[~table["control"].astype(bool) & ~table["reference"]]
    found = []
    verdicts = [
        f"{words(first.records, verdict)}: {', '.join(_places(compared[compared['verdict'] == verdict])) or 'none'}"
        for verdict in ("better", "worse", "equivalent", "undecided")
    ]
    against = f"{first.title(first.anchor)} of {first.label}"
    if compared["verdict"].ne("").any():
        found.append(f"Against {against}: {'; '.join(verdicts)}.")
    else:
        found.append(f"Nothing is concluded against {against}: a verdict needs two training seeds of both, or more.")
    level = "" if metric.chance is None else f"; chance is {metric.scale.score(metric.chance)}"
    among = " or ".join(dict.fromkeys(told for s in sides if (told := s.records.facts(metric.name).among)))
    found.append(f"The score is {metric.title}{among and f', among {among}'}{level}.")
    others = [f"of {s.label} {s.records.scale.title}" for s in sides if s.records.metric != metric.name]
    if others:
        found.append(f"The score of their own tables is another one: {', '.join(others)}.")
    for key, group in compared[compared["paired"].ne("")].groupby("paired", sort=False):
        by = str(key)
        which = "all rows" if len(group) == len(compared) else ", ".join(_places(group))
        told = f"Paired by {by}" if not by.startswith("not") else by[0].upper() + by[1:]
        found.append(f"{told} ({which}).")
    beside = [key for key, _ in _settings(sides) if key.partition(".")[0] in ("data", "split", "generator")]
    if beside:
        found.append(f"Not only decoders differ but {', '.join(beside)}: a verdict is on the whole experiment.")
    pictures = [read_pictures(side.trial.folder)[:1] for side in sides if side.trial]
    sizes = {picture.size for kept in pictures for picture in kept}
    if len(sizes) > 1:
        found.append("Stimuli were kept in different sizes: they are the same by name and category only.")
    return found


def _places(table: pd.DataFrame) -> list[str]:
    return [f"{title} ({sweep})" for title, sweep in zip(table["title"], table["sweep"], strict=True)]


def _settings(sides: list[Side]) -> list[tuple[str, list[str]]]:
    """Where the sweeps' anchors differ."""
    flat = [flatten(side.trial.experiment) if side.trial else {} for side in sides]
    keys = [key for key in dict.fromkeys(k for one in flat for k in one) if key.partition(".")[0] not in NOT_COMPARED]
    shown = [(key, [str(one[key]) if key in one else "–" for one in flat]) for key in keys]
    return [(key, values) for key, values in shown if len(set(values)) > 1]


# ---------------------------------------------------------------- the page


def write_page(found: Comparison, output: Path) -> Path:
    """``output/reports/compare-A-B.html``, with its tables beside it."""
    named = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "-", side.label).strip("-") for side in found.sides)
    if len(named) > LONGEST:
        named = f"{named[:LONGEST]}-{hashlib.sha256(named.encode()).hexdigest()[:8]}"
    path = output / "reports" / f"compare-{named}.html"
    html, files = exports.with_files(_html(found), exports.folder_of(path).name)
    path.parent.mkdir(parents=True, exist_ok=True)
    exports.write_files(exports.folder_of(path), files)
    write(path, html)
    return path


def _html(found: Comparison) -> str:
    lines = found.table.to_dict("records")
    content = {"style": style(), "found": found, "lines": lines, "forest": _forest(found)}
    return environment().get_template("comparison.html").render(content | sorting())


def _forest(found: Comparison) -> Picture | None:
    drawn = found.table[found.table["difference"].notna()]
    if drawn.empty:
        return None
    titles = drawn["sweep"] + ": " + drawn["title"] if len(found.sides) > 1 else drawn["title"]
    plotted = drawn.assign(row=drawn["sweep"] + "\n" + drawn["row"], title=titles)
    plotted = plotted.assign(low=drawn["difference_low"], high=drawn["difference_high"])
    single = pd.DataFrame(columns=["row", "seed", "difference"])
    first = found.sides[0]
    figure = figures.forest_plot(plotted, NAN, single, found.metric.scale, first.records.margin)
    return picture(figure, f"Difference of each row from {first.title(first.anchor)} of {first.label}")
