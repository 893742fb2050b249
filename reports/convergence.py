"""The report's section on whether its rows had converged: curves of the validation score, and what each row took."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cnd import statistics
from cnd.statistics import Rise
from cnd.store.convergence import PAIRED, State, curve_ends, units, verdict
from reports.collect import RecordedTrial, Records
from reports.drawn import drawn, listed
from reports.scale import Scale

WORDS: dict[State, str] = {
    "yes": "yes",
    "no": "NOT CONVERGED",
    "at chance": "flat at chance",
    "not measured": "not measured",
    "no training": "no training",
}
KEY = ["subject", "seed", *PAIRED, "stimulus"]  # equal numbers may mean other stimuli


@dataclass(frozen=True)
class RowState:
    """Whether one row had converged, over its seeds and subjects.

    Attributes:
        moved: whether it still changed places with another row of the table.
    """

    state: State
    rise: Rise | None
    moved: bool = False

    @property
    def word(self) -> str:
        """As the table has it."""
        return WORDS[self.state]

    def why(self, scale: Scale) -> str:
        """The reason, or the number behind the word; empty where nothing was measured."""
        if self.rise is None:
            return ""
        told = f"{scale.signed(self.rise.estimate)} ± {scale.number(self.rise.standard_error)}"
        return f"{told}; changes places" if self.moved else told


@lru_cache(maxsize=1)  # the table, the headline and the section ask for the same
def states(records: Records) -> dict[str, RowState]:
    """Of each row that has a finished trial."""
    folders = {row.id: [t.folder for t in records.of(row.id) if t.folder is not None] for row in records.rows}
    read = _read(records)
    verdicts = {row: verdict(found, read.__getitem__) for row, found in folders.items() if found}
    moved = _moved(records, [row.id for row in records.rows if not row.control and row.id in verdicts])
    found: dict[str, RowState] = {}
    for row, known in verdicts.items():
        state: State = "no" if row in moved and known.state in ("yes", "at chance") else known.state
        found[row] = RowState(state, known.rise, row in moved)
    return found


@lru_cache(maxsize=1)
def _read(records: Records) -> dict[Path, pd.DataFrame | None]:
    """The ends of every curve, by record."""
    return {trial.folder: curve_ends(trial.folder) for trial in records.complete if trial.folder is not None}


def _moved(records: Records, rows: list[str]) -> set[str]:
    """Rows whose place among the others still changes, by the items that all of them have."""
    of = {str(row): own for row, own in _ends(records).groupby("row", sort=False)}
    ends = {row: of[row] for row in rows if row in of}
    if len(ends) < 2:
        return set()
    first = next(iter(ends.values()))
    shared = first["key"].to_numpy()
    for table in ends.values():
        keys = table["key"].to_numpy()
        shared = shared if np.array_equal(keys, shared) else shared[np.isin(shared, keys)]
    if not len(shared):
        return set()
    places = [pd.Index(table["key"]).get_indexer(pd.Index(shared)) for table in ends.values()]
    before, after = (
        np.stack([table[at].to_numpy()[place] for table, place in zip(ends.values(), places, strict=True)])
        for at in ("before", "after")
    )
    changed = statistics.changing_places(before, after, units(first.iloc[places[0]]))
    return {row for row, changes in zip(ends, changed, strict=True) if changes}


@lru_cache(maxsize=1)
def _ends(records: Records) -> pd.DataFrame:
    """Scores at three quarters and at the end of every row, with the number ``key`` of each item.

    Items are the same where subject, seed, fold, item and stimulus are.
    """
    parts = []
    for trial in records.complete:
        ends = None if trial.folder is None else _read(records)[trial.folder]
        if ends is not None:
            parts.append(ends.assign(row=trial.row, subject=trial.subject or "", seed=trial.seed))
    if not parts:
        return pd.DataFrame(columns=["row", "category", "stimulus", "before", "after", "key"])
    whole = pd.concat(parts, ignore_index=True)
    return whole.assign(key=whole.groupby(KEY, sort=False).ngroup())


def sentences(records: Records, found: dict[str, RowState]) -> list[str]:
    """What the headline says: how many rows had not converged, and what the table then tells."""
    table = {row.id: found[row.id] for row in records.rows if not row.control and row.id in found}
    measured = {row: state for row, state in table.items() if state.state in ("yes", "no", "at chance")}
    if not measured:
        unknown = any(state.state == "not measured" for state in table.values())
        return ["Whether the rows had converged was not measured."] if unknown else []
    rest = [row for row, state in table.items() if state.state == "not measured"]
    tail = [f"Of {_rows(rest)} it was not measured."] if rest else []
    common, scale = common_rise(records), records.metrics[0].scale
    together = []
    if common is not None and common.still_rising:
        gain = f"{scale.difference(common.estimate)} (± {scale.number(common.standard_error)})"
        together = [f"All rows together still rose by {gain}, which a single row's noise may hide."]
    late = [row for row, state in measured.items() if state.state == "no"]
    if nothing := [row for row, state in measured.items() if state.state == "at chance"]:
        told = f"The validation score of {_rows(nothing)} is flat at chance: it has not begun to learn, or cannot."
        if len(nothing) == len(measured):
            return [told, *tail]
        tail = [told, *tail]
        measured = {row: state for row, state in measured.items() if state.state != "at chance"}
    if not late:
        all_of_them = "The row had" if len(table) == 1 else f"All {len(measured)} {'other ' if nothing else ''}rows had"
        told = f"Row {next(iter(measured))} had" if len(measured) == 1 < len(table) else all_of_them
        return [f"{told} converged, as far as the validation score tells: see Convergence.", *together, *tail]
    return [
        f"{len(late)} of {len(measured)} rows had NOT CONVERGED ({_rows(late)}): their validation score still rose "
        "over the last quarter of training, or their order still changed. So the table tells what learns fastest, not "
        "what decodes best; train longer, or with --until-converged.",
        *together,
        *tail,
    ]


def _rows(ids: list[str]) -> str:
    return f"row{'s' if len(ids) > 1 else ''} {listed(ids)}"


@lru_cache(maxsize=1)
def common_rise(records: Records) -> Rise | None:
    """The rise of all rows of the table together, whose noise is much smaller than a single row's."""
    rows = [row.id for row in records.rows if not row.control]
    ends = _ends(records)
    ends = ends[ends["row"].isin(rows)]
    if ends["row"].nunique() < 2:
        return None
    mean = ends.groupby("key", sort=False).agg(
        {"category": "first", "stimulus": "first", "before": "mean", "after": "mean"}
    )
    return statistics.rise(mean["before"], mean["after"], units(mean))


