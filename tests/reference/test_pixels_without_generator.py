"""Ridge onto pixels against scikit-learn, identification against counting."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold

from cnd.decoders.ridge_pixels import RidgePixelsDecoder, out_of_fold_errors
from cnd.errors import UserError
from cnd.metrics.identification import Identification
from cnd.protocols import FmriSplit, Noise, Patterns, TrainingSet, Truth

ALPHAS = (1.0, 100.0, 1e4)


@pytest.fixture
def items() -> FmriSplit:
    rng = np.random.default_rng(0)
    fmri = rng.standard_normal((40, 60)).astype(np.float32)
    images = 128 + 12 * fmri @ rng.standard_normal((60, 48)) / 2 + 20 * rng.standard_normal((40, 48))
    images = images.clip(0, 255).astype(np.uint8).reshape(40, 3, 4, 4)
    return FmriSplit(fmri, images, np.arange(40) // 4, [f"s{i}" for i in range(40)])


@pytest.mark.parametrize("at_once", [8192, 7])
def test_ridge_onto_pixels_is_scikit_learns(items: FmriSplit, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnd.decoders.ridge_pixels.AT_ONCE", at_once)
    config, pixels = RidgePixelsDecoder(alphas=ALPHAS), items.images.reshape(40, -1).astype(float)
    errors = np.zeros(3)
    for train, held in GroupKFold(5).split(pixels, groups=items.category):
        for i, alpha in enumerate(ALPHAS):
            predicted = Ridge(alpha=alpha).fit(items.fmri[train].astype(float), pixels[train]).predict(items.fmri[held])
            errors[i] += ((predicted - pixels[held]) ** 2).sum()
    np.testing.assert_allclose(out_of_fold_errors(config, items), errors, rtol=1e-8)
    asked = np.random.default_rng(1).standard_normal((5, 60)).astype(np.float32)
    found = config.fit(TrainingSet(items, np.arange(0)), SimpleNamespace()).reconstruct(  # type: ignore[arg-type]
        Patterns(asked, list("abcde")), Noise(0, 2)
    )
    best = Ridge(alpha=ALPHAS[errors.argmin()]).fit(items.fmri.astype(float), pixels)
    wanted = best.predict(asked).round().clip(0, 255).reshape(5, 3, 4, 4)
    assert found.images.shape == (5, 2, 3, 4, 4) and (found.images[:, 0] == found.images[:, 1]).all()
    assert np.abs(found.images[:, 0] - wanted).max() <= 1 and (found.images[:, 0] == wanted).mean() > 0.99
    assert found.facts == {"ridge_alpha": ALPHAS[errors.argmin()], "parameters": 61 * 48}


def test_labels_alone_are_refused(items: FmriSplit) -> None:
    bare = FmriSplit(items.fmri, np.zeros((40, 0, 0, 0), np.uint8), items.category, items.stimulus)
    with pytest.raises(UserError, match="has labels only, and it learns pixels"):
        RidgePixelsDecoder().fit(TrainingSet(bare, np.arange(0)), SimpleNamespace())  # type: ignore[arg-type]


def test_identification_counts_each_stimulus_once() -> None:
    """Three stimuli, one shown twice: the right one must have the largest correlation of the three."""
    rng = np.random.default_rng(2)
    stimuli = rng.integers(0, 256, (3, 1, 5, 5), dtype=np.uint8)[[0, 1, 1, 2]]
    images = rng.integers(0, 256, (4, 2, 1, 5, 5), dtype=np.uint8)
    images[1, 0] = stimuli[1]
    truth = Truth(["a", "b", "b", "c"], np.arange(4), list("abcd"))
    r = np.array(
        [[[np.corrcoef(x.ravel(), s.ravel())[0, 1] for s in stimuli[[0, 1, 3]]] for x in own] for own in images]
    )
    right = np.array([0, 1, 1, 2])
    above = (r > np.take_along_axis(r, right[:, None, None], 2)).sum(2)
    np.testing.assert_allclose(Identification(n=3).score(stimuli, images, truth), above == 0)
    np.testing.assert_allclose(Identification(n=2).score(stimuli, images, truth), 1 - above / 2)
    assert Identification(n=3).among(truth) == "3 of the 3 distinct test stimuli"
    with pytest.raises(UserError, match="chooses among 4 stimuli, and the test items show 3"):
        Identification(n=4).score(stimuli, images, truth)
