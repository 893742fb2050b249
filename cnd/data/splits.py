"""Edits of the data that every decoder gets and none implements: shuffled pairs, random input, validation hold-out.

What is scored in place of the test set is cut off where the data are loaded (:mod:`cnd.data.validation`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, field_validator

from cnd.protocols import FmriDataset, FmriSplit, TrainingSet
from cnd.settings import Config
from cnd.steps import Step

if TYPE_CHECKING:
    from cnd.protocols import Bench

SHARE = 0.1  # held out for choices, where nothing else is said
FEWEST_CATEGORIES = 10  # of which some can be held out without removing a class that matters


class SplitConfig(Config):
    """How the items of a data source are used."""

    shuffle_pairs: bool = False  # control: each training image gets another item's fMRI
    random_input: bool = False  # control: noise in place of all fMRI with stimuli, for training and test
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of the training categories (or items)
    # share of the training categories (or runs, or stimuli) that is scored in place of the test set, whose items no
    # step sees; a search sets it. None: the test set is scored
    validation: Annotated[float, Field(gt=0, le=0.5)] | None = None

    @field_validator("validation", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        """``true`` is the usual share, ``false`` none."""
        return (SHARE if value else None) if isinstance(value, bool) else value


def data_as_used(split: SplitConfig, data: Step, seed: int) -> Step:
    """The step of the data set, its fMRI replaced where the experiment wants that."""
    if not split.random_input:
        return data
    return Step("random_input", random_input, {"seed": seed}, {"data": data}, kept=False)


def training_step(split: SplitConfig, data: Step, seed: int) -> Step:
    """The step that gives the :class:`cnd.protocols.TrainingSet`."""
    return Step("training", training_set, {"split": split, "seed": seed}, {"data": data}, kept=False)


def random_input(bench: Bench, seed: int, data: Step) -> FmriDataset:
    """The data set with standard normal noise in place of the fMRI of training and test items."""
    dataset: FmriDataset = bench.value(data)
    rng = np.random.default_rng([seed, 7])

    def noise(items: FmriSplit) -> FmriSplit:
        return replace(items, fmri=rng.standard_normal(items.fmri.shape, dtype=np.float32), repeated=None)

    return replace(dataset, train=noise(dataset.train), test=noise(dataset.test))


def training_set(bench: Bench, split: SplitConfig, seed: int, data: Step) -> TrainingSet:
    """The training items, their fMRI in another order where pairs are shuffled, and those held out for validation."""
    items: FmriSplit = bench.value(data).train
    if split.shuffle_pairs:
        items = replace(items, fmri=items.fmri[np.random.default_rng([seed, 5]).permutation(len(items))])
    return TrainingSet(items, held_out(items.category, split.validation_fraction, seed))


def held_out(category: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Positions held out for validation: whole categories, or single items where there are fewer than ten categories.

    With so few, holding one out would remove a class rather than test generalisation. Of no items none is held out.
    """
    if not len(category):
        return np.zeros(0, dtype=np.int64)
    rng = np.random.default_rng([seed, 2])
    categories = np.unique(category)
    if len(categories) >= FEWEST_CATEGORIES:
        chosen = rng.choice(categories, max(1, round(fraction * len(categories))), replace=False)
        return np.flatnonzero(np.isin(category, chosen))
    return np.sort(rng.choice(len(category), max(1, round(fraction * len(category))), replace=False))
