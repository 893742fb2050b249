"""A search as its YAML file says: settings to vary, what is to be optimised, and how. Loads no optuna, torch or ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from cnd.data.splits import SHARE
from cnd.errors import UserError, nearest
from cnd.experiment import Experiment, override, today
from cnd.places import SWEEPS, find_file
from cnd.reading import explain, read_yaml, refuse_words
from cnd.settings import Config, Positive, Rate
from sweeps.spec import NOT_OF_A_ROW, SCORE, Id, NamedId

VALIDATION = "split.validation"  # the setting that keeps a search from the test set
SECONDS = "seconds"  # the objective that counts device time, as the record has it
Scalar = str | int | float | bool | None
Edits = dict[str, Any]


class _Part(Config):
    """A setting to vary.

    Attributes:
        when: other settings of the space and the value, or list of values, for which this one is varied at all.
    """

    when: dict[str, Any] = Field(default_factory=dict)

    @field_validator("when")
    @classmethod
    def _today(cls, when: dict[str, Any]) -> dict[str, Any]:
        for value in when.values():
            for one in value if isinstance(value, list) else [value]:
                refuse_words(one)
        return {today(key): value for key, value in when.items()}

    def active(self, values: Mapping[str, Any]) -> bool:
        """Whether it is varied beside these settings."""
        wanted = {key: value if isinstance(value, list) else [value] for key, value in self.when.items()}
        return all(key in values and values[key] in allowed for key, allowed in wanted.items())

    def scaling(self) -> list[str]:
        """Other settings that change with this one."""
        return []

    def factors(self, base: Experiment, key: str) -> dict[Scalar, dict[str, float]]:
        """By which factors other settings change with each value."""
        return {}

    def stored(self, value: Any) -> Scalar:
        """A value as the study keeps it, which knows numbers, words and nothing else."""
        return value if isinstance(value, Scalar) else json.dumps(value, sort_keys=True)


class _Number(_Part):
    @model_validator(mode="after")
    def _ordered(self: Any) -> Any:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} must be below high = {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low}: a logarithmic scale begins above 0")
        if self.log and self.step not in (None, 1):
            raise ValueError("step, log: a logarithmic scale has no steps; leave one of them out")
        return self

    def ends(self: Any) -> list[Any]:
        """Values that must be valid if the whole part is."""
        return [self.low, self.high]

    def told(self: Any) -> str:
        """The part in words."""
        steps = f", in steps of {self.step:g}" if self.step not in (None, 1) else ""
        return f"{self.low:g} to {self.high:g}{', log scale' if self.log else ''}{steps}"

    def setting(self: Any, stored: Any) -> Any:
        return stored

    def holds(self: Any, value: Any) -> bool:
        """Whether a value is in it."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-8


class FloatPart(_Number):
    """A real number from ``low`` to ``high``, both included; ``step``: in steps from ``low``."""

    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False
    step: Annotated[float, Field(gt=0)] | None = None

    def setting(self, stored: Any) -> Any:
        """As people write it: 0.15, not 0.15000000000000002, which would be another key in the cache."""
        return stored if self.step is None else round(stored, 10)


class IntPart(_Number):
    """A whole number from ``low`` to ``high``, both included."""

    kind: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False
    step: Positive = 1