def curves(records: Records) -> pd.DataFrame:
    """Mean validation score by row and samples seen: columns row, title, control, samples_seen, score.

    A point counts where every seed, subject and fold of the row has one: trainings may end at different steps.
    """
    history = records.history({row.id for row in drawn(records)})
    history = history[history["name"] == "validation_score"]
    points = history.groupby(["row", "samples_seen"])["value"].agg(["mean", "count"]).reset_index()
    if points.empty:
        return pd.DataFrame(columns=["row", "title", "control", "samples_seen", "score"])
    whole = points[points["count"] == points.groupby("row")["count"].transform("max")]
    rows = {row.id: row for row in records.rows}
    titles = [rows[row].title for row in whole["row"]]
    controls = [rows[row].control for row in whole["row"]]
    named = whole.assign(title=titles, control=controls, score=whole["mean"].astype(float))
    return named[["row", "title", "control", "samples_seen", "score"]]


def took(records: Records, found: dict[str, RowState]) -> list[dict[str, Any]]:
    """What each finished row took, means over its subjects and seeds; NaN where the records do not say.

    A line has title, trainable (parameters), steps, samples_seen, seconds_scoring; seconds as a whole, of Phase 1, of
    the training after it, and of drawing; and word, why and late on its convergence.
    """
    lines = []
    for row in (row for row in records.rows if row.id in found):
        told = pd.DataFrame([_took(trial) for trial in records.of(row.id) if trial.folder is not None])
        state = found[row.id]
        line: dict[str, Any] = {"title": row.title, "word": state.word, "late": state.state == "no"}
        line["why"] = state.why(records.metrics[0].scale)
        lines.append(line | {str(name): float(told[name].mean()) for name in told})
    return lines


def _took(trial: RecordedTrial) -> dict[str, float]:
    """Numbers of one trial. Steps that it shares with others count whole: what it would take by itself."""
    seconds = trial.summary.get("seconds", {})
    training = trial.summary.get("training", {})
    own = [taken for step, taken in seconds.items() if step not in ("phase1", "sample")]
    unknown = float("nan")
    return {
        "trainable": trial.summary.get("parameters", {}).get("trainable", unknown),
        **{name: training.get(name, unknown) for name in ("steps", "samples_seen", "seconds_scoring")},
        "seconds": sum(seconds.values()) if seconds else unknown,
        "seconds_phase1": seconds.get("phase1", unknown),
        "seconds_training": sum(own) if own else unknown,
        "seconds_drawing": seconds.get("sample", unknown),
    }
