"""Everything the paper states: settings, published scores; and where an experiment departs from it.

"Decoding Realistic Images from Brain Activity with Contrastive Self-supervision and Latent Diffusion" (CnD). Sections,
equations and numbers in brackets are the paper's; DC-LDM is its [2], MinD-Vis. Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from cnd.settings import Config

if TYPE_CHECKING:
    from cnd.experiment import Experiment
    from cnd.protocols import Decoder

# ---------------------------------------------------------------- settings


def show(value: Any) -> str:
    """A value as YAML has it; parts in a list by their kind."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, Config):
        return str(getattr(value, "kind", value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)


class Stated:
    """A setting that the paper states.

    Args:
        section: where.
        values: any of them is as the paper has it; none: ``accepts`` decides, and without it every value departs.
        told: what the paper states, where the values do not say it.
    """

    def __init__(
        self, section: str, *values: Any, told: str = "", accepts: Callable[[Any], bool] | None = None
    ) -> None:
        self.section = section
        self.told = told or " or ".join(map(show, values))
        self.accepts = accepts or (lambda value: value in values)


class Open(NamedTuple):
    """A setting that the paper leaves open: what it is about, and what relatives do."""

    note: str


class Ours(NamedTuple):
    """A setting outside the paper."""

    note: str


Entry = Stated | Open | Ours

# fmt: off
SETTINGS: dict[str, dict[str, Entry]] = {
    "Experiment": {
        "name":                       Ours("name"),
        "description":                Ours("name"),
        "label_map":                  Stated("sec. 4.3", None, told="a classifier tells the class of an image"),
        "rivals":                     Ours("settings of decoders beside CnD"),
        "minutes_per_trial":          Ours("plan"),
        "seed":                       Open("the paper does not tell how many trainings a score is the mean of"),
    },

    # data (sec. 4.1)
    "DataSource": {
        "kind":                       Stated("sec. 4.1", "god", "bold5000"),
    },
    "FileSource": {
        "unlabelled":                 Stated("sec. 4.1, 4.2", told="pre-training on HCP", accepts=bool),
    },
    "Pool": {
        "kind":                       Stated("sec. 4.1, 4.2", "hcp"),
    },
    "HcpPool": {
        "path":                       Ours("place"),
        "window":                     Open("volumes averaged into one pattern; DC-LDM: 10"),
    },
    "SubjectPool": {
        "subject":                    Ours("another subject instead of HCP"),
    },
    "GodData": {
        "path":                       Ours("place"),
        "images":                     Ours("place"),
        "image_size":                 Stated("sec. 4.2", 256),
        "subject":                    Stated("sec. 4.1", 1, 2, 3, 4, 5),
        "roi":                        Open("areas whose voxels are used; VC is all of visual cortex"),
        "test_trials":                Stated("sec. 4.1", "averaged", told="50 test items, one an image"),
    },
    "Bold5000Data": {
        "path":                       Ours("place"),
        "images":                     Ours("place"),
        "image_size":                 Stated("sec. 4.2", 256),
        "subject":                    Stated("sec. 4.1", 1, 2, 3, 4),
        "roi":                        Open("areas whose voxels are used"),
        "test_trials":                Open("the paper does not tell the test set; here the 113 repeated images"),
    },
    "Digits69Data": {
        "path":                       Ours("place"),
        "n_folds":                    Ours("other data"),
        "fold":                       Ours("other data"),
    },
    "MiyawakiData": {
        "path":                       Ours("place"),
        "split_by":                   Ours("other data"),
    },
    "FolderData": {
        "path":                       Ours("place"),
        "image_size":                 Stated("sec. 4.2", 256),
        "subject":                    Ours("other data"),
        "roi":                        Ours("other data"),
        "test_trials":                Ours("other data"),
        "shared_stimuli":             Ours("other data"),
    },
    "StimuliData": {
        "path":                       Ours("place"),
        "image_size":                 Ours("other data"),
    },
    "SimulatedData": {
        "subject":                    Ours("simulation"),
        "brain_seed":                 Ours("simulation"),
        "stimulus_seed":              Ours("simulation"),
        "n_voxels":                   Ours("simulation"),
        "images_per_category":        Ours("simulation; 8 as in GOD"),
        "test_images_per_category":   Ours("simulation; GOD has 1"),
        "test_repetitions":           Ours("simulation; 35 as in GOD"),
        "snr":                        Ours("simulation"),
        "noise_correlation":          Ours("simulation"),
        "drift":                      Ours("simulation"),
        "n_unlabelled":               Ours("simulation; stands in for HCP"),
        "unlabelled_signal":          Ours("simulation; False is a control"),
    },
    "SplitConfig": {
        "shuffle_pairs":              Ours("control"),
        "random_input":               Ours("control"),
        "validation_fraction":        Stated("sec. 4.2", told="no validation set mentioned"),
        "validation":                 Stated("sec. 4.1", None, told="the test set is scored"),
    },

    # the generator (sec. 3.1, 3.3)
    "GeneratorChoice": {
        "kind":                       Stated("sec. 3.3", "ldm", told="label-to-image LDM [22], read as cin256-v2"),
    },
    "FolderGenerator": {
        "path":                       Ours("place"),
    },
    "EmbeddedGenerator": {
        "name":                       Ours("which of the small models"),
    },

    # the decoder; what stands beside CnD is no departure from it, and its settings need no entry
    "Decoder": {
        "kind":                       Ours("CnD, or a control or rival beside it"),
    },

    # Phase 1 (sec. 3.2). "Trained for 500 epochs" is read as 500 on HCP and 500 on the training set.
    "EncoderConfig": {
        "layout":                     Open("norms, positions and class token; mind_vis: as DC-LDM has them"),
        "patch_size":                 Stated("sec. 4.2, 8.2", 16),
        "width":                      Stated("sec. 4.2, 8.2", 1024),
        "depth":                      Stated("sec. 4.2, 8.2", 24),
        "heads":                      Open("DC-LDM: 16"),
        "mlp_ratio":                  Open("DC-LDM: 1"),
        "decoder_width":              Open("DC-LDM: 512"),
        "decoder_depth":              Stated("sec. 8.2", 8),
        "decoder_heads":              Open("DC-LDM: 16"),
        "activation_checkpointing":   Ours("memory"),
    },
    "Phase1Config": {
        "enabled":                    Stated("sec. 3.2, 4.2", True),
        "alpha_s":                    Stated("sec. 4.2", 1.0),
        "alpha_c":                    Stated("sec. 4.2", 0.5),
        "reconstruction_weight":      Stated("eq. 5", 0.0),  # although Figure 2 speaks of a reconstruction loss
        "mask_ratio":                 Stated("sec. 4.2", 0.75),
        "self_contrast_view":         Stated("sec. 5.1.2", "first", told="no duplicate self-contrast"),
        "negatives":                  Stated("eq. 3, 4", "anchors", told="the other items' anchors"),
        "temperature":                Open("of the cosine, for the dot product of eq. 1; the authors' later code: 0.1"),
        "sparsification":             Stated("sec. 8.2", 0.2),
        "pretrain_epochs":            Stated("sec. 8.2", 500),
        "tune_epochs":                Stated("sec. 8.2", 500),
        "warmup_epochs":              Stated("sec. 8.2", 20),
        "batch_size":                 Stated("sec. 8.2", 250),
        "micro_batch_size":           Ours("memory"),
        "curve_patterns":             Ours("patterns that are scored along the training"),
        "initial_weights":            Stated("sec. 4.2", None, told="none, HCP comes first"),
        "initial_subject":            Stated("sec. 4.2", None, told="none, HCP comes first"),
        "lr":                         Stated("sec. 8.2", 2.5e-4),
        "weight_decay":               Stated("sec. 8.2", 0.05),
        "gradient_clip":              Open("largest norm of the gradient"),
        "precision":                  Open("of the forward pass"),
        "transductive":               Stated("sec. 4.2, 4.3", False, told="only the training set"),
    },

    # Phase 2 (sec. 3.3). The paper says both 1,000 steps (sec. 4.2) and around 500 epochs (sec. 8.2).
    "Phase2Config": {
        "concept_depth":              Stated("sec. 5.1.2", 4),
        "context_tokens":             Open("DC-LDM: 77"),
        "token_mapper":               Open("from the encoder's tokens to the context; DC-LDM: conv"),
        "mapper_width":               Open("channels a token keeps before flattening"),
        "mapper_position":            Open("before or after the concept layers"),
        "concept_heads":              Open("of the cross-attention to the concept bank"),
        "concept_attention":          Open("dot product as in eq. 6, or cosine with a learned scale"),
        "attention_loss":             Stated("eq. 2", 0.0, told="0, no loss on attention; this one uses labels"),
        "projections":                Open("to the context and the time embedding; DC-LDM: conv"),
        "train_encoder":              Open("whether it belongs to the 'condition module'; DC-LDM: true"),
        "warm_start":                 Stated("eq. 2", "none", told="none, eq. 2 from the start; 'classes' uses labels"),
        "warm_start_steps":           Ours("of a warm start, which the paper has not"),
        "train_unet_cross_attention": Stated("sec. 4.2", False, told="false, the UNet is fixed"),
        "loss_weighting":             Stated("eq. 2", "none"),
        "timestep_range":             Stated("eq. 2", (0, 1000), told="all time-steps"),
        "max_steps":                  Stated("sec. 4.2, 8.2", None, 1000, told="1000, or around 500 epochs"),
        "max_epochs":                 Stated("sec. 4.2, 8.2", 500, told="around 500, or 1000 steps"),
        "batch_size":                 Stated("sec. 8.2", 8),
        "micro_batch_size":           Ours("memory"),
        "precision":                  Open("of the forward pass"),
        "lr":                         Stated("sec. 8.2", 5.3e-5),
        "encoder_lr":                 Stated("sec. 8.2", None, 5.3e-5, told="5.3e-05 for all that is trained"),
        "betas":                      Open("AdamW's own: 0.9 and 0.999"),
        "weight_decay":               Open("AdamW's own: 0.01"),
        "weight_average":             Stated("sec. 4.2", None, told="no average of the weights"),
        "warmup_fraction":            Open("the paper names a warm-up for Phase 1 only"),
        "schedule":                   Open("of the learning rate"),
        "gradient_clip":              Open("largest norm of the gradient"),
        "checkpoint":                 Stated("sec. 4.2", "test_best", told="the best, on which items is not said"),
        "n_checkpoints":              Open("how often the weights are scored, and candidates for the best checkpoint"),
        "curve_items":                Ours("items whose reconstructions are scored along the training"),
    },
    "UntilConverged": {
        "tolerance":                  Stated("sec. 4.2, 8.2", told="a number of steps or epochs, whatever the score"),
        "patience":                   Ours("when a score counts as flat"),
        "cap":                        Ours("when a score counts as flat"),
    },

    "TargetConfig": {
        "stimuli":                    Stated("eq. 2", 1.0, told="1, the latents of the stimuli"),
        "generated":                  Stated("eq. 2", 0.0, told="0, the stimuli alone; this one uses labels"),
        "embedding":                  Stated("eq. 2", 0.0, told="0, the stimuli alone; this one uses labels"),
        "n_generated":                Ours("latents drawn of each class"),
    },
    "SsAeDecoderConfig": {
        "transductive":               Stated("sec. 4.3", False, told="no tuning on the test set, for baselines too"),
    },
    "IcGanDecoder": {
        "transductive":               Stated("sec. 4.3", False, told="no tuning on the test set, for baselines too"),
    },

    # sampling (sec. 4.2, 5.2), by DDIM here; the paper names no sampler, and DC-LDM has PLMS
    "SamplingConfig": {
        "steps":                      Stated("sec. 5.2", 250),
        "guidance":                   Open("classifier-free guidance, 1 is none; DC-LDM: 1"),
        "samples_per_item":           Open("the score is their mean; DC-LDM: 5"),
        "batch_size":                 Ours("memory"),
    },

    # evaluation (sec. 4.3, 8.1), by the first classifier
    "EvaluationConfig": {
        "n_way":                      Stated("Figure 3a, Table 1", (50, 100), (50,)),
        "top_k":                      Stated("sec. 4.3", 1),
        "truth":                      Stated("sec. 4.3, 8.1", "classifier", told="the classifier's class of the image"),
        "candidates":                 Stated("sec. 8.1", "judge", told="judge, the classifier's classes"),
        "classifiers":                Ours("those behind the first stand beside the paper's"),
        "metrics":                    Ours("beside n-way accuracy"),
        "headline":                   Ours("which score leads the table"),
    },
    "JudgeChoice": {
        "kind":                       Stated("sec. 4.3", "timm", told="a ViT trained on ImageNet-1K"),
    },
    "TimmClassifier": {
        "name":                       Stated("sec. 4.3", told="a ViT", accepts=lambda name: name.startswith("vit_")),
        "weights":                    Ours("place"),
    },
    "Metric": {
        "kind":                       Ours("beside n-way accuracy"),
    },
    "NWay": {
        "n":                          Ours("beside n-way accuracy"),
        "top_k":                      Ours("beside n-way accuracy"),
        "judge":                      Ours("beside n-way accuracy"),
        "candidates":                 Ours("beside n-way accuracy"),
        "classes":                    Ours("beside n-way accuracy"),
    },
    "Accuracy": {
        "judge":                      Ours("beside n-way accuracy"),
    },
    "PixelMetric": {
        "convention":                 Ours("beside n-way accuracy"),
    },
    "Identification": {
        "n":                          Ours("beside n-way accuracy"),
    },
    "TwoWayIdentification": {
        "accept":                     Ours("beside n-way accuracy"),
    },
    "Retrieval": {
        "direction":                  Ours("beside n-way accuracy"),
        "pool":                       Ours("beside n-way accuracy"),
    },
    "FeatureSource": {
        "kind":                       Ours("beside n-way accuracy"),
    },
    "JudgeFeatures": {
        "judge":                      Ours("beside n-way accuracy"),
    },
    "PublishedFeatures": {
        "network":                    Ours("beside n-way accuracy"),
        "convention":                 Ours("beside n-way accuracy"),
        "weights":                    Ours("place"),
    },

    # linear decoding analysis (sec. 3.4, 5.2)
    "AnalysisConfig": {
        "layers":                     Stated("sec. 5.2.1", (4, 9, 14)),
        "modules":                    Stated("sec. 5.2.1", None, told="layers 4, 9 and 14"),
        "steps":                      Stated("sec. 5.2", (0.0, 0.2, 0.6, 1.0), told="0, 50, 150 and 250 of 250"),
        "drives":                     Stated("sec. 3.4", told="by the fMRI", accepts=lambda v: "reconstruction" in v),
        "noise_seeds":                Open("starting noises that hidden states are averaged over"),
        "n_components":               Stated("sec. 3.4", 300),
        "alphas":                     Open("penalties to choose from; L2, as 'ridge' says, for the L1 norm printed"),
        "n_splits":                   Open("folds that choose the penalty"),
        "n_permutations":             Ours("significance"),
        "fdr":                        Ours("significance"),
    },
}
# fmt: on
"""Settings of an experiment in their order, by class (or the one it is inherited from) and field; those of other
decoders than CnD have no entry."""


def departures(experiment: Experiment, factors: Collection[str] = ()) -> list[str]:
    """Where the settings that act differ from what the paper states, one line each.

    Args:
        factors: dotted keys, in today's spelling, that a sweep varies on purpose; they are left out.
    """
    return [
        f"{key} = {show(value)} (paper: {entry.told}, {entry.section})"
        for key, value, entry in _acting(experiment)
        if isinstance(entry, Stated) and not entry.accepts(value) and not _below(key, factors)
    ]


def open_choices(experiment: Experiment) -> list[str]:
    """What was chosen where the paper leaves a setting open, one line each."""
    return [
        f"{key} = {show(value)} ({entry.note})" for key, value, entry in _acting(experiment) if isinstance(entry, Open)
    ]


def entry_of(settings: type[Config], field: str) -> Entry | None:
    """What :data:`SETTINGS` has on a field; None for a class of a user's package."""
    own = (SETTINGS.get(c.__name__, {}) for c in settings.__mro__ if c.__module__.startswith("cnd."))
    return next((entries[field] for entries in own if field in entries), None)


def _acting(experiment: Experiment) -> list[tuple[str, Any, Entry | None]]:
    """Dotted key, value and entry of each setting that changes something beside the others."""
    settings = list(_walk(experiment))
    idle = _idle(experiment, {key: value for key, value, _ in settings})
    return [setting for setting in settings if not _below(setting[0], idle)]


def _walk(part: Config, prefix: str = "") -> Iterator[tuple[str, Any, Entry | None]]:
    """Dotted key, value and entry of each setting; of a list of parts its own, then those of its parts."""
    for field in type(part).model_fields:
        key, value = f"{prefix}{field}", getattr(part, field)
        if isinstance(value, Config):
            yield from _walk(value, f"{key}.")
            continue
        yield key, value, entry_of(type(part), field)
        for i, inner in enumerate(value if isinstance(value, tuple) else ()):
            if isinstance(inner, Config):
                yield from _walk(inner, f"{key}.{i}.")


def _idle(experiment: Experiment, value: dict[str, Any]) -> list[str]:
    """Settings, and groups of them, that change nothing beside the others.

    Args:
        value: of each setting, by dotted key.
    """
    decoder: Decoder = experiment.decoder
    phase1, phase2 = (_group(value, f"decoder.{phase}") for phase in ("phase1", "phase2"))
    idle = [f"evaluation.classifiers.{i}" for i in range(1, len(experiment.evaluation.classifiers))]
    if not decoder.uses_generator:
        idle += ["generator", "sampling"]
    if not decoder.has_condition:
        idle += ["analysis"]
    if value["analysis.modules"] is not None:
        idle += ["analysis.layers"]
    if not phase1.get("enabled"):
        idle += ["data.unlabelled", *(f"decoder.encoder.decoder_{name}" for name in ("width", "depth", "heads"))]
        idle += [f"decoder.phase1.{name}" for name in phase1 if name != "enabled"]
    if not value.get("data.unlabelled", value.get("data.n_unlabelled", True)):
        idle += ["decoder.phase1.pretrain_epochs"]
    if not phase1.get("alpha_s"):
        idle += ["decoder.phase1.self_contrast_view"]
    if not (phase1.get("alpha_s") or phase1.get("alpha_c")):
        idle += ["decoder.phase1.negatives", "decoder.phase1.temperature"]
    if not phase2.get("target.generated"):
        idle += ["decoder.phase2.target.n_generated"]
    if not (phase2.get("target.stimuli") or phase2.get("target.generated")):
        idle += [f"decoder.phase2.{name}" for name in ("timestep_range", "loss_weighting")]
    if phase2.get("token_mapper") != "flatten":
        idle += ["decoder.phase2.mapper_width"]
    if phase2.get("max_steps") is not None:
        idle += ["decoder.phase2.max_epochs"]
    if phase2.get("warm_start") == "none":
        idle += ["decoder.phase2.warm_start_steps"]
    if not phase2.get("train_encoder"):
        idle += ["decoder.phase2.encoder_lr"]
    held_out = phase2.get("checkpoint") == "validation" or phase2.get("curve_items")
    if phase2.get("checkpoint") == "last" and not held_out:
        idle += ["decoder.phase2.n_checkpoints"]
    if not held_out:
        idle += ["split.validation_fraction"]
    return idle


def _group(value: dict[str, Any], place: str) -> dict[str, Any]:
    """The settings below a place, by the rest of their keys."""
    return {key.removeprefix(f"{place}."): held for key, held in value.items() if _below(key, [place])}


def _below(key: str, places: Collection[str]) -> bool:
    """Whether a dotted key is one of the places, or lies in one."""
    return any(key == place or key.startswith(f"{place}.") for place in places)


# ---------------------------------------------------------------- published scores


class Published(NamedTuple):
    """Scores published by others, on other data than ours; those of Table 1 stand in its sweep."""

    method: str
    metric: str
    scores: tuple[float, ...]  # GOD, subjects 1 to 5, %
    source: str
    protocol: str


_SCORED_ON = {"kind": "god", "test_trials": "averaged"}
_FIGURE_3A = "CnD paper, Figure 3a"
_OURS = (
    "GOD, 50 test images. 'Best checkpoint' is reported and no validation set mentioned, so it was probably chosen on "
    "the test set."
)
_BASELINE = "GOD, 50 test images; as the CnD paper prints it."
_MIND_VIS = (
    "GOD, 50 test images; best of the samples, and the encoder was tuned on the fMRI of the test set, so not "
    "comparable with an inductive protocol. Its own encoder without pre-training reached 2.6 ± 1.4 on S3. Sampling "
    "noise (SD over 5 samplings) 0.9 to 3.0 points."
)
# fmt: off
PUBLISHED = [
    Published("CnD",               "50-way",  (10.5, 14.4, 17.0, 11.2, 14.9), _FIGURE_3A,       _OURS),
    Published("CnD",               "100-way", (8.1, 9.3, 10.8, 4.8, 10.0),    _FIGURE_3A,       _OURS),
    Published("fMRI-ICGAN",        "50-way",  (6.3, 7.1, 15.4, 5.8, 5.2),     _FIGURE_3A,       _BASELINE),
    Published("fMRI-ICGAN",        "100-way", (5.1, 6.2, 9.5, 4.5, 4.2),      _FIGURE_3A,       _BASELINE),
    Published("SS-AE",             "50-way",  (2.8, 3.1, 7.8, 4.5, 3.2),      _FIGURE_3A,       _BASELINE),
    Published("SS-AE",             "100-way", (2.3, 2.9, 6.9, 3.3, 2.6),      _FIGURE_3A,       _BASELINE),
    Published("MinD-Vis (DC-LDM)", "50-way",  (9.1, 13.9, 27.4, 15.2, 14.3),  "MinD-Vis paper", _MIND_VIS),
]
# fmt: on


def scored_on(data: dict[str, Any], any_subject: bool = False) -> bool:
    """Whether the scores of Table 1 (GOD, subject 1) were measured on this data; of Figure 3a, on any of its subjects.

    Args:
        data: settings of the data as an experiment has them.
        any_subject: the figures are those of the same subject, or means over the same ones.
    """
    wanted = _SCORED_ON | ({} if any_subject else {"subject": 1})
    return all(data.get(key) == value for key, value in wanted.items())


def published(method: str) -> dict[str, dict[str, float]]:
    """Published scores of a method on GOD, in %, by the name that a metric has here and by subject, 1 to 5."""
    return {
        f"nway{line.metric.removesuffix('-way')}_top1": {str(i): score for i, score in enumerate(line.scores, start=1)}
        for line in PUBLISHED
        if line.method == method
    }
