"""Scores, intervals and differences of a sweep's rows. Every number comes from the kept per-item scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cnd import statistics
from reports import looks, nulls, pools
from reports.collect import Records, TableRow, read_sweep
from reports.convergence import states
from reports.inference import Crossed, crossed_scores, finished_runs
from reports.pairing import BOTH, Place, difference, obstacles, same_stimuli

STATE_WORDS = {
    "pending": "not started",
    "running": "running",
    "interrupted": "interrupted: the same command goes on",
    "failed": "failed",
    "unreadable": "record unreadable",
}


Lines = dict[str, dict[str, Any]]  # a table's lines by row id


@dataclass(frozen=True)
class Design:
    """What test set and seeds can show, in fractions of 1. NaN or 0 where nothing can be said yet.

    Attributes:
        unit: "category" or "item", the sampling unit.
        n_seeds: the most that a row shares with the reference.
        error: typical (median) standard error of a row's difference from the reference.
        detectable: true difference found with 80 % power at alpha 0.05, one comparison (median).
        band: half-width that holds all differences (95 %) if every row were equally good.
        expected_spread: best minus worst to expect of equally good rows.
        observed_spread: best minus worst of the rows.
    """

    unit: str
    n_units: int
    n_seeds: int
    n_items: int
    n_samples: int
    n_rows: int
    error: float
    detectable: float
    band: float
    expected_spread: float
    observed_spread: float


@lru_cache(maxsize=1)  # the page and the command's table show the same
def score_table(records: Records) -> pd.DataFrame:
    """One line per finished row and metric: row, metric, score, low, high, n_units, best_of, seed_sd, chance.

    The limits hold for other items; with two or more seeds also for other trainings, with several subjects for others.
    Beside these the columns of :func:`reports.nulls.against_permuted`: permuted and p_chance.
    """
    lines = []
    for row in records.rows:
        for metric in records.metrics:
            found = crossed_scores(records, row.id, metric.name)
            best = crossed_scores(records, row.id, f"{metric.name}_best")
            if found is not None and best is not None:
                line = {"row": row.id, "metric": metric.name} | _mean(found, metric.bounds)
                spread = found.values.mean(axis=(0, 2)).std(ddof=1) if len(found.seeds) > 1 else float("nan")
                line |= {"best_of": best.values.mean(), "seed_sd": spread}
                line |= {"chance": chance(records, metric.name, row.id)}
                line |= nulls.against_permuted(records, row, metric.name)
                lines.append(line)
    columns = ["row", "metric", "score", "low", "high", "n_units", "best_of", "seed_sd", "chance", *nulls.COLUMNS]
    return pd.DataFrame(lines, columns=columns)


def _mean(found: Crossed, bounds: tuple[float, float]) -> dict[str, float]:
    interval = statistics.crossed_mean(found.values, found.units, bounds=bounds)
    return {"score": interval.estimate, "low": interval.low, "high": interval.high, "n_units": interval.n_units}


@lru_cache(maxsize=1)
def difference_table(records: Records) -> pd.DataFrame:
    """Difference of each other finished row from the reference row, for the table's metric.

    Paired where the stimuli are the same, else that of two independent means (:func:`reports.pairing.difference`).

    Columns: row, title, control, role, difference, low, high (within what differences can be), error, freedom (degrees
    of it), p, p_equivalent (TOST at ``records.margin``), n_units, n_seeds, detectable, improved with ..._low and
    ..._high (P(the row beats the reference when both are trained once more)), crossed (the whole
    :class:`~cnd.statistics.CrossedMean`), paired (by what), against (why nothing may be concluded, such as another
    judge; "" where something may), p_holm, p_equivalent_holm, verdict. What needs two seeds is NaN, None or "" with
    one. Holm's correction runs over the table's rows, and for rivals over these; other controls are judged by
    what they are there for (p_holm NaN, no verdict).
    """
    facts, reference = records.facts(records.metric), Place(records, records.reference)
    lines = []
    for row in records.rows:
        place = Place(records, row.id)
        if row.id == records.reference or not finished_runs(*place) & finished_runs(*reference):
            continue
        found, by = difference(place, reference, facts, records.margin)
        if found:
            against = "; ".join(obstacles(place, reference, facts))
            open_ = {"p": float("nan"), "p_equivalent": float("nan")} if against else {}
            line = {"row": row.id, "title": row.title, "control": row.control, "role": row.role}
            lines.append(line | found | open_ | {"paired": by, "against": against})
    columns = ["row", "title", "control", "role", *DIFFERENCE]
    return judged(pd.DataFrame(lines, columns=columns), facts.higher_is_better, records.sweep)


DIFFERENCE = [
    "difference", "low", "high", "error", "freedom", "p", "p_equivalent", "n_units", "n_seeds", "detectable",
    "improved", "improved_low", "improved_high", "crossed", "paired", "against",
]  # fmt: skip


def judged(table: pd.DataFrame, higher_is_better: bool, sweep: dict[str, Any]) -> pd.DataFrame:
    """The table with adjusted p-values and verdicts."""
    table = table.assign(p_holm=float("nan"), p_equivalent_holm=float("nan"), verdict="")
    control, known = table["control"].astype(bool), table["p"].notna()
    for family in (~control & known, control & known & table["role"].eq("rival")):
        for p in ("p", "p_equivalent"):
            own = looks.corrected(sweep, table.loc[family, p].astype(float), table.loc[family, "n_seeds"])
            table.loc[family, f"{p}_holm"] = statistics.holm(own)
    verdicts = [
        statistics.verdict(d, p, equivalent, higher_is_better) if p == p else None
        for d, p, equivalent in zip(table["crossed"], table["p_holm"], table["p_equivalent_holm"], strict=True)
    ]
    return table.assign(verdict=[verdict or "" for verdict in verdicts])


def subject_table(records: Records, metric: str) -> pd.DataFrame:
    """A score by subject: columns row, subject, score, low, high, n_units, published (NaN where nothing is)."""
    lines = []
    facts = records.facts(metric)
    for row, subject in product(records.rows, records.subjects):
        runs = {run for run in finished_runs(records, row.id) if run[0] == (subject or "")}
        found = crossed_scores(records, row.id, metric, runs)
        if found is not None:
            line = {"row": row.id, "subject": subject} | _mean(found, facts.bounds)
            lines.append(line | {"published": row.published.get(metric, {}).get(str(subject), float("nan"))})
    return pd.DataFrame(lines, columns=["row", "subject", "score", "low", "high", "n_units", "published"])


def seed_differences(records: Records) -> pd.DataFrame:
    """Difference from the reference row with the same seed, of rows with its stimuli: columns row, seed, difference.

    Empty for one seed.
    """
    columns = ["row", "seed", "difference"]
    if len(records.seeds) < 2 or records.reference not in records.per_item.index:
        return pd.DataFrame(columns=columns)
    by_row = records.per_item[records.metric].unstack("row")  # [subject x seed x item, row]
    reference = Place(records, records.reference)
    others = [row for row in by_row if row != records.reference and same_stimuli(Place(records, str(row)), reference)]
    differences = by_row[others].sub(by_row[records.reference], axis=0).groupby("seed").mean()
    return differences.melt(ignore_index=False, value_name="difference").reset_index()[columns].dropna()


def factor_table(records: Records, scores: pd.DataFrame) -> pd.DataFrame:
    """Points of the factor curves: factor, x_title, position, x, row, score, low, high, reference, chance."""
    by_row = scores[scores["metric"] == records.metric].set_index("row")
    titles = {column["key"]: column["title"] for column in records.columns}
    settings = {row.id: row.settings for row in records.rows}
    lines = []
    for factor in records.sweep.get("factors", []):
        keys = [factor["x"]] if isinstance(factor["x"], str) else list(factor["x"])
        for position, row in enumerate(str(r) for r in factor["rows"]):
            if row in by_row.index:
                x = " / ".join(str(settings[row].get(key, "-")) for key in keys)
                line = {"factor": factor["title"], "x_title": " / ".join(titles.get(k, k) for k in keys), "x": x}
                line |= {"position": position, "row": row, "reference": row == records.reference}
                lines.append(line | by_row.loc[row, ["score", "low", "high", "chance"]].to_dict())
    columns = ["factor", "x_title", "x", "position", "row", "reference", "score", "low", "high", "chance"]
    return pd.DataFrame(lines, columns=columns)


def design(records: Records, scores: pd.DataFrame, differences: pd.DataFrame) -> Design:
    """How much the test set, and the number of rows, can carry."""
    rows = {row.id for row in records.rows if not row.control}
    table = scores[(scores["metric"] == records.metric) & scores["row"].isin(rows)]
    compared = differences[~differences["control"].astype(bool)]
    one = records.of_one_row()
    error, freedom, detectable = (
        float(compared[name].median()) if len(compared) else float("nan") for name in ("error", "freedom", "detectable")
    )
    known = np.isfinite(error)
    # where few seeds stand behind the error, it is known so badly that equal rows seem to lie farther apart
    uncertain = float(stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975)) if known else float("nan")
    return Design(
        unit="category" if statistics.FEWEST_CATEGORIES <= one["category"].nunique() < len(one) else "item",
        n_units=int(table["n_units"].max()) if len(table) else 0,
        n_seeds=int(compared["n_seeds"].max()) if len(compared) else len(records.seeds),
        n_items=len(one),
        n_samples=int(records.items["sample"].nunique()),
        n_rows=len(table),
        error=error,
        detectable=detectable,
        band=statistics.identical_rows_band(error * uncertain, len(compared)) if known else float("nan"),
        # two independent rows make a paired difference, so one row carries 1/sqrt(2) of its error
        expected_spread=statistics.expected_range(error / np.sqrt(2), len(table)) if known else float("nan"),
        observed_spread=float(table["score"].max() - table["score"].min()) if len(table) else float("nan"),
    )


def row_state(records: Records, row: str) -> str:
    """Empty when every seed of the row is there, else in words what is missing."""
    trials = records.of(row)
    missing = [trial for trial in trials if trial.folder is None]
    if not missing:
        return ""
    states = sorted({STATE_WORDS.get(trial.state, trial.state) for trial in missing})
    if len(trials) == 1:
        return states[0]
    what = "seeds" if len(records.subjects) == 1 else "trials"
    return f"{len(trials) - len(missing)} of {len(trials)} {what}; others {', '.join(states)}"


def chance(records: Records, metric: str, row: str | None = None) -> float:
    """Chance level of a metric as the records state it, the reference row's or another's; NaN where there is none."""
    known = (records.facts(metric) if row is None else records.facts_of(row, metric)).chance
    return float("nan") if known is None else known


def result_table(output: Path, sweep_dir: Path, records: Records | None = None) -> pd.DataFrame:
    """The sweep's result as numbers, one line a row in the table's order; scores and differences as people read them.

    Columns: row, label, control, the sweep's setting columns by key, score, low, high, difference, difference_low,
    difference_high, p_holm, verdict (better, worse, equivalent, undecided; "" with one seed and for controls but
    rivals), n_seeds, paper, state ("" when complete and paired with the reference row), converged (yes, no, at chance,
    not measured, no training; "" without a result). Missing numbers are NaN.
    ``attrs["scale"]`` says how the score is read, such as in %, and ``attrs["pools"]`` what it was decided among.

    Args:
        records: of this sweep, where they have been read already.

    Raises:
        UserError: there is no readable sweep.json.
    """
    records = records or read_sweep(output, sweep_dir)
    scores = score_table(records)
    scores_of = by_row(scores[scores["metric"] == records.metric])
    differences_of = by_row(difference_table(records))
    known = states(records)
    table = pd.DataFrame([_result_line(records, row, scores_of, differences_of) for row in records.rows])
    table["converged"] = [known[row.id].state if row.id in known else "" for row in records.rows]
    table.attrs["scale"], table.attrs["pools"] = records.scale, pools.sentence(records)
    return table


def _result_line(records: Records, row: TableRow, scores: Lines, differences: Lines) -> dict[str, object]:
    missing: dict[str, Any] = dict.fromkeys(["score", "difference", "low", "high", "p_holm"], float("nan"))
    score, difference = scores.get(row.id, missing), differences.get(row.id, missing)
    settings = {column["key"]: row.settings.get(column["key"], "-") for column in records.columns}
    factor = records.scale.factor
    return {
        "row": row.id,
        "label": row.label or "",
        "control": row.control,
        **settings,
        "score": factor * score["score"],
        "low": factor * score["low"],
        "high": factor * score["high"],
        "difference": factor * difference["difference"],
        "difference_low": factor * difference["low"],
        "difference_high": factor * difference["high"],
        "p_holm": difference["p_holm"],
        "verdict": difference.get("verdict", ""),
        "n_seeds": len({trial.seed for trial in records.of(row.id) if trial.folder is not None}),
        "paper": float("nan") if row.paper is None else float(row.paper),
        "state": "; ".join(told for told in (row_state(records, row.id), _apart(difference)) if told),
    }


def _apart(difference: dict[str, Any]) -> str:
    """What is to be known of a difference: that it is not paired, or that nothing may be concluded from it."""
    paired, against = difference.get("paired", BOTH), difference.get("against", "")
    return "; ".join(told for told in ("" if paired == BOTH else paired, against) if told)


def by_row(table: pd.DataFrame) -> Lines:
    """The lines of a table by row id."""
    return {str(line["row"]): {str(key): value for key, value in line.items()} for line in table.to_dict("records")}
