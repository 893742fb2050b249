"""The report's image sheets: what several decoders, and several subjects, make of the same test items.

The paper's Figures 1, 3b, 3c and 7, but with items that a rule chooses.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.album import Album, Cell, Picture
from reports.collect import RecordedTrial, Records, TableRow, read_images
from reports.drawn import drawn
from reports.pairing import by_stimuli
from reports.tables import STATE_WORDS

EACH = 3  # items of each group
GROUPS = ("Best three", "Three around the median", "Worst three")

Key = int  # the number of a stimulus, see reports.collect.Records.numbered; subjects may number their items differently
Place = tuple[str, str | None]  # row and subject


class Line(NamedTuple):
    """One item, which has the same line in every sheet."""

    group: str
    name: str
    item: int
    rank: int
    stimulus: Cell | None


class Sheet(NamedTuple):
    """A table of pictures: a line an item and a column a decoder or a subject.

    ``rule`` says how items were chosen where they are others than the section's.
    """

    title: str
    lines: list[Line]
    columns: list[str]
    cells: list[list[Cell | None]]
    unfolded: bool
    rule: str = ""


@dataclass(frozen=True)
class Section:
    """What the template prints.

    Attributes:
        missing: a sentence for each row or subject without pictures.
        lines: of the reference row's stimuli; rows that were shown others have sheets of their own.
        items: which stimulus each of these lines shows.
        rows: ids of the rows that have a column or are missing.
    """

    rule: str
    lines: list[Line]
    sheets: list[Sheet]
    pictures: list[Picture]
    missing: list[str]
    items: list[Key]
    rows: list[str]


class Drawn(NamedTuple):
    """One reconstruction beside what was seen, uint8 [1 or 3, height, width], and its score."""

    stimulus: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    score: float


def section(records: Records) -> Section | None:
    """The sheets of the decoders; None where there are no two columns to compare."""
    decoders = [row for row in drawn(records) if is_decoder(row)]
    groups, album = by_stimuli(records, decoders), Album()
    parts = [part for group in groups if (part := _part(records, group, album, len(groups) > 1)) is not None]
    if not any(part.sheets for part in parts):
        return None
    first, *others = parts
    made = list(first.sheets)
    for part in others:
        titles = ", ".join(row.title for row in part.decoders)
        told = [sheet._replace(title=f"Other stimuli ({titles}): {sheet.title}") for sheet in part.sheets]
        made += [sheet._replace(rule=part.rule if sheet is told[0] else "") for sheet in told]
    missing = [sentence for part in parts for sentence in part.missing]
    rows = [row.id for row in decoders]
    return Section(first.rule, first.lines, made, album.encoded(), missing, first.items, rows)


class Part(NamedTuple):
    """The sheets of decoders that were shown the same stimuli."""

    decoders: list[TableRow]
    rule: str
    lines: list[Line]
    sheets: list[Sheet]
    missing: list[str]
    items: list[Key]


def _part(records: Records, decoders: list[TableRow], album: Album, several: bool) -> Part | None:
    """Args:
    several: other decoders were shown other stimuli, so that a single column is no longer alone.
    """
    judge, ranked = _ranked(records, decoders)
    if judge is None:
        return None
    groups = choose(len(ranked))
    shown = [(group, rank, ranked[rank]) for group, ranks in groups.items() for rank in ranks]
    keys = [int(item["key"]) for _, _, item in shown]
    drawn, missing = _read(records, decoders, keys)
    lines = [
        Line(group, str(item["name"]), int(item["item"]), rank + 1, _stimulus(item, drawn, album))
        for group, rank, item in shown
    ]
    cells = {place: _column(records, place, keys, found, album) for place, found in drawn.items()}
    sheets = _sheets(records, decoders, lines, cells, 1 if several else 2)
    rule = _rule(records, judge, list(groups), [float(item["score"]) for item in ranked])
    return Part(decoders, rule, lines, sheets, missing, keys)


def is_decoder(row: TableRow) -> bool:
    """Whether the row decodes what is to be compared: it is no floor, no ceiling and no null."""
    return row.role == "rival" or (row.role is None and not row.control)


# ---------------------------------------------------------------- the rule


def rank(records: Records, row: str) -> pd.DataFrame:
    """The items of a row from best to worst by the table's score, averaged over samples and seeds, then over subjects.

    Returns:
        Columns key, item (its number for the first subject), name (of the category) and score. Ties stand in order of
        item numbers; items that not every subject has are left out.
    """
    own = records.numbered[records.numbered["row"] == row].rename(columns={"shown": "key"})
    own = own.dropna(subset=[records.metric])
    by_subject = own.groupby(["key", "subject"])[records.metric].mean().groupby("key")
    groups = own.groupby("key")
    table = pd.DataFrame({"item": groups["item"].first(), "name": groups["category_name"].first()})
    # equal scores that were summed in another order differ in the last digits
    table = table.assign(score=by_subject.mean().round(9), n=by_subject.size())
    table = table[table["n"] == table["n"].max()].reset_index()
    up = records.facts(records.metric).higher_is_better
    return table.sort_values(["score", "item"], ascending=[not up, True])[["key", "item", "name", "score"]]


def choose(n: int) -> dict[str, range]:
    """Ranks, counted from 0, of the items to show of ``n``, by group: of few items all."""
    if n < EACH * len(GROUPS):
        return {f"All {n} items, from best to worst": range(n)}
    starts = (0, (n - EACH) // 2, n - EACH)
    return {group: range(start, start + EACH) for group, start in zip(GROUPS, starts, strict=True)}


def numbers(records: Records, trial: RecordedTrial) -> dict[Key, int]:
    """The number of each stimulus among one trial's test items."""
    own = _first_samples(records, trial)
    return dict(zip(own["key"], own["item"].astype(int), strict=True))


