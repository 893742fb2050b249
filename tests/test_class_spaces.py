"""Class spaces of data, generator and judges are compared before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_writers import write_folder
from test_data_folder import N_TEST, content, write_both

from cnd.data.simulation.names import CATEGORY_NAMES, SHAPE_NAMES
from cnd.errors import UserError
from cnd.experiment import Experiment, load_experiment, override
from cnd.generators.embedded import EmbeddedGenerator
from cnd.protocols import FmriDataset, FmriSplit
from cnd.settings import FileOf
from cnd.workflow.cache import StageCache
from cnd.workflow.class_spaces import check_classes
from cnd.workflow.classes import by_label
from cnd.workflow.examine import examine
from cnd.workflow.label_map import read_label_map
from cnd.workflow.plan import all_folds
from sweeps.run import main

ROOT = Path(__file__).resolve().parents[1]
SMOKE = load_experiment(ROOT / "experiments" / "smoke.yaml")
TIMM = {"kind": "timm", "name": "tf_efficientnet_lite0"}
IMAGENET = {"generator": {"kind": "ldm", "path": "nowhere"}, "evaluation.classifiers": [TIMM]}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A folder of images with the labels cat, dog and hen."""
    folder = tmp_path_factory.mktemp("photographs")
    write_folder(folder, pictures=True)
    return {"data": {"kind": "folder", "path": str(folder)}}


