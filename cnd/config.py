"""Every setting of an experiment, typed. Defaults are the paper's; what METHOD-level rulings leave open is a field.

An experiment is YAML (``experiments/*.yaml``); a sweep is a table of edits to it. Sizes known only from
the data (voxel count, number of classes) are never written here. Importing this module loads no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cnd.errors import UserError, nearest

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]


class Config(BaseModel):
    """Frozen and closed: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# ---------------------------------------------------------------- data


class SimulatedData(Config):
    """Simulated visual cortex seeing rendered objects (:mod:`cnd.data.simulated`)."""

    kind: Literal["simulated"] = "simulated"
    subject: Annotated[int, Field(ge=1, le=5)] = 1  # own receptive fields, mixing and voxel count
    brain_seed: Annotated[int, Field(ge=0)] = 0  # another seed is another set of five subjects
    stimulus_seed: Annotated[int, Field(ge=0)] = 0
    n_voxels: Annotated[int, Field(ge=64, le=6000)] = 1200  # of subject 1; the others differ by up to 15 %
    images_per_category: Positive = 8  # of the 150 training categories
    test_images_per_category: Positive = 4  # of the 50 test categories
    test_repetitions: Positive = 35  # trials averaged for a test item
    snr: Rate = 0.03  # median over voxels of single-trial signal variance / noise variance
    noise_correlation: Fraction = 0.3  # share of the noise variance that is smooth over the cortex
    drift: Fraction = 0.2  # share of the noise variance that drifts slowly over a run
    n_unlabelled: Annotated[int, Field(ge=0)] = 3000  # rest-like patterns, the stand-in for HCP
    unlabelled_signal: bool = True  # False: a null pool of noise without the generative subspace
    validation_split: bool = False  # score held-out *training* categories instead of the test set

    @model_validator(mode="after")
    def _noise_shares(self) -> SimulatedData:
        if self.noise_correlation + self.drift > 1:
            raise ValueError("noise_correlation + drift must not exceed 1: both are shares of the noise variance")
        return self


class Digits69Data(Config):
    """Handwritten sixes and nines, real fMRI of visual cortex (:mod:`cnd.data.digits69`)."""

    kind: Literal["digits69"] = "digits69"
    path: Path | None = None  # digit69_28x28.mat, which is not redistributable
    n_folds: Annotated[int, Field(ge=2, le=50)] = 10  # cross-validation over all 100 items
    fold: Annotated[int, Field(ge=0)] | None = None  # None pools every fold, a number runs that one

    @model_validator(mode="after")
    def _fold_exists(self) -> Digits69Data:
        if self.fold is not None and self.fold >= self.n_folds:
            raise ValueError(f"fold {self.fold} does not exist: there are {self.n_folds} folds, counted from 0")
        return self


DataConfig = Annotated[SimulatedData | Digits69Data, Field(discriminator="kind")]

# ---------------------------------------------------------------- model and training


class EncoderConfig(Config):
    """Masked autoencoder of fMRI patterns (sec. 3.2, 8.2)."""

    patch_size: Positive = 16  # voxels a token; kernel and stride of the 1-D convolution
    width: Positive = 1024
    depth: Positive = 24
    heads: Positive = 16
    mlp_ratio: Rate = 1.0
    decoder_width: Positive = 512
    decoder_depth: Positive = 8
    decoder_heads: Positive = 16

    @model_validator(mode="after")
    def _heads_divide(self) -> EncoderConfig:
        if self.width % self.heads or self.decoder_width % self.decoder_heads:
            raise ValueError("width must be a multiple of heads, and decoder_width of decoder_heads")
        if self.width % 2 or self.decoder_width % 2:
            raise ValueError("width and decoder_width must be even (sin-cos positions)")
        return self


