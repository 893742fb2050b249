"""Reconstructions of other programs: matched by name, scored as computed directly; every fault told in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pictures
import pytest
from PIL import Image
from pydantic import ValidationError

from cnd.data.stimuli_folder import StimuliData
from cnd.decoders.external import ExternalDecoder
from cnd.errors import UserError
from cnd.experiment import Experiment, load_experiment, override
from cnd.metrics.pixels import PixelCorrelation
from cnd.protocols import Truth
from cnd.workflow import run
from cnd.workflow.cache import StageCache

SMOKE = Path(__file__).resolve().parents[1] / "experiments" / "smoke.yaml"
ONLY_PIXELS = {"n_way": [], "classifiers": [], "metrics": [{"kind": "pixel_correlation"}]}


def experiment(stimuli: Path, path: Path, samples: int = 1) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "foreign",
            "data": {"kind": "stimuli", "path": stimuli},
            "decoder": {"kind": "external", "path": path},
            "sampling": {"samples_per_item": samples},
            "evaluation": ONLY_PIXELS,
        }
    )


def scores(wanted: Experiment, cache: Path) -> np.ndarray:
    """Pixel correlations of a whole run, [item, sample]."""
    assert run.missing(wanted) == []
    run.check(wanted)
    table = pd.read_parquet(run.run(wanted, StageCache(cache)) / "scores.parquet")
    return table.pivot(index="item", columns="sample", values="value").to_numpy()


@pytest.fixture
def stimuli(tmp_path: Path) -> Path:
    return pictures.stimuli(tmp_path / "stimuli")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return pictures.reconstructions(tmp_path / "good", 0.7)


def by_hand(share: float) -> list[float]:
    """NumPy's own correlation of each stimulus with its reconstruction."""
    pairs = [(pictures.picture(s), pictures.mixed(s, share)) for s in range(4)]
    return [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]


# ---------------------------------------------------------------- good input


def test_a_run_scores_what_the_files_hold(stimuli: Path, good: Path, tmp_path: Path) -> None:
    np.testing.assert_allclose(scores(experiment(stimuli, good), tmp_path / "cache")[:, 0], by_hand(0.7), atol=1e-12)


def _by_name(path: Path, images: list[np.ndarray]) -> None:
    np.savez(path, **dict(zip(pictures.NAMES, images, strict=True)))


def _channels_first(path: Path, images: list[np.ndarray]) -> None:
    _by_name(path, [image.transpose(2, 0, 1) for image in images])


def _table(path: Path, images: list[np.ndarray]) -> None:
    np.savez(path, images=np.stack(images)[::-1], names=np.array(pictures.NAMES[::-1]))


def _one_sample(path: Path, images: list[np.ndarray]) -> None:
    np.savez(path, images=np.stack(images)[:, None], names=np.array(pictures.NAMES))


@pytest.mark.parametrize("write", [_by_name, _channels_first, _table, _one_sample])
def test_arrays_score_as_files_do(
    write: Callable[[Path, list[np.ndarray]], None], stimuli: Path, tmp_path: Path
) -> None:
    write(tmp_path / "all.npz", [pictures.mixed(seed, 0.7) for seed in range(4)])
    found = scores(experiment(stimuli, tmp_path / "all.npz"), tmp_path / "cache")
    np.testing.assert_allclose(found[:, 0], by_hand(0.7), atol=1e-12)


def test_samples_are_matched_by_number_and_the_first_count(stimuli: Path, tmp_path: Path) -> None:
    for sample, share in enumerate((0.9, 0.5, 0.1)):
        pictures.reconstructions(tmp_path / "three", share, [f"{name}_{sample}" for name in pictures.FILES])
    found = scores(experiment(stimuli, tmp_path / "three", samples=2), tmp_path / "cache")
    np.testing.assert_allclose(found, np.column_stack([by_hand(0.9), by_hand(0.5)]), atol=1e-12)


def test_jpeg_grey_and_opaque_images_are_read(stimuli: Path, good: Path) -> None:
    Image.fromarray(pictures.mixed(0, 0.7)).convert("L").save(good / "barn-1.png")
    Image.fromarray(pictures.mixed(1, 0.7)).convert("RGBA").save(good / "barn-3.png")
    (good / "item-3--6-.png").unlink()
    Image.fromarray(pictures.mixed(2, 0.7)).save(good / "item-3--6-.JPG")
    (good / "notes.txt").write_text("not an image")
    wanted = experiment(stimuli, good)
    assert run.missing(wanted) == []
    run.check(wanted)


def test_what_identifies_them_is_their_content(stimuli: Path, good: Path, tmp_path: Path) -> None:
    before = experiment(stimuli, good)
    shutil.copytree(good, tmp_path / "copy")
    shutil.copytree(stimuli, tmp_path / "stimuli copy")
    copy = experiment(tmp_path / "stimuli copy", tmp_path / "copy")
    keys = [[step.key for step in run.steps(e)] for e in (before, copy)]
    assert keys[0] == keys[1]
    Image.fromarray(pictures.mixed(0, 0.1)).save(tmp_path / "copy" / "barn-1.png")
    assert run.steps(copy)[-1].key != keys[0][-1]


