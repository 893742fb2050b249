"""The page of a search, one self-contained HTML file beside the reports of tables.

Every score on it is of validation data, but for the last table: the best few and the reference on the test set.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cnd.errors import UserError
from cnd.json_files import read_json
from cnd.places import COMMAND
from cnd.store.folder import SweepFolder
from reports import noops
from reports import search_figures as figures
from reports.collect import read_sweep
from reports.page import TEMPLATES, picture, write
from reports.scale import Scale, titles
from reports.search_tables import (
    FEWEST,
    final_table,
    importance_table,
    on_front,
    seed_interval,
    shared_table,
    trial_table,
)

N_BEST = 10
SECONDS = Scale("seconds of device time", percent=False)


def build_search_report(output: Path, folder: Path) -> Path:
    """Write the page of whatever the search has found so far.

    Args:
        output: the ``--output`` folder.
        folder: ``output/sweeps/<search>-<experiment>``.

    Returns:
        ``output/reports/<search>-<experiment>.html``.

    Raises:
        UserError: there is no search in the folder.
    """
    try:
        described, trials = read_json(folder / "search.json"), read_json(folder / "trials.json")
    except OSError as error:
        raise UserError(f"{folder}: there is no search; run it first ({error.strerror})") from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    path = output / "reports" / f"{folder.name}.html"
    html = environment.get_template("search.html").render(
        content(output, folder, described, trials) | {"command": COMMAND}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, html)
    return path


def content(output: Path, folder: Path, described: dict[str, Any], trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything the template prints."""
    objectives = [entry["name"] for entry in described["objectives"]]
    up = [bool(entry["higher_is_better"]) for entry in described["objectives"]]
    scales = [_scale(name, described["metrics"]) for name in objectives]
    table = trial_table(trials, objectives)
    varied = [setting for setting in described["search"]["space"] if setting in table]
    named = titles(varied)
    table, settings = table.rename(columns=named), list(named.values())
    done = table.dropna(subset=[objectives[0]])
    final = _final(output, folder, described, trials, scales[0])
    return {
        "search": described["search"],
        "experiment": described["experiment"],
        "simulated": described["simulated"],
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "counts": {state: int((table["state"] == state).sum()) for state in ("complete", "pruned", "open")},
        "failed": _failed(output, folder, described, trials),
        "headline": _headline(done, objectives[0], up[0], scales[0], final),
        "scales": scales,
        "settings": settings,
        "best": _best(trials, done, objectives, up, scales, varied),
        "shared": _shared(done, objectives, up, settings),
        "idle": _idle(output, folder, described, trials),
        "final": final,
        "notes": described.get("notes", []),
        "fewest": FEWEST,
        **_pictures(table, done, objectives, up, scales, settings),
    }


def _scale(name: str, metrics: list[dict[str, Any]]) -> Scale:
    known = {metric["name"]: metric for metric in metrics}
    return Scale(known[name]["title"], known[name]["percent"]) if name in known else SECONDS


def _pictures(
    table: pd.DataFrame, done: pd.DataFrame, objectives: list[str], up: list[bool], scales: list[Scale],
    settings: list[str],
) -> dict[str, Any]:  # fmt: skip
    """The figures, None where there is nothing to draw, and the table of importance."""
    found: dict[str, Any] = dict.fromkeys(("history", "parallel", "slices", "contours", "importance", "pareto"))
    found["weights"] = []
    if done.empty:
        return found
    name, scale = objectives[0], scales[0]
    found["history"] = picture(figures.history(table, name, up[0], scale), "Score of each trial, and the best so far")
    drawn = figures.parallel(done, name, settings, up[0], scale)
    found["parallel"] = picture(drawn, "Parallel coordinates: a line a trial through its settings, coloured by score")
    found["slices"] = picture(figures.slices(done, name, settings, scale), "Score against each setting")
    if len(objectives) > 1:
        found["pareto"] = picture(figures.pareto(done, objectives, up, scales), "Both objectives, and the Pareto front")
    weights = importance_table(done, name, settings)
    if len(weights):
        found["importance"] = picture(figures.importance(weights), "Importance of settings beside shuffled scores")
        ranked = [setting for setting in weights["setting"] if done[setting].nunique() > 1]
        if len(ranked) > 1:
            drawn = figures.contours(done, name, ranked, up[0], scale)
            found["contours"] = picture(drawn, "Score over pairs of the most important settings")
        found["weights"] = weights.to_dict("records")
    return found


def _kept(output: Path, folder: Path, trial: dict[str, Any], seed: int) -> dict[str, Any]:
    """What its folder knows of one seed of a trial."""
    return SweepFolder(output, folder.name).read(f"{trial['number']:04d}-seed{seed}")


def _failed(
    output: Path, folder: Path, described: dict[str, Any], trials: list[dict[str, Any]]
) -> list[dict[str, str]]:
    """Open trials of which a seed failed, with the error and the settings."""
    first, n_seeds = described["identity"]["experiment"]["seed"], described["search"]["seeds"]
    found = []
    for trial in trials:
        if trial["state"] != "open":
            continue
        kept = [_kept(output, folder, trial, seed) for seed in range(first, first + n_seeds)]
        if errors := [str(k.get("error")) for k in kept if k.get("state") == "failed"]:
            shown = ", ".join(f"{key} = {_word(value)}" for key, value in trial["settings"].items())
            found.append({"number": f"{trial['number']:04d}", "error": errors[0], "settings": shown})
    return found


def _ranked(done: pd.DataFrame, objectives: list[str], up: list[bool]) -> pd.DataFrame:
    """The best trials on validation data: of two objectives, those of the front."""
    if len(objectives) > 1 and len(done):
        done = done[on_front(done[objectives].to_numpy(dtype=float), up)]
    return done.sort_values(objectives[0], ascending=not up[0], kind="stable").head(N_BEST)


