"""What the command prints: the plan and the result as text in columns."""

from __future__ import annotations

import sys
import textwrap
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from sweeps.spec import Sweep

if TYPE_CHECKING:
    import pandas as pd

    from reports.scale import Scale

UNJUDGED = "One seed: these are single trained models; no row is ranked. Two seeds or more give verdicts (--seeds 3)."
NARROW = 12  # columns that text always has
MARKS = {"no": "NOT CONVERGED", "at chance": "flat at chance"}


def plan_text(sweep: Sweep, plan: dict[str, Any], at_once: int, width: int | None = None) -> str:
    """The plan in words and a table, one line a row.

    Args:
        plan: what ``plan --json`` prints.
        at_once: trials at once.
        width: columns of the terminal, at which lines are broken between words; None breaks none.
    """
    trials = [*plan["trials"], *plan["controls"]]
    seeds = sorted({trial["seed"] for trial in trials})
    subjects = list(dict.fromkeys(trial["subject"] for trial in trials))
    lines = [["row", "", *(column.title for column in sweep.columns), "done", "converged"]]
    done_of: dict[str, list[bool]] = {}
    for trial in trials:
        done_of.setdefault(trial["row"], []).append(trial["done"])
    for trial in (t for t in trials if t["seed"] == seeds[0] and t["subject"] == subjects[0]):
        done = done_of[trial["row"]]
        shown = [str(trial["settings"][column.key]) for column in sweep.columns]
        lines.append(
            [trial["row"], trial["label"] or "", *shown, f"{sum(done)}/{len(done)}", _mark(trial["converged"])]
        )
    rows = f"{_count(len(plan['trials']) // len(seeds) // len(subjects), 'row')} x {_count(len(seeds), 'seed')}"
    if subjects != [None]:
        rows += f" x {_count(len(subjects), 'subject')}"
    stages = ", ".join(f"{name} {count}" for name, count in plan["stages"].items())
    n_done = sum(trial["done"] for trial in trials)
    told = (
        f"{sweep.title}\n"
        f"experiment {plan['experiment']}: {rows} and {_count(len(plan['controls']), 'control trial')}; "
        f"{n_done} of {len(trials)} are done\n"
        f"distinct steps: {stages}\n"
        f"{_further(plan, trials)}"
        f"expected: {_expected(plan)} minutes, {_count(at_once, 'trial')} at once; "
        f"judged by {plan['expected_from']}\n"
        f"{_known(plan['ceilings'])}"
        f"{_lines(plan['warnings'])}\n"
    )
    return f"{wrapped(told, width)}{columns(lines, width)}\n"


def result_text(sweep: Sweep, table: pd.DataFrame, warnings: list[str]) -> str:
    """The result table: scores with 95 % intervals, differences from the reference row, the paper's figures.

    Args:
        table: of :func:`reports.build.result_table`.
        warnings: what must be known before the scores are believed.
    """
    scale: Scale = table.attrs["scale"]
    compared = table["paper"].notna().any()
    head = [f"{scale.title}{' %' if scale.percent else ''} [95 %]", f"vs row {sweep.reference} [95 %]"]
    judged = table["verdict"].ne("").any()
    head += [*(["verdict"] if judged else []), *(["paper %"] if compared else [])]
    lines = [["row", "", *(column.title for column in sweep.columns), *head, ""]]
    for _, line in table.iterrows():
        shown = [str(line[column.key]) for column in sweep.columns]
        score = interval(line["score"], line["low"], line["high"], scale.digits)
        difference = interval(line["difference"], line["difference_low"], line["difference_high"], scale.digits, "+")
        state = [text for text in (line["state"], MARKS.get(line["converged"], "")) if text]
        paper = ["" if line["paper"] != line["paper"] else f"{line['paper']:g}"] if compared else []
        verdict = [line["verdict"]] if judged else []
        lines.append([str(line["row"]), line["label"], *shown, score, difference, *verdict, *paper, ", ".join(state)])
    told = f"{table.attrs['pools']}\n" if table.attrs.get("pools") else ""
    told += "" if judged or len(table) < 2 else f"{UNJUDGED}\n"
    return f"{columns(lines)}\n{told}{_lines(warnings)}".rstrip()


def _further(plan: dict[str, Any], trials: list[dict[str, Any]]) -> str:
    """What seeds spent row by row may come to."""
    if (most := plan.get("at_most")) is None:
        return ""
    return (
        f"at least {len(trials)} trials, at most {most['trials']}: further seeds, up to {most['seeds']} a row, only "
        "where a verdict is undecided\n"
    )


def _expected(plan: dict[str, Any]) -> str:
    least, most = plan["expected_minutes"], plan.get("at_most", {}).get("minutes", plan["expected_minutes"])
    return f"{least:g}" if most == least else f"{least:g} to {most:g}"


def _mark(converged: str | None) -> str:
    """Nothing of rows without a result."""
    return MARKS.get(converged or "", converged or "")


def _known(ceilings: dict[str, float]) -> str:
    """Ceilings that are known already, in one line."""
    told = ", ".join(f"{label} {100 * score:.1f} %" for label, score in ceilings.items())
    return f"ceilings known: {told}\n" if told else ""


def _lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def interval(value: float, low: float, high: float, digits: int, sign: str = "") -> str:
    form = f"{sign}.{digits}f"
    return "" if value != value else f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def wrapped(text: str, width: int | None) -> str:
    """A text whose lines are broken between words where they are longer than the terminal is wide."""
    if width is None:
        return text
    return "".join(f"{line}\n" for one in text.splitlines() for line in _broken(one, width))


def _broken(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, max(NARROW, width), break_long_words=False, break_on_hyphens=False) or [""]


def columns(lines: list[list[str]], width: int | None = None) -> str:
    """Lines of cells as text in columns.

    Args:
        width: of the terminal: where the columns are wider, the cells of the widest ones are broken between words.
    """
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    least = [max(max(map(len, line[i].split()), default=0) for line in lines) for i in range(len(widths))]
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        room = [w - max(NARROW, smallest) for w, smallest in zip(widths, least, strict=True)]
        widest = max(range(len(widths)), key=lambda i: (room[i] > 0) * widths[i])
        if room[widest] <= 0:
            break
        widths[widest] -= 1
    shown = []
    for line in lines:
        cells = [_broken(cell, w) if len(cell) > w else [cell] for cell, w in zip(line, widths, strict=True)]
        shown += [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in zip_longest(*cells, fillvalue="")
        ]
    return "\n".join(row.rstrip() for row in shown)


def say(text: str) -> None:
    """Tell people, on stderr: stdout is for data."""
    print(text, file=sys.stderr, flush=True)
