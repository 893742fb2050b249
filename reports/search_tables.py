"""What a search found, as tables: its trials, what each setting explains, and the best on validation and test data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from cnd import statistics
from reports.collect import Records
from reports.tables import difference_table, score_table

N_SHUFFLES, GROUPS = 2000, 5
FEWEST = 8  # trials of which something is said about a setting
LOG_FROM = 10.0  # a range of positive numbers as wide as this is drawn on a logarithmic axis
BANDWIDTH = 0.12  # of contours, in units of the range that was tried


def trial_table(trials: list[dict[str, Any]], objectives: list[str]) -> pd.DataFrame:
    """One line a trial: number, state, label, a column for each objective and for each setting (NaN: not varied).

    Args:
        trials: of ``trials.json``.
    """
    lines = []
    for trial in trials:
        values = trial["values"] or [np.nan] * len(objectives)
        line = {"number": trial["number"], "state": trial["state"], "label": trial["label"]}
        settings = {key: _plain(value) for key, value in trial["settings"].items()}
        lines.append(line | dict(zip(objectives, values, strict=True)) | settings)
    return pd.DataFrame(lines, columns=["number", "state", "label", *objectives, *_settings(trials)])


def _plain(value: Any) -> Any:
    """A number or a word; lists and groups of settings are a word."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _settings(trials: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for trial in trials for key in trial["settings"]))


def best_so_far(scores: pd.Series, higher_is_better: bool) -> pd.Series:
    """The best score up to each trial; trials without a score change nothing."""
    return scores.cummax().ffill() if higher_is_better else scores.cummin().ffill()


def on_front(values: np.ndarray, higher_is_better: list[bool]) -> np.ndarray:
    """Whether no other trial is as good in every objective and better in one, bool [trial].

    Args:
        values: [trial, objective].
    """
    worth = values * np.where(higher_is_better, 1.0, -1.0)
    as_good = (worth[:, None] >= worth[None]).all(-1)  # [other, trial]
    better = (worth[:, None] > worth[None]).any(-1)
    beaten = np.asarray((as_good & better).any(0))
    return ~beaten


def shared_table(best: pd.DataFrame, all_trials: pd.DataFrame, settings: list[str]) -> pd.DataFrame:
    """What the best trials have in common, a line a setting: setting, best, tried, narrower.

    Of numbers the range, of words each with how often; ``narrower`` where the best keep to half of the range that was
    tried, or to one word of several.

    Args:
        best: lines of ``all_trials``.
    """
    lines = []
    for setting in settings:
        known, tried = best[setting].dropna(), all_trials[setting].dropna()
        if known.empty:
            continue
        if is_number(tried):
            low, high = (np.log(tried.min()), np.log(tried.max())) if is_wide(tried) else (tried.min(), tried.max())
            ends = np.log(known) if is_wide(tried) else known
            narrower = bool(high > low) and float(ends.max() - ends.min()) <= 0.5 * float(high - low)
            lines.append([setting, _range(known), _range(tried), narrower])
        else:
            counts = known.map(str).value_counts()
            shown = ", ".join(f"{word} ({n} of {len(known)})" for word, n in counts.items())
            everything = tried.map(str).value_counts(normalize=True)
            all_shown = ", ".join(f"{word} ({100 * share:.0f} %)" for word, share in everything.items())
            lines.append([setting, shown, all_shown, len(counts) == 1 < len(everything)])
    return pd.DataFrame(lines, columns=["setting", "best", "tried", "narrower"])


def _range(values: pd.Series) -> str:
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return low if low == high else f"{low} to {high}"


def seed_interval(values: list[float]) -> tuple[float, float] | None:
    """Limits of the mean score over training seeds, 95 %, by Student's t; None for one seed.

    They hold for the validation items at hand.
    """
    if len(values) < 2:
        return None
    scores = np.asarray(values)
    half = float(scipy.stats.t.ppf(0.975, len(scores) - 1) * scores.std(ddof=1) / np.sqrt(len(scores)))
    return float(scores.mean()) - half, float(scores.mean()) + half


def smoothed(
    x: np.ndarray, y: np.ndarray, scores: np.ndarray, at_x: np.ndarray, at_y: np.ndarray, width: float = BANDWIDTH
) -> np.ndarray:
    """Mean score of the neighbours of each point of a grid, weighted by a Gaussian (Nadaraya-Watson), [at_y, at_x].

    NaN further than two widths from every trial.

    Args:
        x, y: places of the trials, 0 to 1 from end to end of what was tried.
        scores: of the same trials.
        width: of the Gaussian.
    """
    squared = (at_x[None, :, None] - x) ** 2 + (at_y[:, None, None] - y) ** 2
    weights = np.exp(-squared / (2 * width**2))
    means = (weights @ scores) / np.maximum(weights.sum(-1), 1e-300)
    return np.where(squared.min(-1) <= (2 * width) ** 2, means, np.nan)


