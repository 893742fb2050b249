"""BOLD5000: order of trials, sessions, test images, and every kind of broken file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_writers import BOLD_REPEATED, BOLD_SINGLE, bold_file, bold_trials, load, write_bold5000, write_bold_images

from cnd.data import bold5000
from cnd.data.bold5000 import Bold5000Data
from cnd.errors import UserError
from cnd.protocols import FmriDataset


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bold")
    for subject, n_voxels in ((1, 3), (4, 5)):
        write_bold5000(folder, subject, n_voxels)
    write_bold_images(folder)
    return folder


def _load(path: Path, stores: Path, **settings: object) -> FmriDataset:
    return load(Bold5000Data(path=path, image_size=8, **settings), stores)


def test_trials_are_those_of_the_sorted_lists(files: Path):
    shown = bold5000.presentation(Bold5000Data(path=files))
    runs = [run for session in bold_trials(1) for run in session]
    assert shown.names == [name.removeprefix("rep_") for run in runs for name in run]
    assert shown.run.tolist() == np.repeat(np.arange(6), [len(run) for run in runs]).tolist()
    assert shown.session.tolist() == np.repeat([0, 1, 2], 17).tolist()


def test_repeated_images_are_the_test_set(files: Path, tmp_path: Path):
    dataset = _load(files, tmp_path)
    assert dataset.test.stimulus == sorted(Path(name).stem for name in BOLD_REPEATED)
    assert sorted(dataset.train.stimulus) == sorted(Path(name).stem for name in BOLD_SINGLE)
    single = _load(files, tmp_path, test_trials="single")
    averages = single.test.fmri.reshape(len(BOLD_REPEATED), 3, -1).mean(1)
    np.testing.assert_allclose(averages, dataset.test.fmri, atol=1e-6)
    assert single.test.run is not None and dataset.test.run is None


def test_without_the_published_list_the_repetitions_tell(files: Path, tmp_path: Path):
    shutil.copytree(files, tmp_path / "files")
    (tmp_path / "files/Scene_Stimuli/repeated_stimuli_113_list.txt").unlink()
    found = _load(tmp_path / "files", tmp_path)
    assert found.test.stimulus == sorted(Path(name).stem for name in BOLD_REPEATED)


def test_sessions_are_normalised_one_by_one_with_their_training_trials(files: Path, tmp_path: Path):
    config = Bold5000Data(path=files, image_size=8)
    betas, _, shown, _ = bold5000.read(config)
    dataset = _load(files, tmp_path)
    is_test = np.isin(shown.names, BOLD_REPEATED)
    expected = np.empty_like(betas)
    for number in range(3):
        rows, reference = shown.session == number, (shown.session == number) & ~is_test
        expected[rows] = (betas[rows] - betas[reference].mean(0)) / betas[reference].std(0)
    np.testing.assert_allclose(dataset.train.fmri, expected[~is_test], atol=1e-4)
    first = np.array([name == "kitchen3.jpg" for name in shown.names])
    row = dataset.test.stimulus.index("kitchen3")
    np.testing.assert_allclose(dataset.test.fmri[row], expected[first].mean(0), atol=1e-4)


def test_a_session_without_training_trials_takes_the_statistics_of_all():
    betas = np.random.default_rng(0).standard_normal((12, 2)).astype(np.float32) * 3 + 7
    session, is_training = np.repeat([0, 1], 6), np.arange(12) < 6
    found = bold5000.normalised(betas, session, is_training)
    reference = betas[:6].astype(float)
    np.testing.assert_allclose(found, (betas - reference.mean(0)) / reference.std(0), atol=1e-5)


def test_csi4_has_fewer_sessions(files: Path, tmp_path: Path):
    one, four = _load(files, tmp_path), _load(files, tmp_path, subject=4)
    assert "3 sessions" in one.description and "2 sessions" in four.description
    assert len(one.train) == 36 and len(four.train) == 24 and four.facts["test_repetitions"] == 2
    assert four.train.fmri.shape[1] - one.train.fmri.shape[1] == 2 * 2 * 5
    for i, name in enumerate(four.train.stimulus):  # the rows of the shared image file are right
        np.testing.assert_array_equal(four.train.images[i], one.train.images[one.train.stimulus.index(name)])


def test_what_other_systems_leave_in_lists_is_ignored(files: Path, tmp_path: Path):
    shutil.copytree(files, tmp_path / "files")
    run = tmp_path / "files" / LISTS / "CSI1_sess01" / "CSI_sess01_run01.txt"
    run.with_name("._CSI_sess01_run01.txt").write_bytes(b"\x00\x05\x16\x07\xa3")  # macOS
    run.write_bytes(b"\xef\xbb\xbf" + run.read_bytes().replace(b"\n", b"\r\n"))  # editors of Windows
    run.parent.with_name("CSI1_imgnames.txt").write_text("another.jpg\n")  # beside the sessions, from the release
    config = Bold5000Data(path=tmp_path / "files")
    assert bold5000.presentation(config).names == bold5000.presentation(Bold5000Data(path=files)).names


def test_areas_of_other_spelling_are_found(files: Path, tmp_path: Path):
    shutil.copytree(files, tmp_path / "files")
    for usual, released in (("LHLOC", "LHLO"), ("RHLOC", "RHLO"), ("RHRSC", "RHRRSC")):  # as CSI2 has them
        (tmp_path / "files" / bold_file(1, usual)).rename(tmp_path / "files" / bold_file(1, released))
    again, dataset = _load(tmp_path / "files", tmp_path), _load(files, tmp_path)
    assert again.test.fmri.tobytes() == dataset.test.fmri.tobytes() and again.roi == dataset.roi


def test_voxels_without_betas_are_left_out_and_told(files: Path, tmp_path: Path):
    shutil.copytree(files, tmp_path / "files")
    path = tmp_path / "files" / bold_file(1, "LHLOC")
    betas = np.load(path)
    betas[:, [0, 2]] = np.nan
    np.save(path, betas)
    found, dataset = _load(tmp_path / "files", tmp_path), _load(files, tmp_path)
    kept = np.ones(len(dataset.roi), bool)
    kept[np.flatnonzero(np.array(dataset.roi) == "L_LOC")[[0, 2]]] = False
    np.testing.assert_array_equal(found.train.fmri, dataset.train.fmri[:, kept])
    assert found.roi == [area for area, keep in zip(dataset.roi, kept, strict=True) if keep]
    assert "48 voxels (2 without betas left out)" in found.description and "left out" not in dataset.description


def test_areas_classes_and_seen(files: Path, tmp_path: Path):
    dataset = _load(files, tmp_path, roi=("RSC", "LOC"))
    assert dataset.roi == ["L_RSC"] * 7 + ["R_RSC"] * 7 + ["L_LOC"] * 4 + ["R_LOC"] * 4
    assert {"bedroom", "kitchen", "coco"} < set(dataset.class_names)
    names = [dataset.class_names[c] for c in dataset.test.category]
    assert names == ["coco", "kitchen", "n01440000", "n01440001", "n01440002"]
    assert [dataset.wnid[c] for c in dataset.test.category] == ["", "", "n01440000", "n01440001", "n01440002"]
    assert dataset.test.seen is not None and dataset.test.seen.tolist() == [False, False, True, True, True]


def test_the_folders_of_the_downloads_are_found(files: Path, tmp_path: Path):
    (tmp_path / "BOLD5000_GLMsingle_ROI_betas/py").mkdir(parents=True)
    for path in files.glob("*.npy"):
        shutil.copy(path, tmp_path / "BOLD5000_GLMsingle_ROI_betas/py")
    for name in ("Scene_Stimuli", "Stimuli_Presentation_Lists"):
        shutil.copytree(files / name, tmp_path / "BOLD5000_Stimuli" / name)
    again, dataset = _load(tmp_path, tmp_path), _load(files, tmp_path)
    assert again.test.fmri.tobytes() == dataset.test.fmri.tobytes()
    for name in ("BOLD5000_GLMsingle_ROI_betas", "BOLD5000_Stimuli"):  # "extract all" of Windows makes another folder
        (tmp_path / name).rename(tmp_path / "moved")
        (tmp_path / name).mkdir()
        (tmp_path / "moved").rename(tmp_path / name / name)
    again = _load(tmp_path, tmp_path)
    assert again.test.fmri.tobytes() == dataset.test.fmri.tobytes()


# ---------------------------------------------------------------- broken files

LEFT = bold_file(1, "LHLOC")
LISTS = "Stimuli_Presentation_Lists/CSI1"


def _array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / LEFT, change(np.load(folder / LEFT)))


def names() -> list[str]:
    return [name.removeprefix("rep_") for session in bold_trials(1) for run in session for name in run]


def _cut(folder: Path) -> None:
    content = (folder / LEFT).read_bytes()
    (folder / LEFT).write_bytes(content[: len(content) // 2])


def _archive(folder: Path) -> None:
    np.savez(folder / "other.npz", betas=np.load(folder / LEFT))
    (folder / "other.npz").replace(folder / LEFT)


def _all_single(folder: Path) -> None:
    (folder / "Scene_Stimuli/repeated_stimuli_113_list.txt").write_text("unknown.jpg\n")


BROKEN = {
    "missing": (lambda f: (f / LEFT).unlink(), [f"{LEFT} is missing in it and", "found 19 others", "fetch bold5000"]),
    "renamed": (lambda f: (f / LEFT).rename(f / "CSI1_LHLOC.npy"), [f"{LEFT} is missing", "fetch bold5000"]),
    "truncated": (_cut, [f"{LEFT}: not a readable .npy file"]),
    "no array": (lambda f: (f / LEFT).write_text("hello"), [f"{LEFT}: not a readable .npy file"]),
    "pickled": (_array(lambda a: np.array([{}, 1], dtype=object)), [f"{LEFT}", "pickle"]),
    "trials cut off": (_array(lambda a: a[:-1]), [LEFT, f"in FOLDER/{LISTS}, has shape (50, 4), expected (51, any)"]),
    "transposed": (_array(lambda a: a.T), [LEFT, "has shape (4, 51), expected (51, any)"]),
    "flat": (_array(lambda a: a.ravel()), [LEFT, "has shape (204,)"]),
    "NaN": (_array(lambda a: np.where(a > 2, np.nan, a)), [f"{LEFT}", "NaN or infinite values, expected none"]),
    "NaN in test trials only": (
        _array(lambda a: np.where(np.isin(names(), BOLD_REPEATED)[:, None], np.nan, a)), ["NaN or infinite values"],
    ),
    "nothing but NaN": (_array(lambda a: a * np.nan), [LEFT, "204 NaN or infinite values"]),
    "text": (_array(lambda a: a.astype(str)), [f"{LEFT}", "expected numbers"]),
    "an archive": (_archive, [f"{LEFT}: an archive of several arrays, expected one"]),
    "no lists": (lambda f: shutil.rmtree(f / "Stimuli_Presentation_Lists"), ["no folder Stimuli_Presentation_Lists"]),
    "no lists of the subject": (lambda f: shutil.rmtree(f / LISTS), ["no CSI1/*/*.txt (presentation lists)"]),
    "a run missing": (lambda f: (f / LISTS / "CSI1_sess01/CSI_sess01_run02.txt").unlink(), ["expected (43, any)"]),
    "a list unreadable": (
        lambda f: (f / LISTS / "CSI1_sess01/CSI_sess01_run02.txt").write_bytes(b"\xff\x00"), ["not a readable text"],
    ),
    "nothing repeated": (_all_single, ["113_list.txt: no image is repeated", "no test or no training set"]),
    "no images": (lambda f: shutil.rmtree(f / "Scene_Stimuli"), ["no folder Scene_Stimuli", "(images)"]),
    "an image missing": (
        lambda f: (f / "Scene_Stimuli/Presented_Stimuli/Scene/bedroom3.jpg").unlink(), ["1 of 41", "bedroom3"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files_are_explained(what: str, files: Path, tmp_path: Path):
    damage, words = BROKEN[what]
    folder = tmp_path / "files"
    shutil.copytree(files, folder)
    damage(folder)
    with pytest.raises(UserError) as caught:
        Bold5000Data(path=folder, image_size=8).check()
    told = str(caught.value)
    assert str(folder) in told and "\n" not in told
    assert all(word.replace("FOLDER", str(folder)) in told for word in words), told


def test_unknown_area(files: Path):
    with pytest.raises(UserError, match=r"data.roi: 'V1' is no area of BOLD5000; valid: EarlyVis"):
        Bold5000Data(path=files, roi=("V1",)).check()
