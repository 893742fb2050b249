"""What the scores of a table were decided among: over whose classes an n-way accuracy is, and how many there are."""

from __future__ import annotations

from collections.abc import Iterable

from reports.collect import Records


def sentence(records: Records) -> str:
    """``50-way top-1, 100-way top-1: among the 200 classes of judge 'embedded'.``; "" where the records do not say."""
    found = _told((metric.among, metric.title) for metric in records.metrics)
    for row in records.rows:
        own = [(records.facts_of(row.id, metric.name), metric) for metric in records.metrics]
        if other := _told((facts.among, facts.title) for facts, metric in own if facts.among != metric.among):
            found += f" {row.title}: {other}"
    return found.strip()


def _told(pools: Iterable[tuple[str, str]]) -> str:
    titles: dict[str, list[str]] = {}
    for among, title in pools:
        if among:
            titles.setdefault(among, []).append(title)
    return " ".join(f"{', '.join(_capital(found))}: among {among}." for among, found in titles.items())


def _capital(titles: list[str]) -> list[str]:
    first, *others = titles
    return [first[:1].upper() + first[1:], *others]
