"""Where a finished run comes from, step by step, and how two runs of the same experiment differ. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnd.store.folder import read_known
from cnd.workflow.cache import DESCRIPTION, MANIFEST, StageCache
from cnd.workflow.made import MADE

RESULTS = (".safetensors", ".parquet")  # files of a step that hold what it computed, and no times


@dataclass(frozen=True)
class Made:
    """A kept step of a run.

    Attributes:
        at: what the run calls it: the names of the needs that lead to it from the record; "" the record itself.
        needs: keys of the kept steps that it started from, by what it calls them.
        settings, code: as in its key; empty where the result is gone.
        made: of :mod:`cnd.workflow.made`; empty where the result is gone, or older than that file.
        parts: in which its batches were, where memory was short; 1: whole ones.
        files: SHA-256 of what it computed, by name.
    """

    at: str
    name: str
    key: str
    needs: dict[str, str]
    settings: dict[str, Any]
    code: str
    made: dict[str, Any]
    parts: int
    fused: int
    files: dict[str, str]

    @property
    def there(self) -> bool:
        """Whether the result is still in the cache."""
        return bool(self.code)


def steps_of(cache: StageCache, record: Path) -> list[Made]:
    """Every kept step of a finished run, in order of computation, each once; the record last."""
    found: dict[tuple[str, str], Made] = {}

    def visit(at: str, name: str, folder: Path) -> None:
        if (name, folder.name) in found:
            return
        described = read_known(folder / DESCRIPTION)
        needs = dict(_kept(cache, described.get("needs", {})))
        for called, (need, key) in needs.items():
            visit(f"{at}.{called}".lstrip("."), need, cache.path(need, key))
        keys = {called: key for called, (_, key) in needs.items()}
        found[name, folder.name] = _made(at, name, folder, described, keys)

    visit("", record.parent.name, record)
    return list(found.values())


def _kept(cache: StageCache, needs: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """What a step needs that is kept, also by way of what is not, by what it is called there: name and key."""
    for called, need in needs.items():
        if need is None:
            continue
        if "needs" not in need:
            yield called, (need["name"], need["key"])
            continue
        for inner, at in _kept(cache, need["needs"]):
            yield f"{called}.{inner}", at


def _made(at: str, name: str, folder: Path, described: dict[str, Any], needs: dict[str, str]) -> Made:
    info, listed = read_known(folder / "info.json"), read_known(folder / MANIFEST).get("files", {})
    files = {file: entry["sha256"] for file, entry in listed.items() if file.endswith(RESULTS)}
    settings, code = described.get("settings", {}), str(described.get("code", ""))
    made, parts, fused = read_known(folder / MADE), info.get("micro_batches", 1), info.get("fused", 1)
    return Made(at, name, folder.name, needs, settings, code, made, parts, fused, files)


def seconds_by_device(steps: list[Made]) -> dict[str, dict[str, float]]:
    """Wall and CPU seconds of the steps that ran on each device; of steps that other runs share, all of it."""
    found: dict[str, dict[str, float]] = {}
    for made in (step.made for step in steps if step.made):
        told = found.setdefault(made["device"], {"wall": 0.0, "cpu": 0.0})
        told["wall"] += made["seconds"]
        told["cpu"] += made["cpu_seconds"]
    return {name: {kind: round(value, 3) for kind, value in told.items()} for name, told in found.items()}


# ---------------------------------------------------------------- two runs of one experiment


def surroundings(steps: list[Made]) -> dict[str, str]:
    """Code, machine and packages that made a run, by name; where steps differ all of them, with a comma between."""
    found: dict[str, dict[str, None]] = {}
    for made in (step.made for step in steps if step.made):
        told = {"code": str(made["code"]["hash"])[:12], "commit": str(made["code"]["commit"])}
        told |= {"changes": str(made["code"]["changes"]), "device": made["device"], "threads": str(made["threads"])}
        told |= {name: str(value) for name, value in made["machine"].items()} | made["versions"]
        for name, value in told.items():
            found.setdefault(name, {})[value] = None
    return {name: ", ".join(values) for name, values in found.items()}


def differences(before: list[Made], after: list[Made]) -> list[str]:
    """How two runs of the same experiment differ in what made them, a line each, and where results part first."""
    ours, theirs = surroundings(before), surroundings(after)
    lines = [
        f"{name}: was {ours[name]}, is {theirs[name]}"
        for name in ours
        if name in theirs and name not in ("threads", "cores") and ours[name] != theirs[name]
    ]
    if not ours:
        lines.append("machine and packages: not known, because the run was made by an older version")
    known = {(step.at, step.name): step for step in after}
    pairs = [(step, known[step.at, step.name]) for step in before if step.there and (step.at, step.name) in known]
    for old, new in pairs:
        what = [name for name in ("settings", "code") if getattr(old, name) != getattr(new, name)]
        lines += [f"{_named(old)}: other {' and '.join(what)}"] if what else []
        lines += [f"{_named(old)}: ran with the UNet of {old.fused} trials together"] if old.fused != new.fused else []
    first = next((old for old, new in pairs if _computed(old) != _computed(new)), None)
    return [*lines, f"the first step whose results differ: {_named(first)}"] if first else lines


def _named(step: Made) -> str:
    return f"{step.name} {step.key[:12]}"


def _computed(step: Made) -> dict[str, str]:
    return {name: value for name, value in step.files.items() if name.endswith(".safetensors")} or step.files


def other_scores(before: Path, after: Path) -> list[str]:
    """Where the scores of two records differ, a line a metric; none: bit for bit equal, and so are the images."""
    import numpy as np
    import pandas as pd

    index = ["metric", "item", "sample"]
    ours, theirs = (pd.read_parquet(path / "scores.parquet").set_index(index)["value"] for path in (before, after))
    lines = []
    for metric in dict.fromkeys([*ours.index.unique("metric"), *theirs.index.unique("metric")]):
        pair = pd.concat([v[v.index.get_level_values("metric") == metric] for v in (ours, theirs)], axis=1)
        old, new = pair.to_numpy(dtype=float).T  # NaN where one of them lacks a score
        other = ~((old == new) | (np.isnan(old) & np.isnan(new)))
        if other.any():
            most = float(np.nanmax(np.abs(old - new))) if np.isfinite(old - new).any() else math.nan
            means = f"mean {np.nanmean(old):.6g}, now {np.nanmean(new):.6g}"
            lines.append(f"{metric}: {other.sum()} of {len(other)} scores differ, by {most:.3g} at most; {means}")
    if (differing := _other_images(before, after)) is not None:
        lines.append(differing)
    return lines


def _other_images(before: Path, after: Path) -> str | None:
    import numpy as np
    from safetensors.numpy import load_file

    ours, theirs = (load_file(path / "images.safetensors")["reconstructions"] for path in (before, after))
    if ours.shape != theirs.shape:
        return f"reconstructions: the shape was {list(ours.shape)}, is {list(theirs.shape)}"
    apart = np.abs(ours.astype(int) - theirs)
    n = int((apart > 0).reshape(len(apart), -1).any(axis=1).sum())
    return f"reconstructions: those of {n} of {len(apart)} items differ, by {apart.max()} of 255 at most" if n else None
