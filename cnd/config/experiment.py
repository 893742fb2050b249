"""One experiment: everything a run depends on besides the machine; read from YAML, edited, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from cnd.config.data import DataConfig
from cnd.config.decoding import (
    CndDecoder,
    DecoderConfig,
    DitGenerator,
    EmbeddedGenerator,
    EvaluationConfig,
    GeneratorConfig,
    SamplingConfig,
    TimmClassifier,
)
from cnd.config.model import EncoderConfig, Phase1Config, Phase2Config
from cnd.config.reading import explain, models_in, read_yaml
from cnd.cortex.settings import AnalysisConfig
from cnd.errors import UserError, nearest
from cnd.settings import Config, Rate


class Experiment(Config):
    """One row: everything that a run depends on besides the machine."""

    name: str
    description: str = ""
    data: DataConfig
    generator: GeneratorConfig = EmbeddedGenerator()
    decoder: DecoderConfig = CndDecoder()
    encoder: EncoderConfig = EncoderConfig()
    phase1: Phase1Config = Phase1Config()
    phase2: Phase2Config = Phase2Config()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    analysis: AnalysisConfig = AnalysisConfig()
    shuffle_pairs: bool = False  # control: each training image gets another item's fMRI
    minutes_per_trial: Rate = 1.0  # what the plan expects where no earlier run tells better
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _classes(self) -> Experiment:
        for judge in self.evaluation.classifiers:
            if isinstance(judge, TimmClassifier):
                name, available = judge.name, 1000
            elif isinstance(self.generator, EmbeddedGenerator):
                name = self.generator.name
                available = {"simulated": 200, "digits": 10}[name]
            else:
                raise ValueError(
                    "evaluation.classifiers: kind 'embedded' ships with the embedded generators only; use kind 'timm'"
                )
            if max(self.evaluation.n_way) > available:
                raise ValueError(f"evaluation.n_way exceeds the {available} classes of classifier '{name}'")
        return self

    @model_validator(mode="after")
    def _dit(self) -> Experiment:
        if isinstance(self.generator, DitGenerator) and self.phase2.train_unet_cross_attention:
            raise ValueError("phase2.train_unet_cross_attention: generator.kind 'dit' has no cross-attention to train")
        return self


def load_experiment(path: Path) -> Experiment:
    """Read ``experiments/NAME.yaml``.

    Raises:
        UserError: one line with file, line, key path and remedy.
    """
    content, lines = read_yaml(path)
    content.setdefault("name", path.stem)

    def where(key: tuple[str, ...]) -> str:
        while key and key not in lines:
            key = key[:-1]
        return f"{path}:{lines[key]}" if key else str(path)

    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise explain(error, Experiment, where) from error


def override(experiment: Experiment, edits: dict[str, Any], source: str) -> Experiment:
    """A validated copy with dotted keys replaced, e.g. ``{"phase1.mask_ratio": 0.5}``.

    A new ``kind`` in a tagged union drops the settings of the old kind.

    Args:
        source: what to name in an error, e.g. ``--set`` or ``sweeps/x.yaml row 3``.
    """
    content = experiment.model_dump(mode="python")
    for dotted, value in edits.items():
        *parents, last = dotted.split(".")
        node = content
        model: list[type[BaseModel]] = [Experiment]
        for part in parents:
            fields = {f for m in model for f in m.model_fields}
            if part not in node or not isinstance(node[part], dict):
                raise UserError(f"{source}: unknown key '{dotted}'{nearest(part, fields)}")
            model = [m for c in model if part in c.model_fields for m in models_in(c.model_fields[part].annotation)]
            node = node[part]
        if last == "kind" and node.get("kind") != value:
            node.clear()
        node[last] = value
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise explain(error, Experiment, lambda key: source) from error


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """``["phase1.mask_ratio=0.5"]`` to ``{"phase1.mask_ratio": 0.5}``; values are YAML."""
    edits: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {assignment}: expected key=value, e.g. --set phase1.mask_ratio=0.5")
        try:
            edits[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {assignment}: the value is not valid YAML") from error
    return edits
