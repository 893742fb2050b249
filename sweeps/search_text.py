"""What the terminal shows of a search."""

from __future__ import annotations

from typing import Any

from reports.scale import titles
from sweeps.forecast import per_trial
from sweeps.search import Outcome, best
from sweeps.search_forecast import final_minutes, moved_by, n_done, sharing, trial_minutes
from sweeps.search_request import SearchRequest
from sweeps.text import columns

SHOWN = 10  # of the best trials


def plan_text(request: SearchRequest) -> str:
    search, done = request.search, n_done(request)
    lines = [["setting", "", "when"]]
    for key, part in search.space.items():
        lines.append([key, part.told(), " ".join(f"{k} = {v}" for k, v in part.when.items())])
    starts, notes = request.starts()
    seeds = f" x {search.seeds} seeds" if search.seeds > 1 else ""
    return "\n".join(
        [
            search.title,
            f"experiment {request.base.name}, validation data: {search.trials} trials{seeds}; {done} are done",
            f"objectives: {', '.join(request.names)}; sampler {search.sampler.kind}, pruner {search.pruner.kind}",
            f"to begin with: {', '.join(start.label for start in starts) or 'nothing'}",
            f"then on test data, once: reference and the best {search.final.best} x {search.final.seeds} fresh seeds",
            f"expected: {trial_minutes(request, done):.1f} minutes, then {final_minutes(request):.1f} on test data, "
            f"{request.concurrency()} at once; judged by {per_trial(request.folder, request.base).source}",
            *sharing(search, moved_by(search, request.blind, request.steps())),
            *notes,
            "",
            columns(lines),
            "",
        ]
    )


def best_text(request: SearchRequest, found: list[Outcome]) -> str:
    """The best trials, on validation data."""
    lines = [["trial", *(f"validation {name}" for name in request.names), *titles(request.search.space).values(), ""]]
    for o in best(found, request.up, SHOWN):
        settings = [word(o.settings.get(key, "-")) for key in request.search.space]
        lines.append([f"{o.number:04d}", *(f"{v:.4g}" for v in o.values), *settings, o.label])
    return columns(lines)


def state(request: SearchRequest, outcome: Outcome, busy: bool) -> str:
    """As the trial's files have it, where it is still open."""
    if outcome.state != "open":
        return outcome.state
    seeds = range(request.base.seed, request.base.seed + request.search.seeds)
    states = [request.folder.read(f"{outcome.number:04d}-seed{seed}").get("state") for seed in seeds]
    if "failed" in states:
        return "failed"
    return "running" if busy else "interrupted"


def word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
