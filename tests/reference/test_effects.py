"""Effects over a table of rows: against least squares written out, ranks, statsmodels if there, and simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cnd import statistics as s
from cnd.statistics import effects as e

# The paper's Table 1 in numbers of levels: Phase 1, alpha_s, alpha_c, mask ratio, depth, self-contrast; row 10 is 0
TABLE_1 = np.array([
    [1, 3, 3, 3, 0, 3], [0, 0, 1, 0, 0, 0], [0, 1, 2, 0, 0, 0], [0, 2, 2, 0, 0, 1],
    [0, 0, 2, 0, 0, 1], [0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0, 1], [0, 0, 0, 2, 0, 1],
    [0, 0, 0, 2, 1, 1], [0, 0, 0, 2, 2, 1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0],
    [0, 0, 0, 2, 0, 0], [0, 0, 0, 2, 1, 0], [0, 0, 0, 2, 2, 0], [0, 0, 0, 0, 0, 2],
])  # fmt: skip
CATEGORIES = np.arange(50)


def by_terms(contrasts: list[e.Contrast]) -> dict[e.Terms, e.Contrast]:
    return {contrast.terms: contrast for contrast in contrasts}


def test_main_effects_are_least_squares_written_out() -> None:
    design = np.zeros((16, 12))
    design[:, 0] = 1
    found = e.main_effects(TABLE_1)
    assert [contrast.terms for contrast in found] == [
        ((0, 1), (1, 3), (2, 3), (3, 3), (5, 3)),  # without Phase 1 its settings have no level of their own
        ((1, 1),), ((1, 2),), ((2, 1),), ((2, 2),), ((3, 1),), ((3, 2),), ((4, 1),), ((4, 2),), ((5, 1),), ((5, 2),),
    ]  # fmt: skip
    for column, contrast in enumerate(found, start=1):
        factor, level = contrast.terms[0]
        design[:, column] = TABLE_1[:, factor] == level
    scores = np.random.default_rng(0).random(16)
    expected = np.linalg.lstsq(design, scores, rcond=None)[0]
    assert [contrast.weights @ scores for contrast in found] == pytest.approx(expected[1:])


def test_main_effects_are_those_of_statsmodels() -> None:
    formula = pytest.importorskip("statsmodels.formula.api")
    pandas = pytest.importorskip("pandas")
    rows = np.array(list(product(range(2), range(3), range(2))))[:-3]
    frame = pandas.DataFrame(rows, columns=["a", "b", "c"]).assign(y=np.random.default_rng(1).random(len(rows)))
    fit = formula.ols("y ~ C(a) + C(b) + C(c)", frame).fit()
    found = {c.terms[0]: c.weights @ frame["y"] for c in e.main_effects(rows)}
    names = {(0, 1): "C(a)[T.1]", (1, 1): "C(b)[T.1]", (1, 2): "C(b)[T.2]", (2, 1): "C(c)[T.1]"}
    assert found == pytest.approx({term: fit.params[name] for term, name in names.items()})


@settings(deadline=None, max_examples=60)
@given(arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.integers(0, 2)))
def test_an_effect_has_weights_where_the_rank_says_so(codes: np.ndarray) -> None:
    codes[0] = 0
    for found in (e.main_effects(codes), e.interactions(codes)):
        columns = {c.terms: c for c in e.main_effects(codes)} | {c.terms: c for c in found}
        marks = [np.all([codes[:, f] == level for f, level in terms], axis=0).astype(float) for terms in columns]
        design = np.column_stack([np.ones(len(codes)), *marks])
        for place, contrast in enumerate(columns.values(), start=1):
            if contrast not in found:
                continue
            unit = np.eye(design.shape[1])[place]
            told = np.linalg.matrix_rank(np.vstack([design, unit])) == np.linalg.matrix_rank(design)
            assert (contrast.weights is not None) == told
            assert bool(contrast.aliases) == (not told)
            if contrast.weights is not None:
                np.testing.assert_allclose(contrast.weights @ design, unit, atol=1e-8)


def test_interactions_are_differences_of_differences_where_all_four_cells_are() -> None:
    scores = np.random.default_rng(2).random(16)
    found = by_terms(e.interactions(TABLE_1))
    assert list(found) == [
        ((2, 2), (5, 1)), ((3, 1), (5, 1)), ((3, 2), (5, 1)), ((4, 1), (5, 1)), ((4, 2), (5, 1)),
    ]  # fmt: skip
    mask, depth = found[(3, 1), (5, 1)].weights, found[(4, 2), (5, 1)].weights
    assert mask is not None and mask @ scores == pytest.approx(scores[6] - scores[5] - (scores[11] - scores[10]))
    assert depth is not None and depth @ scores == pytest.approx(scores[9] - scores[7] - (scores[14] - scores[12]))
    tangled = found[(2, 2), (5, 1)]  # row 2 alone would tell it, and that row has an alpha_s of its own
    assert tangled.weights is None and set(tangled.aliases) == {((1, 1),), ((2, 2),)}


def test_what_the_rows_cannot_tell_has_no_number_and_a_name() -> None:
    first, second, both = e.main_effects([[0, 0, 0], [1, 0, 1], [0, 1, 1]])
    assert first.weights is None and first.aliases == (second.terms, both.terms)
    assert e.main_effects([[0, 0], [1, 2]])[0].terms == ((0, 1), (1, 2))
    assert e.interactions([[0, 0], [1, 0], [0, 1]]) == []


def test_pairs_differ_in_one_setting_alone() -> None:
    changes = {c.terms[0]: e.single_changes(TABLE_1, c.terms) for c in e.main_effects(TABLE_1)}
    assert changes[0, 1] == [(0, 10)]
    assert changes[1, 1] == []
    assert changes[3, 2] == [(7, 5), (12, 10)]
    assert changes[5, 1] == [(5, 10), (6, 11), (7, 12), (8, 13), (9, 14)]
    scores = np.random.default_rng(3).random(16)
    mean = np.mean([scores[i] - scores[j] for i, j in changes[5, 1]])
    assert e.pair_weights(changes[5, 1], 16) @ scores == pytest.approx(mean)


def test_add_one_beside_leave_one_out() -> None:
    found = e.one_at_a_time(TABLE_1)
    assert found is not None and (found.full, found.bare) == (10, 8)  # row 3 differs in three as well, with fewer pairs
    assert [effect.terms for effect in found.effects] == [((3, 2),), ((4, 1),), ((5, 1),)]
    assert found.left_out == ((10, 12), None, (10, 5))
    assert found.added == (None, (7, 8), (13, 8))
    assert e.one_at_a_time([[0, 0], [1, 0], [0, 1]]) is None
    square = e.one_at_a_time([[1, 1], [0, 1], [1, 0], [0, 0]])
    assert square is not None and (square.full, square.bare) == (3, 0)
    assert square.left_out == ((3, 2), (3, 1)) and square.added == ((1, 0), (2, 0))


def test_a_contrast_of_two_rows_is_their_paired_difference() -> None:
    scores = np.random.default_rng(4).random((3, 60, 4))
    units = np.repeat(np.arange(20), 3)
    assert e.contrast_mean(scores, [0, 1, -1], units) == s.crossed_mean(scores[1] - scores[2], units)


def test_rows_that_score_the_same_differ_by_nothing_whatever_the_rounding() -> None:
    scores = np.broadcast_to(np.random.default_rng(6).random((50, 3)), (16, 50, 3))
    for contrast in e.main_effects(TABLE_1):
        found = e.contrast_mean(scores, contrast.weights, CATEGORIES)
        assert (found.estimate, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_intervals_hold_the_effects_that_made_the_scores() -> None:
    """Rows of Table 1 with known effects; items, seeds and what they do to each row are random."""
    rng, truth = np.random.default_rng(5), {((3, 2),): 0.04, ((5, 1),): -0.02, ((4, 1),): 0.0}
    interaction = ((3, 2), (5, 1))
    main, twofold = by_terms(e.main_effects(TABLE_1)), by_terms(e.interactions(TABLE_1))[interaction]
    means = sum(value * (TABLE_1[:, f] == level) for ((f, level),), value in truth.items())
    n, held, rejected = 120, dict.fromkeys([*truth, interaction], 0), 0
    for _ in range(n):
        item, seed, both = (rng.normal(0, sd, shape) for sd, shape in (
            (0.03, (16, 50, 1)), (0.015, (16, 1, 3)), (0.09, (16, 50, 3)),
        ))  # fmt: skip
        scores = 0.5 + means[:, None, None] + item + seed + both
        for terms, value in truth.items():
            found = e.contrast_mean(scores, main[terms].weights, CATEGORIES)
            held[terms] += found.low <= value <= found.high
        rejected += found.p_value <= 0.05  # of the effect that is none
        found = e.contrast_mean(scores, twofold.weights, CATEGORIES)
        held[interaction] += found.low <= 0 <= found.high
    assert all(0.9 <= share / n <= 0.995 for share in held.values()), held
    assert rejected / n <= 0.09


@pytest.mark.parametrize(
    ("codes", "words"),
    [([0, 1], "shape"), ([[0.0]], "numbers of levels"), ([[0, -1]], "numbers of levels"), ([[0, 1], [1, 0]], "no row")],
)
def test_bad_codes_are_refused(codes: list[object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        e.main_effects(codes)


def test_bad_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to 0"):
        e.contrast_mean(np.ones((2, 4, 2)), [1, 1], np.arange(4))
    with pytest.raises(ValueError, match="shape"):
        e.contrast_mean(np.ones((2, 4, 2)), [1, 0, -1], np.arange(4))
