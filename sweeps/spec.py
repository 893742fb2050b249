"""A sweep: rows of edits to a base experiment, as its YAML file says. Loads no torch, ray or mlflow."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from cnd import registry
from cnd.errors import UserError, nearest
from cnd.experiment import Experiment, load_experiment, override
from cnd.paper import PUBLISHED, published
from cnd.places import EXPERIMENTS, SWEEPS, find_file
from cnd.protocols import Metric
from cnd.reading import explain, read_yaml
from cnd.settings import Config
from sweeps.grids import expand

if TYPE_CHECKING:
    AnyMetric = Metric
else:
    AnyMetric = registry.union("cnd.metrics")

SCORE = "score"  # the sweep that is built from the command line (sweeps/score.py)

LONGEST = 80  # characters of a name: file systems take 255, and a file's name holds two of them and more

Id = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    WithJsonSchema({"type": ["string", "integer"]}),
]


def _fits_in_a_file_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.]*", value) or len(value) > LONGEST:
        raise ValueError(f"use letters, digits, '_' and '.', at most {LONGEST}, because it becomes part of a file name")
    return value


NamedId = Annotated[Id, AfterValidator(_fits_in_a_file_name)]


class Column(Config):
    """A setting that the table shows."""

    key: str  # its name in records and in MLflow
    title: str
    setting: str  # dotted key of the experiment
    names: dict[str, str] = Field(default_factory=dict)  # how a value is shown, where it is not shown as it is


Role = Literal["floor", "ceiling", "rival", "null"]


NOT_OF_A_ROW = {
    "seed": "a row's seeds follow from --seeds; first_seed, beside set, says where in their stream its own begin",
    "name": "it names the base experiment; a row has an id and a label",
    "description": "it describes the base experiment; a row has a label",
    "rivals": "they are what the base experiment has for other decoders; a row sets its decoder's own settings",
    "minutes_per_trial": "the plan expects the base experiment's figure of every row",
}
"""Settings of the base experiment that a row would set without effect, and why."""


class Line(Config):
    """One line of the table: edits to the base experiment.

    A role tells the report what to say of it: ``ceiling``, what generator, judge or loss allow at best; ``floor``, what
    a decoder scores that looks at little or nothing; ``null``, trained on pairs that do not belong together, so that it
    must be at chance; ``rival``, another method on the same data.
    """

    id: NamedId
    label: str | None = None
    role: Role | None = None
    set: dict[str, Any] = Field(default_factory=dict)  # dotted key of the experiment: value

    @field_validator("set")
    @classmethod
    def _can_be_set(cls, edits: dict[str, Any]) -> dict[str, Any]:
        for key in edits:
            if (why := NOT_OF_A_ROW.get(key.partition(".")[0])) is not None:
                raise ValueError(f"a row cannot set '{key}': {why}")
        return edits


class Row(Line):
    """A row of the paper's table."""

    # of the stream of training seeds: rows with 0 and 3 that are run with three seeds share none; controls follow
    first_seed: Annotated[int, Field(ge=0)] = 0
    paper: float | None = None  # the paper's score in %
    published: str | None = None  # method of cnd.paper.PUBLISHED whose scores stand beside it, subject by subject
    show: dict[str, str] = Field(default_factory=dict)  # column key: text, where the setting does not apply

    @model_validator(mode="after")
    def _was_published(self) -> Row:
        if self.published is not None and not published(self.published):
            methods = {line.method for line in PUBLISHED}
            raise ValueError(f"nothing is known of a method '{self.published}'{nearest(self.published, methods)}")
        return self


class Control(Line):
    """A line that says what the scores mean: in most cases it has a role."""

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
    seeds: Annotated[int, Field(ge=1)] = 1  # how many training seeds where --seeds is not given
    subjects: tuple[Id, ...] = ()  # of the data source; none: the base experiment's
    paper_metric: AnyMetric | None = (
        None  # what the paper's column measures, and the table's score where it is measured
    )
    columns: tuple[Column, ...] = ()
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    controls: tuple[Control, ...] = ()
    factors: tuple[Factor, ...] = ()
    # dotted settings, or groups of them, in which rows may differ from the reference; none: nothing is looked at
    varies: tuple[str, ...] = ()
    _source: str = PrivateAttr("")  # the file, for messages
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)  # where each row's edits stand in it

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, content: Any) -> Any:
        return expand(content)

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


# ---------------------------------------------------------------- reading


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
    n_generated = len(sweep.rows) - len(content.get("rows") or [])  # by grid or leave_one_out
    for part, listed in (("rows", sweep.rows), ("controls", sweep.controls)):
        for index, line in enumerate(listed):
            at = (part, str(index - n_generated if part == "rows" else index))
            if (*at,) in lines:
                sweep._lines[line.id] = lines.get((*at, "set"), lines[at])
    return sweep


def load_base(name: str, edits: dict[str, Any]) -> Experiment:
    """The base experiment of a name or a path, with the edits of ``--set``.

    Raises:
        UserError: unknown experiment, unknown key, or a value out of range.
    """
    base = load_experiment(find_file(name, EXPERIMENTS, "experiment"))
    return check_name(override(base, edits, "--set") if edits else base)


def check_name(base: Experiment) -> Experiment:
    """Raises:
    UserError: results of an experiment of that name would lie elsewhere than in a folder of their own.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", base.name) or len(base.name) > LONGEST:
        raise UserError(
            f"experiment name '{base.name[:LONGEST]}' must consist of letters, digits, '.', '_' and '-', of at most "
            f"{LONGEST}"
        )
    return base
