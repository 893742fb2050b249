"""What reports of many rows do otherwise: the same numbers by arrays, and figures of some rows."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd
import pyarrow
import pytest
from scipy import stats

from cnd import statistics
from cnd.statistics.intervals import clustered_mean
from cnd.statistics.multiplicity import holm
from cnd.statistics.units import by_unit
from reports.collect import MetricFacts, Records, TableRow, with_scores
from reports.drawn import LISTED, MOST, drawn, listed, sentence
from reports.inference import crossed


@pytest.mark.parametrize("kind", ["whole", "unknown scores", "other items", "nothing in common"])
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("subjects", [1, 2])
def test_complete_scores_are_those_that_pandas_finds(kind: str, seeds: int, subjects: int) -> None:
    rng = np.random.default_rng(len(kind))
    scores, parts = {}, []
    for number, run in enumerate(product([f"s{i}" for i in range(subjects)], range(seeds))):
        items, values = np.arange(30), rng.random(30)
        if kind == "unknown scores":
            values[rng.choice(30, 4)] = np.nan
        elif kind == "other items":
            items = np.sort(rng.choice(40, 30, replace=False))
        elif kind == "nothing in common":
            items = items + 100 * number
        scores[run] = items, values
        parts.append(pd.DataFrame({"subject": run[0], "seed": run[1], "item": items, "value": values}))
    every = np.unique(np.concatenate([items for items, _ in scores.values()]))
    found = crossed(scores, (every, every // 2), set(scores))
    assert found is not None

    wide = pd.concat(parts).pivot(index="item", columns=["seed", "subject"], values="value").sort_index(axis=1)
    whole = wide.dropna()
    if whole.empty:
        whole = pd.DataFrame({place: wide[place].dropna().to_numpy() for place in wide}, scores["s0", 0][0])
    assert np.array_equal(found.values.reshape(len(whole), -1), whole.to_numpy())
    items = whole.index.to_numpy()
    assert np.array_equal(found.items, items)
    assert np.array_equal(found.units, statistics.sampling_units(items // 2, items))


@pytest.mark.parametrize("lines", [slice(None), slice(1, None), slice(None, None, -1)])
def test_items_with_their_scores_are_those_of_a_pivot(lines: slice) -> None:
    items = pd.DataFrame({"item": [0, 1, 2, 5], "stimulus": list("abcd")})
    places = product(["nway2_top1", "ssim"], [0, 1, 2], [0, 1])
    scores = pd.DataFrame(
        [(i, s, m, 10 * i + s + len(m)) for m, i, s in places], columns=["item", "sample", "metric", "value"]
    )
    scores = scores.iloc[lines].astype({"value": float})
    wide = scores.pivot(index=["item", "sample"], columns="metric", values="value").reset_index()
    found = with_scores(items, pyarrow.Table.from_pandas(scores, preserve_index=False))
    pd.testing.assert_frame_equal(found, items.merge(wide, on="item"), check_column_type=False, check_names=False)
    twice = pyarrow.Table.from_pandas(pd.concat([scores, scores]), preserve_index=False)
    with pytest.raises(ValueError, match="duplicate"):
        with_scores(items, twice)


def test_rows_that_change_places_are_those_of_one_pair_after_another() -> None:
    rng = np.random.default_rng(1)
    units = np.repeat(np.arange(12), 3)
    levels = np.stack([[0, 0.1, *range(1, 8)], [0.1, 0, *range(1, 8)]])  # the first two change places
    before, after = rng.random((2, 9, 36)) * 0.2 + levels[..., None]
    found, pairs, p = np.zeros(9, dtype=bool), list(combinations(range(9), 2)), []
    for i, j in pairs:
        sums, sizes = by_unit((after[i] - after[j]) - (before[i] - before[j]), units)
        mean, error, _ = clustered_mean(sums, sizes, 0.95)
        p.append(2 * stats.t.sf(abs(mean) / error, len(sums) - 1))
    for (i, j), value in zip(pairs, holm(p), strict=True):
        was, now = (before[i] - before[j]).mean(), (after[i] - after[j]).mean()
        found[[i, j]] |= was * now < 0 and abs(now - was) > statistics.TOLERANCE and value <= 0.05
    assert found.tolist() == [True, True, *[False] * 7]
    assert np.array_equal(statistics.changing_places(before, after, units), found)


def table(n_rows: int) -> Records:
    """Rows of rising scores; the reference is in the middle."""
    ids = [f"r{i}" for i in range(n_rows)]
    rows = [TableRow(row, None, {}, None, False) for row in ids] + [TableRow("null", None, {}, None, True, "null")]
    items = pd.DataFrame({"row": [*ids, "null"], "score": [*np.linspace(0.2, 0.8, n_rows), 0.02], "item": 0})
    sweep = {"reference": f"r{n_rows // 2}"}
    return Records(sweep, rows, [], items, [MetricFacts("score", "score")], "score")


def test_of_many_rows_figures_show_the_reference_and_both_ends() -> None:
    few, many = table(MOST), table(1000)
    assert drawn(few) == few.rows and sentence(few) == ""
    shown = [row.id for row in drawn(many)]
    assert len(shown) == MOST + 1 and {"r0", "r18", "r500", "r980", "r999", "null"} <= set(shown)
    assert not {"r19", "r979", "r499"} & set(shown)
    assert shown == [row.id for row in many.rows if row.id in shown]
    assert "40 of the 1,000 rows" in sentence(many)


def test_a_sentence_names_the_first_of_very_many() -> None:
    names = [str(i) for i in range(MOST + 1)]
    assert listed(names[:MOST]) == ", ".join(names[:MOST])
    assert listed(names) == f"{', '.join(names[:LISTED])} and {MOST + 1 - LISTED} more"
