"""The report's section on what each setting does over the whole sweep: main effects, interactions, single changes.

A factor is a column of the table, or another setting that rows state for themselves. Its level in a row is what the
table shows; where the table shows "-" and the row states the setting nevertheless, it is that value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from cnd import statistics
from cnd.cortex.drawing.figures import INK, STYLE
from cnd.paper import show
from cnd.statistics import effects
from cnd.statistics.effects import Contrast, OneAtATime, Terms
from cnd.store.tracking import flatten
from reports.collect import Records, TableRow
from reports.complete import complete_scores
from reports.drawn import MOST
from reports.figures import GREEN, VERDICTS
from reports.scale import PERCENT, Scale

NONE = "-"  # a setting that does not apply
COLUMNS = ["kind", "title", "estimate", "low", "high", "n_pairs", "pairs", "alone", "alone_low", "alone_high"]
LONGEST = 58  # characters of a title in the figure


@dataclass(frozen=True)
class Table:
    """Complete scores of some rows, and their levels.

    Attributes:
        rows: in the table's order.
        scores: [n_rows, n_items, n_seeds, n_subjects].
        units: [n_items] label of each item's independent unit.
        factors: titles of the settings in which the rows differ.
        levels: of each factor; the first is the one that others are compared with.
        codes: int [n_rows, n_factors], numbers of levels.
        base: id of the row that has the first level of each factor.
        left_out: titles of rows without the seeds, the stimuli or the judge that the others have.
    """

    rows: list[TableRow]
    scores: NDArray[np.float64]
    units: NDArray[Any]
    factors: list[str]
    levels: list[list[str]]
    codes: NDArray[np.int64]
    base: str
    left_out: list[str]

    @property
    def n_seeds(self) -> int:
        return self.scores.shape[2]

    def mean(self, weights: NDArray[np.float64]) -> statistics.CrossedMean:
        """A contrast of the rows."""
        return effects.contrast_mean(self.scores, weights, self.units)

    def pair(self, pair: tuple[int, int]) -> statistics.CrossedMean:
        """First row of a pair minus the second."""
        return self.mean(effects.pair_weights([pair], len(self.rows)))


def section(records: Records) -> dict[str, Any] | None:
    """What the template prints; None where the finished rows differ in one setting only, or tell no effect apart."""
    table = effect_table(records)
    if table is None:
        return None
    main, twofold = effects.main_effects(table.codes), effects.interactions(table.codes)
    up = records.facts(records.metric).higher_is_better
    lines = effect_lines(table, main, twofold, records.margin, up)
    if lines.empty:
        return None
    steps = effects.one_at_a_time(table.codes)
    titles = {row.id: row.title for row in table.rows}
    largest = lines.assign(size=lines["estimate"].abs()).groupby("kind")["size"].rank(method="first", ascending=False)
    shown = lines[largest <= MOST].assign(title=lines["title"].map(_short))
    return {
        "base": titles[table.base],
        "n_rows": len(table.rows),
        "n_seeds": table.n_seeds,
        "lines": lines.to_dict("records"),
        "most": MOST if len(shown) < len(lines) else None,
        "together": any(len(_real(table, effect.terms)) > 1 for effect in main),
        "aliased": _aliased(table, main),
        "interactions": _interactions(table, twofold),
        "not_additive": list(
            lines.loc[lines["kind"].eq("interaction") & lines["verdict"].isin(["better", "worse"]), "title"]
        ),
        "left_out": table.left_out,
        "one_at_a_time": None if steps is None else _steps(table, steps),
        "figure": None if lines.empty else effect_plot(shown, records.scale, records.margin),
    }


# ---------------------------------------------------------------- factors and levels


def effect_table(records: Records) -> Table | None:
    """The finished rows that have the same seeds, with their levels; None where fewer than two factors vary."""
    found = complete_scores(records, [row for row in records.rows if not row.control])
    if found is None:
        return None
    rows = found.rows
    stated = _factors(records, rows)
    base = next((i for i, row in enumerate(rows) if row.id == records.reference), None)
    if base is None:
        return None
    if any(cells[base] == NONE for _, cells in stated):  # such a row is a poor end of every comparison
        base = next((i for i in range(len(rows)) if all(cells[i] != NONE for _, cells in stated)), base)
    varied = [(title, cells) for title, cells in stated if len(set(cells)) > 1]
    levels = [list(dict.fromkeys([cells[base], *cells])) for _, cells in varied]
    if len(varied) < 2:
        return None
    codes = np.array([[own.index(cell) for cell in cells] for own, (_, cells) in zip(levels, varied, strict=True)]).T
    if len(effects.main_effects(codes)) < 2:
        return None
    names = [title for title, _ in varied]
    ids = {row.id for row in rows}
    left_out = [row.title for row in records.rows if not row.control and row.id not in ids]
    return Table(rows, found.scores, found.units, names, levels, codes, rows[base].id, left_out)


def _factors(records: Records, rows: list[TableRow]) -> list[tuple[str, list[str]]]:
    """Title and level of each row, of the table's columns, then of other settings that rows state."""
    stated = {str(entry["id"]): flatten(entry.get("set") or {}) for entry in records.sweep["rows"]}
    found = [(c["title"], _column(c, rows, stated)) for c in records.columns]
    shown = {column.get("setting", "") for column in records.columns}
    for setting in dict.fromkeys(key for row in rows for key in stated[row.id] if key not in shown):
        cells = [stated[row.id].get(setting, _resolved(records, row.id, setting)) for row in rows]
        found.append((setting.removeprefix("decoder."), [show(cell) for cell in cells]))
    return found


