"""The trials of a sweep: each row and control with each subject and seed, resolved, in the order in which to run them.

Loads no torch, ray or mlflow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

from cnd.errors import UserError
from cnd.experiment import Experiment, override, today
from cnd.workflow.plan import can_be_analysed, has_interventions
from cnd.workflow.progress import TIMES
from sweeps.confounds import check
from sweeps.spec import Column, Control, Line, Row, Sweep

FOLLOWING = ("interventions", "analysis", "figures")
"""Stages of what may follow a run; the trial's file names them for the report."""


class StageLike(Protocol):
    """What :func:`cnd.workflow.run.steps` returns."""

    @property
    def name(self) -> str: ...
    @property
    def key(self) -> str: ...


Stages = Callable[[Experiment, bool, bool], Iterable[StageLike]]


@dataclass(frozen=True)
class Trial:
    """One row on one subject with one seed.

    Attributes:
        seed: its place in the row's stream of seeds, counted from the base experiment's seed: rows are paired by it.
            The experiment's own seed is as much higher as the row's ``first_seed``.
        role: of a control, None for a row of the table and for a control without one.
        subject: None: the base experiment's.
        settings: what the table shows, by column key.
        stages: (name, key) of each step that is kept, in order; the last one is the record.
    """

    row: str
    label: str | None
    subject: str | None
    seed: int
    control: bool
    role: str | None
    settings: dict[str, Any]
    experiment: Experiment
    stages: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        subject = "" if self.subject is None else f"-subject{self.subject}"
        return f"{self.row}{subject}-seed{self.seed}"

    @property
    def key(self) -> str:
        return self.stages[-1][1]

    def keys(self, stage: str) -> tuple[str, ...]:
        """Keys of the steps of one name: one a fold."""
        return tuple(key for name, key in self.stages if name == stage)


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
    subjects: Sequence[str] = (),
    interventions: str = "none",
) -> list[Trial]:
    """Every trial in the order in which to run them.

    Args:
        stages: of an experiment, such as :func:`cnd.workflow.run.steps`.
        wanted: ids of rows; None is all.
        seeds: how many, counted from the base experiment's seed.
        edits: what ``--set`` changed in ``base``.
        analysis: rows whose linear decoding is analysed, first seed and subject: ``reference``, ``all`` or ``none``.
        interventions: rows that are scored with parts of their decoder replaced, in the same words.
        subjects: of the data source; none leaves the base experiment's, or those of the sweep.

    Raises:
        UserError: a row does not exist, its edits are not valid, ``--set`` names what every row sets itself, or rows
            would have different scores.
    """
    rows, controls = select(sweep, wanted)
    named: list[str | None] = list(subjects or sweep.subjects) or [None]
    for key in edits:
        if rows and all(today(key) in map(today, row.set) for row in rows):
            raise UserError(f"--set {key}: has no effect, because every chosen row of {sweep.name} sets it")
    by_id = {row.id: row for row in sweep.rows}
    lines: list[tuple[Line, Row]] = [*((row, row) for row in rows), *((c, by_id[c.base]) for c in controls)]
    made: dict[tuple[str, str | None], Experiment] = {}

    def with_edits(line: Line, row: Row, subject: str | None) -> Experiment:
        if (line.id, subject) not in made:
            made[line.id, subject] = _edited(sweep, base, line, row, subject)
        return made[line.id, subject]

    _check_columns(sweep, [with_edits(row, row, None) for row in {row.id: row for _, row in lines}.values()])
    if sweep.varies:
        ours = with_edits(by_id[sweep.reference], by_id[sweep.reference], None)
        for row in rows:
            check(with_edits(row, row, None), ours, sweep.varies, sweep.where(row.id))
    trials = []
    for (line, row), subject in product(lines, named):
        edited = with_edits(line, row, subject)
        for seed in range(base.seed, base.seed + seeds):
            experiment = override(edited, {"seed": seed + row.first_seed}, "--seeds")
            means = ("all", "reference") if line.id == sweep.reference else ("all",)
            first = seed == base.seed and subject == named[0]
            analyse = analysis in means and first and can_be_analysed(experiment)
            found = stages(experiment, analyse, interventions in means and has_interventions(experiment))
            trials.append(
                Trial(
                    line.id, line.label, subject, seed, line is not row, getattr(line, "role", None),
                    _settings(sweep.columns, row, experiment), experiment,
                    tuple((stage.name, stage.key) for stage in found),
                )
            )  # fmt: skip
    _check_scores(sweep, trials)
    return in_running_order(trials, sweep.reference)