class CategoricalPart(_Part):
    """One of several values, whatever they are.

    Attributes:
        scales: other settings, all of them numbers, that change with the choice, so that what trials compare stays
            equal: steps with the batch size, for the same training time. By dotted setting a factor for each choice;
            the experiment's own value belongs to the experiment's own choice. Where several choices scale one
            setting, their factors are multiplied.
    """

    kind: Literal["categorical"] = "categorical"
    choices: Annotated[tuple[Any, ...], Field(min_length=2)]
    scales: dict[str, tuple[Rate, ...]] = Field(default_factory=dict)

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        words = [json.dumps(choice, sort_keys=True) for choice in choices]
        if len(set(words)) < len(words):
            raise ValueError("a choice appears twice")
        for choice in choices:
            refuse_words(choice)
        return choices

    @model_validator(mode="after")
    def _a_factor_each(self) -> CategoricalPart:
        for key, factors in self.scales.items():
            if len(factors) != len(self.choices):
                raise ValueError(f"scales.{key}: {len(factors)} factors for {len(self.choices)} choices")
        return self

    @field_validator("scales")
    @classmethod
    def _scales_today(cls, scales: dict[str, Any]) -> dict[str, Any]:
        return {today(key): factors for key, factors in scales.items()}

    def ends(self) -> list[Any]:
        return list(self.choices)

    def setting(self, stored: Any) -> Any:
        """The choice that the study keeps as ``stored``."""
        return next(choice for choice in self.choices if _same(self.stored(choice), stored))

    def holds(self, value: Any) -> bool:
        return any(_same(self.stored(choice), self.stored(value)) for choice in self.choices)

    def told(self) -> str:
        """The part in words."""
        words = [choice if isinstance(choice, str) else json.dumps(choice) for choice in self.choices]
        along = " and ".join(key.rpartition(".")[2] for key in self.scales)
        return " | ".join(words) + (f", {along} along with it" if along else "")

    def scaling(self) -> list[str]:
        return list(self.scales)

    def factors(self, base: Experiment, key: str) -> dict[Scalar, dict[str, float]]:
        """By which factors the experiment's other settings change with each choice, as the study keeps it.

        Args:
            key: the dotted setting that is chosen.

        Raises:
            ValueError: the experiment's own value is none of the choices.
        """
        if not self.scales:
            return {}
        own = setting_of(base, key)
        if not self.holds(own):
            raise ValueError(f"scales: the experiment has {key} = {own}, which is none of the choices; add it to them")
        found: dict[Scalar, dict[str, float]] = {self.stored(choice): {} for choice in self.choices}
        for other, rates in self.scales.items():
            by_choice = dict(zip(found, rates, strict=True))
            for choice, rate in by_choice.items():
                found[choice][other] = rate / by_choice[self.stored(own)]
        return found


