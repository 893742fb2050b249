"""Rows that a file does not write out: ``grid``, every combination of values; ``leave_one_out``, a part less each."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import product
from typing import Any

from cnd.experiment import today

FULL = "full"  # the row of leave_one_out that leaves nothing out
KEYS = ("grid", "leave_one_out", "set")


def expand(content: Any) -> Any:
    """A sweep's content with these rows written out, those of ``rows`` after them.

    ``grid`` is a list of values by dotted setting; a row is named by its values. ``leave_one_out`` has, by dotted
    setting, the value that takes a part away; the reference ``full`` has all parts. ``set`` goes into every row that
    does not set the same itself. Columns, a curve of a single number, and ``varies`` follow where they are not given.

    Raises:
        ValueError: both keys, or values that are no lists.
    """
    if not isinstance(content, dict) or not any(key in content for key in KEYS):
        return content
    content = dict(content)
    grid, parts, common = (content.pop(key, {}) or {} for key in KEYS)
    if grid and parts:
        raise ValueError("grid, leave_one_out: give one of them")
    if not all(isinstance(found, dict) for found in (grid, parts, common)):
        raise ValueError("grid, leave_one_out, set: each must be a mapping of dotted settings")
    rows = grid_rows(grid) if grid else left_out(parts) if parts else []
    listed = content.get("rows") or []
    if not isinstance(listed, list | tuple) or not all(isinstance(row, dict) for row in listed):
        return content | {"rows": listed}  # told by whoever checks rows
    rows += listed
    content["rows"] = [row | {"set": _under(common, row.get("set") or {})} for row in rows]
    varied = [today(key) for key in (grid or parts)]
    if varied:
        content.setdefault("reference", rows[0]["id"])
        content.setdefault("columns", columns(varied))
        extra = [today(key) for row in listed for key in row.get("set") or {}]
        content.setdefault("varies", list(dict.fromkeys([*varied, *extra])))
    if len(grid) == 1 and all(isinstance(value, int | float) for value in next(iter(grid.values()))):
        title = content["columns"][0]["title"]
        curve = {"title": title, "x": content["columns"][0]["key"], "rows": [row["id"] for row in grid_rows(grid)]}
        content.setdefault("factors", [curve])
    return content


def grid_rows(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for every combination, the last setting varying first.

    Raises:
        ValueError: the values of a setting are no list.
    """
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid.{key}: must be a list of values")
    rows = []
    for values in product(*grid.values()):
        rows.append({"id": "_".join(map(_word, values)), "set": dict(zip(grid, values, strict=True))})
    return rows


def left_out(parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row with all parts, then one without each."""
    short = [key.rpartition(".")[2] for key in parts]
    names = [key.replace(".", "_") if short.count(last) > 1 else last for key, last in zip(parts, short, strict=True)]
    rows: list[dict[str, Any]] = [{"id": FULL, "label": "nothing left out"}]
    for name, (key, value) in zip(names, parts.items(), strict=True):
        rows.append({"id": f"no_{name}", "label": f"without {name.replace('_', ' ')}", "set": {key: value}})
    return rows


def columns(settings: list[str]) -> list[dict[str, Any]]:
    """A column a setting, named by its last word where that is clear."""
    short = [key.rpartition(".")[2] for key in settings]
    return [
        {
            "key": key.replace(".", "_") if short.count(last) > 1 else last,
            "title": last.replace("_", " "),
            "setting": key,
        }
        for key, last in zip(settings, short, strict=True)
    ]


def _under(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The row's own edits on top of the common ones, old spellings of a setting being the same setting."""
    named = {today(key) for key in own}
    return {key: value for key, value in common.items() if today(key) not in named} | dict(own)


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("_.") or "empty"
