"""Read a sweep's definition, trials and records into data frames. Partial sweeps are normal, not an error."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from io import BytesIO
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyarrow import Table
from pyarrow.parquet import ParquetFile
from safetensors import safe_open

from cnd.errors import UserError
from cnd.store.folder import SweepFolder, readable
from reports.scale import Scale
from reports.stimuli import Catalogue, read_pictures

UNSEEN = "unseen stimuli"  # the metric without what generator and judge were probably trained on
ITEM_COLUMNS = ["item", "stimulus", "category", "category_name"]
SCORE_COLUMNS = ["item", "sample", "metric", "value"]
HISTORY_COLUMNS = ["phase", "fold", "samples_seen", "name", "value"]
ATTENTION_COLUMNS = ["item", "concept_name", "weight", "even"]


@dataclass(frozen=True)
class TableRow:
    """One line of the table as the sweep defines it.

    Attributes:
        paper: the paper's score in %, where it has one.
        role: what a control is for: ``floor``, ``ceiling``, ``rival`` or ``null``.
        factors: the dotted settings that it declares to differ in.
        published: what others published of this decoder, in %: by metric, then by subject.
    """

    id: str
    label: str | None
    settings: dict[str, Any]
    paper: float | None
    control: bool
    role: str | None = None
    factors: tuple[str, ...] = ()
    published: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """``Row 10``, with its label; rows with a word for an id, and controls, go by their label."""
        if self.control or not self.id.isdecimal():
            return self.label or self.id
        return f"Row {self.id}: {self.label}" if self.label else f"Row {self.id}"


@dataclass(frozen=True)
class MetricFacts:
    """What a metric is: see :meth:`cnd.protocols.Metric.describe`."""

    name: str
    title: str
    low: float = 0.0
    high: float = 1.0
    chance: float | None = None
    higher_is_better: bool = True
    percent: bool = False
    note: str = ""
    among: str = ""

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def scale(self) -> Scale:
        """How people read it."""
        return Scale(self.title, self.percent)


@dataclass(frozen=True)
class RecordedTrial:
    """One row x subject x seed. ``folder`` is its record, None unless the trial is complete and the record readable.

    ``analysis`` is the folder of its linear decoding analysis, ``figures`` that of its pictures, ``interventions`` that
    of the scores of its decoder with parts of it replaced; None where none ran.
    """

    row: str
    subject: str | None
    seed: int
    state: str
    error: str | None = None
    key: str | None = None
    run_id: str | None = None
    seconds: float | None = None
    folder: Path | None = None
    analysis: Path | None = None
    figures: Path | None = None
    interventions: Path | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    experiment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)  # known by identity, so that what is computed from it can be kept
class Records:
    """All that a report is computed from.

    Attributes:
        items: one line per row x subject x seed x item x sample, with a column for each metric.
        metrics: what was measured, the table's score of the records first.
        metric: the table's score, the first of the records (``evaluation.headline``, else the first that is asked for).
        catalogue: numbers the stimuli; sweeps that are compared share one.
    """

    sweep: dict[str, Any]
    rows: list[TableRow]
    trials: list[RecordedTrial]
    items: pd.DataFrame
    metrics: list[MetricFacts]
    metric: str
    catalogue: Catalogue = field(default_factory=Catalogue)

    def facts(self, metric: str) -> MetricFacts:
        """What a metric is; its name stands for the title of one that was not measured."""
        return next((m for m in self.metrics if m.name == metric), MetricFacts(metric, metric.replace("_", " ")))

    def facts_of(self, row: str, metric: str) -> MetricFacts:
        """What a metric is by the records of one row: with other data or judges its chance level may be another."""
        trial = self.first(row)
        entries = trial.summary.get("metrics", []) if trial else []
        named = metric.removesuffix(f"/{UNSEEN}")
        own = next((MetricFacts(**entry) for entry in entries if entry["name"] == named), None)
        return self.facts(metric) if own is None else replace(own, name=metric, title=self.facts(metric).title)

    @property
    def scale(self) -> Scale:
        """How people read the table's score."""
        return self.facts(self.metric).scale

    def of_role(self, role: str) -> list[TableRow]:
        """The controls that are there for one purpose."""
        return [row for row in self.rows if row.role == role]

    @property
    def subjects(self) -> list[str | None]:
        return list(self.sweep.get("subjects") or [None])

    @property
    def reference(self) -> str:
        return str(self.sweep.get("reference", ""))

    @property
    def seeds(self) -> list[int]:
        return [int(seed) for seed in self.sweep.get("seeds", [0])]

    @property
    def margin(self) -> float:
        """Within which differences count as equivalent, in units of the table's score: 0.05 for 5 points."""
        asked = self.sweep.get("margin")
        return 0.05 if asked is None else float(asked) / self.scale.factor

    @property
    def columns(self) -> list[dict[str, str]]:
        return list(self.sweep.get("columns", []))

    @property
    def complete(self) -> list[RecordedTrial]:
        return [trial for trial in self.trials if trial.folder is not None]

    @cached_property
    def numbered(self) -> pd.DataFrame:
        """The items with a column ``shown``: the number of the stimulus, by which items of two trials are paired.

        The subject is "" where none is named.
        """
        named = self.items.assign(subject=self.items["subject"].fillna(""))
        folders = {(trial.row, trial.subject or "", trial.seed): trial.folder for trial in self.trials}
        lines: dict[Any, Any] = dict(named.groupby(["row", "subject", "seed"], sort=False).indices)
        item, stimulus, category = (_codes(named[name]) for name in ("item", "stimulus", "category_name"))
        shown = np.full(len(named), -1)
        known: dict[Any, NDArray[np.int64]] = {}  # most trials were shown the same
        for place in sorted(lines, key=lambda place: place[0] != self.reference):  # whose numbers are 0, 1, 2, ...
            at = lines[place]
            alike = (read_pictures(folders.get(place)), *(codes[at].tobytes() for codes in (item, stimulus, category)))
            if alike not in known:
                own = named.iloc[at][["item", "stimulus", "category_name"]]
                numbers = self.catalogue.numbers(own.drop_duplicates("item"), folders.get(place))
                known[alike] = own["item"].map(numbers).to_numpy()
            shown[at] = known[alike]
        return named.assign(shown=shown)

    @cached_property
    def per_item(self) -> pd.DataFrame:
        """Indexed by row, subject, seed, item: category, each metric's mean over samples, the best as ``<m>_best``.

        ``item`` is the number of the stimulus (:attr:`numbered`): equal in two trials where the stimuli are.
        """
        named = self.numbered.drop(columns="item").rename(columns={"shown": "item"})
        groups = named.groupby(["row", "subject", "seed", "item"])
        columns = {"category": groups["category"].first()}
        columns |= {m.name: groups[m.name].mean() for m in self.metrics}
        best = {m.name: groups[m.name].max() if m.higher_is_better else groups[m.name].min() for m in self.metrics}
        return pd.DataFrame(columns | {f"{name}_best": values for name, values in best.items()})

    @cached_property
    def items_by_line(self) -> NDArray[np.int64]:
        """The number of the stimulus of each line of ``per_item``."""
        return self.per_item.index.get_level_values("item").to_numpy(dtype=np.int64)

    @cached_property
    def runs_of(self) -> dict[str, dict[tuple[str, int], slice]]:
        """By row, the lines of ``per_item`` that each (subject, seed) has."""
        index: Any = self.per_item.index
        found: dict[str, dict[tuple[str, int], slice]] = {}
        if not len(index):
            return found
        changed = np.any([np.diff(index.codes[level]) != 0 for level in range(3)], axis=0)
        for start, end in pairwise([0, *(np.flatnonzero(changed) + 1).tolist(), len(index)]):
            row, subject, seed, _ = index[start]
            found.setdefault(str(row), {})[str(subject), int(seed)] = slice(start, end)
        return found

    @cached_property
    def shown_to(self) -> dict[str, frozenset[int]]:
        """By row, the numbers of the stimuli that it was shown."""
        alike: dict[bytes, frozenset[int]] = {}
        found = {}
        for row, runs in self.runs_of.items():
            items = np.concatenate([self.items_by_line[lines] for lines in runs.values()])
            found[row] = alike.setdefault(items.tobytes(), frozenset(items.tolist()))
        return found

    @cached_property
    def _by_row(self) -> dict[str, list[RecordedTrial]]:
        found: dict[str, list[RecordedTrial]] = {}
        for trial in self.trials:
            found.setdefault(trial.row, []).append(trial)
        return found

    def of(self, row: str) -> list[RecordedTrial]:
        """Trials of one row, by subject and seed."""
        return self._by_row.get(row, [])

    def history(self, rows: Collection[str]) -> pd.DataFrame:
        """Learning curves of some rows: columns row, subject, seed and those of the records."""
        parts = []
        for trial in (trial for trial in self.complete if trial.row in rows):
            assert trial.folder is not None
            own = _table(trial.folder / "history.parquet").to_pandas()
            if len(own):
                parts.append(own.assign(row=trial.row, subject=trial.subject, seed=trial.seed))
        return _concatenate(parts, HISTORY_COLUMNS)

    def first(self, row: str) -> RecordedTrial | None:
        """A row's trial with the lowest seed among those that left a record."""
        return next((trial for trial in self.of(row) if trial.folder is not None), None)

    def of_one_row(self, row: str | None = None) -> pd.DataFrame:
        """A line a test item of one trial of a row; None: of the reference, or of the first that is finished."""
        trial = self.first(self.reference if row is None else row)
        trial = trial or (next(iter(self.complete), None) if row is None else None)
        if trial is None:
            return self.numbered.head(0)
        of = self.numbered
        own = of[(of["row"] == trial.row) & (of["seed"] == trial.seed) & (of["subject"] == (trial.subject or ""))]
        return own.drop_duplicates("item")


