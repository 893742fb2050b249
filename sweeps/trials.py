"""The trials of a sweep: each row and control with each seed, resolved, in the order in which to run them.

Loads no torch, ray or mlflow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from cnd.decoders.cnd.generators.pipeline import CndDecoder
from cnd.experiment import Experiment, override
from cnd.generators.dit import DitGenerator
from cnd.errors import UserError
from sweeps.spec import Column, Control, Line, Row, Sweep


class StageLike(Protocol):
    """What :func:`cnd.workflow.run.stages` returns."""

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
        stages: of an experiment, such as :func:`cnd.workflow.run.stages`.
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
            analyse = wanted_here and seed == base.seed and _can_be_analysed(experiment)
            found = tuple((stage.name, stage.key) for stage in stages(experiment, analyse, planned))
            shown = _settings(sweep.columns, row, experiment)
            trials.append(Trial(line.id, line.label, seed, is_control, shown, experiment, found))
    return in_running_order(trials, sweep.reference)


def _can_be_analysed(experiment: Experiment) -> bool:
    """Only CnD has what is analysed, and DiT has no encoder and decoder side."""
    return isinstance(experiment.decoder, CndDecoder) and not isinstance(experiment.generator, DitGenerator)


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