def _best(
    trials: list[dict[str, Any]], done: pd.DataFrame, objectives: list[str], up: list[bool], scales: list[Scale],
    settings: list[str],
) -> list[dict[str, Any]]:  # fmt: skip
    by_number = {trial["number"]: trial for trial in trials}
    return [_line(by_number[n], scales, settings) for n in _ranked(done, objectives, up)["number"]]


def _shared(done: pd.DataFrame, objectives: list[str], up: list[bool], settings: list[str]) -> list[dict[str, Any]]:
    """What the best quarter have in common, or the front; nothing of few trials."""
    if len(done) < FEWEST:
        return []
    best = _ranked(done, objectives, up).head(max(2, len(done) // 4))
    lines: list[dict[Any, Any]] = shared_table(best, done, settings).to_dict("records")
    return [line | {"n": len(best)} for line in lines]


def _idle(output: Path, folder: Path, described: dict[str, Any], trials: list[dict[str, Any]]) -> list[str]:
    """Trials that trained as the reference did, although a setting differs."""
    same = [t["number"] for t in trials if t["values"] and t["settings"] == described["reference"]]
    records: dict[tuple[str, str | None, int], Path] = {}
    for trial in trials:
        seed = described["identity"]["experiment"]["seed"]
        record = _kept(output, folder, trial, seed).get("record")
        if trial["values"] and record and (output / record / "history.parquet").is_file():
            records[f"{trial['number']:04d}", None, seed] = output / record
    return noops.find(records, f"{same[0]:04d}") if same else []


def _line(trial: dict[str, Any], scales: list[Scale], settings: list[str]) -> dict[str, Any]:
    by_seed = [scales[0].number(values[0]) for values in trial["by_seed"]]
    limits = seed_interval([values[0] for values in trial["by_seed"]])
    return {
        "number": f"{trial['number']:04d}",
        "label": trial["label"],
        "values": [scale.number(value) for scale, value in zip(scales, trial["values"], strict=True)],
        "by_seed": by_seed if len(by_seed) > 1 else [],
        "limits": _limits(limits, scales[0]),
        "settings": [_word(trial["settings"].get(setting, "–")) for setting in settings],
        "yaml": yaml.safe_dump(
            {"set": trial["settings"]}, default_flow_style=True, sort_keys=False, width=10**6
        ).strip(),
    }


def _limits(limits: tuple[float, float] | None, scale: Scale) -> str:
    """As text, within what an accuracy can be."""
    if limits is None:
        return ""
    low, high = np.clip(limits, 0, 1) if scale.percent else limits
    return f"{scale.number(low)} to {scale.number(high)}"


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _final(
    output: Path, folder: Path, described: dict[str, Any], trials: list[dict[str, Any]], scale: Scale
) -> dict[str, Any] | None:
    """The comparison on test data, None before it was made."""
    path = folder / "final.json"
    where = output / "sweeps" / described["final"]
    if not path.is_file() or not (where / "sweep.json").is_file():
        return None
    looks = read_json(path)["looks"]
    records = read_sweep(output, where)
    if not records.complete:
        return None
    by_row = {f"t{trial['number']:04d}": trial for trial in trials if trial["values"]}
    same = [t["values"][0] for t in trials if t["values"] and t["settings"] == described["reference"]]
    reference = same[0] if same else math.nan
    validation = {row: trial["values"][0] for row, trial in by_row.items()} | {"reference": reference}
    table = final_table(records, validation, reference)
    if table.empty:
        return None
    return {
        "looks": len(looks),
        "seeds": len(records.seeds) if hasattr(records, "seeds") else described["search"]["final"]["seeds"],
        "lines": [_final_line(line, scale) for line in table.to_dict("records")],
        "page": f"{described['final']}.html",
    }


def _final_line(line: dict[Any, Any], scale: Scale) -> dict[str, Any]:
    shown = {name: scale.number(line[name]) for name in ("validation", "score", "low", "high")}
    signed = ("gain", "difference", "difference_low", "difference_high", "optimism")
    is_reference = line["row"] == "reference"
    own = {name: "" if is_reference else scale.signed(line[name]) for name in signed}
    return {"row": line["row"], "is_reference": is_reference, "raw": line, **shown, **own}


def _headline(done: pd.DataFrame, name: str, up: bool, scale: Scale, final: dict[str, Any] | None) -> list[str]:
    """What the page says first."""
    if done.empty:
        return ["No trial is complete yet."]
    ranked = done.sort_values(name, ascending=not up, kind="stable")
    winner = ranked.iloc[0]
    told = [
        f"The best of {len(done)} complete trials, {winner['number']:04d}, scores {scale.score(winner[name])} on "
        "validation data, where it was chosen: a score that is too high by the choice alone."
    ]
    if final is None:
        return [*told, "Test data were not looked at yet."]
    others = [line for line in final["lines"] if not line["is_reference"]]
    if not others:
        return [*told, "No trial but the reference was compared on test data."]
    best = max(others, key=lambda line: line["raw"]["gain"] if up else -line["raw"]["gain"])
    raw = best["raw"]
    sure = raw["difference_low"] > 0 or raw["difference_high"] < 0
    better = (raw["difference"] > 0) == up
    verdict = ("is better than" if better else "is worse than") if sure else "cannot be told from"
    told.append(
        f"On test data, trained with seeds that the search did not use, trial {best['row'].removeprefix('t')} "
        f"{verdict} the reference: {scale.difference(raw['difference'])}, 95 % interval {best['difference_low']} to "
        f"{best['difference_high']}."
    )
    return told