def test_they_stand_beside_decoders_on_data_with_fmri(tmp_path: Path) -> None:
    """Stimuli of training items may be among the images; the test items of the data are what counts."""
    base = override(load_experiment(SMOKE), {"evaluation": ONLY_PIXELS}, "test")
    test = base.data.load(0).test
    images = np.asarray(test.images).transpose(0, 2, 3, 1)
    pictures.save(tmp_path / "own", [name.replace(" ", "-") for name in test.stimulus], list(images))
    wanted = override(base, {"decoder": {"kind": "external", "path": tmp_path / "own"}}, "test")
    np.testing.assert_allclose(scores(wanted, tmp_path / "cache"), 1.0, atol=1e-12)
    (tmp_path / "own" / "stranger.png").write_bytes((next((tmp_path / "own").glob("*.png"))).read_bytes())
    with pytest.raises(UserError, match=r"1 belong to no stimulus \(stranger.png\)"):
        run.run(wanted, StageCache(tmp_path / "cache"))


# ---------------------------------------------------------------- faulty input


def _remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / f"{name}.png").unlink() for name in names]  # type: ignore[func-returns-value]


def _copy(name: str, to: str) -> Callable[[Path], None]:
    return lambda folder: shutil.copy(folder / name, folder / to)  # type: ignore[func-returns-value]


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content)  # type: ignore[func-returns-value]


def _save(name: str, image: Image.Image) -> Callable[[Path], None]:
    return lambda folder: image.save(folder / name)


def _cut(folder: Path) -> None:
    path = folder / "barn-3.png"
    path.write_bytes(path.read_bytes()[:-200])


def _samples(folder: Path) -> None:
    """Two of one stimulus, one of the others."""
    (folder / "barn-1.png").rename(folder / "barn-1_0.png")
    shutil.copy(folder / "barn-1_0.png", folder / "barn-1_1.png")


SMALL = Image.fromarray(pictures.picture(0, 8))
CLEAR = Image.fromarray(np.zeros((16, 16, 4), np.uint8), "RGBA")
FAULTS = {
    "missing": (_remove("barn-3"), ["1 of 4 stimuli have none (barn 3)", "name each file after its stimulus"]),
    "all missing": (_remove(*pictures.FILES), ["holds no reconstructions"]),
    "surplus": (_copy("barn-1.png", "cow.png"), ["1 belong to no stimulus (cow.png)"]),
    "misnamed": (lambda f: (f / "barn-1.png").rename(f / "barn1.png"), ["(barn 1)", "(barn1.png)", "count as '-'"]),
    "doubled": (_copy("barn-1.png", "barn 1.png"), ["2 are doubled (barn 1.png, barn-1.png)"]),
    "with and without number": (_copy("barn-1.png", "barn-1_0.png"), ["2 are doubled (barn-1.png, barn-1_0.png)"]),
    "counted from one": (lambda f: (f / "barn-1.png").rename(f / "barn-1_1.png"), ["1 samples are missing (barn-1_0)"]),
    "unequal": (_samples, ["3 of 4 stimuli have fewer samples than the 2 of others (barn-3 1, item-3--6- 1, n0"]),
    "wrong size": (_save("barn-1.png", SMALL), ["1 of 4 have another size than the stimuli, 16x16 (barn-1.png 8x8)"]),
    "no image": (_write("barn-1.png", b"text"), ["1 of 1 cannot be used (barn-1.png)", "not a readable PNG or JPEG"]),
    "cut off": (_cut, ["1 of 4 cannot be used (barn-3.png)", "write it again"]),
    "transparent": (_save("barn-1.png", CLEAR), ["partly transparent"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_in_one_line_before_anything_is_scored(fault: str, stimuli: Path, good: Path) -> None:
    damage, told = FAULTS[fault]
    damage(good)
    wanted = experiment(stimuli, good)
    lines = run.missing(wanted)
    if not lines:
        with pytest.raises(UserError) as error:
            run.check(wanted)
        lines = [str(error.value)]
    assert len(lines) == 1 and lines[0].count("\n") == 0 and lines[0].startswith(str(good))
    assert all(part in lines[0] for part in told), lines[0]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"a": np.zeros((16, 16, 3))}, "a is float64 [16, 16, 3], expected uint8"),
        ({"a": np.zeros((16, 16), np.uint8)}, "a is uint8 [16, 16], expected"),
        ({"images": np.zeros((2, 16, 16, 3), np.uint8), "names": np.array(["a"])}, "there are 1 names"),
        ({"a": np.array([None])}, "not a readable .npz file"),
    ],
)
def test_arrays_that_are_no_images_are_told(
    arrays: dict[str, np.ndarray], told: str, stimuli: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    (line,) = run.missing(experiment(stimuli, tmp_path / "x.npz"))
    assert line.startswith(str(tmp_path / "x.npz")) and told in line


def test_too_few_samples_name_the_setting(stimuli: Path, good: Path) -> None:
    (line,) = run.missing(experiment(stimuli, good, samples=5))
    assert "1 of each stimulus, and the experiment wants 5; set sampling.samples_per_item to 1" in line


def test_no_path_and_no_such_path(stimuli: Path, tmp_path: Path) -> None:
    assert "decoder.path is not set" in ExternalDecoder().missing()[0]
    assert f"{tmp_path}/gone: no such file or folder" in run.missing(experiment(stimuli, tmp_path / "gone"))[0]


# ---------------------------------------------------------------- stimuli, metric, settings


def test_subfolders_of_stimuli_are_classes(tmp_path: Path) -> None:
    pictures.stimuli(tmp_path / "s" / "bird", ["b", "d"])
    pictures.stimuli(tmp_path / "s" / "fish", ["a", "c"])
    test = StimuliData(path=tmp_path / "s").load(0).test
    assert test.stimulus == ["a", "b", "c", "d"] and test.category.tolist() == [1, 0, 1, 0]
    assert test.fmri.shape == (4, 0) and test.images.shape == (4, 3, 16, 16)


def _named_alike(folder: Path) -> None:
    pictures.save(folder / "x", ["a"], [pictures.picture(0)])
    pictures.save(folder / "y", ["a"], [pictures.picture(0)])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda f: f.mkdir(), "holds no PNG or JPEG files"),
        (lambda f: (pictures.stimuli(f), pictures.stimuli(f / "sub")), "beside a subfolder with images (sub)"),
        (_named_alike, "two stimuli are named a"),
        (lambda f: (pictures.stimuli(f), SMALL.save(f / "z.png")), "z.png: is 8x8, and barn 1.png 16x16"),
        (lambda f: None, "no such folder"),
    ],
)
def test_faulty_stimuli_are_told_in_one_line(make: Callable[[Path], object], told: str, tmp_path: Path) -> None:
    make(tmp_path / "s")
    (line,) = StimuliData(path=tmp_path / "s").missing()
    assert told in line and "\n" not in line