def _same(one: Any, other: Any) -> bool:
    """True is 1 to Python, but not to a reader."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


Part = Annotated[FloatPart | IntPart | CategoricalPart, Field(discriminator="kind")]


class Tpe(Config):
    """Tree-structured Parzen estimator, over all settings together."""

    kind: Literal["tpe"] = "tpe"
    startup: Positive = 10  # random trials before it


class Random(Config):
    """Each trial by chance."""

    kind: Literal["random"] = "random"


class Nsga2(Config):
    """A genetic algorithm, for several objectives."""

    kind: Literal["nsga2"] = "nsga2"
    population: Annotated[int, Field(ge=2)] = 20


class Cmaes(Config):
    """Covariance matrix adaptation, for real numbers; needs the package ``cmaes``."""

    kind: Literal["cmaes"] = "cmaes"


class NoPruner(Config):
    """Every trial is trained to its end."""

    kind: Literal["none"] = "none"


class Asha(Config):
    """Successive halving: a trial goes on past a rung if it is among the best 1 / ``reduction`` that came there."""

    kind: Literal["asha"] = "asha"
    percent: Annotated[int, Field(ge=1, le=100)] = 25  # of a training done at the first rung
    reduction: Annotated[int, Field(ge=2)] = 2


class Median(Config):
    """A trial goes on while it is no worse than the median of earlier ones at the same point."""

    kind: Literal["median"] = "median"
    startup: Positive = 5  # trials before it
    percent: Annotated[int, Field(ge=0, le=100)] = 0  # of a training done before it


Sampler = Annotated[Tpe | Random | Nsga2 | Cmaes, Field(discriminator="kind")]
Pruner = Annotated[NoPruner | Asha | Median, Field(discriminator="kind")]


class Enqueue(Config):
    """Rows of a table to begin with."""

    sweep: str
    rows: tuple[Id, ...] = ()  # none: all


class Final(Config):
    """What is trained on train and validation data, with seeds that the search did not use, and scored on test."""

    best: Positive = 3  # how many of the best trials, beside the reference
    seeds: Positive = 3


class Search(Config):
    """A search (``sweeps/search.yaml``).

    The objectives are ``score``, the table's score, or another metric of the experiment; and ``seconds`` of device
    time, which are minimised. All scores are those of validation data.
    """

    name: NamedId
    title: str
    description: str = ""
    set: Edits = Field(default_factory=dict)  # of the base experiment, for the reference and all trials
    space: Annotated[dict[str, Part], Field(min_length=1)]  # by dotted setting
    objectives: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("score",)
    sampler: Sampler = Tpe()
    pruner: Pruner = NoPruner()
    seed: Annotated[int, Field(ge=0)] = 0  # of the proposals
    trials: Positive = 40
    hours: Annotated[float, Field(gt=0)] | None = None  # after which no further trial begins
    seeds: Positive = 1  # training seeds of a trial, over which its scores are averaged
    enqueue: Enqueue | None = None
    storage: Annotated[str | None, Field(exclude=True)] = None  # URL of a database; None: a journal. Never written down
    final: Final = Final()
    _source: str = PrivateAttr("")
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)
    _factors: dict[str, dict[Scalar, dict[str, float]]] = PrivateAttr(default_factory=dict)  # by setting and choice
    _unscaled: dict[str, int | float] = PrivateAttr(default_factory=dict)  # what the experiment has of what is scaled

    @field_validator("set", "space")
    @classmethod
    def _today(cls, found: dict[str, Any]) -> dict[str, Any]:
        return {today(key): value for key, value in found.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Search:
        for part_of, keys in (("set", self.set), ("space", self.space)):
            if alien := [key for key in keys if key.partition(".")[0] in NOT_OF_A_ROW]:
                raise ValueError(f"{part_of}: '{alien[0]}' is no setting of a trial; leave it out")
        before: list[str] = []
        for key, part in self.space.items():
            if unknown := [other for other in part.when if other not in before]:
                hint = nearest(unknown[0], before) if before else ""
                raise ValueError(f"space.{key}.when: '{unknown[0]}' is no setting of the space above this one{hint}")
            before.append(key)
        if VALIDATION in self.space:
            raise ValueError(f"space: {VALIDATION} says what trials are scored on, so it cannot vary; put it into set")
        if both := [key for key in self.set if key in self.space]:
            raise ValueError(f"set, space: both name '{both[0]}'; leave one of them out")
        if both := [key for part in self.space.values() for key in part.scaling() if key in self.space]:
            raise ValueError(f"space: '{both[0]}' is scaled with a choice, and varied, too; leave one of them out")
        if self.objectives[0] == SECONDS or len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: the first must be a score, and no two the same")
        if len(self.objectives) > 1 and self.pruner.kind != "none":
            raise ValueError("pruner: a trial is stopped by its score alone, so leave it out where two things count")
        if self.pruner.kind != "none" and self.objectives[0] != "score":
            raise ValueError(f"pruner: checkpoints tell the table's score, not '{self.objectives[0]}'; leave it out")
        if len(self.objectives) > 1 and self.sampler.kind == "cmaes":
            raise ValueError("sampler: cmaes takes one objective; choose tpe, nsga2 or random")
        if self.sampler.kind == "cmaes" and any(p.kind == "categorical" or p.when for p in self.space.values()):
            raise ValueError("sampler: cmaes takes numbers without conditions only; choose tpe or random")
        return self

    def where(self, key: str = "") -> str:
        """File and line of a setting of the space, for messages."""
        line = self._lines.get(key)
        return f"{self._source}:{line}, {key}" if line else f"{self._source}{f', {key}' if key else ''}"

    # ---- points of the space

    def of(self, base: Experiment) -> Search:
        """This search with what goes with the choices worked out for its base experiment.

        Raises:
            UserError: that does not go with the experiment.
        """
        found = self.model_copy()
        found._factors, found._unscaled = {}, {}
        for key, part in self.space.items():
            try:
                found._factors[key] = part.factors(base, key)
            except ValueError as error:
                raise UserError(f"{self.where(key)}: {error}") from None
            for other in part.scaling():
                value = setting_of(base, other)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    told = f"the experiment has {other} = {value}; set it to a number"
                    raise UserError(f"{self.where(key)}: scales: {told}")
                found._unscaled[other] = value
        return found

    def settings(self, stored: Mapping[str, Any]) -> Edits:
        """The settings that a point of the study means."""
        return {key: self.space[key].setting(stored[key]) for key in self.space if key in stored} | self._scaled(stored)

    def _scaled(self, stored: Mapping[str, Any]) -> Edits:
        """What goes with the choices of a point."""
        factors: dict[str, float] = {}
        for key in self.space:
            for other, factor in self._factors.get(key, {}).get(stored.get(key), {}).items():
                factors[other] = factors.get(other, 1) * factor
        found: Edits = {}
        for other, factor in factors.items():
            value = self._unscaled[other]
            found[other] = max(1, round(value * factor)) if isinstance(value, int) else value * factor
        return found

    def point(self, experiment: Experiment) -> dict[str, Scalar]:
        """The point of the space that an experiment is.

        Raises:
            UserError: a setting lies outside its range.
        """
        found: dict[str, Any] = {}
        for key, part in self.space.items():
            if not part.active(found):
                continue
            value = setting_of(experiment, key)
            if not part.holds(value):
                raise UserError(f"{key} = {value} lies outside of the space")
            found[key] = value
        stored = {key: self.space[key].stored(value) for key, value in found.items()}
        for other, number in self._scaled(stored).items():
            if (value := setting_of(experiment, other)) != number:
                choices = [f"{key} = {found[key]}" for key in found if other in self.space[key].scaling()]
                raise UserError(f"{other} = {value} does not go with {' and '.join(choices)}")
        return stored

    def tried(self, base: Experiment) -> None:
        """Look whether every setting of the space is there, and takes the values at its ends.

        Raises:
            UserError: one is not, or does not.
        """
        for key in self.space:
            for edits in self.ends(key):
                override(base, edits, self.where(key))

    def ends(self, key: str) -> list[Edits]:
        """A setting at its ends, or at each of its choices, with what goes along and what it is varied under."""
        part, beside = self.space[key], self._condition(key)
        return [beside | {key: value} | self._scaled({key: part.stored(value)}) for value in part.ends()]

    def _condition(self, key: str) -> Edits:
        """Settings for which one is varied."""
        found: Edits = {}
        for other, value in self.space[key].when.items():
            found |= self._condition(other) | {other: value[0] if isinstance(value, list) else value}
        return found


def setting_of(experiment: Experiment, key: str) -> Any:
    """The value at a dotted key as JSON, None where a part of the way is not there."""
    node: Any = experiment.model_dump(mode="json")
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


# ---------------------------------------------------------------- reading


def is_search(name: str) -> bool:
    """Whether a name or a path means a search rather than a table.

    Raises:
        UserError: there is no such file.
    """
    return name != SCORE and "space" in read_yaml(find_file(name, SWEEPS, "sweep"))[0]


def load_search(name: str) -> Search:
    """The search of a name or a path.

    Raises:
        UserError: one line with file, line, key and remedy.
    """
    path = find_file(name, SWEEPS, "sweep")
    content, lines = read_yaml(path)
    try:
        search = Search.model_validate(content)
    except ValidationError as error:
        raise explain(error, Search, _where(path, lines)) from error
    search._source = str(path)
    search._lines = {today(key[1]): line for key, line in lines.items() if len(key) == 2 and key[0] == "space"}
    return search


def _where(path: Path, lines: dict[tuple[str, ...], int]) -> Callable[[tuple[str, ...]], str]:
    def where(key: tuple[str, ...]) -> str:
        while key and key not in lines:
            key = key[:-1]
        return f"{path}:{lines[key]}" if key else str(path)

    return where


# ---------------------------------------------------------------- validation


def validation(experiment: Experiment, source: str) -> Experiment:
    """The experiment that is scored on held-out training items instead of the test set.

    Raises:
        UserError: its data have no training items.
    """
    return override(experiment, {VALIDATION: experiment.split.validation or SHARE}, source)


def on_test(experiment: Experiment, source: str) -> Experiment:
    """The experiment that is scored on the test set, whatever it says."""
    return override(experiment, {VALIDATION: None}, source)


def is_validation(experiment: Mapping[str, Any]) -> bool:
    """Whether an experiment, as JSON values, was scored on validation data."""
    return experiment["split"].get("validation") is not None


def folds_note(experiment: Experiment) -> str | None:
    """What choosing settings for all folds of a cross-validation together means; None where there is one fold."""
    if (n := len(experiment.data.folds())) < 2:
        return None
    nested = "--set data.fold=0, and so on" if "fold" in type(experiment.data).model_fields else "a data set a fold"
    return (
        f"{n} folds: a trial neither learns from nor is scored on the test items of its fold, but every item is a "
        "training item of other folds, and one choice of settings is made over all of them, so the final score on "
        f"test data can still be a little too high. Nested throughout is one search a fold ({nested}), which never "
        "meets that fold's test items."
    )
