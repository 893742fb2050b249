"""Figures and letters of Miyawaki et al. 2008: folds by run and by stimulus, and the real file where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_writers import write_miyawaki
from scipy.io import loadmat, savemat

from cnd.data.findings import twins
from cnd.data.miyawaki import STIMULI, MiyawakiData, fold_of_items, read
from cnd.errors import UserError


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    write_miyawaki(tmp_path / "miyawaki.mat")
    return tmp_path / "miyawaki.mat"


def test_every_block_is_a_test_item_once(stand_in: Path) -> None:
    for split_by, n_folds in (("run", 12), ("stimulus", 10)):
        source = MiyawakiData(path=stand_in, split_by=split_by)  # type: ignore[arg-type]
        folds = [source.load(fold) for fold in source.folds()]
        assert len(folds) == n_folds and sum(len(fold.test) for fold in folds) == 119
        for fold in folds:
            assert len(fold.train) + len(fold.test) == 119
            shared = set(fold.train.stimulus) & set(fold.test.stimulus)
            assert bool(shared) == (split_by == "run") and len(twins(fold.train, fold.test)) == len(fold.test) * bool(
                shared
            )
            if split_by == "run":
                assert len(set(fold.test.run)) == 1 and not set(fold.test.run) & set(fold.train.run)
            else:
                assert len(set(fold.test.stimulus)) == 2
    assert sorted(source.test_stimuli().names) == sorted(s for fold in folds for s in fold.test.stimulus)


def test_the_order_is_that_of_the_experiment(stand_in: Path) -> None:
    run = read(MiyawakiData(path=stand_in))[3]
    np.testing.assert_array_equal(run, 21 + np.arange(119) // 10)


def test_another_file_is_refused(stand_in: Path) -> None:
    content = {k: v for k, v in loadmat(stand_in).items() if k[0] != "_"}
    for change, told in (
        ({"stimTrn": content["stimTrn"] * 0}, r"hold \d+ distinct stimuli from 0 to 1, expected 20"),
        ({"labelTrn": content["labelTrn"] + 1}, "not the runs 21 to 32"),
        ({"fmriTrn": content["fmriTrn"][:, 1:]}, r"fmriTrn has shape \(107, 966\), expected \(107, 967\)"),
    ):
        savemat(stand_in, content | change)
        with pytest.raises(UserError, match=told):
            MiyawakiData(path=stand_in).check()


def test_the_real_file(miyawaki_file: Path | None) -> None:
    """Its letters are upright, and a nearest class mean tells as much as was counted without this reader: 56 %."""
    if miyawaki_file is None:
        pytest.skip("miyawaki: miyawaki_structured_28x28.mat is not here (it cannot be shipped)")
    source = MiyawakiData(path=miyawaki_file, split_by="run")
    _, images, stimulus, run = read(source)
    counts = np.bincount(stimulus)
    assert len(images) == 119 and sorted(set(counts)) == [4, 7, 8]
    picture = {name: images[np.flatnonzero(stimulus == i)[0], 0] > 127 for i, name in enumerate(STIMULI)}
    for letter, open_side in (("u", "top"), ("n", "bottom")):  # the middle column is bright at one end only
        column = picture[f"{letter} wide"][:, 14]
        assert column[column.size // 2 :].any() == (open_side == "top") != column[: column.size // 2].any()
    right = 0
    for fold in source.folds():
        data = source.load(fold)
        means = np.stack([data.train.fmri[data.train.category == c].mean(0) for c in range(20)])
        likeness = np.corrcoef(data.test.fmri, means)[: len(data.test), len(data.test) :]
        right += (likeness.argmax(1) == data.test.category).sum()
    assert 0.5 < right / 119 < 0.62
    assert sorted(np.bincount(fold_of_items(source, stimulus, run))) == [9, *[10] * 11]
