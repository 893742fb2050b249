"""What the numbers say, in plain sentences, and the warnings that must not be overlooked."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd

from cnd import paper, statistics
from cnd.statistics import clopper_pearson
from reports import chance, noops, nulls
from reports.ceilings import far_under
from reports.collect import Records, TableRow
from reports.convergence import sentences, states
from reports.drawn import MOST, listed
from reports.pairing import BOTH
from reports.provenance import simulated, trained, warnings
from reports.scale import NOTHING, Scale
from reports.tables import Design, Lines, by_row


class Badge(NamedTuple):
    """A loud warning at the top of the report."""

    title: str
    text: str


VERDICTS: tuple[statistics.Verdict, ...] = ("better", "worse", "equivalent", "undecided")
UNREPEATED = (
    "Nothing is concluded about any row as a method, and nothing is ranked: each was trained once, and another "
    "training gives another result. Scores and intervals hold for these trained models only. A verdict needs two "
    "training seeds or more, such as --seeds 3."
)
UNTRAINED = (
    "Nothing is concluded about any row as a method, and nothing is ranked: there is one run of each. Scores and "
    "intervals hold for these reconstructions only."
)
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
    made, measured = simulated(records)
    if made and measured:
        text = f"{', '.join(made)}. Nothing of these rows is a measurement of a human brain."
        found.append(Badge("SIMULATED DATA IN SOME ROWS", text))
        text = f"{', '.join(measured)}. No verdict compares these rows with simulated ones."
        found.append(Badge("REAL DATA IN OTHERS", text))
    elif made:
        text = "The brain, the stimuli and the generator are simulated. Nothing here is a measurement of a human brain."
        found.append(Badge("SIMULATED DATA", text))
    for warning in warnings(records):
        name, _, text = warning["note"].partition(": ")
        found.append(Badge(name.upper(), f"{text} ({warning['rows']})"))
    for sentence in far_under(_ceilings(records)):
        name, _, text = sentence.partition(": ")
        found.append(Badge(name.upper(), text))
    for sentence in noops.of(records):
        found.append(Badge("A SWITCH THAT DOES NOTHING", sentence))
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
        *_conclusion(records, differences),
        *pairing_notes(differences),
        *(told if late else []),
        *_level(records, table),
        *([] if late else told),
        *_controls(records, table, differences_of),
        *_without_phase1(records, differences_of),
        *_noise(records, differences, plan),
    ]


def pairing_notes(differences: pd.DataFrame) -> list[str]:
    """Which rows were not shown the reference row's stimuli, and of which nothing may be concluded."""
    found = []
    partly = differences[differences["paired"].ne(BOTH) & ~differences["paired"].str.startswith("not")]
    for by, rows in partly.groupby("paired", sort=False):
        found.append(f"Paired by {by}: {listed(list(rows['title']))}.")
    apart = differences[differences["paired"].str.startswith("not")]
    if len(apart):
        found.append(
            f"Not paired, because the stimuli are others: {listed(list(apart['title']))}. Their difference is that of "
            "two independent means, whose errors add up (Welch)."
        )
    for against, rows in differences[differences["against"].ne("")].groupby("against", sort=False):
        found.append(f"No verdict on {listed(list(rows['title']))}: {against}.")
    return found


def _conclusion(records: Records, differences: pd.DataFrame) -> list[str]:
    """What may be concluded of the table's rows, by verdict."""
    rows = differences[~differences["control"].astype(bool)]
    if rows.empty and (len(records.seeds) > 1 or len(records.rows) < 2):
        return []
    judged = rows[rows["verdict"].ne("")]
    if judged.empty:
        return [UNREPEATED if trained(records) else UNTRAINED]
    by_verdict = [(words(records, v), judged.loc[judged["verdict"] == v, "title"].tolist()) for v in VERDICTS]
    told = "; ".join(f"{word}: {_listed(titles)}" for word, titles in by_verdict)
    n_seeds = sorted({int(n) for n in judged["n_seeds"]})
    seeds = f"{n_seeds[0]}" if len(n_seeds) == 1 else f"{n_seeds[0]} to {n_seeds[-1]}"
    open_rows = rows.loc[rows["verdict"].eq(""), "title"].tolist()
    missing = f" Not judged, with one seed: {_listed(open_rows)}." if open_rows else ""
    return [f"Against row {records.reference}, over {seeds} training seeds: {told}.{missing}"]


def words(records: Records, verdict: str) -> str:
    """A verdict as it is printed."""
    if verdict == "equivalent":
        return f"equivalent within {records.scale.difference(records.margin, signed=False)}"
    return verdict


def _listed(titles: list[str]) -> str:
    """``rows 1, 2 and 5``; rows with names by these."""
    numbers = [title.removeprefix("Row ").split(":")[0] for title in titles]
    if 1 < len(numbers) <= MOST and all(number.isdecimal() for number in numbers):
        return f"rows {', '.join(numbers[:-1])} and {numbers[-1]}"
    return listed([title.replace("Row", "row", 1) if title.startswith("Row ") else title for title in titles]) or "none"