def _first_samples(records: Records, trial: RecordedTrial) -> pd.DataFrame:
    """A line an item of one trial: that of sample 0."""
    items = records.numbered[(records.numbered["row"] == trial.row) & (records.numbered["seed"] == trial.seed)]
    items = items[(items["sample"] == 0) & (items["subject"] == (trial.subject or ""))]
    return items.rename(columns={"shown": "key"}).sort_values("item", kind="stable")


def _ranked(records: Records, decoders: Sequence[TableRow]) -> tuple[str | None, list[dict[Hashable, Any]]]:
    """The row whose scores rank the items, which is the reference row if it has some, and the items."""
    known = records.metric in records.items
    ids = [row.id for row in decoders]
    for row in sorted(ids, key=lambda row: row != records.reference) if known else []:
        if ranked := rank(records, row).to_dict("records"):
            return row, ranked
    return None, []


def _rule(records: Records, judge: str, groups: list[str], scores: list[float]) -> str:
    """The sentences above the sheets.

    Args:
        scores: of the ranked items, from best to worst.
    """
    title = next(row.title for row in records.rows if row.id == judge)
    without = "as the reference row has no result" if records.first(records.reference) is None else "their first row"
    why = "the reference row" if judge == records.reference else without
    over = "samples, training seeds and subjects" if len(records.subjects) > 1 else "samples and training seeds"
    shown = "all are shown" if len(groups) == 1 else f"shown are the {', the '.join(groups).lower()}"
    ties = "" if len(groups) == 1 else _ties(scores)
    return (
        f"Items are chosen by a rule: the {len(scores)} test items are ranked by {records.scale.title} of {title} "
        f"({why}), averaged over {over}, ties by item number; {shown}.{ties} What that row drew by luck "
        "counts in the ranking, so it looks better at the top and worse at the bottom than it is: compare rows by the "
        "table. Shown is sample 0 of the first finished training seed, never the best sample; under each picture is "
        f"its own score, {records.scale.axis}."
    )


def _ties(scores: list[float]) -> str:
    """How many items share the best or the worst score, where they are more than are shown."""
    ends = {"best": sum(score == scores[0] for score in scores), "worst": sum(score == scores[-1] for score in scores)}
    told = [f"{n} items share the {end} score" for end, n in ends.items() if n > EACH]
    return f" {' and '.join(told)}: which of them are shown says nothing." if told else ""


# ---------------------------------------------------------------- the pictures


