"""A sweep: rows of edits to a base experiment, resolved into trials. Loads no torch, ray or mlflow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError, model_validator

from cnd.config import CndDecoder, Config, DitGenerator, Experiment, explain, load_experiment, override, read_yaml
from cnd.errors import UserError, nearest

ROOT = Path(__file__).resolve().parents[1]
SWEEPS = ROOT / "sweeps"
EXPERIMENTS = ROOT / "experiments"

Id = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]


def _fits_in_a_file_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.]*", value):
        raise ValueError("use letters, digits, '_' and '.', because it becomes part of a file name")
    return value


NamedId = Annotated[Id, AfterValidator(_fits_in_a_file_name)]


class Column(Config):
    """A setting that the table shows."""

    key: str  # its name in records and in MLflow
    title: str
    setting: str  # dotted key of the experiment
    names: dict[str, str] = Field(default_factory=dict)  # how a value is shown, where it is not shown as it is


class Line(Config):
    """One line of the table: edits to the base experiment."""

    id: NamedId
    label: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)  # dotted key of the experiment: value


class Row(Line):
    """A row of the paper's table."""

    paper: float | None = None  # the paper's score in %
    show: dict[str, str] = Field(default_factory=dict)  # column key: text, where the setting does not apply


class Control(Line):
    """A line that says what the scores mean: a floor, a ceiling or a simple rival."""

    base: Id  # the row whose settings it shares


class Factor(Config):
    """Rows that differ in one thing: a curve of the report."""

    title: str
    x: str | list[str]  # column keys
    rows: list[Id]


class Sweep(Config):
    """A table (``sweeps/NAME.yaml``)."""

    name: NamedId
    title: str
    description: str = ""
    reference: Id  # row that differences are taken from
    paper_metric: str = ""  # what the paper's column measures
    columns: tuple[Column, ...] = ()
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    controls: tuple[Control, ...] = ()
    factors: tuple[Factor, ...] = ()
    _source: str = PrivateAttr("")  # the file, for messages
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)  # where each row's edits stand in it

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        ids = [line.id for line in self.lines]
        rows, columns = {row.id for row in self.rows}, {column.key for column in self.columns}
        if repeated := [i for i, count in Counter(ids).items() if count > 1]:
            raise ValueError(f"row '{repeated[0]}' appears twice")
        bases = [self.reference, *(c.base for c in self.controls), *(r for f in self.factors for r in f.rows)]
        if unknown := [i for i in bases if i not in rows]:
            raise ValueError(f"there is no row '{unknown[0]}'{nearest(unknown[0], rows)}")
        keys = [k for f in self.factors for k in ([f.x] if isinstance(f.x, str) else f.x)]
        if unknown := [k for k in [*keys, *(k for r in self.rows for k in r.show)] if k not in columns]:
            raise ValueError(f"there is no column '{unknown[0]}'{nearest(unknown[0], columns)}")
        return self

    @property
    def lines(self) -> list[Line]:
        """Rows, then controls."""
        return [*self.rows, *self.controls]

    def where(self, row: str) -> str:
        """File, line and name of a row, for messages."""
        line = self._lines.get(row)
        return f"{self._source}:{line}, row {row}" if line else f"{self._source}, row {row}"


class StageLike(Protocol):
    """What :func:`cnd.pipeline.stages` returns."""

    @property
    def name(self) -> str: ...
    @property
    def key(self) -> str: ...


Stages = Callable[[Experiment, bool, bool], Iterable[StageLike]]


@dataclass(frozen=True)
class Trial:
    """One row with one seed.

    Attributes:
        settings: what the table shows, by column key.
        stages: (name, key) of each stage in order; the last one is the record.
    """

    row: str
    label: str | None
    seed: int
    control: bool
    settings: dict[str, Any]
    experiment: Experiment
    stages: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        return f"{self.row}-seed{self.seed}"

    @property
    def key(self) -> str:
        return self.stages[-1][1]

    def keys(self, stage: str) -> tuple[str, ...]:
        """Keys of the stages of one name: one a fold."""
        return tuple(key for name, key in self.stages if name == stage)


# ---------------------------------------------------------------- reading


def find_file(name: str, folder: Path, what: str) -> Path:
    """The YAML file meant by a name (``folder/NAME.yaml``) or by a path.

    Raises:
        UserError: there is none; names the nearest.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"{what} '{name}': there is no such file")
        return path
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"unknown {what} '{name}'{nearest(name, names_in(folder))}")
    return path


def names_in(folder: Path) -> list[str]:
    """Names of the YAML files in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_sweep(name: str) -> Sweep:
    """The sweep of a name or a path.

    Raises:
        UserError: one line with file, line, key and remedy.
    """
    path = find_file(name, SWEEPS, "sweep")
    content, lines = read_yaml(path)

    def where(key: tuple[str, ...]) -> str:
        while key and key not in lines:
            key = key[:-1]
        return f"{path}:{lines[key]}" if key else str(path)

    try:
        sweep = Sweep.model_validate(content)
    except ValidationError as error:
        raise explain(error, Sweep, where) from error
    sweep._source = str(path)
    for part, listed in (("rows", sweep.rows), ("controls", sweep.controls)):
        for index, line in enumerate(listed):
            at = (part, str(index))
            sweep._lines[line.id] = lines.get((*at, "set"), lines[at])
    return sweep


