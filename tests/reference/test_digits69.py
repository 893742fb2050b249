"""The real data set: folds, orientation and every kind of broken file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_writers import digits69_content
from scipy.io import loadmat, savemat

from cnd.data import digits69
from cnd.data.digits69 import Digits69Data
from cnd.errors import UserError


@pytest.fixture(scope="module")
def content(digits69_file) -> dict[str, np.ndarray]:
    """The real file's content, or a stand-in of the same layout."""
    if digits69_file is not None:
        return {k: v for k, v in loadmat(digits69_file).items() if k[0] != "_"}
    return digits69_content()


def test_folds_partition_the_items(content, tmp_path: Path):
    savemat(tmp_path / "d.mat", content)
    config = Digits69Data(path=tmp_path / "d.mat")
    seen: list[str] = []
    for fold in range(config.n_folds):
        dataset = config.load(fold)
        assert len(dataset.train) == 90 and len(dataset.test) == 10
        assert np.array_equal(np.unique(dataset.test.category), [6, 9])
        seen += dataset.test.stimulus
    assert len(set(seen)) == 100


def test_stimuli_are_transposed_and_padded(content, tmp_path: Path):
    savemat(tmp_path / "d.mat", content)
    _, images, _ = digits69.read(Digits69Data(path=tmp_path / "d.mat"))
    np.testing.assert_array_equal(images[0, 0, 2:-2, 2:-2], content["stimTrn"][0].reshape(28, 28).T)
    assert images.shape == (100, 1, 32, 32) and images[:, :, :2].max() == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.pop("fmriTrn"), "key 'fmriTrn' is missing"),
        (lambda c: c.update(fmriTest=np.zeros((9, 3092))), "shape (9, 3092), expected (10, 3092)"),
        (lambda c: c.update(fmriTrn=np.full((90, 3092), np.nan)), "NaN"),
        (lambda c: c.pop("labelTest"), "no labels"),
        (lambda c: c.update(labelTrn=np.full((90, 1), 3)), "1 (six) or 2 (nine)"),
    ],
)
def test_broken_files_are_explained(content, tmp_path: Path, change, expected: str):
    broken = dict(content)
    change(broken)
    path = tmp_path / "broken.mat"
    savemat(path, broken)
    with pytest.raises(UserError) as caught:
        digits69.read(Digits69Data(path=path))
    assert str(path) in str(caught.value) and expected in str(caught.value)


def test_no_matlab_file(tmp_path: Path):
    path = tmp_path / "text.mat"
    path.write_text("not a matrix")
    with pytest.raises(UserError, match="not a readable MATLAB file"):
        digits69.read(Digits69Data(path=path))


def test_the_folder_of_the_file_will_do(content, tmp_path: Path):
    savemat(tmp_path / "digit69_28x28.mat", content)
    assert Digits69Data(path=tmp_path).files() == Digits69Data(path=tmp_path / "digit69_28x28.mat").files()
    with pytest.raises(UserError, match=r"no such file .* --set data\.path="):
        Digits69Data(path=tmp_path / "elsewhere").files()


@pytest.mark.parametrize("fold", [0, 7])
def test_voxels_are_scaled_by_the_items_of_the_other_folds(content, tmp_path: Path, fold: int):
    savemat(tmp_path / "d.mat", content)
    config = Digits69Data(path=tmp_path / "d.mat")
    fmri, _, digit = digits69.read(config)
    inside = digits69.fold_of_items(config, digit) == fold
    expected = (fmri[inside] - fmri[~inside].mean(0)) / fmri[~inside].std(0)
    np.testing.assert_allclose(config.load(fold).test.fmri, expected, rtol=1e-5, atol=1e-5)
