"""What the scores of a table were decided among: over whose classes an n-way accuracy is, and how many there are."""

from __future__ import annotations

from reports.collect import Records


def sentence(records: Records) -> str:
    """``50-way top-1, 100-way top-1: among the 200 classes of judge 'embedded'.``; "" where the records do not say."""
    titles: dict[str, list[str]] = {}
    for metric in records.metrics:
        if metric.among:
            titles.setdefault(metric.among, []).append(metric.title)
    return " ".join(f"{', '.join(_capital(found))}: among {among}." for among, found in titles.items())


def _capital(titles: list[str]) -> list[str]:
    first, *others = titles
    return [first[:1].upper() + first[1:], *others]
