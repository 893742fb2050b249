"""How long a search will take."""

from __future__ import annotations

from sweeps.search_request import SearchRequest


def n_done(request: SearchRequest) -> int:
    """Trials that have ended, without loading Optuna where there is nothing to read."""
    if not request.folder.exists():
        return 0
    return sum(outcome.state != "open" for outcome in request.known())


def expected_seconds(request: SearchRequest) -> float:
    return request.folder.typical_seconds() or 60 * request.base.minutes_per_trial


def expected_minutes(request: SearchRequest, done: int) -> float:
    search = request.search
    trials = max(0, search.trials - done) * search.seeds
    final = (search.final.best + 1) * search.final.seeds
    return (trials + final) * expected_seconds(request) / 60 / request.concurrency()