def is_wide(values: pd.Series) -> bool:
    """Whether numbers need a logarithmic axis."""
    return bool(len(values)) and float(values.min()) > 0 and float(values.max()) / float(values.min()) >= LOG_FROM


def is_number(values: pd.Series) -> bool:
    """Whether all are numbers; a switch is a word."""
    return len(values) > 0 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def importance_table(trials: pd.DataFrame, score: str, settings: list[str]) -> pd.DataFrame:
    """Share of the scores' variance that lies between groups of a setting's values (correlation ratio, eta squared).

    A number's trials are cut into at most five groups of neighbouring values. Columns: setting, importance,
    null_median, null_high (95 % of shuffles lie below), p, p_holm, n. The null shuffles the scores over the trials that
    varied the setting. A search that aims makes its trials depend on earlier scores, so that p is a guide and no proof.
    """
    lines = []
    for setting in settings:
        known = trials.dropna(subset=[score, setting])
        group = groups(known[setting])
        if len(known) < FEWEST or group.max(initial=0) < 1:
            continue
        observed, null = correlation_ratio(known[score].to_numpy(dtype=float), group)
        p = (1 + (null >= observed - 1e-12).sum()) / (1 + len(null))
        line = {"setting": setting, "importance": observed, "null_median": float(np.median(null))}
        lines.append(line | {"null_high": float(np.quantile(null, 0.95)), "p": float(p), "n": len(known)})
    table = pd.DataFrame(lines, columns=["setting", "importance", "null_median", "null_high", "p", "n"])
    table["p_holm"] = statistics.holm(table["p"]) if len(table) else []
    return table.sort_values("importance", ascending=False, ignore_index=True)


def groups(values: pd.Series) -> np.ndarray:
    """Number of the group of each value, int [n]: of distinct values where they are few, else of ranks."""
    distinct = sorted(set(values), key=lambda v: (isinstance(v, str), str(v) if isinstance(v, str | list) else v))
    if len(distinct) <= GROUPS or not pd.api.types.is_numeric_dtype(values):
        return values.map({value: i for i, value in enumerate(distinct)}).to_numpy(dtype=int)
    edges = np.quantile(values, np.linspace(0, 1, GROUPS + 1)[1:-1])
    return np.unique(np.searchsorted(edges, values.to_numpy(dtype=float), side="right"), return_inverse=True)[1]


def correlation_ratio(scores: np.ndarray, group: np.ndarray, seed: int = 0) -> tuple[float, np.ndarray]:
    """Between-group share of the variance, and that of each of :data:`N_SHUFFLES` shuffles; 0 where all are equal.

    Args:
        scores: [n].
        group: int [n].
    """
    centred = scores - scores.mean()
    total = float(centred @ centred)
    member = np.eye(group.max() + 1)[group]  # [n, group]
    size = member.sum(0)

    def share(values: np.ndarray) -> np.ndarray:
        return ((values @ member) ** 2 / size).sum(-1) / total if total > 0 else np.zeros(values.shape[:-1])

    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(centred, (N_SHUFFLES, 1)), axis=1)
    return float(share(centred)), share(shuffled)


def final_table(records: Records, validation: dict[str, float], reference: float) -> pd.DataFrame:
    """The reference and the best trials, on validation and test data.

    Columns: row, validation, score, low, high, difference, difference_low, difference_high, gain (on validation) and
    optimism: how much more of a gain validation promised than test kept.

    Args:
        records: of the final comparison.
        validation: score of each row there.
        reference: score of the reference there, NaN where it was no trial.
    """
    scores = score_table(records)
    table = scores[scores["metric"] == records.metric][["row", "score", "low", "high"]]
    differences = difference_table(records)[["row", "difference", "low", "high"]]
    differences = differences.rename(columns={"low": "difference_low", "high": "difference_high"})
    table = table.merge(differences, on="row", how="left")
    table["validation"] = table["row"].map(validation)
    gain = table["validation"] - reference
    better = 1 if records.metrics[0].higher_is_better else -1
    return table.assign(gain=gain, optimism=better * (gain - table["difference"]))
