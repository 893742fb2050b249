"""``compare A B ...``: sweeps or single rows side by side, as a page, a table of text and JSON."""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from sweeps.text import columns, interval

if TYPE_CHECKING:
    from reports.comparison import Comparison

KEPT = (
    "sweep", "row", "title", "control", "reference", "metric", "score", "low", "high", "difference",
    "difference_low", "difference_high", "paired", "p", "p_holm", "p_equivalent_holm", "verdict",
    "n_seeds", "n_seeds_finished",
)  # fmt: skip


def compare(options: argparse.Namespace) -> int:
    """Write the page, print the table; returns the exit code.

    Raises:
        UserError: a sweep or row is not there.
    """
    from reports.comparison import compare as compared
    from reports.comparison import find_side, write_page

    sides = [find_side(argument, options.output) for argument in options.sweeps]
    found = compared(sides, options.margin)
    path = write_page(found, options.output)
    if options.json:
        print(json.dumps(as_json(found) | {"report": str(path)}, indent=1))
    else:
        print(as_text(found))
    print(f"report: {path}", file=sys.stderr)
    return 0


def as_json(found: Comparison) -> dict[str, Any]:
    """Everything of the page but its picture; scores as they are kept, None where there is none."""
    lines = found.table.reindex(columns=list(KEPT)).to_dict("records")
    return {
        "sweeps": [side.label for side in found.sides],
        "metric": found.metric.name,
        "loud": found.loud,
        "notes": found.notes,
        "rows": [{str(key): _plain(value) for key, value in line.items()} for line in lines],
        "settings": {key: values for key, values in found.settings},
    }


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # of NumPy
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_text(found: Comparison) -> str:
    """The loud sentences, the table and the notes."""
    title = "score" if found.mixed else found.metric.scale.axis
    lines = [["sweep", "row", f"{title} [95 %]", "difference [95 %]", "paired by", "p, Holm", "verdict"]]
    for line in found.table.to_dict("records"):
        scale, factor = line["scale"], line["scale"].factor
        own = [factor * line[name] for name in ("score", "low", "high")]
        other = [factor * line[name] for name in ("difference", "difference_low", "difference_high")]
        score = interval(own[0], own[1], own[2], scale.digits)
        difference = interval(other[0], other[1], other[2], scale.digits, "+")
        p = line["p_holm"]
        shown = "" if p != p else "<0.001" if p < 0.001 else f"{p:.3f}"
        title = f"{line['title']} (reference)" if line["reference"] else line["title"]
        lines.append([line["sweep"], title, score, difference, line["paired"], shown, line["verdict"]])
    return "\n".join([*found.loud, columns(lines), *found.notes])
