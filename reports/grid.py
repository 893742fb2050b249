"""The same drawn stimuli for every row that has no place in the image sheets: floors, ceilings and nulls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from reports.collect import Records, TableRow, choose_items, read_images
from reports.drawn import drawn
from reports.figures import image_grid
from reports.pairing import by_stimuli

N_STIMULI = 10  # columns


def section(records: Records, elsewhere: Collection[str]) -> dict[str, Any] | None:
    """A figure for the rows that were shown the same stimuli, and sentences on pictures that cannot be read.

    Args:
        elsewhere: ids of rows that are shown in the sheets.
    """
    rows = [row for row in drawn(records) if row.id not in elsewhere and records.first(row.id) is not None]
    figures: list[Figure] = []
    failed: list[str] = []
    for group in by_stimuli(records, rows):
        cells, problems = _cells(records, group)
        failed += problems
        if cells:
            figures.append(image_grid(pd.DataFrame(cells)))
    return {"figures": figures, "failed": failed} if figures or failed else None


def _cells(records: Records, rows: Sequence[TableRow]) -> tuple[list[dict[str, Any]], list[str]]:
    """The first sample of the first finished subject and seed of each row, below the stimuli."""
    items_of = {row.id: records.of_one_row(row.id).set_index("shown") for row in rows}
    first = items_of[rows[0].id]
    common = first[[all(shown in own.index for own in items_of.values()) for shown in first.index]]
    numbers = common.reset_index().set_index("item")["shown"]
    chosen = numbers[choose_items(common, N_STIMULI)]
    names = first["category_name"].astype(str)[chosen]
    titles = [f"{position}. {name}" for position, name in enumerate(names, start=1)]
    cells: list[dict[str, Any]] = []
    failed: list[str] = []
    for row in rows:
        trial = records.first(row.id)
        if trial is None or trial.folder is None:
            continue
        try:
            images = read_images(trial.folder, [int(item) for item in items_of[row.id].loc[chosen, "item"]])
        except (OSError, ValueError) as error:
            failed.append(str(error))
            continue
        blocks = [(f"{row.title} (reference)" if row.id == records.reference else row.title, images["reconstructions"])]
        if not cells:
            blocks.insert(0, ("Stimulus", images["stimuli"]))
        cells += [
            {"row_title": title, "column_title": column, "pixels": pixels}
            for title, pictures in blocks
            for column, pixels in zip(titles, pictures, strict=True)
        ]
    return cells, failed
