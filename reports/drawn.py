"""Which rows figures and image sheets show where a table has too many: tables always have all."""

from __future__ import annotations

from functools import lru_cache

from reports.collect import Records, TableRow

MOST = 40  # rows of the table in a figure, besides controls
LISTED = 12  # names in a sentence


@lru_cache(maxsize=1)
def drawn(records: Records) -> list[TableRow]:
    """The reference row and those of the highest and the lowest mean score, in the table's order; and all controls."""
    rows = [row.id for row in records.rows if not row.control]
    if len(rows) <= MOST or records.metric not in records.items:
        return records.rows
    means = records.items.groupby("row")[records.metric].mean().reindex(rows).dropna().sort_values(kind="stable")
    others = [str(row) for row in means.index if row != records.reference]
    chosen = {records.reference, *others[: (MOST - 1) // 2], *others[-(MOST // 2) :]}
    return [row for row in records.rows if row.control or row.id in chosen]


def sentence(records: Records) -> str:
    """What is shown, where it is not everything; "" where it is."""
    shown = drawn(records)
    if len(shown) == len(records.rows):
        return ""
    n, of = (sum(not row.control for row in rows) for rows in (shown, records.rows))
    return (
        f"Figures and image sheets show {n} of the {of:,} rows: the reference row and those of the highest and the "
        "lowest mean score, which owe some of their distance to luck. Tables and corrections are of all rows."
    )


def listed(names: list[str]) -> str:
    """Names in a sentence; of very many the first ones."""
    if len(names) <= MOST:
        return ", ".join(names)
    return f"{', '.join(names[:LISTED])} and {len(names) - LISTED:,} more"