def _level(records: Records, table: Lines) -> list[str]:
    level = table.get(records.reference, next(iter(table.values())))["chance"]
    facts = records.facts(records.metric)
    chance = f"The score is {facts.title}; chance is {facts.scale.score(level)}."
    if not math.isfinite(level):
        chance = f"The score is {facts.title}, {'higher' if facts.higher_is_better else 'lower'} is better."
    if len(records.subjects) > 1:
        chance += f" Scores are means over {len(records.subjects)} subjects."
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
            change = f"{_difference(difference, records.scale)} against the reference row"
            verdict = _of_rival(records, difference["verdict"])
            sentences.append(f"{_named(row)} {verdict}: {change}.")
    return sentences


def _of_rival(records: Records, verdict: str) -> str:
    reference = f"row {records.reference}"
    told = {"better": f"beats {reference}", "worse": f"does not beat {reference}", "undecided": "is undecided"}
    told["equivalent"] = f"is {words(records, 'equivalent')}"
    return told.get(verdict, "was compared in single trainings, so without a verdict")


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
    told = {
        "better": "Phase 1 makes the score worse",
        "worse": "Phase 1 helps",
        "equivalent": f"Phase 1 changes it by less than {records.scale.difference(records.margin, signed=False)}",
        "undecided": "neither an effect of Phase 1 nor its absence is shown",
        "": "single trainings, which say nothing of Phase 1 as such",
    }
    sentences = []
    for row in [row for row in records.rows if not row.control and row.id in differences]:
        experiments = [trial.experiment for trial in records.of(row.id) if trial.folder is not None]
        if all(_setting(e, "decoder", "phase1", "enabled") is False for e in experiments):
            line = differences[row.id]
            change = _difference(line, records.scale)
            sentences.append(f"Without Phase 1 (row {row.id}) the score changes by {change}: {told[line['verdict']]}.")
    return sentences


def _noise(records: Records, differences: pd.DataFrame, plan: Design) -> list[str]:
    """What goes unseen, and how far equal rows lie apart; nothing where no row is judged."""
    compared = differences[~differences["control"].astype(bool) & differences["verdict"].ne("")]
    if compared.empty or not math.isfinite(plan.detectable):
        return []
    sentences = [
        f"With {plan.n_units} {_units(plan)} and {plan.n_seeds} seeds a single comparison finds a true difference of "
        f"{records.scale.difference(plan.detectable, signed=False)} four times out of five; smaller ones mostly go "
        "unseen."
    ]
    if plan.n_rows > 2 and math.isfinite(plan.expected_spread):
        sentences.append(
            f"{plan.n_rows} equally good methods would be expected to spread over "
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
        alone = plan.n_items == records.of_one_row()["category"].nunique()
        no_category = "each has a category of its own" if alone else "there are too few categories to be a sample"
        why = f"{no_category}; samples of one item are averaged first"
    several = len(records.seeds) > 1
    factors = [f"the {unit}", *(["the training seed"] if several else [])]
    factors += ["the subject"] if len(records.subjects) > 1 else []
    together = factors[0] if len(factors) == 1 else f"{', '.join(factors[:-1])} and {factors[-1]}, crossed"
    return [
        *dict.fromkeys(m.note for m in records.metrics if m.note),
        f"{plan.n_items} test items, {plan.n_samples} sample{'s' if plan.n_samples != 1 else ''} each.",
        f"The sampling unit is the {unit} ({plan.n_units} of them): {why}. Sources of chance in the intervals: "
        f"{together}. 95 % intervals of scores are those of a randomly weighted mean that allows for the skew of "
        "scores near chance (cnd/statistics/bounded.py).",
        *(_of_seeds(records, unit) if several else [_of_one_seed()] if trained(records) else []),
        *chance.notes(records),
        *([_for_scale()] if records.scale.percent else []),
    ]


def _of_seeds(records: Records, unit: str) -> list[str]:
    margin = records.scale.difference(records.margin, signed=False)
    return [
        f"Differences are paired by item and seed. Their intervals and p-values hold for other {_plural(unit)} and "
        "other trainings: the error is item / n + seed / s + (item x seed) / (n s), each part with its own degrees of "
        "freedom (cnd/statistics/crossed.py).",
        "A row is better or worse where p of no difference is at most 0.05 after Holm's correction over all table rows "
        f"but the reference; equivalent where two one-sided tests against {margin} (--margin), corrected likewise, "
        "are; else undecided, which is not the same as no effect. Rivals are a family of their own; other controls get "
        "no verdict.",
    ]


def _of_one_seed() -> str:
    return (
        "One training seed: intervals hold for these trained models. A rerun with another seed would move every row, "
        "which no interval here includes, so no p-value, no verdict and no order is given."
    )


def _for_scale() -> str:
    low, high = clopper_pearson(5, 50)
    return (
        f"For scale: 5 of 50 test images correct (10 %), as on GOD, has a 95 % interval of {percent(low)} to "
        f"{percent(high)} % (Clopper-Pearson)."
    )


def _units(plan: Design) -> str:
    return _plural(plan.unit)


def _plural(unit: str) -> str:
    return "categories" if unit == "category" else "items"


def _setting(experiment: dict[str, Any], *path: str) -> Any:
    value: Any = experiment
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _score(row: dict[str, Any], scale: Scale) -> str:
    return f"{scale.score(row['score'])} (95 % interval {scale.number(row['low'])} to {scale.number(row['high'])})"


def _difference(row: dict[str, Any], scale: Scale) -> str:
    return f"{scale.difference(row['difference'])} ({scale.signed(row['low'])} to {scale.signed(row['high'])})"