def test_stimuli_can_be_cropped_and_resized(stimuli: Path) -> None:
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(stimuli / "wide.png")
    data = StimuliData(path=stimuli, image_size=8)
    assert data.missing() == [] and data.load(0).test.images.shape == (5, 3, 8, 8)


def test_a_decoder_that_learns_from_fmri_is_refused(stimuli: Path) -> None:
    content = {"name": "x", "data": {"kind": "stimuli", "path": stimuli}, "decoder": {"kind": "ridge"}}
    with pytest.raises(ValidationError, match=r"ridge learns from fMRI, and data\.kind = stimuli has none"):
        Experiment.model_validate(content)


def test_pixel_correlation_is_numpys_and_0_for_a_constant_image() -> None:
    rng = np.random.default_rng(0)
    stimuli = rng.integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    images = rng.integers(0, 256, (3, 2, 3, 8, 8), dtype=np.uint8)
    images[2, 1], images[1, 0] = 255, 255 - stimuli[1]
    found = PixelCorrelation().score(stimuli, images, Truth([], np.zeros(3), []))
    expected = [[np.corrcoef(stimuli[i].ravel(), images[i, s].ravel())[0, 1] for s in range(2)] for i in range(2)]
    np.testing.assert_allclose(found[:2], expected, atol=1e-12)
    assert found[2, 1] == 0 and found[1, 0] == pytest.approx(-1)
    grey = PixelCorrelation().score(stimuli[:, :1], np.repeat(stimuli[:, None, :1], 3, axis=2), Truth([], [], []))
    np.testing.assert_allclose(grey, 1.0)


@pytest.mark.parametrize(
    ("stimuli", "told"), [(np.zeros((1, 3, 4, 4), np.uint8), "4x4"), (np.zeros((1, 0, 8, 8), np.uint8), "labels only")]
)
def test_pixel_correlation_says_what_it_needs(stimuli: np.ndarray, told: str) -> None:
    with pytest.raises(UserError, match=told):
        PixelCorrelation().score(stimuli, np.zeros((1, 1, 3, 8, 8), np.uint8), Truth([], np.zeros(1), []))


@pytest.mark.parametrize(
    ("evaluation", "told"),
    [
        ({"n_way": []}, "or metrics another score"),
        ({"classifiers": [], "metrics": [{"kind": "pixel_correlation"}]}, "set n_way to"),
    ],
)
def test_n_way_goes_only_where_another_score_stays(evaluation: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Experiment.model_validate({"name": "x", "data": {"kind": "simulated"}, "evaluation": evaluation})