def _column(column: dict[str, str], rows: list[TableRow], stated: dict[str, dict[str, Any]]) -> list[str]:
    """What a column shows of each row; what the row states where that is "-"."""
    shown = [str(row.settings.get(column["key"], NONE)) for row in rows]
    values = [stated[row.id].get(column.get("setting", "")) for row in rows]
    names = {show(v): cell for v, cell in zip(values, shown, strict=True) if v is not None and cell != NONE}
    return [
        names.get(show(value), show(value)) if cell == NONE and value is not None else cell
        for cell, value in zip(shown, values, strict=True)
    ]


def _resolved(records: Records, row: str, setting: str) -> Any:
    """What a row had for a setting that it does not state."""
    trial = records.first(row)
    value: Any = trial.experiment if trial else None
    for key in setting.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


# ---------------------------------------------------------------- numbers


def effect_lines(table: Table, main: list[Contrast], twofold: list[Contrast], margin: float, up: bool) -> pd.DataFrame:
    """A line an effect that the rows can tell, with the columns :data:`COLUMNS`; scores as fractions of 1.

    ``alone`` is the mean over pairs of rows that differ in this alone. The verdict is that of
    :func:`cnd.statistics.verdict`, with Holm's correction over all lines; with one training seed, which shows nothing
    about a setting, it is "" and p_holm NaN.

    Args:
        margin: within which an effect counts as none.
        up: whether a higher score is better.
    """
    lines: list[dict[str, Any]] = []
    found: list[statistics.CrossedMean] = []
    for kind, contrasts in (("main", main), ("interaction", twofold)):
        for effect in contrasts:
            if effect.weights is None:
                continue
            found.append(table.mean(effect.weights))
            line = {"kind": kind, "title": _title(table, effect.terms, kind), "estimate": found[-1].estimate}
            pairs = effects.single_changes(table.codes, effect.terms) if kind == "main" else []
            line |= {"low": found[-1].low, "high": found[-1].high, "n_pairs": len(pairs)}
            line |= {"pairs": ", ".join(f"{table.rows[i].id} − {table.rows[j].id}" for i, j in pairs)}
            if pairs:
                alone = table.mean(effects.pair_weights(pairs, len(table.rows)))
                line |= {"alone": alone.estimate, "alone_low": alone.low, "alone_high": alone.high}
            lines.append(line)
    frame = pd.DataFrame(lines, columns=COLUMNS).assign(p_holm=float("nan"), verdict="")
    p, equivalent = [mean.p_value for mean in found], [statistics.equivalence_p(mean, margin) for mean in found]
    if None in p:
        return frame
    p_holm, equivalent_holm = (statistics.holm(np.array(values, dtype=np.float64)) for values in (p, equivalent))
    judged = zip(found, p_holm, equivalent_holm, strict=True)
    verdicts: list[str] = [statistics.verdict(d, one, other, up) or "" for d, one, other in judged]
    return frame.assign(p_holm=p_holm, verdict=verdicts)


# ---------------------------------------------------------------- in words


def _real(table: Table, terms: Terms) -> list[tuple[str, str, str]]:
    """Factor, level and first level of the terms; where a setting is off others do not apply, which goes unnamed."""
    named = [(table.factors[f], table.levels[f][0], table.levels[f][level]) for f, level in terms]
    return [term for term in named if term[2] != NONE] or named


