"""One experiment: everything a run depends on besides the machine; read from YAML, edited, validated.

Defaults are the paper's; what it leaves open is a setting. Sizes known only from the data (voxel count, number of
classes) are never written here. Importing this module loads no torch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from cnd import registry
from cnd.cortex.settings import AnalysisConfig
from cnd.data.splits import SplitConfig
from cnd.decoders.cnd.decoder import CndDecoder
from cnd.errors import UserError, nearest
from cnd.generators.embedded import EmbeddedGenerator
from cnd.metrics.evaluation import EvaluationConfig
from cnd.protocols import DataSource, Decoder, GeneratorChoice, SamplingConfig
from cnd.reading import explain, models_in, parse_yaml, read_yaml, tag
from cnd.settings import Config, Part, Rate

if TYPE_CHECKING:
    AnyData = DataSource
    AnyDecoder = Decoder
    AnyGenerator = GeneratorChoice
else:
    AnyData, AnyDecoder = registry.union("cnd.data"), registry.union("cnd.decoders")
    AnyGenerator = registry.union("cnd.generators")

AUTO: Final = "auto"  # label_map
ASSIGNED = (
    "Classes assigned by similarity: label_map = auto; the generator's class of a class of the data is the one that a "
    "classifier finds most similar, so what counts as true is a likeness, not a name."
)
OLD_SPELLINGS = {
    "phase2.validation_fraction": "split.validation_fraction",
    "data.validation_split": "split.validation",
    "shuffle_pairs": "split.shuffle_pairs",
    "encoder": "decoder.encoder",
    "phase1": "decoder.phase1",
    "phase2": "decoder.phase2",
}
"""Where settings stood before; keys and files that use these places go on working."""


class Experiment(Config):
    """One row: everything that a run depends on besides the machine."""

    name: str
    description: str = ""
    data: AnyData
    split: SplitConfig = SplitConfig()
    generator: AnyGenerator = EmbeddedGenerator()
    decoder: AnyDecoder = CndDecoder()
    # settings of other decoders here, by kind: a row that changes decoder.kind starts from them
    rivals: dict[str, dict[str, Any]] = Field(default_factory=dict)
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    # the generator's class of each class of the data, where names do not tell: a file, or by similarity of stimuli
    label_map: Literal["auto"] | Path | None = None
    analysis: AnalysisConfig = AnalysisConfig()
    minutes_per_trial: Rate = 1.0  # what the plan expects where no earlier run tells better
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("rivals")
    @classmethod
    def _rivals_are_decoders(cls, rivals: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        kinds = registry.classes("cnd.decoders")
        for kind, settings in rivals.items():
            if kind not in kinds:
                raise ValueError(f"there is no decoder '{kind}'{nearest(kind, kinds)}")
            try:
                kinds[kind].model_validate(settings)
            except ValidationError as error:
                raise ValueError(explain(error, kinds[kind], lambda key, kind=kind: kind).args[0]) from error
        return rivals

    @model_validator(mode="after")
    def _classes(self) -> Experiment:
        for judge in self.evaluation.classifiers:
            available = judge.n_classes(self.generator)
            if max(self.evaluation.n_way, default=0) > available:
                raise ValueError(f"evaluation.n_way exceeds the {available} classes of classifier '{judge.label}'")
        return self

    @model_validator(mode="after")
    def _decoder_suits(self) -> Experiment:
        if self.decoder.uses_generator:
            self.decoder.suits(self.generator)
        if self.decoder.learns and not self.data.has_fmri:
            raise ValueError(
                f"decoder.kind = {self.decoder.kind} learns from fMRI, and data.kind = {self.data.kind} has none; "
                "choose decoder.kind 'external', or data with fMRI"
            )
        return self

    @model_validator(mode="after")
    def _has_something_to_hold_out(self) -> Experiment:
        if self.split.validation is not None and not self.data.has_fmri:
            raise ValueError(
                f"split.validation holds out training items, and data.kind = {self.data.kind} has none; leave it out"
            )
        return self

    def warnings(self) -> list[str]:
        """What a reader must know before believing the scores: a name, a colon and a sentence each."""
        parts = (self.data, *([self.generator] if self.decoder.uses_generator else []), self.decoder)
        return [*(warning for part in parts for warning in part.warnings()), *([ASSIGNED] * (self.label_map == AUTO))]


def today(dotted: str) -> str:
    """Where a setting stands now, e.g. ``decoder.phase1.lr`` for ``phase1.lr``."""
    for old, new in OLD_SPELLINGS.items():
        if dotted == old or dotted.startswith(f"{old}."):
            return new + dotted.removeprefix(old)
    return dotted


def _modern(content: Any) -> Any:
    """The content of a file with settings moved to where they stand now."""
    if not isinstance(content, dict):
        return content
    content = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    for old, new in OLD_SPELLINGS.items():
        *parents, last = old.split(".")
        node = content.get(parents[0]) if parents else content
        if isinstance(node, dict) and last in node:
            section, key = new.split(".")
            held = content.setdefault(section, {"kind": "cnd"} if section == "decoder" else {})
            if isinstance(held, dict) and ("kind" not in held or held["kind"] == "cnd"):
                held.setdefault(key, node[last])  # a record of another decoder kept those of CnD too
            del node[last]
    return content


def parse_experiment(content: Any, source: str) -> Experiment:
    """An experiment from JSON values, e.g. of a record.

    Raises:
        UserError: one line with the source, the key and the remedy.
    """
    try:
        return Experiment.model_validate(_modern(content))
    except ValidationError as error:
        raise explain(error, Experiment, lambda key: source) from error


def load_experiment(path: Path) -> Experiment:
    """Read ``experiments/NAME.yaml``.

    Raises:
        UserError: one line with file, line, key path and remedy.
    """
    content, lines = read_yaml(path)
    content.setdefault("name", path.stem)
    lines |= {tuple(today(".".join(key)).split(".")): line for key, line in lines.items()}

    def where(key: tuple[str, ...]) -> str:
        while key and key not in lines:
            key = key[:-1]
        return f"{path}:{lines[key]}" if key else str(path)

    try:
        return Experiment.model_validate(_modern(content))
    except ValidationError as error:
        raise explain(error, Experiment, where) from error


def override(experiment: Experiment, edits: dict[str, Any], source: str) -> Experiment:
    """A validated copy with dotted keys replaced, e.g. ``{"phase1.mask_ratio": 0.5}``.

    A new ``kind`` in a tagged union drops the settings of the old kind, those aside that the new one takes over. A new
    decoder then gets what the experiment has for it (``rivals``). Settings within it may stand before the ``kind``.

    Args:
        source: what to name in an error, e.g. ``--set`` or ``sweeps/x.yaml row 3``.
    """
    content = experiment.model_dump(mode="python")
    for given in _kinds_first(edits):
        value, dotted = edits[given], today(given)
        *parents, last = dotted.split(".")
        node = content
        model: list[type[BaseModel]] = [Experiment]
        for part in parents:
            if len(tagged := [m for m in model if tag(m) == node.get("kind")]) == 1:
                model = tagged
            fields = {f for m in model for f in m.model_fields}
            if node is content:
                fields |= {old.partition(".")[0] for old in OLD_SPELLINGS}
            if (part in fields or not model) and node.get(part) is None:
                node[part] = {}  # after a new kind, a group that was off, or in the settings of a rival
            if not isinstance(node.get(part), dict):
                raise UserError(f"{source}: unknown key '{dotted}'{nearest(part, fields)}")
            model = [m for c in model if part in c.model_fields for m in models_in(c.model_fields[part].annotation)]
            node = node[part]
        if last == "kind" and node.get("kind") != value:
            kept = _taken_over(model, value, node)
            if parents == ["decoder"]:
                kept = _merged(kept, content["rivals"].get(value, {}))
            node.clear()
            node.update(kept)
        node[last] = copy.deepcopy(value)  # a later edit may go inside it
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise explain(error, Experiment, lambda key: source) from error


def _kinds_first(edits: Iterable[str]) -> list[str]:
    """Keys in their order, but each ``kind`` before the other settings of its group."""
    ordered: list[str] = []
    for key in edits:
        group, _, last = today(key).rpartition(".")
        inside = [i for i, other in enumerate(ordered) if today(other).startswith(f"{group}.")]
        ordered.insert(inside[0] if last == "kind" and group and inside else len(ordered), key)
    return ordered


def _taken_over(kinds: list[type[BaseModel]], kind: Any, old: dict[str, Any]) -> dict[str, Any]:
    """What a new kind keeps of the settings of the old one (``takes_over``)."""
    new = next((k for k in kinds if tag(k) == kind and issubclass(k, Part)), Part)
    kept: dict[str, Any] = {}
    for name, place in new.takes_over.items():
        held: Any = old
        for part in place.split("."):
            held = held.get(part) if isinstance(held, dict) else None
        if held is not None:
            *groups, last = name.split(".")
            node = kept
            for group in groups:
                node = node.setdefault(group, {})
            node[last] = held
    return kept


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested settings, those of ``over`` on top."""
    merged = dict(under)
    for key, value in over.items():
        held = merged.get(key)
        merged[key] = _merged(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return merged


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """``["phase1.mask_ratio=0.5"]`` to ``{"phase1.mask_ratio": 0.5}``; values are YAML."""
    edits: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {assignment}: expected key=value, e.g. --set phase1.mask_ratio=0.5")
        edits[key.strip()] = parse_yaml(value, f"--set {key.strip()}")[1]
    return edits
