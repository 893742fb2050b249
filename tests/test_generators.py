"""The embedded generators: weights that load, quality that holds, a training script that still reproduces."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from cnd import registry
from cnd.generators.__main__ import main
from cnd.generators.embedded import WEIGHTS, EmbeddedGenerator
from cnd.generators.listing import choices
from cnd.generators.sampling import draw
from cnd.metrics.judges.networks import ImageClassifier
from cnd.metrics.nway import n_way_accuracy
from cnd.protocols import Noise, SamplingConfig

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["simulated", "digits"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_generators", ROOT / "experiments" / "generators" / "train.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def recorded(name: str) -> dict:
    return json.loads((WEIGHTS / name / "training.json").read_text())


@pytest.mark.parametrize(("name", "least"), [("simulated", 0.95), ("digits", 0.93)])  # digits bend out of legibility
def test_classifier_knows_fresh_images(script: ModuleType, name: str, least: float):
    images, labels = script.draw_images(name, 300, np.random.default_rng(12345))
    judge = ImageClassifier.from_folder(WEIGHTS / name / "classifier")
    assert (judge.probabilities(images).argmax(1) == labels).mean() >= least


@pytest.mark.parametrize(("name", "n_way", "least"), [("simulated", 50, 0.9), ("digits", 10, 0.9)])
def test_oracle_classes_are_generated(name: str, n_way: int, least: float):
    """True class in, 25 DDIM steps: the judge recognises what the generator draws."""
    generator = EmbeddedGenerator(name=name).load()
    judge = ImageClassifier.from_folder(WEIGHTS / name / "classifier")
    every, repeats = (4, 1) if name == "simulated" else (1, 6)
    category = torch.arange(0, len(generator.concept_bank), every).repeat(repeats)
    config = SamplingConfig(steps=25, guidance=2.0)
    noise = Noise(0, 1).latents(len(category), generator.latent_shape)
    images = draw(config, generator, generator.class_condition(category), noise)[:, 0]
    assert n_way_accuracy(judge.probabilities(images), category.numpy(), n_way).mean() >= least


@pytest.mark.parametrize("name", NAMES)
def test_latents_have_unit_variance_and_decode(script: ModuleType, name: str):
    images, _ = script.draw_images(name, 100, np.random.default_rng(5))
    generator = EmbeddedGenerator(name=name).load()
    latents = generator.encode(images)
    assert latents.shape[1:] == generator.latent_shape and abs(latents.std().item() - 1) < 0.1
    error = (generator.decode(latents).astype(float) - images) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 22  # dB


def test_shipped_weights_are_small():
    files = [*WEIGHTS.rglob("*"), *(ROOT / "cnd" / "data" / "weights").rglob("*")]
    assert sum(f.stat().st_size for f in files if f.is_file()) < 40e6


def first_latents(script: ModuleType, name: str, images: Tensor, steps: int) -> Tensor:
    """Latents of the images of the first batches; the others are not needed and stay zero."""
    recipe = script.RECIPES[name]
    generator = EmbeddedGenerator(name=name).load()
    rng = torch.Generator().manual_seed(0)
    rows = torch.cat(list(script.batches(len(images), recipe.unet_batch, steps, rng)))
    latents = torch.zeros(len(images), *generator.latent_shape)
    latents[rows] = generator.encode(images[rows].numpy())
    return latents


def first_losses(script: ModuleType, name: str, n_images: int, steps: int) -> dict[str, list[float]]:
    """Of every part of the training, which draws from ``n_images`` images."""
    recipe = script.RECIPES[name]
    pool, targets = script.draw_images(name, n_images, np.random.default_rng(0))
    images, labels = torch.from_numpy(pool), torch.from_numpy(targets)
    losses = {
        "classifier": script.train_classifier(recipe, images, labels, 0, steps)[-1],
        "autoencoder": script.train_autoencoder(recipe, images, 0, steps)[-1],
        "unet": script.train_unet(recipe, first_latents(script, name, images, steps), labels, 0, steps)[-1],
    }
    if recipe.network_channels:
        losses["network"] = script.train_network(recipe, images, labels, 2, steps)[-1]
    return losses


def test_first_steps_of_the_training_reproduce(script: ModuleType):
    """Two steps of every part give the recorded losses, to the precision in which processors differ."""
    for part, values in first_losses(script, "digits", script.RECIPES["digits"].n_images, 2).items():
        expected = recorded("digits")["parts"][part]["first_losses"][:2]
        np.testing.assert_allclose(values, expected, rtol=0.02, err_msg=part)


def test_the_training_of_the_larger_one_starts(script: ModuleType):
    """With few images, since drawing all of them takes most of the time."""
    losses = first_losses(script, "simulated", 150, 1)
    assert set(losses) == set(recorded("simulated")["parts"]) and np.isfinite([*losses.values()]).all()


def test_the_list_of_generators_says_what_each_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    told = capsys.readouterr().out
    for kind in registry.classes("cnd.generators"):
        assert f"generator.kind={kind}" in told
    assert "generator.name=digits\n  classes   10: 0, 1, 2, ...\n  images    32x32 grey\n  licence   MIT" in told
    assert "CC BY-NC 4.0" in told and "label_map=FILE" in told and "generator.path is not set" in told
    for choice in choices():
        assert choice.licence != "not stated"
    for name in ("simulated", "digits"):  # what is drawn, by the network itself
        generator = EmbeddedGenerator(name=name).load()
        drawn = generator.decode(torch.zeros(1, *generator.latent_shape))
        assert EmbeddedGenerator(name=name).image_form() == (drawn.shape[1], drawn.shape[2])
