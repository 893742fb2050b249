"""A search by Optuna as a source of trials (:class:`sweeps.proposers.Proposer`).

Its memory is Optuna's journal, a file of lines that only grows, so that a search that was killed goes on where it was.
A sampler is made anew for each proposal, seeded by the search's seed and the number of proposals before it: what is
proposed follows from that and from what the study holds then. So one trial after the other gives the same proposals
every time, interrupted or not; with several at once, those by chance do, and the others follow the order of the ends.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnd.errors import UserError
from cnd.experiment import Experiment, override
from cnd.json_files import read_json
from sweeps.confounds import differing
from sweeps.space import SECONDS, Edits, Scalar, Search, is_validation
from sweeps.trials import Stages, Trial

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

STUDY = "search"  # name of the one study in a journal
LABEL, SCORES, REASON = "label", "scores", "reason"  # what is noted beside a trial
REFERENCE = "reference"
MOST_INVALID = 100  # proposals in a row that no experiment can be


@dataclass(frozen=True)
class Start:
    """A point to begin with."""

    label: str
    point: dict[str, Scalar]


@dataclass(frozen=True)
class Outcome:
    """What became of a proposal.

    Attributes:
        number: counted from 0, as Optuna does.
        state: ``complete``, ``pruned``, or ``open``: it runs, failed, or was interrupted.
        values: one an objective, means over training seeds; empty unless it is complete.
        by_seed: the same of each training seed, in order.
        settings: of the experiment, by dotted key.
        curve: validation score by percent of the training, of the first seed, where there is a pruner.
    """

    number: int
    state: str
    label: str
    values: tuple[float, ...]
    by_seed: tuple[tuple[float, ...], ...]
    settings: Edits
    curve: dict[int, float]


@dataclass
class _Open:
    """A proposal whose trials are not all done."""

    handle: optuna.Trial
    label: str
    settings: Edits
    scores: dict[int, tuple[float, ...]] = field(default_factory=dict)  # by training seed


class OptunaSearch:
    """Proposes experiments on validation data.

    Args:
        base: as every trial starts from it, on validation data.
        stages: of an experiment, such as :func:`cnd.workflow.run.steps`.
        storage: of :mod:`sweeps.storage`.
        name: of the study in it.
        starts: points to begin with.

    Raises:
        UserError: the sampler needs a package that is not there.
    """

    def __init__(
        self, search: Search, base: Experiment, stages: Stages, storage: Any, starts: Sequence[Start] = (),
        name: str = STUDY,
    ) -> None:  # fmt: skip
        import optuna

        self.search, self.base, self.stages = search, base, stages
        directions = ["maximize" if up else "minimize" for up in higher_is_better(search, base)]
        if name in optuna.get_all_study_names(storage):  # whoever only looks must write nothing
            self.study = optuna.load_study(study_name=name, storage=storage, pruner=_pruner(search))
        else:
            self.study = optuna.create_study(
                storage=storage, study_name=name, directions=directions, pruner=_pruner(search)
            )
        for start in starts:
            with warnings.catch_warnings(action="ignore"):
                self.study.enqueue_trial(start.point, user_attrs={LABEL: start.label}, skip_if_exists=True)
        self.deadline = None if search.hours is None else time.monotonic() + 3600 * search.hours
        self.failed: dict[int, str] = {}  # label of those that failed now, by number
        self._open: dict[int, _Open] = {}
        self._ready: deque[Trial] = deque()
        self._stopping: set[str] = set()
        self._again = deque(t for t in self.study.get_trials(deepcopy=False) if t.state.name == "RUNNING")

    # ---- a proposer

    def planned(self) -> Sequence[Trial]:
        """None: what comes next depends on the scores."""
        return ()

    def ask(self) -> Trial | None:
        """The next trial: another seed of a proposal, a proposal of an earlier command, or a new one."""
        while not self._ready and (self.deadline is None or time.monotonic() < self.deadline):
            if self._again:
                self._reopen(self._again.popleft())
            elif self.asked() < self.search.trials:
                self._propose()
            else:
                return None
        return self._ready.popleft() if self._ready else None

    def tell(self, trial: Trial, scores: tuple[float, ...] | None) -> None:
        """A failed proposal stays open: the same command tries it once more."""
        from optuna.trial import TrialState

        number = int(trial.row)
        proposal = self._open[number]
        if scores is None:
            del self._open[number]
            if trial.name in self._stopping:
                self._stopping.remove(trial.name)
                self.study.tell(number, state=TrialState.PRUNED)
            else:
                self.failed[number] = proposal.label
            return
        proposal.scores[trial.seed] = scores
        seeds = range(self.base.seed, self.base.seed + self.search.seeds)
        if len(proposal.scores) < len(seeds):
            if len(proposal.scores) == 1:  # it was not stopped, so the other seeds are worth their time
                self._ready += [self._trial(number, seed) for seed in seeds if seed not in proposal.scores]
            return
        del self._open[number]
        found = [proposal.scores[seed] for seed in seeds]
        proposal.handle.set_user_attr(SCORES, found)
        self.study.tell(number, [float(np.mean(values)) for values in zip(*found, strict=True)])

    def stops(self, trial: Trial, percent: int, score: float) -> bool:
        """By the search's pruner; of a trial's seeds the first decides."""
        if self.search.pruner.kind == "none" or trial.seed != self.base.seed or trial.name in self._stopping:
            return False
        handle = self._open[int(trial.row)].handle
        with warnings.catch_warnings(action="ignore"):  # an interrupted training tells a checkpoint twice
            handle.report(score, percent)
        if handle.should_prune():
            self._stopping.add(trial.name)
        return trial.name in self._stopping

    # ---- what is known

    def asked(self) -> int:
        """Proposals so far, without those that no experiment could be."""
        return sum(t.state.name not in ("WAITING", "FAIL") for t in self.study.get_trials(deepcopy=False))

    def outcomes(self) -> list[Outcome]:
        """Of every proposal so far."""
        return outcomes(self.search, self.study)

    def trials(self) -> list[Trial]:
        """The trials of every proposal so far, all seeds."""
        seeds = range(self.base.seed, self.base.seed + self.search.seeds)
        return [self._resolved(o.number, o.label, o.settings, seed) for o in self.outcomes() for seed in seeds]

    # ---- proposals

    def _propose(self) -> None:
        """Ask Optuna; what no experiment can be is told to it as failed, and left out of the count."""
        reason = None
        for _ in range(MOST_INVALID):
            self.study.sampler = _sampler(self.search, self._proposals())
            with warnings.catch_warnings(action="ignore"):  # of what is experimental
                handle = self.study.ask()
                point = self._suggest(handle)
            if (reason := self._begin(handle, point)) is None:
                return
        raise UserError(f"{self.search.where()}: {MOST_INVALID} proposals in a row are no valid experiment: {reason}")

    def _proposals(self) -> int:
        return sum(t.state.name != "WAITING" for t in self.study.get_trials(deepcopy=False))

    def _suggest(self, handle: optuna.Trial) -> dict[str, Scalar]:
        point: dict[str, Scalar] = {}
        for key, part in self.search.space.items():
            if not part.active(self.search.settings(point)):
                continue
            if part.kind == "categorical":
                point[key] = handle.suggest_categorical(key, [part.stored(choice) for choice in part.choices])
            elif part.kind == "int":
                point[key] = handle.suggest_int(key, part.low, part.high, step=part.step, log=part.log)
            else:
                point[key] = handle.suggest_float(key, part.low, part.high, step=part.step, log=part.log)
        return point

    def _reopen(self, frozen: FrozenTrial) -> None:
        """Go on with a proposal that an earlier command left open."""
        import optuna

        self.study.sampler = _sampler(self.search, frozen.number)
        with warnings.catch_warnings(action="ignore"):
            handle = optuna.trial.Trial(self.study, frozen._trial_id)
        self._begin(handle, frozen.params)

    def _begin(self, handle: optuna.Trial, point: dict[str, Scalar]) -> str | None:
        """Make the first trial of a proposal ready; or say why it is no experiment."""
        from optuna.trial import TrialState

        settings = self.search.settings(point)
        if lacking := [k for k, part in self.search.space.items() if part.active(settings) and k not in settings]:
            reason = f"it was interrupted before {lacking[0]} was chosen"
        else:
            self._open[handle.number] = _Open(handle, handle.user_attrs.get(LABEL, ""), settings)
            try:
                self._ready.append(self._trial(handle.number, self.base.seed))
                return None
            except UserError as error:
                del self._open[handle.number]
                reason = str(error)
        handle.set_user_attr(REASON, reason)
        self.study.tell(handle.number, state=TrialState.FAIL)
        return reason

    def _trial(self, number: int, seed: int) -> Trial:
        proposal = self._open[number]
        return self._resolved(number, proposal.label, proposal.settings, seed)

    def _resolved(self, number: int, label: str, settings: Edits, seed: int) -> Trial:
        return trial_of(self.search, self.base, self.stages, f"{number:04d}", label, settings, seed)


def trial_of(
    search: Search, base: Experiment, stages: Stages, row: str, label: str, settings: Edits, seed: int
) -> Trial:
    """A point of the space as a trial.

    Raises:
        UserError: the settings are no valid experiment together.
    """
    experiment = override(base, settings | {"seed": seed}, search.where())
    shown = {key: settings.get(key, "-") for key in search.space}
    found = tuple((stage.name, stage.key) for stage in stages(experiment, False, False))
    return Trial(row, label or None, None, seed, False, None, shown, experiment, found)


def outcomes(search: Search, study: optuna.Study) -> list[Outcome]:
    """Of every proposal in a study."""
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "RUNNING": "open"}
    return [
        Outcome(
            trial.number,
            states[trial.state.name],
            trial.user_attrs.get(LABEL, ""),
            tuple(trial.values) if trial.state.name == "COMPLETE" else (),
            tuple(map(tuple, trial.user_attrs.get(SCORES, ()))),
            search.settings(trial.params),
            {int(percent): value for percent, value in trial.intermediate_values.items()},
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in states
    ]


def best(found: Iterable[Outcome], up: Sequence[bool], n: int) -> list[Outcome]:
    """The ``n`` best complete ones, no two of the same settings: by the score; of two objectives, on the Pareto front.

    Args:
        up: of each objective, whether more is better.
    """
    signs = np.where(up, 1.0, -1.0)
    complete = [outcome for outcome in found if outcome.state == "complete"]
    if len(signs) > 1:
        worth = [signs * outcome.values for outcome in complete]
        beaten = [any((w >= v).all() and (w > v).any() for w in worth) for v in worth]
        complete = [outcome for outcome, is_beaten in zip(complete, beaten, strict=True) if not is_beaten]
    chosen: list[Outcome] = []
    for outcome in sorted(complete, key=lambda o: -signs[0] * o.values[0]):  # stable: of equals the earliest
        if all(outcome.settings != other.settings for other in chosen):
            chosen.append(outcome)
    return chosen[:n]


# ---------------------------------------------------------------- objectives


def higher_is_better(search: Search, base: Experiment) -> list[bool]:
    """Of each objective.

    Raises:
        UserError: the experiment has no such metric.
    """
    return [name != SECONDS and _metric(base, name).higher_is_better for name in search.objectives]


def objective_names(search: Search, base: Experiment) -> list[str]:
    """Of each objective, as records have it."""
    return [name if name == SECONDS else _metric(base, name).name for name in search.objectives]


def _metric(base: Experiment, name: str) -> Any:
    known = {metric.name: metric for metric in base.evaluation.all_metrics()}
    if name == "score":
        return next(iter(known.values()))
    if name not in known:
        raise UserError(f"objectives: there is no metric '{name}'; valid: score, {SECONDS}, {', '.join(known)}")
    return known[name]


def validation_scores(names: Sequence[str]) -> Callable[[Path], tuple[float, ...]]:
    """What a search is told of a record: the objectives, and nothing else.

    Args:
        names: of :func:`objective_names`.
    """

    def scores(record: Path) -> tuple[float, ...]:
        if not is_validation(read_json(record / "experiment.json")):
            raise RuntimeError(f"{record}: was scored on test data, of which a search must not be told")
        summary = read_json(record / "summary.json")
        known = {**summary["scores"], SECONDS: sum(summary["seconds"].values())}
        return tuple(float(known[name]) for name in names)

    return scores


# ---------------------------------------------------------------- Optuna's parts


def _sampler(search: Search, n: int) -> Any:
    """Args:
    n: proposals before this one.
    """
    from optuna import samplers

    chosen, seed = search.sampler, int(np.random.SeedSequence([search.seed, n]).generate_state(1)[0])
    if chosen.kind == "random":
        return samplers.RandomSampler(seed=seed)
    if chosen.kind == "nsga2":
        return samplers.NSGAIISampler(population_size=chosen.population, seed=seed)
    if chosen.kind == "cmaes":
        if importlib.util.find_spec("cmaes") is None:
            raise UserError(f"{search.where()}: sampler cmaes: run 'pip install cmaes', or choose tpe")
        return samplers.CmaEsSampler(seed=seed)
    grouped = any(part.when for part in search.space.values())
    with warnings.catch_warnings(action="ignore"):  # of what is experimental
        return samplers.TPESampler(
            n_startup_trials=chosen.startup, multivariate=True, group=grouped, constant_liar=True, seed=seed
        )


def _pruner(search: Search) -> Any:
    from optuna import pruners

    chosen = search.pruner
    if chosen.kind == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=chosen.percent, reduction_factor=chosen.reduction)
    if chosen.kind == "median":
        return pruners.MedianPruner(n_startup_trials=chosen.startup, n_warmup_steps=chosen.percent)
    return pruners.NopPruner()


def start_of(search: Search, base: Experiment, experiment: Experiment, label: str) -> Start:
    """An experiment as a point to begin with.

    Raises:
        UserError: it lies outside the space, or differs from the base in a setting that the space does not have.
    """
    try:
        point = search.point(experiment)
    except UserError as error:
        raise UserError(f"{search.where()}: {label} cannot be enqueued: {error}") from None
    same = override(base, search.settings(point), search.where())
    if stray := differing(same, experiment):
        raise UserError(f"{search.where()}: {label} cannot be enqueued: it sets {stray[0]}, which is not in the space")
    return Start(label, point)