class Phase1Config(Config):
    """Double contrastive pre-training (sec. 3.2, eq. 3 to 5, sec. 8.2)."""

    enabled: bool = True  # False: the encoder starts Phase 2 from random weights (Table 1, row 0)
    alpha_s: Weight = 1.0  # weight of the self-contrast, eq. 4
    alpha_c: Weight = 0.5  # weight of the cross-contrast, eq. 3
    reconstruction_weight: Weight = 0.0  # masked mean squared error, for baselines
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    self_contrast_view: Literal["first", "both", "independent"] = "first"  # both: duplicate self-contrast
    negatives: Literal["anchors", "positives"] = "anchors"  # anchors: as eq. 3 and 4 are printed
    temperature: Rate = 0.1  # tau of eq. 1; the paper gives none
    sparsification: Annotated[float, Field(ge=0, lt=1)] = 0.2  # voxels of a sample set to zero
    pretrain_epochs: Annotated[int, Field(ge=0)] = 500  # on the unlabelled pool, where there is one
    tune_epochs: Annotated[int, Field(ge=0)] = 500  # on the training set of the subject
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    batch_size: Annotated[int, Field(ge=2)] = 250  # contrast negatives come from the batch
    micro_batch_size: Positive | None = None  # patterns in memory at once; all batch_size negatives are kept
    lr: Rate = 2.5e-4
    weight_decay: Weight = 0.05
    gradient_clip: Rate = 0.8
    transductive: bool = False  # True: test fMRI enters pre-training, and the report says so loudly

    @model_validator(mode="after")
    def _some_loss(self) -> Phase1Config:
        if self.enabled and self.alpha_s + self.alpha_c + self.reconstruction_weight == 0:
            raise ValueError("alpha_s, alpha_c and reconstruction_weight are all 0: nothing to train")
        return self


class Phase2Config(Config):
    """Concept-aware conditioning of the frozen latent diffusion model (sec. 3.3)."""

    concept_depth: Positive = 4  # cross-attention layers over the concept bank (CL depth)
    context_tokens: Positive = 77
    token_mapper: Literal["flatten", "conv"] = "flatten"
    mapper_width: Positive = 16  # channels a token keeps before flattening
    mapper_position: Literal["before", "after"] = "before"  # of the concept layers
    concept_heads: Positive = 8
    train_encoder: bool = True
    train_unet_cross_attention: bool = False  # DC-LDM's policy
    loss_weighting: Literal["none", "min_snr"] = "none"
    timestep_range: tuple[int, int] = (0, 1000)  # where training time-steps are drawn; all is eq. 2
    max_steps: Positive | None = None  # None: max_epochs decides
    max_epochs: Positive = 500
    batch_size: Positive = 8
    lr: Rate = 5.3e-5
    encoder_lr: Rate | None = None  # None: the same as lr
    weight_decay: Weight = 0.01
    warmup_fraction: Fraction = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    gradient_clip: Rate = 1.0
    checkpoint: Literal["last", "validation", "test_best"] = "validation"
    n_checkpoints: Positive = 5  # how often the candidates for ``checkpoint`` are scored
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of the training categories (or items)

    @model_validator(mode="after")
    def _range(self) -> Phase2Config:
        low, high = self.timestep_range
        if not 0 <= low < high <= 1000:
            raise ValueError("timestep_range must satisfy 0 <= low < high <= 1000")
        return self


class GeneratorConfig(Config):
    """The frozen class-conditional latent diffusion model."""

    kind: Literal["embedded"] = "embedded"
    name: Literal["simulated", "digits"] = "simulated"  # weights that ship with the package


class SamplingConfig(Config):
    """DDIM sampling of the test items (sec. 4.2, 5.2)."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 250
    guidance: Annotated[float, Field(ge=1)] = 1.0  # classifier-free guidance; 1 is none
    samples_per_item: Positive = 5
    batch_size: Positive = 50


class EvaluationConfig(Config):
    """n-way top-1 accuracy (sec. 4.3, Algorithm 1)."""

    n_way: tuple[Annotated[int, Field(ge=2)], ...] = (50, 100)  # the first one is the table's score
    top_k: Positive = 1
    truth: Literal["classifier", "label"] = "classifier"  # true class: F's top-1 on the image, or the label

    @model_validator(mode="after")
    def _not_empty(self) -> EvaluationConfig:
        if not self.n_way:
            raise ValueError("n_way must name at least one number of classes")
        if self.top_k >= min(self.n_way):
            raise ValueError("top_k must be smaller than every n_way")
        return self


class CndDecoder(Config):
    """The paper's two phases."""

    kind: Literal["cnd"] = "cnd"


class RidgeDecoder(Config):
    """Control: ridge from voxels into the concept bank, then the same frozen generator."""

    kind: Literal["ridge"] = "ridge"
    alphas: tuple[Rate, ...] = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
    n_splits: Annotated[int, Field(ge=2)] = 5  # cross-validation over training categories


