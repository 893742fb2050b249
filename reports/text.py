"""What the numbers say, in plain sentences, and the warnings that must not be overlooked."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd

from cnd import paper
from cnd.statistics import clopper_pearson
from reports import nulls
from reports.ceilings import far_under
from reports.collect import Records, TableRow
from reports.convergence import sentences, states
from reports.provenance import trained, warnings
from reports.scale import NOTHING, Scale
from reports.tables import Design, Lines, by_row


class Badge(NamedTuple):
    """A loud warning at the top of the report."""

    title: str
    text: str


PUBLISHED = [line._replace(protocol=f"{line.source}: {line.protocol}") for line in paper.PUBLISHED]


def percent(fraction: float, digits: int = 1) -> str:
    """A share: ``0.105`` to ``10.5``; an en dash where there is no number."""
    return f"{100 * fraction:.{digits}f}".replace("-", "−") if math.isfinite(fraction) else NOTHING


def p_value(p: float) -> str:
    """Three digits, and never a bare zero."""
    if not math.isfinite(p):
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def badges(records: Records) -> list[Badge]:
    """Warnings that hold for at least one finished row."""
    found = []
    if any(trial.summary.get("simulated") for trial in records.complete):
        text = "The brain, the stimuli and the generator are simulated. Nothing here is a measurement of a human brain."
        found.append(Badge("SIMULATED DATA", text))
    for warning in warnings(records):
        name, _, text = warning["note"].partition(": ")
        found.append(Badge(name.upper(), f"{text} ({warning['rows']})"))
    for sentence in far_under(_ceilings(records)):
        name, _, text = sentence.partition(": ")
        found.append(Badge(name.upper(), text))
    n_samples = int(records.items["sample"].nunique())
    if n_samples > 1:
        text = (
            f"The mean over {n_samples} samples is the score. Best of {n_samples} picks by the truth and is optimistic."
        )
        found.append(Badge(f"BEST-OF-{n_samples} IS OPTIMISTIC", text))
    missing = sum(trial.folder is None for trial in records.trials)
    if missing:
        found.append(Badge("INCOMPLETE", f"{missing} of {len(records.trials)} trials have no result yet, or failed."))
    return found


def headline(records: Records, scores: pd.DataFrame, differences: pd.DataFrame, plan: Design) -> list[str]:
    """The plain-language summary, computed from the tables; sentences that need missing rows are left out."""
    table = by_row(scores[scores["metric"] == records.metric])
    differences_of = by_row(differences)
    if not table:
        return ["No trial has finished yet, so there is nothing to report."]
    told = sentences(records, states(records))
    late = any("NOT CONVERGED" in sentence for sentence in told)
    return [
        *(told if late else []),
        *_level(records, table),
        *([] if late else told),
        *_controls(records, table, differences_of),
        *_without_phase1(records, differences_of),
        *_ranking(records, differences, plan),
    ]


def _level(records: Records, table: Lines) -> list[str]:
    facts, level = records.facts(records.metric), next(iter(table.values()))["chance"]
    chance = f"The score is {facts.title}; chance is {facts.scale.score(level)}."
    if not math.isfinite(level):
        chance = f"The score is {facts.title}, {'higher' if facts.higher_is_better else 'lower'} is better."
    if records.reference not in table:
        return [chance, f"The reference row {records.reference} has no result yet, so no differences are shown."]
    return [chance, f"The reference row {records.reference} reaches {_score(table[records.reference], facts.scale)}."]


def _controls(records: Records, table: Lines, differences: Lines) -> list[str]:
    """A sentence a control, by what it is there for."""
    sentences = []
    for row in (row for row in records.rows if row.id in table and row.role):
        line, difference = table[row.id], differences.get(row.id)
        if row.role == "ceiling":
            best = line["score"] == max(table[r.id]["score"] for r in records.of_role("ceiling") if r.id in table)
            told = "the ceiling of this benchmark" if best else "a ceiling of its own"
            sentences.append(f"{_named(row)} reaches {_score(line, records.scale)}: {told}.")
        elif row.role == "null":
            sentences.append(
                f"{_named(row)} reaches {_score(line, records.scale)}, {_against_chance(line, records.scale)}."
            )
        elif row.role == "floor":
            sentences.append(
                f"{_named(row)}, a floor, reaches {_score(line, records.scale)}{_floor(line, records.scale)}."
            )
        elif difference is not None:
            better = _better(records)
            verdict = _verdict(difference, *(better if _up(records) else (better[1], better[0], better[2])))
            sentences.append(
                f"{_named(row)} {verdict}: {_difference(difference, records.scale)} against the reference row."
            )
    return sentences


def _ceilings(records: Records) -> dict[str, float]:
    """Mean score of each finished ceiling by label, where the score is an accuracy."""
    facts = records.facts(records.metric)
    if not (facts.percent and facts.higher_is_better):
        return {}
    means = records.items.groupby("row")[records.metric].mean()
    return {row.title: float(means[row.id]) for row in records.of_role("ceiling") if row.id in means}


def _named(row: TableRow) -> str:
    """The control by its label, as the beginning of a sentence."""
    return f"The control '{row.title}'"


def _up(records: Records) -> bool:
    return records.facts(records.metric).higher_is_better


def _better(records: Records) -> tuple[str, str, str]:
    row = f"row {records.reference}"
    return f"beats {row}", f"does not beat {row}", f"cannot be told apart from {row}"


def _floor(line: dict[str, Any], scale: Scale) -> str:
    return f": {nulls.verdict(line, scale)}" if nulls.tested(line) else ""


def _against_chance(line: dict[str, Any], scale: Scale) -> str:
    if nulls.tested(line):
        return nulls.verdict(line, scale, "ABOVE chance, by a leak or a biased judge")
    if not math.isfinite(line["chance"]):
        return "which no chance level tells anything of: trained on the right pairs a decoder must do better"
    if line["low"] > line["chance"]:
        return (
            "ABOVE chance: a leak, a biased judge, or knowledge of which classes occur at all, where the stimuli show "
            "few of the judge's classes (judged by its interval)"
        )
    below = line["high"] < line["chance"]
    return f"{'below' if below else 'at'} chance (judged by its interval)"


def _without_phase1(records: Records, differences: Lines) -> list[str]:
    sentences = []
    for row in [row for row in records.rows if not row.control and row.id in differences]:
        experiments = [trial.experiment for trial in records.of(row.id) if trial.folder is not None]
        if all(_setting(e, "decoder", "phase1", "enabled") is False for e in experiments):
            line = differences[row.id]
            unclear = "no effect of Phase 1 can be shown after Holm's correction"
            verdict = unclear
            if line["p_holm"] <= 0.05:
                verdict = _verdict(line, "Phase 1 makes the score worse", "Phase 1 helps", unclear)
            sentences.append(
                f"Without Phase 1 (row {row.id}) the score changes by {_difference(line, records.scale)}: {verdict}."
            )
    return sentences


def _ranking(records: Records, differences: pd.DataFrame, plan: Design) -> list[str]:
    compared = differences[~differences["control"].astype(bool)]
    if compared.empty:
        return []
    n_different = int((compared["p_holm"] <= 0.05).sum())
    count = {0: "none differs", 1: "one differs"}.get(n_different, f"{n_different} differ")
    others = f"Of the {len(compared)} other rows" if len(compared) > 1 else "Of the one other row"
    sentences = [f"{others} {count} from the reference after Holm's correction."]
    if len(records.subjects) > 1:
        sentences.append(f"Scores are means over {len(records.subjects)} subjects; no interval here includes subjects.")
    if len(records.seeds) == 1 and trained(records):
        sentences.append("Each row was trained once, so a difference may be the luck of one training: see --seeds.")
    if math.isfinite(plan.detectable):
        sentences.append(
            f"With {plan.n_units} {_units(plan)} as the sample, a single comparison finds a true difference of "
            f"{records.scale.difference(plan.detectable, signed=False)} four times out of five; smaller ones mostly go "
            "unseen."
        )
    if plan.n_rows > 2 and math.isfinite(plan.expected_spread):
        sentences.append(
            f"{plan.n_rows} equally good models would be expected to spread over "
            f"{records.scale.difference(plan.expected_spread, signed=False)} by noise alone; these spread over "
            f"{records.scale.number(plan.observed_spread)}. "
            "An order within that noise means nothing."
        )
    return sentences


def statistics_notes(records: Records, plan: Design) -> list[str]:
    """How the intervals and tests were made, and what numbers of this size can carry."""
    unit = "category" if plan.unit == "category" else "item"
    why = "images of one category, and samples of one image, are not independent"
    if unit == "item":
        alone = plan.n_items == records.items["category"].nunique()
        no_category = "each has a category of its own" if alone else "there are too few categories to be a sample"
        why = f"{no_category}; samples of one item are averaged first"
    seeds = (
        f"{len(records.seeds)} training seeds are averaged per item first. Intervals generalise over {_units(plan)} "
        "only: training seeds are a second source of variance, shown as the standard deviation between seeds."
        if len(records.seeds) > 1
        else "One training seed: a rerun with another seed would move every row, and no interval here includes that."
    )
    return [
        *dict.fromkeys(m.note for m in records.metrics if m.note),
        f"{plan.n_items} test items, {plan.n_samples} sample{'s' if plan.n_samples != 1 else ''} each.",
        f"The sampling unit is the {unit} ({plan.n_units} of them): {why}. 95 % intervals of scores are those of a "
        "randomly weighted mean that allows for the skew of scores near chance (cnd/statistics/bounded.py).",
        f"Differences are paired by item; their intervals are t intervals with cluster-robust variance. p-values come "
        f"from flipping the sign of each {unit}'s difference; Holm's correction runs over all table rows but the "
        "reference. Controls are not part of that family.",
        *([seeds] if trained(records) else []),
        *([_for_scale()] if records.scale.percent else []),
    ]


def _for_scale() -> str:
    low, high = clopper_pearson(5, 50)
    return (
        f"For scale: 5 of 50 test images correct (10 %), as on GOD, has a 95 % interval of {percent(low)} to "
        f"{percent(high)} % (Clopper-Pearson)."
    )


def _units(plan: Design) -> str:
    return "categories" if plan.unit == "category" else "items"


def _setting(experiment: dict[str, Any], *path: str) -> Any:
    value: Any = experiment
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _score(row: dict[str, Any], scale: Scale) -> str:
    return f"{scale.score(row['score'])} (95 % interval {scale.number(row['low'])} to {scale.number(row['high'])})"


def _difference(row: dict[str, Any], scale: Scale) -> str:
    return f"{scale.difference(row['difference'])} ({scale.signed(row['low'])} to {scale.signed(row['high'])})"


def _verdict(row: dict[str, Any], above: str, below: str, neither: str) -> str:
    if row["low"] > 0:
        return above
    return below if row["high"] < 0 else neither
