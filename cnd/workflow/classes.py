"""The generator's class of each item as a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cnd.errors import UserError
from cnd.protocols import Bench, FmriDataset, FmriSplit, GeneratorChoice, JudgeChoice, OccurringClasses
from cnd.steps import Step


def find_classes(
    bench: Bench, generator: GeneratorChoice, judge: JudgeChoice | None, data: Step
) -> Callable[[FmriSplit], np.ndarray]:
    """A function that gives the generator's class of each item: by label, else the judge's top-1 on the stimulus.

    Args:
        judge: None where the evaluation asks none.
    """
    dataset: FmriDataset = bench.value(data)
    return lambda items: by_label(generator, dataset, items, None if judge is None else lambda: bench.judge(judge))


def find_own_classes(bench: Bench, generator: GeneratorChoice, data: Step) -> np.ndarray:
    """The generator's classes that occur in a data set, int64, ascending.

    Raises:
        UserError: one of the data set's classes is none of the generator's.
    """
    dataset: FmriDataset = bench.value(data)
    occurring = np.unique(np.concatenate([dataset.train.category, dataset.test.category]))
    wnid = [dataset.wnid[c] for c in occurring] if dataset.wnid else []
    return own_classes(generator, OccurringClasses([dataset.class_names[c] for c in occurring], wnid))


def own_classes(generator: GeneratorChoice, occurring: OccurringClasses) -> np.ndarray:
    """As :func:`find_own_classes`, of the classes that occur."""
    found = generator.class_indices(*occurring)
    if None in found:
        name = occurring.names[found.index(None)]
        raise UserError(
            f"evaluation.candidates = dataset: class '{name}' of the data is none of the generator's; name classes as "
            "the generator does (for ImageNet by WordNet id), or set candidates to judge"
        )
    return np.unique(np.array(found, dtype=np.int64))


def by_label(
    generator: GeneratorChoice, dataset: FmriDataset, items: FmriSplit, judge: Callable[[], Any] | None = None
) -> np.ndarray:
    """The generator's class of each item, int64 [n].

    Raises:
        UserError: labels that the generator does not know, and no stimuli to judge.
    """
    known = generator.class_indices(dataset.class_names, dataset.wnid)
    found = [known[category] for category in items.category]
    unknown = np.array([index is None for index in found], dtype=bool)
    classes = np.array([-1 if index is None else index for index in found], dtype=np.int64)
    if unknown.any():
        if not items.images.size or judge is None:
            name = dataset.class_names[items.category[unknown.argmax()]]
            raise UserError(
                f"data: class '{name}' is none of the generator's, and there are no stimuli to find its class by, or "
                "no classifier to ask; name classes as the generator does (for ImageNet by WordNet id), or add images "
                "and evaluation.classifiers"
            )
        classes[unknown] = judge().probabilities(items.images[np.flatnonzero(unknown)]).argmax(1)
    return classes
