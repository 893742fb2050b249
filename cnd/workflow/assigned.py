"""The generator's class of each class of the data by similarity, where names do not tell it (``label_map: auto``).

A judge of the generator's classes looks at the training stimuli of a class of the data. How similar a class of the
generator is, is what it makes of them: the mean over the stimuli of the logarithm of its probability. The classes of
the data get different ones, where there are as many, so that the similarities sum to the most.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnd.errors import UserError
from cnd.json_files import read_json, write_json
from cnd.protocols import Bench, FmriDataset, GeneratorChoice, JudgeChoice
from cnd.steps import Step

FILE = "label_map.json"
NAMED = 12  # classes that one sentence names


class Assigned(NamedTuple):
    """A class of the data; number and name of the generator's that it stands for; how probable the judge holds it."""

    name: str
    number: int
    target: str
    probability: float


def make_assigned(bench: Bench, folder: Path, generator: GeneratorChoice, judge: JudgeChoice, data: Step) -> None:
    """Compare the training stimuli of one fold.

    Raises:
        UserError: labels without images, or a class of test items that no training stimulus shows.
    """
    dataset: FmriDataset = bench.value(data)
    train = dataset.train
    known = generator.class_indices(dataset.class_names, dataset.wnid)
    shown, tested = (np.unique(part.category).tolist() for part in (train, dataset.test))
    wanted = [category for category in shown if known[category] is None]
    if unseen := [category for category in tested if known[category] is None and category not in shown]:
        raise UserError(
            f"label_map = auto: class '{dataset.class_names[unseen[0]]}' of the test set has no training stimuli to be "
            "compared by; name its class in a file"
        )
    if wanted and not train.images.size:
        raise UserError("label_map = auto compares stimuli, and the data have labels only; name the classes in a file")
    found: list[Assigned] = []
    if wanted:
        rows = np.flatnonzero(np.isin(train.category, wanted))
        probable = bench.judge(judge).probabilities(train.images[rows])
        means = np.stack([probable[train.category[rows] == category].mean(0) for category in wanted])
        logs = np.log(np.maximum(probable, np.finfo(np.float64).tiny))
        similar = np.stack([logs[train.category[rows] == category].mean(0) for category in wanted])
        taken = [index for category in {*shown, *tested} if (index := known[category]) is not None]
        names = generator.class_names()
        for category, row, index in zip(wanted, means, assign(similar, taken), strict=True):
            found.append(Assigned(dataset.class_names[category], int(index), names[index], float(row[index])))
    write_json(folder / FILE, [entry._asdict() for entry in found])


def assign(similar: np.ndarray, taken: Sequence[int]) -> np.ndarray:
    """A column for each row, int64 [rows]: different ones, and none of those taken, where there are enough.

    Args:
        similar: float64 [rows, columns], finite.
    """
    from scipy.optimize import linear_sum_assignment

    free = np.setdiff1d(np.arange(similar.shape[1]), np.asarray(taken, dtype=np.int64))
    if len(free) < len(similar):
        return similar.argmax(1)
    chosen: np.ndarray = free[linear_sum_assignment(similar[:, free], maximize=True)[1]]
    return chosen


def load_assigned(
    bench: Bench, folder: Path, generator: GeneratorChoice, judge: JudgeChoice, data: Step
) -> list[Assigned]:
    """What :func:`make_assigned` wrote."""
    return read_assigned(folder)


def read_assigned(folder: Path) -> list[Assigned]:
    """As :func:`load_assigned`, for those who only read."""
    return [Assigned(**entry) for entry in read_json(folder / FILE)]


def told(folds: Sequence[Sequence[Assigned]]) -> list[str]:
    """The map of all folds in a sentence; none where nothing was assigned."""
    if not folds or not folds[0]:
        return []
    pairs = [f"{entry.name} \u2192 {entry.target} ({entry.probability:.2g})" for entry in folds[0][:NAMED]]
    more = [f"and {len(folds[0]) - NAMED} more"] if len(folds[0]) > NAMED else []
    differ = any([e.number for e in fold] != [e.number for e in folds[0]] for fold in folds)
    where = " in the first fold; other folds differ" if differ else ""
    return [
        "Classes assigned by similarity (label_map = auto; class of the data \u2192 the generator's, with the judge's "
        f"mean probability on training stimuli){where}: {', '.join([*pairs, *more])}."
    ]