def _read(
    records: Records, decoders: Sequence[TableRow], keys: list[Key]
) -> tuple[dict[Place, dict[Key, Drawn]], list[str]]:
    """What each decoder drew for each subject, and sentences on those of which there is nothing to show."""
    found: dict[Place, dict[Key, Drawn]] = {}
    missing: list[str] = []
    for row in decoders:
        why: dict[str, str] = {}
        for subject in records.subjects:
            trials = [trial for trial in records.of(row.id) if trial.subject == subject]
            trial = next((trial for trial in trials if trial.folder is not None), None)
            try:
                if trial is None:
                    raise ValueError(_state(trials))
                found[row.id, subject] = _drawn(records, trial, keys)
            except (OSError, ValueError) as error:
                why[str(subject)] = str(error)
        missing += _sentences(row, why, len(records.subjects))
    return found, missing


def _drawn(records: Records, trial: RecordedTrial, keys: list[Key]) -> dict[Key, Drawn]:
    """One trial's pictures of the items that it has.

    Raises:
        OSError, ValueError: they cannot be read.
    """
    assert trial.folder is not None
    own = _first_samples(records, trial).set_index("key")[["item", records.metric]].to_dict("index")
    there = [key for key in keys if key in own]
    images = read_images(trial.folder, [int(own[key]["item"]) for key in there])
    pairs = zip(there, images["stimuli"], images["reconstructions"], strict=True)
    return {key: Drawn(stimulus, pixels, float(own[key][records.metric])) for key, stimulus, pixels in pairs}


def _state(trials: Sequence[RecordedTrial]) -> str:
    """Why there is no finished trial, in words."""
    words = dict.fromkeys(
        f"{STATE_WORDS.get(trial.state, trial.state)}{f' ({trial.error[:160]})' if trial.error else ''}"
        for trial in trials
    )
    return ", ".join(words)


def _sentences(row: TableRow, why: dict[str, str], n_subjects: int) -> list[str]:
    """One sentence where no subject has pictures for one and the same reason, else one a subject."""
    if len(why) == n_subjects and len(set(why.values())) == 1:
        return [f"{row.title}: {next(iter(why.values()))}"]
    return [f"{row.title}, subject {subject}: {reason}" for subject, reason in why.items()]


def _stimulus(item: dict[Hashable, Any], drawn: dict[Place, dict[Key, Drawn]], album: Album) -> Cell | None:
    """The stimulus as the first row that has it left it."""
    pixels = next((found[item["key"]].stimulus for found in drawn.values() if item["key"] in found), None)
    return None if pixels is None else album.add(pixels, f"Stimulus: {item['name']}")


def _column(
    records: Records, place: Place, keys: list[Key], found: dict[Key, Drawn], album: Album
) -> list[Cell | None]:
    """Cells of one row and subject; None where the subject did not see the item."""
    row, subject = place
    title = next(r.title for r in records.rows if r.id == row)
    who = title if subject is None else f"{title}, subject {subject}"
    return [
        album.add(found[key].pixels, who, records.scale.number(found[key].score)) if key in found else None
        for key in keys
    ]


# ---------------------------------------------------------------- the sheets


def _sheets(
    records: Records,
    decoders: Sequence[TableRow],
    lines: list[Line],
    cells: dict[Place, list[Cell | None]],
    least: int,
) -> list[Sheet]:
    """All decoders for each subject, then all subjects for each decoder.

    Unfolded are the first subject's sheet and, of several subjects, the reference row's.

    Args:
        least: columns of a sheet of decoders; all subjects of one are two at least.
    """
    titles = {row.id: f"{row.title} (reference)" if row.id == records.reference else row.title for row in decoders}
    several = len(records.subjects) > 1
    sheets = []
    for subject in records.subjects:
        columns = [(title, cells[row, subject]) for row, title in titles.items() if (row, subject) in cells]
        title = f"All decoders, subject {subject}" if several else "All decoders"
        if len(columns) >= least:
            sheets.append(_sheet(title, lines, columns, subject == records.subjects[0]))
    for row, title in titles.items():
        columns = [(f"subject {s}", cells[row, s]) for s in records.subjects if (row, s) in cells]
        if len(columns) > 1:
            sheets.append(_sheet(f"{title}, all subjects", lines, columns, row == records.reference))
    return sheets


def _sheet(title: str, lines: list[Line], columns: list[tuple[str, list[Cell | None]]], unfolded: bool) -> Sheet:
    cells = [list(line) for line in zip(*(cells for _, cells in columns), strict=True)]
    return Sheet(title, lines, [name for name, _ in columns], cells, unfolded)
