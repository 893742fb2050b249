"""The generator's class of each item as a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnd.errors import UserError
from cnd.protocols import Bench, Classes, FmriDataset, FmriSplit, GeneratorChoice, JudgeChoice
from cnd.settings import FileOf
from cnd.steps import Step
from cnd.workflow.label_map import class_indices


def find_classes(
    bench: Bench,
    generator: GeneratorChoice,
    judge: JudgeChoice | None,
    label_map: FileOf | None,
    data: Step,
    assigned: Step | None = None,
) -> Callable[[FmriSplit], np.ndarray]:
    """A function that gives the generator's class of each item: by label, else the judge's top-1 on the stimulus.

    Args:
        judge: of the generator's own classes; None where the evaluation asks none such.
        label_map: what :attr:`cnd.experiment.Experiment.label_map` names.
        assigned: gives the map where it is not a file but made by similarity.
    """
    dataset: FmriDataset = bench.value(data)
    chosen = _by_name(bench, assigned)
    asked = None if judge is None else lambda: bench.judge(judge)
    return lambda items: by_label(generator, dataset, items, label_map, asked, chosen)


def _by_name(bench: Bench, assigned: Step | None) -> dict[str, int] | None:
    return None if assigned is None else {entry.name: entry.number for entry in bench.value(assigned)}


def find_own_classes(
    bench: Bench, generator: GeneratorChoice, label_map: FileOf | None, data: Step, assigned: Step | None = None
) -> np.ndarray:
    """The generator's classes that occur in a data set, int64, ascending.

    Raises:
        UserError: one of the data set's classes is none of the generator's.
    """
    dataset: FmriDataset = bench.value(data)
    occurring = np.unique(np.concatenate([dataset.train.category, dataset.test.category]))
    known = Classes(list(dataset.class_names), list(dataset.wnid), True, occurring.tolist())
    chosen = _by_name(bench, assigned)
    return own_classes(generator, known, None if label_map is None else label_map.path, chosen)


def own_classes(
    generator: GeneratorChoice, known: Classes, label_map: Path | None, assigned: Mapping[str, int] | None = None
) -> np.ndarray:
    """As :func:`find_own_classes`, of the classes that occur."""
    indices = class_indices(generator, known.names, known.wnids, label_map, assigned)
    found = [(known.names[c], indices[c]) for c in known.occurring or range(len(indices))]
    if foreign := [name for name, index in found if index is None]:
        raise UserError(
            f"evaluation.candidates = dataset: class '{foreign[0]}' of the data is none of the generator's; name "
            "classes as the generator does (for ImageNet by WordNet id), set label_map, or set candidates to judge"
        )
    return np.unique(np.array([index for _, index in found], dtype=np.int64))


def by_label(
    generator: GeneratorChoice,
    dataset: FmriDataset,
    items: FmriSplit,
    label_map: FileOf | None = None,
    judge: Callable[[], Any] | None = None,
    assigned: Mapping[str, int] | None = None,
) -> np.ndarray:
    """The generator's class of each item, int64 [n].

    Raises:
        UserError: labels that the generator does not know, and no stimuli to judge.
    """
    file = None if label_map is None else label_map.path
    known = class_indices(generator, dataset.class_names, dataset.wnid, file, assigned)
    found = [known[category] for category in items.category]
    unknown = np.array([index is None for index in found], dtype=bool)
    classes = np.array([-1 if index is None else index for index in found], dtype=np.int64)
    if unknown.any():
        if not items.images.size or judge is None:
            name = dataset.class_names[items.category[unknown.argmax()]]
            raise UserError(
                f"data: class '{name}' is none of the generator's, and there are no stimuli to find its class by, or "
                "no classifier to ask; name classes as the generator does (for ImageNet by WordNet id), set label_map, "
                "or add images and evaluation.classifiers"
            )
        classes[unknown] = judge().probabilities(items.images[np.flatnonzero(unknown)]).argmax(1)
    return classes