def read_sweep(output: Path, sweep_dir: Path) -> Records:
    """Everything recorded so far for one sweep.

    Args:
        output: the ``--output`` folder; trials name their records relative to it.
        sweep_dir: ``output/sweeps/<sweep>-<experiment>``.

    Raises:
        UserError: there is no readable sweep.json. Unreadable trials are kept, with what is wrong as their error.
    """
    sweep = _read_definition(sweep_dir / "sweep.json")
    rows = [_row(entry) for entry in sweep["rows"]]
    subjects, seeds = sweep.get("subjects") or [None], [int(seed) for seed in sweep.get("seeds", [0])]
    found = _trial_files(sweep_dir / "trials")
    if not SweepFolder(output, sweep_dir.name).in_use():
        killed = [content for content in found.values() if content.get("state") == "running"]
        for content in killed:
            content["state"] = "interrupted"
    asked = {(str(t["row"]), t.get("subject"), int(t["seed"])) for t in sweep.get("trials", [])}
    trials, items = [], []
    metrics: dict[str, MetricFacts] = {}
    for row, subject, seed in product(rows, subjects, seeds):
        if "max_seeds" in sweep and (row.id, subject, seed) not in asked:
            continue  # seeds were spent row by row: not asked for is not missing
        content = found.get((row.id, subject, seed), {})
        trial = _trial(output, row.id, subject, seed, content)
        if trial.state == "complete":
            trial, scored = _with_record(trial, output, content.get("record"))
            items += [frame.assign(row=row.id, subject=subject, seed=seed) for frame in scored]
            metrics |= {entry["name"]: MetricFacts(**entry) for entry in trial.summary.get("metrics", [])}
        trials.append(trial)
    own = [trial for trial in trials if trial.row == str(sweep.get("reference", ""))]  # of others it may be another
    metrics |= {entry["name"]: MetricFacts(**entry) for trial in own for entry in trial.summary.get("metrics", [])}
    all_items, facts = _with_unseen(_concatenate(items, [*ITEM_COLUMNS, "sample"]), list(metrics.values()))
    metric = _table_metric(sweep, facts)
    return Records(sweep, rows, trials, all_items, facts, metric)


