"""The table of what the paper states covers every setting, and departures from it are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_origin

import pytest

from cnd import registry
from cnd.data.god import GodData
from cnd.experiment import Experiment, load_experiment, override
from cnd.paper import PUBLISHED, SETTINGS, Open, Ours, Stated, departures, entry_of, open_choices, published
from cnd.reading import models_in
from cnd.settings import Config

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
HELD_BACK = ["split.validation_fraction = 0.1 (paper: no validation set mentioned, sec. 4.2)"]
HELD_BACK += ["decoder.phase2.checkpoint = validation (paper: the best, on which items is not said, sec. 4.2)"]


def settings_classes() -> list[type[Config]]:
    """Every settings class of this package that an experiment can hold."""
    found: dict[type[Config], None] = {}
    ahead = [Experiment, *(part for group in registry.BUILT_IN for part in registry.classes(group).values())]
    while ahead:
        if (settings := ahead.pop()) not in found and settings.__module__.startswith("cnd."):
            found[settings] = None
            ahead += [m for field in settings.model_fields.values() for m in models_in(field.annotation)]
    return sorted(found, key=lambda c: c.__name__)


def fields(settings: type[Config]) -> list[str]:
    """Its fields, those aside that hold one part with settings of its own."""
    annotations = {name: field.annotation for name, field in settings.model_fields.items()}
    return [name for name, held in annotations.items() if not models_in(held) or get_origin(held) is tuple]


def shipped(name: str, **edits: Any) -> Experiment:
    """A shipped experiment; ``__`` stands for the dots of a key."""
    base = load_experiment(EXPERIMENTS / f"{name}.yaml")
    return override(base, {key.replace("__", "."): value for key, value in edits.items()}, "test")


def keys(lines: list[str]) -> list[str]:
    return [line.partition(" = ")[0] for line in lines]


# ---------------------------------------------------------------- the table


def is_of_another_decoder(settings: type[Config]) -> bool:
    return settings.__module__.startswith("cnd.decoders.") and not settings.__module__.startswith("cnd.decoders.cnd.")


@pytest.mark.parametrize(
    "settings", [c for c in settings_classes() if not is_of_another_decoder(c)], ids=lambda c: c.__name__
)
def test_every_setting_has_an_entry(settings: type[Config]):
    forgotten = [name for name in fields(settings) if not isinstance(entry_of(settings, name), Stated | Open | Ours)]
    assert not forgotten, f"add to SETTINGS of cnd/paper.py, {settings.__name__}"


def test_every_entry_is_a_setting():
    known = {(c.__name__, name) for s in settings_classes() for c in s.__mro__ for name in fields(s)}
    assert {(owner, name) for owner, entries in SETTINGS.items() for name in entries} <= known


def test_no_entry_is_hidden_by_another():
    for settings in settings_classes():
        for name in fields(settings):
            owners = [c.__name__ for c in settings.__mro__ if name in SETTINGS.get(c.__name__, {})]
            assert len(owners) == 1 or (not owners and is_of_another_decoder(settings)), (
                f"{settings.__name__}.{name}: {owners}"
            )


def test_defaults_are_the_papers_where_it_states_any():
    bare = Experiment(
        name="bare", data=GodData(), generator={"kind": "ldm"}, evaluation={"classifiers": [{"kind": "timm"}]}
    )
    assert keys(departures(bare)) == ["data.unlabelled", *keys(HELD_BACK)]


# ---------------------------------------------------------------- departures


@pytest.mark.parametrize("name", ["god", "bold5000"])
def test_real_data_holds_back_a_tenth(name: str):
    assert departures(shipped(name)) == HELD_BACK


@pytest.mark.parametrize("name", ["god", "bold5000"])
@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("data.unlabelled", [], "[] (paper: pre-training on HCP, sec. 4.1, 4.2)"),
        ("data.image_size", 112, "112 (paper: 256, sec. 4.2)"),
        ("evaluation.n_way", [10, 50], "[10, 50] (paper: [50, 100] or [50], Figure 3a, Table 1)"),
        ("evaluation.top_k", 5, "5 (paper: 1, sec. 4.3)"),
        ("evaluation.truth", "label", "label (paper: the classifier's class of the image, sec. 4.3, 8.1)"),
        ("decoder.encoder.patch_size", 8, "8 (paper: 16, sec. 4.2, 8.2)"),
        ("decoder.phase1.enabled", False, "false (paper: true, sec. 3.2, 4.2)"),
        ("decoder.phase1.alpha_s", 3, "3 (paper: 1, sec. 4.2)"),
        ("decoder.phase1.mask_ratio", 0.6, "0.6 (paper: 0.75, sec. 4.2)"),
        ("decoder.phase1.self_contrast_view", "both", "both (paper: no duplicate self-contrast, sec. 5.1.2)"),
        ("decoder.phase1.lr", 0.001, "0.001 (paper: 0.00025, sec. 8.2)"),
        ("decoder.phase1.pretrain_epochs", 0, "0 (paper: 500, sec. 8.2)"),
        ("decoder.phase1.initial_weights", "a.pth", "a.pth (paper: none, HCP comes first, sec. 4.2)"),
        ("decoder.phase1.initial_subject", 2, "2 (paper: none, HCP comes first, sec. 4.2)"),
        ("decoder.phase1.transductive", True, "true (paper: only the training set, sec. 4.2, 4.3)"),
        ("decoder.phase2.max_steps", 400, "400 (paper: 1000, or around 500 epochs, sec. 4.2, 8.2)"),
        ("decoder.phase2.max_epochs", 100, "100 (paper: around 500, or 1000 steps, sec. 4.2, 8.2)"),
        ("decoder.phase2.encoder_lr", 1e-3, "0.001 (paper: 5.3e-05 for all that is trained, sec. 8.2)"),
        ("sampling.steps", 50, "50 (paper: 250, sec. 5.2)"),
        ("analysis.n_components", 50, "50 (paper: 300, sec. 3.4)"),
        ("analysis.drives", ["stimulus"], "[stimulus] (paper: by the fMRI, sec. 3.4)"),
    ],
)
def test_departure(name: str, key: str, value: Any, told: str):
    assert set(departures(override(shipped(name), {key: value}, "test"))) == {*HELD_BACK, f"{key} = {told}"}


@pytest.mark.parametrize(
    ("edits", "key"),
    [
        ({"data__test_trials": "single"}, "data.test_trials"),
        ({"data__unlabelled": [{"kind": "subject", "subject": 2}]}, "data.unlabelled.0.kind"),
        ({"generator": {"kind": "dit"}}, "generator.kind"),
        ({"evaluation__classifiers": [{"kind": "timm", "name": "resnet50"}]}, "evaluation.classifiers.0.name"),
    ],
)
def test_departure_in_a_part(edits: dict[str, Any], key: str):
    assert set(keys(departures(shipped("god", **edits)))) == {*keys(HELD_BACK), key}


@pytest.mark.parametrize(
    "edits",
    [
        {"decoder__phase2__max_steps": 1000},
        {"decoder__phase2__max_steps": 1000, "decoder__phase2__max_epochs": 3},  # steps decide
        {"sampling__guidance": 3.0, "sampling__samples_per_item": 1, "decoder__phase2__train_encoder": False},
        {"decoder__phase1__temperature": 0.5, "decoder__phase1__micro_batch_size": None},
        {"data__subject": 3, "data__path": "elsewhere", "seed": 7, "split__shuffle_pairs": True},
        {"data__unlabelled": [{"kind": "hcp", "path": "rest.npy", "window": 5}]},
    ],
)
def test_no_departure(edits: dict[str, Any]):
    assert departures(shipped("god", **edits)) == HELD_BACK


@pytest.mark.parametrize(
    ("checkpoint", "items", "expected"),
    [
        ("last", 60, keys(HELD_BACK)),
        ("last", 0, ["decoder.phase2.checkpoint"]),
        ("test_best", 60, ["split.validation_fraction"]),
        ("test_best", 0, []),
        ("validation", 0, keys(HELD_BACK)),
    ],
)
def test_only_validation_and_the_curve_hold_back(checkpoint: str, items: int, expected: list[str]):
    edits = {"decoder__phase2__checkpoint": checkpoint, "decoder__phase2__curve_items": items}
    assert keys(departures(shipped("god", **edits))) == expected


def test_training_until_converged_departs():
    found = departures(shipped("god", decoder__phase2__until_converged={"patience": 3}))
    told = "decoder.phase2.until_converged.tolerance = 0.02 (paper: a number of steps or epochs, whatever the score, "
    assert set(found) == {*HELD_BACK, f"{told}sec. 4.2, 8.2)"}


def test_settings_that_do_not_act_are_left_out():
    off = shipped("god", decoder__phase1={"enabled": False, "lr": 1.0}, decoder__encoder__decoder_depth=1)
    off = override(off, {"data.unlabelled": []}, "test")
    assert keys(departures(off)) == [HELD_BACK[0].partition(" ")[0], "decoder.phase1.enabled", keys(HELD_BACK)[1]]
    cross = {"alpha_s": 0, "self_contrast_view": "both"}
    assert "decoder.phase1.self_contrast_view" not in keys(departures(shipped("god", decoder__phase1=cross)))


def test_other_decoders_answer_for_what_concerns_them():
    edits = {"data__unlabelled": [], "sampling__steps": 50, "data__image_size": 112}
    assert keys(departures(shipped("god", decoder__kind="ridge", **edits))) == ["data.image_size", "sampling.steps"]
    nearest = shipped("god", decoder__kind="nearest_training_image", generator={"kind": "dit"}, **edits)
    assert keys(departures(nearest)) == ["data.image_size"]
    assert not any(key.startswith(("decoder", "sampling")) for key in keys(open_choices(nearest)))


def test_factors_are_left_out():
    row = shipped("god", decoder__phase1__mask_ratio=0.25, decoder__phase1__alpha_s=0.5)
    assert keys(departures(row, ["decoder.phase1.alpha_s", "decoder.phase1.mask_ratio"])) == keys(HELD_BACK)
    assert departures(row, {"split", "decoder"}) == []
    assert "decoder.phase1.alpha_s" in keys(departures(row, ["decoder.phase1.alpha"]))


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda p: p.stem)
def test_no_setting_is_both_stated_and_open(path: Path):
    experiment = load_experiment(path)
    departed, chosen = keys(departures(experiment)), keys(open_choices(experiment))
    assert not set(departed) & set(chosen)
    assert len(set(departed)) == len(departed) and len(set(chosen)) == len(chosen)
    assert all("\n" not in line for line in departures(experiment) + open_choices(experiment))


# ---------------------------------------------------------------- open choices, published scores


def test_open_choices():
    chosen = open_choices(shipped("god"))
    assert "sampling.guidance = 1 (classifier-free guidance, 1 is none; DC-LDM: 1)" in chosen
    assert "decoder.phase2.token_mapper = flatten (from the encoder's tokens to the context; DC-LDM: conv)" in chosen
    named = keys(chosen)
    assert {"decoder.phase2.train_encoder", "sampling.samples_per_item", "decoder.phase1.temperature"} <= set(named)
    assert "data.unlabelled.0.window" in named and "data.unlabelled.0.path" not in named


def test_published_scores():
    of = {(line.method, line.metric): line.scores for line in PUBLISHED}
    assert len(of) == len(PUBLISHED)
    assert of["CnD", "50-way"] == (10.5, 14.4, 17.0, 11.2, 14.9)
    assert published("SS-AE")["nway100_top1"] == {"1": 2.3, "2": 2.9, "3": 6.9, "4": 3.3, "5": 2.6}
    assert not published("another")
    assert all(len(line.scores) == 5 and line.source and line.protocol for line in PUBLISHED)


def test_loads_no_torch():
    code = (
        "import sys; from pathlib import Path; from cnd.experiment import load_experiment; from cnd.paper import *;"
        f"e = load_experiment(Path({str(EXPERIMENTS / 'god.yaml')!r})); departures(e); open_choices(e);"
        "print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
