"""The real data set: folds, orientation and every kind of broken file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from cnd.data.digits69 import Digits69Data
from cnd.data import digits69
from cnd.errors import UserError


@pytest.fixture(scope="module")
def content(digits69_file) -> dict[str, np.ndarray]:
    """The real file's content, or a stand-in of the same layout."""
    if digits69_file is not None:
        return {k: v for k, v in loadmat(digits69_file).items() if k[0] != "_"}
    rng = np.random.default_rng(0)
    made = {k: rng.standard_normal(s) if k.startswith("fmri") else rng.integers(0, 256, s, dtype=np.uint8)
            for k, s in digits69.SHAPES.items()}  # fmt: skip
    return made | {"labelTrn": np.tile([[1], [2]], (45, 1)), "labelTest": np.tile([[1], [2]], (5, 1))}


def test_folds_partition_the_items(content, tmp_path: Path):
    savemat(tmp_path / "d.mat", content)
    config = Digits69Data(path=tmp_path / "d.mat")
    seen: list[str] = []
    for fold in range(config.n_folds):
        dataset = digits69.load(config, fold)
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


def test_missing_path():
    with pytest.raises(UserError, match=r"--set data.path="):
        digits69.files(Digits69Data())
    with pytest.raises(UserError, match="no such file"):
        digits69.files(Digits69Data(path=Path("/nowhere/d.mat")))