def _read_definition(path: Path) -> dict[str, Any]:
    try:
        sweep = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: no sweep to report on ({error.strerror}); run it first") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); run the sweep again, which writes it anew") from error
    if not isinstance(sweep, dict) or not sweep.get("rows"):
        raise UserError(f"{path}: the sweep names no rows; run it again, which writes this anew")
    return readable(sweep, path)


def _row(entry: dict[str, Any]) -> TableRow:
    return TableRow(
        str(entry["id"]),
        entry.get("label"),
        entry.get("settings") or {},
        entry.get("paper"),
        bool(entry.get("control", False)),
        entry.get("role"),
        tuple(entry.get("set") or ()),
        entry.get("published") or {},
    )


def _trial_files(folder: Path) -> dict[tuple[str, str | None, int], dict[str, Any]]:
    found: dict[tuple[str, str | None, int], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found[str(content["row"]), content.get("subject"), int(content["seed"])] = content
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a file cut off by a crash: the trial counts as not started
    return found


def _trial(output: Path, row: str, subject: str | None, seed: int, content: dict[str, Any]) -> RecordedTrial:
    named = {name: content.get(name) for name in ("analysis", "figures", "interventions")}
    folders: dict[str, Any] = {name: output / str(folder) for name, folder in named.items() if folder}
    return RecordedTrial(
        row,
        subject,
        seed,
        str(content.get("state", "pending")),
        error=content.get("error"),
        key=content.get("key"),
        run_id=content.get("run_id"),
        seconds=content.get("seconds"),
        **folders,
    )


def _with_record(trial: RecordedTrial, output: Path, record: str | None) -> tuple[RecordedTrial, list[pd.DataFrame]]:
    """The trial with its record's summary, and [items with their scores]; or marked unreadable, and nothing."""
    folder = output / (record or "no-record")
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        experiment = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
        items, scores = _items((folder / "items.parquet").read_bytes()), _table(folder / "scores.parquet")
        with ParquetFile(folder / "history.parquet") as file:
            history = file.schema_arrow.names
        expected = ((items.columns, ITEM_COLUMNS), (history, HISTORY_COLUMNS), (scores.column_names, SCORE_COLUMNS))
        if missing := [c for names, columns in expected for c in columns if c not in names]:
            raise ValueError(f"no column {', '.join(missing)}")
        scored = with_scores(items, scores)
    except (OSError, ValueError) as error:
        return RecordedTrial(**{**vars(trial), "state": "unreadable", "error": f"record {record}: {error}"}), []
    return RecordedTrial(**{**vars(trial), "folder": folder, "summary": summary, "experiment": experiment}), [scored]


@lru_cache(maxsize=8)  # most trials were shown the same
def _items(content: bytes) -> pd.DataFrame:
    return pd.read_parquet(BytesIO(content))


def _table(path: Path) -> Table:
    with ParquetFile(path) as file:
        return file.read(use_threads=False)


def with_scores(items: pd.DataFrame, scores: Table) -> pd.DataFrame:
    """A line for each item and sample, with a column for each metric.

    Args:
        items: a line an item.
        scores: columns item, sample, metric, value.

    Raises:
        ValueError: an item or a score is there twice.
    """
    item, sample, value = (scores[name].to_numpy() for name in ("item", "sample", "value"))
    names, metric = np.unique(scores["metric"].to_numpy().astype(str), return_inverse=True)
    order = np.lexsort((sample, item, metric))
    shape = (len(names), len(order) // max(1, len(names)))
    known = items["item"].to_numpy()
    if len(order) == shape[0] * shape[1] and len(known) and (np.diff(known) > 0).all():  # as records are, sooner read
        at = [column[order].reshape(shape) for column in (metric, item, sample)]
        each = np.bincount(np.searchsorted(known, at[1][0]), minlength=len(known))
        alike = all((column == column[:1]).all() for column in at[1:]) and (at[0] == at[0][:, :1]).all()
        if alike and np.array_equal(np.repeat(known, each[: len(known)]), at[1][0]) and _once(at[1][0], at[2][0]):
            lines = items.iloc[np.repeat(np.arange(len(known)), each)].reset_index(drop=True)
            own = dict(zip(names.tolist(), value[order].reshape(shape), strict=True))
            return lines.assign(sample=at[2][0], **own)
    wide = scores.to_pandas().pivot(index=["item", "sample"], columns="metric", values="value").reset_index()
    return items.merge(wide, on="item", validate="one_to_many")


def _once(item: NDArray[Any], sample: NDArray[Any]) -> bool:
    """Whether no item, both sorted, has a sample twice."""
    return bool(((np.diff(item) > 0) | (np.diff(sample) > 0)).all())


def _codes(column: pd.Series) -> NDArray[np.int64]:
    return np.asarray(pd.factorize(column)[0])


def _concatenate(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return (
        pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*columns, "row", "subject", "seed"])
    )


def _with_unseen(items: pd.DataFrame, metrics: list[MetricFacts]) -> tuple[pd.DataFrame, list[MetricFacts]]:
    """Beside each score of the first judge one that is empty for stimuli seen in training, where some are known."""
    if "seen" not in items or not items["seen"].eq(True).any() or items["seen"].eq(True).all():
        return items, metrics
    own = [m for m in metrics if "/" not in m.name]
    added = [replace(m, name=f"{m.name}/{UNSEEN}", title=f"{m.title}, {UNSEEN}") for m in own]
    columns = {f"{m.name}/{UNSEEN}": items[m.name].where(items["seen"].ne(True)) for m in own}
    return items.assign(**columns), [*metrics, *added]


def _table_metric(sweep: dict[str, Any], metrics: list[MetricFacts]) -> str:
    """The first of the records, which trainings were scored by and which the running table showed.

    Without any record the paper's, so that the empty table has a head.
    """
    paper = (sweep.get("paper_metric") or {}).get("name", "")
    return next((m.name for m in metrics), paper)


# ---------------------------------------------------------------- images and attention


def choose_items(items: pd.DataFrame, n: int, seed: int = 0) -> list[int]:
    """Test items to show: a seeded draw that looks at no result. One of each drawn category while they last."""
    one_line = items.drop_duplicates("item").sort_values("item")
    shuffled = one_line.iloc[np.random.default_rng(seed).permutation(len(one_line))]
    turn = shuffled.groupby("category", sort=False).cumcount()
    chosen = shuffled.assign(turn=turn).sort_values("turn", kind="stable").head(n)
    return sorted(int(item) for item in chosen["item"])


def read_images(folder: Path, items: list[int], sample: int = 0) -> dict[str, list[NDArray[np.uint8]]]:
    """``stimuli`` and ``reconstructions`` (one sample) of some items, each uint8 [channels, height, width].

    Raises:
        OSError, ValueError: the record holds no such images.
    """
    try:
        with safe_open(folder / "images.safetensors", framework="numpy") as images:
            stimuli, drawn = images.get_slice("stimuli"), images.get_slice("reconstructions")
            return {
                "stimuli": [np.asarray(stimuli[item : item + 1])[0] for item in items],
                "reconstructions": [np.asarray(drawn[item : item + 1])[0, sample] for item in items],
            }
    except Exception as error:  # safetensors raises its own class, and IndexError for rows that are not there
        raise ValueError(f"{folder.name}: images cannot be read ({error})") from error


def read_attention(folder: Path) -> pd.DataFrame | None:
    """Mean attention over the concept bank, a line an item and concept; None where the decoder has none."""
    path = folder / "attention.parquet"
    if not path.exists():
        return None
    table = pd.read_parquet(path)
    return table[ATTENTION_COLUMNS] if set(ATTENTION_COLUMNS) <= set(table) else None  # a record of older code