class OracleDecoder(Config):
    """Control: the true class conditions the generator; what the generator and the judge allow at best."""

    kind: Literal["oracle"] = "oracle"


DecoderConfig = Annotated[CndDecoder | RidgeDecoder | OracleDecoder, Field(discriminator="kind")]


class Experiment(Config):
    """One row: everything that a run depends on besides the machine."""

    name: str
    description: str = ""
    data: DataConfig
    generator: GeneratorConfig = GeneratorConfig()
    decoder: DecoderConfig = CndDecoder()
    encoder: EncoderConfig = EncoderConfig()
    phase1: Phase1Config = Phase1Config()
    phase2: Phase2Config = Phase2Config()
    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    shuffle_pairs: bool = False  # control: each training image gets another item's fMRI
    minutes_per_trial: Rate = 1.0  # what the plan expects where no earlier run tells better
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _classes(self) -> Experiment:
        available = {"simulated": 200, "digits": 10}[self.generator.name]
        if max(self.evaluation.n_way) > available:
            raise ValueError(f"evaluation.n_way exceeds the {available} classes of generator '{self.generator.name}'")
        return self


# ---------------------------------------------------------------- reading, editing, explaining

_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C version is five times faster, where there is one


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """A YAML mapping and the line (from 1) of each key path in it.

    Raises:
        UserError: the file is missing, is no valid YAML, repeats a key, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        root = yaml.compose(text, Loader=_YamlLoader)
        content = yaml.load(text, Loader=_YamlLoader)  # the safe loader
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if root is None or not isinstance(content, dict):
        raise UserError(f"{path}:1: expected a mapping of settings")
    lines: dict[tuple[str, ...], int] = {}

    def visit(node: yaml.Node, at: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                where = (*at, str(key.value))
                if where in lines:
                    raise UserError(f"{path}:{key.start_mark.line + 1}: key '{'.'.join(where)}' appears twice")
                lines[where] = key.start_mark.line + 1
                visit(value, where)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                lines[(*at, str(index))] = value.start_mark.line + 1
                visit(value, (*at, str(index)))

    visit(root, ())
    return content, lines


def _fields_at(model: type[BaseModel], location: tuple[str, ...]) -> list[str]:
    """Names that are valid beside the last key of ``location`` (a pydantic error location, union tags included)."""
    models: list[type[BaseModel]] = [model]
    for part in location[:-1]:
        inner: list[type[BaseModel]] = []
        for candidate in models:
            if part in candidate.model_fields:
                inner += _models_in(candidate.model_fields[part].annotation)
            elif _tag(candidate) == part:
                inner.append(candidate)
        models = inner or models
    return sorted({name for candidate in models for name in candidate.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return str(field.default) if field is not None else None


def explain(error: ValidationError, model: type[BaseModel], where: Any) -> UserError:
    """Turn pydantic's first complaint into one line.

    Args:
        where: function from a key path (tuple) to what the user typed, such as ``file.yaml:12``.
    """
    # A misspelt key is reported as missing and as unknown: the second says what to do.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location = tuple(str(part) for part in first["loc"])
    path = _without_tags(model, location)
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        problem = f"unknown key '{key}'{nearest(path[-1], _fields_at(model, location))}"
    elif first["type"] == "missing":
        problem = f"key '{key}' is missing; add it"
    elif first["type"] == "union_tag_not_found":
        problem = f"key '{key}.kind' is missing; add it, one of: {first['ctx'].get('expected_tags', '')}"
    else:
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        value = first["input"]
        shown = f" = {value!r}" if isinstance(value, (str, int, float, bool, list)) else ""
        must = "" if first["type"] == "value_error" else "must be "
        problem = f"{key}{shown}: {must}{message}" if key else message
    return UserError(f"{where(path)}: {problem}")


def _without_tags(model: type[BaseModel], location: tuple[str, ...]) -> tuple[str, ...]:
    """Drop the union tags that pydantic mixes into an error location."""
    path: list[str] = []
    models: list[type[BaseModel]] = [model]
    for part in location:
        tagged = [m for m in models if _tag(m) == part and part not in m.model_fields]
        if tagged and len(models) > 1:
            models = tagged
            continue
        path.append(part)
        models = [m for c in models if part in c.model_fields for m in _models_in(c.model_fields[part].annotation)]
    return tuple(path)


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
            model = [m for c in model if part in c.model_fields for m in _models_in(c.model_fields[part].annotation)]
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