def _title(table: Table, terms: Terms, kind: str = "main") -> str:
    """``mask ratio 0.75 → 0.25``; of an interaction ``mask ratio 0.25 with CL depth 2``."""
    if kind == "main":
        return " and ".join(f"{factor} {first} → {level}" for factor, first, level in _real(table, terms))
    return " with ".join(f"{factor} {level}" for factor, _, level in _real(table, terms))


def _aliased(table: Table, main: list[Contrast]) -> list[str]:
    """Main effects that the rows cannot tell from others, in groups."""
    groups: dict[frozenset[Terms], str] = {}
    for effect in (effect for effect in main if effect.weights is None):
        own = (effect.terms, *effect.aliases)
        groups.setdefault(frozenset(own), "; ".join(_title(table, terms) for terms in own))
    return list(groups.values())


def _interactions(table: Table, twofold: list[Contrast]) -> dict[str, Any]:
    """How many pairs of factors have an interaction that can be told, and what others are tangled with."""

    def factors(terms: Terms) -> frozenset[str]:
        return frozenset(factor for factor, _, _ in _real(table, terms))

    tangled = [
        f"{_title(table, effect.terms, 'interaction')} (with {'; '.join(_title(table, t) for t in effect.aliases)})"
        for effect in twofold
        if effect.weights is None
    ]
    return {"shown": len({factors(e.terms) for e in twofold if e.weights is not None}), "tangled": tangled}


def _steps(table: Table, steps: OneAtATime) -> dict[str, Any]:
    def told(pair: tuple[int, int] | None) -> dict[str, Any] | None:
        if pair is None:
            return None
        found = table.pair(pair)
        rows = f"{table.rows[pair[0]].id} − {table.rows[pair[1]].id}"
        return {"estimate": found.estimate, "low": found.low, "high": found.high, "rows": rows}

    lines = []
    for effect, left_out, added in zip(steps.effects, steps.left_out, steps.added, strict=True):
        brought = " and ".join(f"{factor} {first} for {level}" for factor, first, level in _real(table, effect.terms))
        lines.append({"title": brought, "left_out": told(left_out), "added": told(added)})
    return {"full": table.rows[steps.full].title, "bare": table.rows[steps.bare].title, "lines": lines}


def _short(title: str) -> str:
    return title if len(title) <= LONGEST else f"{title[: LONGEST - 1]}…"


# ---------------------------------------------------------------- the figure


def effect_plot(lines: pd.DataFrame, scale: Scale = PERCENT, margin: float = 0.05) -> Figure:
    """Main effects with their 95 % intervals, interactions in a panel below.

    Args:
        lines: columns kind, title, estimate, low, high, verdict.
        scale: of the score.
        margin: within which an effect counts as none; drawn where there are verdicts.
    """
    kinds = {"main": "Main effects", "interaction": "Interactions: what both bring beyond the sum"}
    blocks = [(title, block) for kind, title in kinds.items() if len(block := lines[lines["kind"] == kind])]
    heights = [len(block) + 1.0 for _, block in blocks]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 1.0 + 0.3 * sum(heights)))
        panels = figure.subplots(len(blocks), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for axes, (title, block) in zip(panels, blocks, strict=True):
            _panel(axes, block, scale.factor, margin)
            axes.set_title(title)
        panels[-1].set_xlabel(f"effect, {scale.difference_axis}")
        labels = {VERDICTS[verdict][3].removesuffix(" than the reference"): verdict for verdict in lines["verdict"]}
        handles = [_marker(verdict, label) for label, verdict in labels.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _marker(verdict: str, label: str) -> Line2D:
    shape, color, filled, _ = VERDICTS[verdict]
    return Line2D(
        [], [], ls="", marker=shape, ms=6.5, mew=1.6, mfc=color if filled else "white", mec=color, label=label
    )


def _panel(axes: Axes, block: pd.DataFrame, factor: float, margin: float) -> None:
    axes.axvline(0, color=INK, lw=1, zorder=1)
    if block["verdict"].ne("").any():
        for side in (-1, 1):
            axes.axvline(side * factor * margin, color=GREEN, lw=1, ls=":", zorder=1)
    for height, line in enumerate(block.to_dict("records")):
        shape, color, filled, _ = VERDICTS[line["verdict"]]
        axes.plot([factor * line["low"], factor * line["high"]], [height] * 2, color=color, lw=2, zorder=2)
        face = color if filled else "white"
        axes.plot(factor * line["estimate"], height, shape, ms=6.5, mew=1.6, mfc=face, mec=color, zorder=3)
    axes.set_yticks(range(len(block)), block["title"])
    axes.set_ylim(len(block) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e3e3e3", lw=0.8)
    axes.set_axisbelow(True)
