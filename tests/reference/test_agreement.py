"""The order of rows against a published one: Kendall's tau-b against SciPy, the bootstrap against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from cnd.statistics import agreement

LEVELS = st.integers(0, 4).map(float)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 9).flatmap(lambda n: st.tuples(*[arrays(np.float64, n, elements=LEVELS)] * 2)))
def test_tau_is_scipys(both: tuple[np.ndarray, np.ndarray]) -> None:
    ours, theirs = both
    if (theirs == theirs[0]).all():
        theirs[0] = 9
    found = agreement.rank_agreement(ours[:, None, None].repeat(6, axis=1), theirs, np.arange(6))
    expected = stats.kendalltau(ours, theirs).statistic
    assert found.estimate == pytest.approx(0 if np.isnan(expected) else expected)
    assert (found.low, found.high) == pytest.approx((found.estimate, found.estimate))  # items do not differ


def test_the_bootstrap_draws_whole_units_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "DRAWS", 60)
    rng = np.random.default_rng(0)
    scores, units, theirs = rng.random((5, 30, 3, 2)), np.arange(30) % 11, rng.random(5)
    found = agreement.rank_agreement(scores, theirs, units, seed=4)
    draws = np.random.default_rng(4)
    of_unit = draws.multinomial(11, np.full(11, 1 / 11), 60)
    of_seed = draws.multinomial(3, np.full(3, 1 / 3), 60)
    taus = []
    for by_unit, by_seed in zip(of_unit, of_seed, strict=True):
        items = np.concatenate([np.flatnonzero(units == unit).repeat(n) for unit, n in enumerate(by_unit)], dtype=int)
        taus.append(stats.kendalltau(scores[:, items][:, :, np.arange(3).repeat(by_seed)].mean((1, 2, 3)), theirs)[0])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(taus, [0.025, 0.975])))
    assert found.low < found.estimate < found.high
    assert (found.n_units, found.n_rows, found.n_seeds) == (11, 5, 3)


def test_rows_far_apart_have_a_certain_order_and_equal_ones_none() -> None:
    rng = np.random.default_rng(1)
    noise, steps = rng.normal(0, 0.05, (6, 40, 3)), np.linspace(0.1, 0.9, 6)
    apart = agreement.rank_agreement(steps[:, None, None] + noise, steps, np.arange(40))
    assert (apart.estimate, apart.low, apart.high) == (1, 1, 1)
    equal = agreement.rank_agreement(0.5 + noise, steps, np.arange(40))
    assert equal.low < 0 < equal.high
    single = agreement.rank_agreement(noise, steps, np.zeros(40))
    assert np.isnan([single.low, single.high]).all()


def test_bad_input_is_refused() -> None:
    scores = np.ones((3, 4, 2))
    for theirs in ([1, 2], [1, 1, 1]):
        with pytest.raises(ValueError, match="published scores must be"):
            agreement.rank_agreement(scores, theirs, np.arange(4))
    with pytest.raises(ValueError, match="shape"):
        agreement.rank_agreement(scores[0], [1, 2, 3], np.arange(4))
    with pytest.raises(ValueError, match="finite"):
        agreement.rank_agreement(scores * np.nan, [1, 2, 3], np.arange(4))