@pytest.fixture(scope="module")
def labels_only(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("labels")
    write_folder(folder, pictures=False)
    return {"data": {"kind": "folder", "path": str(folder)}}


def checked(edits: dict[str, Any], **more: Any) -> str | None:
    """What is told of ``smoke`` with these edits; None where it goes together."""
    e = override(SMOKE, edits | {key.replace("__", "."): value for key, value in more.items()}, "test")
    try:
        check_classes(e, e.data.classes())
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


def label_map(folder: Path, text: str = "cat: red disc\ndog: '7'\nhen: red ring\n") -> str:
    (folder / "map.yaml").write_text(text, encoding="utf-8")
    return str(folder / "map.yaml")


def test_images_of_another_size_than_the_generators_are_told_beforehand(photographs):
    told = checked(photographs, evaluation={"n_way": [], "metrics": [{"kind": "pixel_correlation"}]})
    assert told is not None and told.startswith(
        "data.image_size = 256: the embedded generator 'simulated' has images of 64"
    )
    no_generator = {"decoder.kind": "ridge_pixels", "evaluation.n_way": [], "evaluation.metrics": [{"kind": "ssim"}]}
    assert checked(photographs | no_generator) is None


def test_what_goes_together_passes(photographs, tmp_path):
    for edits in (
        {},
        {"decoder.kind": "ridge"},
        {"decoder.kind": "oracle", "evaluation.truth": "label"},
        photographs | IMAGENET,
        photographs | IMAGENET | {"decoder.kind": "oracle"},
        photographs | {"data.image_size": 64, "evaluation": {"n_way": [], "metrics": [{"kind": "pixel_correlation"}]}},
    ):
        assert checked(edits) is None
    for name in ("simulated", "digits69", "smoke", "god", "bold5000"):
        e = load_experiment(ROOT / "experiments" / f"{name}.yaml")
        examine(e, StageCache(tmp_path))


def test_an_imagenet_judge_of_another_generator_is_refused(tmp_path):
    told = checked({"evaluation.classifiers": [TIMM]})
    assert told == (
        "evaluation.classifiers: 'tf_efficientnet_lite0' knows the classes of ImageNet-1K, and the generator those of "
        "the embedded generator 'simulated'; take a classifier and a generator of the same classes, or set label_map "
        "to a file that names the generator's class of each class of the data ('cat: tabby')"
    )
    assert checked({"evaluation.classifiers": [{"kind": "embedded"}, TIMM]})
    told = checked({"evaluation.classifiers": [TIMM], "evaluation.truth": "label"})
    assert told is not None and "labels count among those of the embedded generator" in told
    images_only = {"decoder": {"kind": "nearest_training_image"}, "evaluation.classifiers": [TIMM]}
    assert checked(images_only) is None  # no generator takes part


def test_an_embedded_judge_of_photographs_is_refused(photographs):
    for kind in ("cnd", "oracle", "nearest_training_image"):
        told = checked(photographs, decoder__kind=kind)
        assert told is not None and told.startswith(
            "data: 3 of 3 classes, e.g. 'cat', are none of the embedded generator"
        )
        assert "whose classifier cannot judge such images" in told and "label_map" in told
    told = checked({"generator.name": "digits", "evaluation.n_way": [5]})  # objects, judged as digits
    assert told is not None and "200 of 200 classes, e.g. 'red disc'" in told


def test_labels_that_nobody_knows_are_refused_where_they_are_needed(photographs, labels_only):
    for edits in (
        photographs | {"evaluation.truth": "label"},
        photographs
        | {"decoder.kind": "ridge", "evaluation": {"n_way": [], "metrics": [{"kind": "pixel_correlation"}]}},
        labels_only | IMAGENET | {"evaluation.truth": "label"},
    ):
        told = checked(edits)
        assert told is not None and "the decoder or the score needs them; set label_map to a file" in told
        assert ("or add images that a classifier can judge" in told) == ("ldm" in str(edits))


def test_a_label_map_makes_them_go_together(photographs, labels_only, tmp_path):
    path = label_map(tmp_path)
    photographs = photographs | {"data.image_size": 64}
    assert checked(photographs, label_map=path, evaluation__truth="label") is None
    assert checked(photographs, label_map=path, evaluation__truth="label", decoder__kind="ridge") is None
    told = checked(photographs, label_map=path)
    assert told is not None and "evaluation.truth=label" in told  # the judge still knows no cats
    assert checked(photographs, label_map=path, evaluation__classifiers=[TIMM]) is None
    part = label_map(tmp_path, "cat: red disc\n")
    told = checked(photographs, label_map=part, evaluation__truth="label")
    assert told is not None and "e.g. 'dog'" in told
    imagenet = label_map(tmp_path, "cat: tabby\ndog: 207\nhen: hen\n")
    assert checked(labels_only | IMAGENET, label_map=imagenet, evaluation__truth="label") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat: red disk\ndog: 1\nhen: 2\n", "'red disk' is no class of the generator; did you mean 'red disc'?"),
        ("cat: 200\n", "'200' is no class of the generator"),
        ("cta: 1\n", "'cta' is no class of the data; did you mean 'cat'?"),
        ("cat: 1\ncat: 2\n", "class 'cat' is there more than once"),
        ("[cat, dog]", "expected a line for each class of the data"),
        ("cat: [1, 2]", "expected a line for each class of the data"),
        ("", "expected a line for each class of the data"),
        ("cat: {", "not readable as YAML"),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused(text, expected, photographs, tmp_path):
    told = checked(photographs, label_map=label_map(tmp_path, text), evaluation__truth="label")
    assert told is not None and expected in told and "map.yaml" in told
    told = checked(photographs, label_map=str(tmp_path / "nowhere.yaml"))
    assert told is not None and "nowhere.yaml: not readable" in told


def test_what_yaml_takes_for_something_else_stays_text(tmp_path):
    assert read_label_map(Path(label_map(tmp_path, "no: 012\n1:30: yes\n"))) == {"no": "012", "1:30": "yes"}


def test_classes_follow_the_map(tmp_path):
    path = FileOf(path=Path(label_map(tmp_path, "cat: stripes disc\nhen: 3\n")))
    names = ["cat", "red ring", "hen"]
    items = FmriSplit(
        np.zeros((4, 2), np.float32), np.zeros((4, 0, 0, 0), np.uint8), np.array([2, 0, 1, 0]), list("abcd")
    )
    dataset = FmriDataset(items, items, (), names, "", simulated=True)
    expected = [3, CATEGORY_NAMES.index("stripes disc"), CATEGORY_NAMES.index("red ring"), 1]
    assert by_label(EmbeddedGenerator(), dataset, items, path).tolist() == expected


def test_the_map_counts_by_its_content(tmp_path, photographs):
    def keys(text: str, name: str) -> tuple[str, str]:
        (tmp_path / name).mkdir(exist_ok=True)
        edits = photographs | {"label_map": label_map(tmp_path / name, text), "evaluation.truth": "label"}
        given = all_folds(override(SMOKE, edits, "test"))[0].given
        return given.latents.key, given.classes.key

    one = keys("cat: 1\ndog: 2\nhen: 3\n", "a")
    assert keys("cat: 1\ndog: 2\nhen: 3\n", "b") == one
    other = keys("cat: 1\ndog: 2\nhen: 4\n", "b")
    assert other[0] != one[0] and other[1] != one[1]


def test_no_judge_of_other_classes_is_asked_for_the_generators(tmp_path):
    """Index 419 of 200: the judge's class was once taken for the generator's."""
    classes = all_folds(override(SMOKE, {"evaluation.classifiers": [TIMM]}, "test"))[0].given.classes
    assert classes.settings["judge"] is None
    assert all_folds(SMOKE)[0].given.classes.settings["judge"] is not None


def test_names_of_simulated_objects_are_those_of_its_generator():
    assert list(CATEGORY_NAMES) == EmbeddedGenerator().class_names() and len(SHAPE_NAMES) == 20


@pytest.mark.parametrize("command", ["plan", "run"])
def test_the_command_says_so_in_one_line(command, tmp_path, capsys):
    write_both(tmp_path / "mine", content(), content(N_TEST, 1))
    words = [command, "ablation_table1", "--experiment", "smoke", "--output", str(tmp_path / "out")]
    words += ["--set", "data.kind=folder", "--set", f"data.path={tmp_path / 'mine'}"]
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and "error: data: 3 of 3 classes" in told.err
    assert not (tmp_path / "out").exists()


def test_experiments_survive_without_a_map():
    assert Experiment.model_validate(SMOKE.model_dump(mode="json")) == SMOKE and SMOKE.label_map is None