def load_base(name: str, edits: dict[str, Any]) -> Experiment:
    """The base experiment of a name or a path, with the edits of ``--set``.

    Raises:
        UserError: unknown experiment, unknown key, or a value out of range.
    """
    base = load_experiment(find_file(name, EXPERIMENTS, "experiment"))
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", base.name):
        raise UserError(f"experiment name '{base.name}' must consist of letters, digits, '.', '_' and '-'")
    return override(base, edits, "--set") if edits else base


# ---------------------------------------------------------------- resolving


def select(sweep: Sweep, wanted: list[str] | None) -> tuple[list[Row], list[Control]]:
    """Rows and controls that ``--rows`` means: all, or those named; controls come along unless some are named.

    Raises:
        UserError: a row does not exist.
    """
    if wanted is None:
        return list(sweep.rows), list(sweep.controls)
    ids = [line.id for line in sweep.lines]
    if unknown := [i for i in wanted if i not in ids]:
        raise UserError(f"--rows: there is no row '{unknown[0]}' in {sweep.name}; valid: {', '.join(ids)}")
    controls = [c for c in sweep.controls if c.id in wanted]
    return [r for r in sweep.rows if r.id in wanted], controls or list(sweep.controls)


def resolve(
    sweep: Sweep,
    base: Experiment,
    stages: Stages,
    wanted: list[str] | None,
    seeds: int,
    edits: dict[str, Any],
    analysis: str = "none",
    planned: bool = False,
) -> list[Trial]:
    """Every trial in the order in which to run them.

    Args:
        stages: of an experiment, such as :func:`cnd.pipeline.stages`.
        wanted: ids of rows; None is all.
        seeds: how many, counted from the base experiment's seed.
        edits: what ``--set`` changed in ``base``.
        analysis: rows whose linear decoding is analysed, first seed: ``reference``, ``all`` or ``none``.
        planned: do not fail where files are missing.

    Raises:
        UserError: a row does not exist, its edits are not valid, or ``--set`` names what every row sets itself.
    """
    rows, controls = select(sweep, wanted)
    for key in edits:
        if rows and all(key in row.set for row in rows):
            raise UserError(f"--set {key}: has no effect, because every chosen row of {sweep.name} sets it")
    by_id = {row.id: row for row in sweep.rows}
    lines: list[tuple[Line, Row, bool]] = [(row, row, False) for row in rows]
    lines += [(control, by_id[control.base], True) for control in controls]
    trials = []
    for line, row, is_control in lines:
        edited = override(base, row.set, sweep.where(row.id)) if row.set else base
        if is_control and line.set:
            edited = override(edited, line.set, sweep.where(line.id))
        for seed in range(base.seed, base.seed + seeds):
            experiment = override(edited, {"seed": seed}, "--seeds")
            wanted_here = analysis == "all" or (analysis == "reference" and line.id == sweep.reference)
            analyse = wanted_here and seed == base.seed and isinstance(experiment.decoder, CndDecoder)
            analyse = analyse and not isinstance(
                experiment.generator, DitGenerator
            )  # it has no encoder and decoder side
            found = tuple((stage.name, stage.key) for stage in stages(experiment, analyse, planned))
            shown = _settings(sweep.columns, row, experiment)
            trials.append(Trial(line.id, line.label, seed, is_control, shown, experiment, found))
    return in_running_order(trials, sweep.reference)


def _settings(columns: Iterable[Column], row: Row, experiment: Experiment) -> dict[str, Any]:
    """What the table shows of a trial; settings of CnD mean nothing to another decoder."""
    if not isinstance(experiment.decoder, CndDecoder):
        return {column.key: "-" for column in columns}
    return {column.key: row.show.get(column.key) or _shown(column, experiment) for column in columns}


def _shown(column: Column, experiment: Experiment) -> Any:
    value: Any = experiment
    for part in column.setting.split("."):
        if not hasattr(value, part):
            raise UserError(f"column '{column.key}': unknown key '{column.setting}'")
        value = getattr(value, part)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return column.names.get(str(value), value)


def in_running_order(trials: list[Trial], reference: str) -> list[Trial]:
    """Trials sorted so that none waits for another's Phase 1, and the short ones fill the end.

    Seed by seed; within a seed first one trial for each distinct Phase 1 (the reference row leading), then
    those that share one, and last the controls that train nothing.
    """
    leading = sorted(trials, key=lambda trial: trial.row != reference)  # stable
    met: Counter[tuple[str, ...]] = Counter()
    turn: dict[str, int] = {}
    for trial in leading:
        phase1 = trial.keys("phase1")
        turn[trial.name] = met[phase1] if phase1 else 0
        met[phase1] += 1
    return sorted(leading, key=lambda t: (not isinstance(t.experiment.decoder, CndDecoder), t.seed, turn[t.name]))


def in_table_order(sweep: Sweep, trials: list[Trial]) -> list[Trial]:
    """Trials sorted by row as the sweep lists them, then by seed."""
    place = {line.id: index for index, line in enumerate(sweep.lines)}
    return sorted(trials, key=lambda trial: (place[trial.row], trial.seed))


def count_stages(trials: Iterable[Trial]) -> dict[str, int]:
    """Distinct computations of each stage that the trials need together."""
    distinct = dict.fromkeys(stage for trial in trials for stage in trial.stages)
    return dict(Counter(name for name, _ in distinct))