def _check_scores(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Raises:
    UserError: two rows would be told by different scores, which one table cannot compare.
    """
    leading = {trial.row: trial.experiment.evaluation.all_metrics()[0].name for trial in trials}
    first = next(iter(leading), None)
    for row, name in leading.items():
        if first is not None and name != leading[first]:
            raise UserError(
                f"{sweep.where(row)}: the table's score would be {name}, and {leading[first]} in row {first}; a table "
                "has one score: measure it in every row and name it as evaluation.headline"
            )


def _edited(sweep: Sweep, base: Experiment, line: Line, row: Row, subject: str | None) -> Experiment:
    """The base experiment with a row's edits, a control's own on top, for one subject.

    Raises:
        UserError: an edit is not valid, or the data source has no such subject.
    """
    edited = override(base, row.set, sweep.where(row.id)) if row.set else base
    if line is not row and line.set:
        edited = override(edited, line.set, sweep.where(line.id))
    if subject is None:
        return edited
    if any(today(key) == "data.subject" for key in (*row.set, *line.set)):
        raise UserError(f"--subjects: {sweep.where(line.id)} sets data.subject itself; leave one of them out")
    if "subject" not in type(edited.data).model_fields:
        raise UserError(f"--subjects {subject}: data.kind '{edited.data.kind}' has one subject; leave --subjects out")
    return override(edited, {"data.subject": subject}, "--subjects")


def _settings(columns: Iterable[Column], row: Row, experiment: Experiment) -> dict[str, Any]:
    """What the table shows of a trial; "-" where its decoder has no such setting."""
    return {column.key: row.show.get(column.key) or _shown(column, experiment) for column in columns}


def _shown(column: Column, experiment: Experiment) -> Any:
    value: Any = experiment
    for part in today(column.setting).split("."):
        if not hasattr(value, part):
            return "-"
        value = getattr(value, part)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return column.names.get(str(value), value)


def _check_columns(sweep: Sweep, experiments: list[Experiment]) -> None:
    """Raises:
    UserError: a column shows a setting that none of them has.
    """
    for column in sweep.columns:
        if all(_shown(column, experiment) == "-" for experiment in experiments):
            raise UserError(f"column '{column.key}': unknown key '{column.setting}'; no row of {sweep.name} has it")


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
    return sorted(leading, key=lambda t: (not t.experiment.decoder.shares, t.seed, turn[t.name]))


def fused(trials: list[Trial], size: int, common: Callable[[Trial], Any]) -> list[list[Trial]]:
    """Groups of at most ``size`` trials that can share a frozen generator, in running order; the others are alone.

    Args:
        common: what the trials of a group must have in common; None: this one stays alone.
    """
    groups: list[list[Trial]] = []
    open_groups: list[tuple[Any, list[Trial]]] = []
    for trial in trials:
        wanted = common(trial)
        found = [group for key, group in open_groups if wanted is not None and key == wanted and len(group) < size]
        if found:
            found[0].append(trial)
            continue
        groups.append([trial])
        open_groups.append((wanted, groups[-1]))
    return groups


def in_table_order(sweep: Sweep, trials: list[Trial]) -> list[Trial]:
    """Trials sorted by row as the sweep lists them, then by subject and seed."""
    place = {line.id: index for index, line in enumerate(sweep.lines)}
    subjects = list(dict.fromkeys(trial.subject for trial in trials))
    return sorted(trials, key=lambda trial: (place[trial.row], subjects.index(trial.subject), trial.seed))


def count_stages(trials: Iterable[Trial]) -> dict[str, int]:
    """Distinct computations of each stage that the trials need together."""
    distinct = dict.fromkeys(stage for trial in trials for stage in trial.stages)
    return dict(Counter(name for name, _ in distinct))


def work(trial: Trial) -> float:
    """What a trial takes with what follows it, in units of the trial alone."""
    follows = {"intervene": trial.keys("interventions"), "analyse": trial.keys("analysis")}
    return 1 + sum(TIMES[part] for part, wanted in follows.items() if wanted) / TIMES["run"]


def seconds_to_report(n_trials: int) -> float:
    """What table and report take at the end, roughly: the page of 69 trials was built in 8 to 10 s on one core."""
    return 4 + n_trials / 10
