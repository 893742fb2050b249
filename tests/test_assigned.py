"""Classes of the data get the generator's by similarity (``label_map: auto``): the right ones, by training stimuli."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from data_writers import write_folder

from cnd.data.simulation.names import CATEGORY_NAMES
from cnd.data.simulation.stimuli import render
from cnd.errors import UserError
from cnd.experiment import Experiment, parse_experiment
from cnd.generators.embedded import EmbeddedGenerator
from cnd.json_files import read_json
from cnd.protocols import FmriDataset, FmriSplit
from cnd.steps import Step
from cnd.workflow.assigned import Assigned, assign, make_assigned, read_assigned, told
from cnd.workflow.cache import StageCache
from cnd.workflow.class_spaces import assigning_judge, check_classes
from cnd.workflow.examine import examine
from cnd.workflow.run import run

DATA = Step("data", render)
GENERATOR = EmbeddedGenerator()


def test_the_assignment_is_the_best_of_all_distinct_ones() -> None:
    for seed in range(5):
        similar = np.random.default_rng(seed).standard_normal((3, 6))
        free = [0, 2, 3, 5]
        every = itertools.permutations(free, 3)
        assert tuple(assign(similar, [1, 4])) == max(every, key=lambda c: sum(similar[range(3), c]))
    crowded = np.array([[0.0, 5.0], [1.0, 2.0], [3.0, 1.0]])
    assert assign(crowded, []).tolist() == [1, 1, 0]  # fewer classes than are wanted: the most similar of each


class Judge:
    """Takes an image's first pixel for its class, with some doubt; counts what it is shown."""

    def __init__(self) -> None:
        self.shown: list[int] = []

    def probabilities(self, images: Any) -> np.ndarray:
        self.shown += [int(image[0, 0, 0]) for image in images]
        found = np.full((len(images), 200), 0.1 / 199)
        found[np.arange(len(images)), [image[0, 0, 0] for image in images]] = 0.9
        return found


def split(pixels: list[int], category: list[int]) -> FmriSplit:
    images = np.array(pixels, dtype=np.uint8)[:, None, None, None]
    return FmriSplit(np.zeros((len(pixels), 2), np.float32), images, np.array(category), ["s"] * len(pixels))


def made(dataset: FmriDataset, judge: Judge, folder: Path) -> list[Assigned]:
    bench: Any = SimpleNamespace(value=lambda step: dataset, judge=lambda choice: judge)
    make_assigned(bench, folder, GENERATOR, None, DATA)  # type: ignore[arg-type]
    return read_assigned(folder)


def test_training_stimuli_alone_decide_and_names_that_are_known_stay(tmp_path: Path) -> None:
    names = ["cat", "dog", CATEGORY_NAMES[7]]
    train = split([30, 30, 31, 7, 7, 9, 9], [0, 0, 0, 1, 1, 2, 2])  # dogs look like class 7, which is taken
    dataset = FmriDataset(train, split([50, 60, 7], [0, 1, 2]), (), names, "made", False)
    judge = Judge()
    found = made(dataset, judge, tmp_path)
    assert [(entry.name, entry.number, entry.target) for entry in found[:1]] == [("cat", 30, CATEGORY_NAMES[30])]
    assert found[1].name == "dog" and found[1].number not in (7, 30) and len(found) == 2
    assert found[0].probability == pytest.approx((0.9 + 0.9 + 0.1 / 199) / 3)
    assert sorted(judge.shown) == [7, 7, 30, 30, 31]  # no test item, and none whose class is known
    assert made(replace(dataset, test=split([99], [0])), Judge(), tmp_path) == found
    with pytest.raises(UserError, match="class 'hen' of the test set has no training stimuli"):
        made(replace(dataset, class_names=[*names, "hen"], test=split([1], [3])), Judge(), tmp_path)


def test_what_is_told() -> None:
    entries = [Assigned(f"class {i}", i, f"target {i}", 0.5) for i in range(20)]
    (line,) = told([entries, entries])
    assert "class 0 \u2192 target 0 (0.5)" in line and "and 8 more" in line and "differ" not in line
    assert "other folds differ" in told([entries, entries[::-1]])[0] and told([[]]) == told([]) == []


# ---------------------------------------------------------------- in a run


def experiment(folder: Path, **more: Any) -> Experiment:
    content: dict[str, Any] = {
        "name": "own",
        "data": {"kind": "folder", "path": str(folder), "image_size": 64},
        "decoder": {"kind": "nearest_training_image"},
        "evaluation": {"n_way": [3], "truth": "label"},
        "label_map": "auto",
    }
    return parse_experiment(content | more, "test")


def test_renamed_classes_are_found_again_and_the_map_is_kept_and_told(tmp_path: Path) -> None:
    """Renders of three classes under names that mean nothing: the judge knows what they are."""
    classes, names = [12, 77, 140], np.array(["zim", "zam", "zum"])
    for name, each in (("train", 6), ("test", 2)):
        which = np.repeat(np.arange(3), each)
        rng = np.random.default_rng(len(name))
        images = render(np.array(classes)[which], rng)
        fmri = np.eye(3)[which] + 0.1 * rng.standard_normal((len(which), 3))
        np.savez(tmp_path / f"{name}.npz", fmri=fmri, labels=names[which], images=images)
    e, cache = experiment(tmp_path), StageCache(tmp_path / "cache")
    assert not any("\u2192" in line for line in examine(e, cache))
    record = run(e, cache)
    kept = read_json(record / "label_map.json")
    assert {line["name"]: line["number"] for line in kept} == dict(zip(names, classes, strict=True))
    assert pd.read_parquet(record / "items.parquet")["truth"].tolist() == np.repeat(classes, 2).tolist()
    summary = read_json(record / "summary.json")
    (line,) = (remark for remark in summary["remarks"] if "assigned by similarity" in remark)
    assert f"zim \u2192 {CATEGORY_NAMES[12]}" in line and line in examine(e, cache)
    assert any(warning.startswith("Classes assigned by similarity: ") for warning in summary["warnings"])


@pytest.mark.parametrize(
    ("pictures", "more", "told"),
    [
        (False, {}, "label_map = auto compares training stimuli, and the data have labels only"),
        (
            True,
            {"generator": {"kind": "ldm", "path": "nowhere"}, "evaluation": {"n_way": [], "classifiers": [],
             "metrics": [{"kind": "pixel_correlation"}]}},
            "no classifier of ImageNet-1K is there to tell what is similar",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_assigned_is_refused_before_anything_runs(
    pictures: bool, more: dict[str, Any], told: str, tmp_path: Path
) -> None:
    write_folder(tmp_path, pictures)
    e = experiment(tmp_path, **more)
    with pytest.raises(UserError, match=told) as error:
        check_classes(e, e.data.classes())
    assert "\n" not in str(error.value)


def test_the_generators_own_classifier_stands_in(tmp_path: Path) -> None:
    write_folder(tmp_path, True)
    timm = {"kind": "timm", "name": "tf_efficientnet_lite0"}
    e = experiment(tmp_path, evaluation={"classifiers": [timm], "n_way": [3]}, decoder={"kind": "ridge"})
    assert assigning_judge(e).kind == "embedded"
    check_classes(e, e.data.classes())
