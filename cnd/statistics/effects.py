"""Effects of settings over a whole table of rows: which of them its rows can tell, and the weights that do.

Least squares is linear in the scores of the rows, so every effect is a contrast: one weight a row. Applied to the
scores of each item and seed it gives what a paired difference of two rows gives, and the error that holds for other
items and other seeds comes from the same place (:func:`cnd.statistics.crossed_mean`).

A table is seldom a full design. The rows decide what can be told apart: settings that only ever change together have
one effect in common, and an effect that no weights single out stands in the result without any (the null space of the
design; Searle 1971, Linear Models, ch. 5). Levels are coded by numbers, 0 for the level that others are compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnd.statistics.checks import FloatArray, finite
from cnd.statistics.crossed import CrossedMean, crossed_mean

Term = tuple[int, int]  # factor, level
Terms = tuple[Term, ...]
ROUNDING = 1e-12  # of the largest score
NEGLIGIBLE = 1e-9  # of the projection onto the null space, whose entries are 0 to 1


@dataclass(frozen=True)
class Contrast:
    """One effect: of a main effect what changing from level 0 brings, of an interaction what both bring beyond that.

    Attributes:
        terms: the levels that have it. Of a main effect several only where no row has one of them without the others;
            of an interaction those of both main effects.
        weights: [n_rows], summing to 0; None where the rows cannot tell it from other effects.
        aliases: terms of those others.
    """

    terms: Terms
    weights: FloatArray | None
    aliases: tuple[Terms, ...] = ()


def main_effects(codes: ArrayLike) -> list[Contrast]:
    """Least squares with additive effects of the levels, every row weighing the same.

    Args:
        codes: int [n_rows, n_factors] level of each factor, 0 for the one that others are compared with.

    Returns:
        One contrast for all levels that the same rows have, in the order of factors and levels.

    Raises:
        ValueError: wrong shape or codes, or no row that has level 0 throughout.
    """
    table = _checked(codes)
    columns = _columns(table)
    return _contrasts(columns, columns, len(table))


def interactions(codes: ArrayLike) -> list[Contrast]:
    """Two-way interactions, all in one least squares fit beside the main effects.

    Only those whose four combinations of the two levels and level 0 occur among the rows; an effect of others cannot
    be told from main effects.

    Args:
        codes: as of :func:`main_effects`.

    Raises:
        ValueError: as :func:`main_effects`.
    """
    table = _checked(codes)
    main: dict[Terms, FloatArray] = _columns(table)
    found: dict[Terms, FloatArray] = {}
    for one, other in combinations(main, 2):
        sides = [_sides(table, terms) for terms in (one, other)]
        cells = {(a, b) for a, b in zip(*sides, strict=True) if a >= 0 and b >= 0}
        if len(cells) == 4 and not {f for f, _ in one} & {f for f, _ in other}:
            found[(*one, *other)] = main[one] * main[other]
    return _contrasts(main | found, found, len(table))


def single_changes(codes: ArrayLike, terms: Sequence[Term]) -> list[tuple[int, int]]:
    """Pairs of rows that differ in the terms alone: (row that has them, row with level 0 in their place).

    Args:
        codes: as of :func:`main_effects`.
        terms: of a main effect.
    """
    table = _checked(codes)
    sides, others = _sides(table, tuple(terms)), np.delete(table, [factor for factor, _ in terms], axis=1)
    having, lacking = np.flatnonzero(sides == 1), np.flatnonzero(sides == 0)
    return [(int(i), int(j)) for i in having for j in lacking if (others[i] == others[j]).all()]


def pair_weights(pairs: Sequence[tuple[int, int]], n_rows: int) -> FloatArray:
    """Weights, [n_rows], of the mean over pairs of first row minus second."""
    weights = np.zeros(n_rows)
    for first, second in pairs:
        weights[first] += 1 / len(pairs)
        weights[second] -= 1 / len(pairs)
    return weights


@dataclass(frozen=True)
class OneAtATime:
    """What level 0 brings in place of another, from either end of the table: pairs of rows, first minus second.

    Attributes:
        full: the row with level 0 throughout.
        bare: the row that differs from it in most effects.
        left_out: of each effect (full, the row that lacks level 0 in this alone), None where there is no such row.
        added: of each effect (the row that has level 0 in this beyond ``bare``, bare), likewise.
    """

    full: int
    bare: int
    effects: tuple[Contrast, ...]
    left_out: tuple[tuple[int, int] | None, ...]
    added: tuple[tuple[int, int] | None, ...]


def one_at_a_time(codes: ArrayLike) -> OneAtATime | None:
    """Add-one beside leave-one-out; None where no row differs from the full one in two effects or more.

    Of several rows that differ in most effects, the one is taken of which most pairs exist, then the first.

    Args:
        codes: as of :func:`main_effects`.
    """
    table = _checked(codes)
    effects = main_effects(table)
    marks = np.stack([_sides(table, effect.terms) == 1 for effect in effects], axis=1)  # [n_rows, n_effects]
    sets = [frozenset(np.flatnonzero(mark).tolist()) for mark in marks]
    first = {changed: row for row, changed in reversed(list(enumerate(sets)))}
    most = max(map(len, sets))
    if most < 2:
        return None

    def path(bare: int) -> OneAtATime:
        full, changed = first[frozenset()], sorted(sets[bare])
        alone = [first.get(frozenset([effect])) for effect in changed]
        gained = [first.get(sets[bare] - {effect}) for effect in changed]
        left_out = tuple((full, row) if row is not None else None for row in alone)
        added = tuple((row, bare) if row is not None else None for row in gained)
        return OneAtATime(full, bare, tuple(effects[effect] for effect in changed), left_out, added)

    paths = [path(row) for row, changed in enumerate(sets) if len(changed) == most]
    return max(paths, key=lambda p: sum(pair is not None for pair in (*p.left_out, *p.added)))


def contrast_mean(scores: ArrayLike, weights: ArrayLike, units: ArrayLike, level: float = 0.95) -> CrossedMean:
    """A contrast of rows with an interval that generalises over items and seeds.

    Args:
        scores: [n_rows, n_items, n_seeds] or [n_rows, n_items, n_seeds, n_subjects], complete.
        weights: [n_rows], summing to 0.
        units: [n_items] label of each item's independent unit.
        level: confidence level.

    Raises:
        ValueError: wrong shapes, NaN or infinity, no scores, or weights that do not sum to 0.
    """
    values, by = finite("scores", scores), finite("weights", weights)
    if by.shape != values.shape[:1]:
        raise ValueError(f"weights must have the shape [{len(values)}], not {list(by.shape)}")
    if abs(by.sum()) > NEGLIGIBLE * max(1.0, np.abs(by).sum()):
        raise ValueError(f"the weights of a contrast must sum to 0, not {by.sum():g}")
    contrast = np.tensordot(by, values, 1)
    contrast[np.abs(contrast) <= ROUNDING * np.abs(values).max(initial=0.0)] = 0.0  # equal rows differ by nothing
    return crossed_mean(contrast, units, level)


def _checked(codes: ArrayLike) -> NDArray[np.int64]:
    table = np.asarray(codes)
    if table.ndim != 2 or table.dtype.kind not in "iu" or (table < 0).any():
        raise ValueError("codes must be numbers of levels from 0 on with the shape [n_rows, n_factors]")
    if not (table == 0).all(axis=1).any():
        raise ValueError("no row has level 0 of every factor: there is nothing to compare levels with")
    return table.astype(np.int64)


def _sides(table: NDArray[np.int64], terms: Terms) -> NDArray[np.int64]:
    """Of each row 1 where it has the terms, 0 where it has level 0 in their place, -1 where neither, [n_rows]."""
    own, levels = table[:, [factor for factor, _ in terms]], [level for _, level in terms]
    return np.where((own == levels).all(axis=1), 1, np.where((own == 0).all(axis=1), 0, -1))


def _levels(column: NDArray[np.int64]) -> list[int]:
    return [int(level) for level in np.unique(column) if level]


def _columns(table: NDArray[np.int64]) -> dict[Terms, FloatArray]:
    """Which rows have each level, [n_rows] of 0 and 1; levels that the same rows have are one."""
    together: dict[bytes, list[Term]] = {}
    for factor, column in enumerate(table.T):
        for level in _levels(column):
            together.setdefault((column == level).tobytes(), []).append((factor, level))
    return {tuple(terms): np.frombuffer(rows, dtype=np.bool_).astype(np.float64) for rows, terms in together.items()}


def _contrasts(columns: dict[Terms, FloatArray], wanted: dict[Terms, FloatArray], n_rows: int) -> list[Contrast]:
    """The wanted effects of a least squares fit of all columns and a mean."""
    names = list(columns)
    design = np.column_stack([np.ones(n_rows), *columns.values()])
    inverse = np.linalg.pinv(design)
    hidden = np.abs(np.eye(len(names) + 1) - inverse @ design) > NEGLIGIBLE  # projection onto the null space
    found = []
    for place, name in enumerate(names, start=1):
        if name in wanted:
            others = tuple(names[other - 1] for other in np.flatnonzero(hidden[place]) if other != place)
            found.append(Contrast(name, None if hidden[place].any() else inverse[place], others))
    return found
