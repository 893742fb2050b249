"""Read a sweep's definition, trials and records into data frames. Partial sweeps are normal, not an error."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open

from cnd.errors import UserError

METRIC = re.compile(r"nway(\d+)_top(\d+)(?:/(.+))?")
UNSEEN = "unseen stimuli"  # the metric without what generator and judge were probably trained on
ITEM_COLUMNS = ["item", "stimulus", "category", "category_name", "sample"]
HISTORY_COLUMNS = ["phase", "fold", "samples_seen", "name", "value"]
ATTENTION_COLUMNS = ["item", "concept_name", "weight", "even"]


@dataclass(frozen=True)
class Row:
    """One line of the table as the sweep defines it. ``paper`` is the paper's score in %, where it has one."""

    id: str
    label: str | None
    settings: dict[str, Any]
    paper: float | None
    control: bool

    @property
    def title(self) -> str:
        if self.control:
            return self.label or self.id
        return f"Row {self.id}: {self.label}" if self.label else f"Row {self.id}"


@dataclass(frozen=True)
class Trial:
    """One row x seed. ``folder`` is its record, None unless the trial is complete and the record readable.

    ``analysis`` is the folder of its linear decoding analysis, None where none ran.
    """

    row: str
    seed: int
    state: str
    error: str | None = None
    key: str | None = None
    run_id: str | None = None
    seconds: float | None = None
    folder: Path | None = None
    analysis: Path | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    experiment: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Records:
    """All that a report is computed from.

    Attributes:
        items: one line per row x seed x item x sample, with a column for each metric.
        history: learning curves with columns row, seed and those of the record.
        metrics: columns of ``items`` that are n-way accuracies, smallest n first.
        metric: the table's score: the paper's metric if it was measured, else the experiment's first.
    """

    sweep: dict[str, Any]
    rows: list[Row]
    trials: list[Trial]
    items: pd.DataFrame
    history: pd.DataFrame
    metrics: list[str]
    metric: str

    @property
    def reference(self) -> str:
        return str(self.sweep.get("reference", ""))

    @property
    def seeds(self) -> list[int]:
        return [int(seed) for seed in self.sweep.get("seeds", [0])]

    @property
    def columns(self) -> list[dict[str, str]]:
        return list(self.sweep.get("columns", []))

    @property
    def complete(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.folder is not None]

    @cached_property
    def per_item(self) -> pd.DataFrame:
        """Indexed by row, seed, item: category, mean over samples of each metric, best sample as ``<metric>_best``."""
        groups = self.items.groupby(["row", "seed", "item"])
        columns = {"category": groups["category"].first()}
        columns |= {metric: groups[metric].mean() for metric in self.metrics}
        return pd.DataFrame(columns | {f"{metric}_best": groups[metric].max() for metric in self.metrics})

    def of(self, row: str) -> list[Trial]:
        """Trials of one row, by seed."""
        return [trial for trial in self.trials if trial.row == row]

    def first(self, row: str) -> Trial | None:
        """A row's trial with the lowest seed among those that left a record."""
        return next((trial for trial in self.of(row) if trial.folder is not None), None)


def metric_title(metric: str) -> str:
    """``nway50_top1`` to ``50-way top-1``; ``nway50_top1/resnet50`` to ``50-way top-1, resnet50``."""
    match = METRIC.fullmatch(metric)
    if not match:
        return metric
    return f"{match[1]}-way top-{match[2]}" + (f", {match[3]}" if match[3] else "")


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
    found = _trial_files(sweep_dir / "trials")
    trials, items, history = [], [], []
    for row in rows:
        for seed in sweep.get("seeds", [0]):
            trial = _trial(output, row.id, int(seed), found.get((row.id, int(seed)), {}))
            if trial.state == "complete":
                trial, frames = _with_record(trial, output, found[row.id, int(seed)].get("record"))
                items += [frame.assign(row=row.id, seed=int(seed)) for frame in frames[:1]]
                history += [frame.assign(row=row.id, seed=int(seed)) for frame in frames[1:] if len(frame)]
            trials.append(trial)
    all_items = _concatenate(items, ITEM_COLUMNS)
    all_items = _with_unseen(all_items)
    metrics = sorted((str(c) for c in all_items if METRIC.fullmatch(str(c))), key=_metric_order)
    metric = _table_metric(sweep, metrics, trials)
    return Records(sweep, rows, trials, all_items, _concatenate(history, HISTORY_COLUMNS), metrics, metric)


def _read_definition(path: Path) -> dict[str, Any]:
    try:
        sweep = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: no sweep to report on ({error.strerror}); run it first") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(sweep, dict) or not sweep.get("rows"):
        raise UserError(f"{path}: the sweep names no rows")
    return sweep


def _row(entry: dict[str, Any]) -> Row:
    return Row(
        str(entry["id"]),
        entry.get("label"),
        entry.get("settings") or {},
        entry.get("paper"),
        bool(entry.get("control", False)),
    )


def _trial_files(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found[str(content["row"]), int(content["seed"])] = content
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a file cut off by a crash: the trial counts as not started
    return found


def _trial(output: Path, row: str, seed: int, content: dict[str, Any]) -> Trial:
    analysis = content.get("analysis")
    return Trial(
        row,
        seed,
        str(content.get("state", "pending")),
        error=content.get("error"),
        key=content.get("key"),
        run_id=content.get("run_id"),
        seconds=content.get("seconds"),
        analysis=output / str(analysis) if analysis else None,
    )


def _with_record(trial: Trial, output: Path, record: str | None) -> tuple[Trial, list[pd.DataFrame]]:
    """The trial with its record's summary, and [items, history]; or the trial marked unreadable, and nothing."""
    folder = output / (record or "no-record")
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        experiment = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
        items, history = pd.read_parquet(folder / "items.parquet"), pd.read_parquet(folder / "history.parquet")
        missing = [c for c in ITEM_COLUMNS if c not in items] + [c for c in HISTORY_COLUMNS if c not in history]
        if missing:
            raise ValueError(f"no column {', '.join(missing)}")
    except (OSError, ValueError) as error:
        return Trial(**{**vars(trial), "state": "unreadable", "error": f"record {record}: {error}"}), []
    return Trial(**{**vars(trial), "folder": folder, "summary": summary, "experiment": experiment}), [items, history]


def _concatenate(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*columns, "row", "seed"])


def _with_unseen(items: pd.DataFrame) -> pd.DataFrame:
    """Beside each score of the first judge one that is empty for stimuli seen in training, where some are known."""
    if "seen" not in items or not items["seen"].eq(True).any() or items["seen"].eq(True).all():
        return items
    own = [c for c in items if (match := METRIC.fullmatch(str(c))) and not match[3]]
    return items.assign(**{f"{c}/{UNSEEN}": items[c].where(items["seen"].ne(True)) for c in own})


def _metric_order(metric: str) -> tuple[str, int, int]:
    """The first judge's scores by n, then those of each further judge."""
    match = METRIC.fullmatch(metric)
    assert match  # only metrics are sorted
    return match[3] or "", int(match[1]), int(match[2])


def _table_metric(sweep: dict[str, Any], metrics: list[str], trials: list[Trial]) -> str:
    """The paper's metric if measured, else the first the experiment asked for, else whatever there is."""
    evaluations = [t.experiment.get("evaluation", {}) for t in trials if t.experiment]
    asked = [f"nway{n}_top{e.get('top_k', 1)}" for e in evaluations[:1] for n in e.get("n_way", [])]
    wanted = [str(sweep.get("paper_metric", "")), *asked, *metrics]
    return next((m for m in wanted if m in metrics), wanted[0])


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
