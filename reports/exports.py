"""The tables of a report as CSV and LaTeX, made from the rendered page itself: digit for digit what it shows.

In CSV a cell with an interval below its score becomes three columns, so that every column is of one kind: a program
reads numbers as numbers. In LaTeX it stays one, ``92.6 [89.7, 94.4]``; the tables need the package booktabs.
"""

from __future__ import annotations

import csv
import html as markup
import io
import re
import unicodedata
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from cnd.json_files import write_text
from reports.page_tables import Cell, Page, PageTable, read_page
from reports.scale import NOTHING

NUMBER = r"[+−-]?\d[\d,]*(?:\.\d+)?"
LIMITS = rf"({NUMBER}|{NOTHING}) to ({NUMBER}|{NOTHING})"
INTERVAL = re.compile(LIMITS)
WITH_INTERVAL = re.compile(rf"({NUMBER}|{NOTHING}) \({LIMITS}\)")
WITH_ERROR = re.compile(rf"({NUMBER}|{NOTHING}) ± ({NUMBER}|{NOTHING})(?:; (.+))?")
NAMED = re.compile(rf"([^\W\d][^\d−+]*?) ({NUMBER})")  # "seeds ± 1.2", "published 14.4"
MARKED = re.compile(rf"({NUMBER}) ([*†‡]+)")
LONG = 60  # characters of a cell
EMPTY = ("", NOTHING, "-")
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # what a spreadsheet takes a text for a formula by (OWASP)


def with_files(html: str, folder: str) -> tuple[str, dict[str, str]]:
    """The page with a caption and links below each table, and the files that these mean.

    Args:
        html: of the report.
        folder: name of the folder beside it that the files lie in.

    Returns:
        The page, and the content of each file by its name in the folder.
    """
    page = read_page(html)
    files: dict[str, str] = {}
    parts, at = [], 0
    for table in page.tables:
        name = markup.escape(f"{folder}/{table.slug}")
        tag_end = html.index(">", table.start)
        end = table.end + (len("</div>") if html.startswith("</div>", table.end) else 0)
        parts += [
            html[at : table.start],
            f'<table id="{table.slug}-table"{html[table.start + len("<table") : tag_end]}>',
        ]
        parts += [f'<caption class="unseen">{markup.escape(table.heading)}</caption>', html[tag_end + 1 : end]]
        parts.append(f'<p class="files"><a href="{name}.csv">CSV</a> · <a href="{name}.tex">LaTeX</a></p>')
        at = end
        files |= {f"{table.slug}.csv": as_csv(table), f"{table.slug}.tex": as_latex(table, page)}
    return "".join([*parts, html[at:]]), files


def folder_of(page: Path) -> Path:
    """The folder beside a report that the files of its tables lie in."""
    return page.with_name(f"{page.stem}-tables")


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write the files of :func:`with_files`; those of an earlier report that has more tables are deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in {*folder.glob("*.csv"), *folder.glob("*.tex")} - {folder / name for name in files}:
        old.unlink()
    for name, content in files.items():
        write_text(folder / name, content)


# ---------------------------------------------------------------- CSV


def as_csv(table: PageTable) -> str:
    """The table with one kind of content a column.

    Second lines of a cell stand in columns of their own (``NAME: low``, ``NAME: high``, ``NAME: mark``,
    ``NAME: note``). Lines that only head others become the column ``group``, texts over several cells the column
    ``note``. Thousands have no separators; what the page shows as a dash is empty. A text that a spreadsheet would take
    for a formula begins with an apostrophe.
    """
    names, lines = table.columns, _csv_lines(table)
    kinds: list[dict[str, None]] = [{"": None} for _ in names]  # the parts that cells of each column have, in order
    for place, kind in enumerate(kinds):
        own = [line.cells[place] for line in lines]
        if any("low" in cell for cell in own):  # numbers, so that a word among them stands beside
            for cell in (cell for cell in own if _is_word(cell.get("", ""))):
                cell |= {"": "", "note": "; ".join(filter(None, [cell[""], cell.get("note", "")]))}
        for cell in own:
            kind |= dict.fromkeys(cell)
        if "note" in kind:
            kind["note"] = kind.pop("note")  # last
    header = [f"{name}: {part}" if part else name for name, kind in zip(names, kinds, strict=True) for part in kind]
    body = [[cell.get(p, "") for cell, kind in zip(line.cells, kinds, strict=True) for p in kind] for line in lines]
    for name in ("group", "note"):
        more = [str(getattr(line, name)) for line in lines]
        if any(more):
            header.append(name)
            body = [[*line, text] for line, text in zip(body, more, strict=True)]
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows([_in_csv(text) for text in line] for line in [header, *body])
    return content.getvalue()


class _Line(NamedTuple):
    """One line of the body: the parts of its cells, the line that heads it, a text over several cells."""

    cells: list[dict[str, str]]
    group: str
    note: str


def _csv_lines(table: PageTable) -> list[_Line]:
    n_columns, lines, group = len(table.columns), list[_Line](), ""
    for cells in table.body:
        if _is_divider(cells, n_columns):
            group = cells[0].whole
            continue
        own: list[dict[str, str]] = [{} for _ in range(n_columns)]
        for cell, place in zip(cells, accumulate((cell.span for cell in cells), initial=0), strict=False):
            if cell.span == 1 and place < n_columns:
                own[place] = parts(cell)
        lines.append(_Line(own, group, "; ".join(cell.whole for cell in cells if cell.span > 1)))
    return lines


def parts(cell: Cell) -> dict[str, str]:
    """The parts of a cell by name; ``""`` is what it shows first."""
    text, lines = cell.text, list(cell.lines)
    if not text and lines and _is_number(lines[0]):  # the score below a picture
        text = lines.pop(0)
    found, notes = {"": text}, []
    if marked := MARKED.fullmatch(text):
        found |= {"": marked[1], "mark": marked[2]}
    elif known := WITH_ERROR.fullmatch(text):
        found |= {"": known[1], "±": known[2]}
        notes += [known[3]] if known[3] else []
    for line in lines:
        if cell.names_row:
            notes.append(line)
        elif interval := INTERVAL.fullmatch(line):
            found |= {"low": interval[1], "high": interval[2]}
        elif interval := WITH_INTERVAL.fullmatch(line):
            found |= {"value": interval[1], "low": interval[2], "high": interval[3]}
        elif known := WITH_ERROR.fullmatch(line):
            found |= {"value": known[1], "±": known[2]}
            notes += [known[3]] if known[3] else []
        elif named := NAMED.fullmatch(line):
            found[named[1]] = named[2]
        else:
            notes.append(line)
    return found | ({"note": "; ".join(notes)} if notes else {})


def _is_divider(cells: list[Cell], n_columns: int) -> bool:
    return len(cells) == 1 and cells[0].span >= n_columns > 1


def _is_number(text: str) -> bool:
    return re.fullmatch(NUMBER, text) is not None


def _is_word(text: str) -> bool:
    return text not in EMPTY and not _is_number(text)


def _in_csv(text: str) -> str:
    if text in EMPTY:
        return ""
    if _is_number(text):
        return text.replace("−", "-").replace(",", "")
    return f"'{text}" if text.startswith(FORMULA) else text


# ---------------------------------------------------------------- LaTeX

LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "±": "$\\pm$",
    "×": "$\\times$",
    "·": "$\\cdot$",
    "≤": "$\\leq$",
    "≥": "$\\geq$",
    "≈": "$\\approx$",
    "→": "$\\rightarrow$",
    "′": "$'$",
    "²": "$^2$",
    "▲": "$\\bigtriangleup$",
    "▼": "$\\bigtriangledown$",
    "■": "\\rule{1ex}{1ex}",
    "…": "\\dots{}",
    "*": "$^{*}$",
    "†": "$^{\\dagger}$",
    "‡": "$^{\\ddagger}$",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
}
GREEK = {"ε": "varepsilon", "φ": "varphi", "ς": "varsigma"}  # the letters whose command is not their name


def _greek() -> dict[str, str]:
    """``$\\alpha$`` of α, and so on; those that look like Latin letters have no command."""
    found = {}
    for letter in "αβγδεζηθικλμνξπρςστυφχψωΓΔΘΛΞΠΣΦΨΩ":
        name = unicodedata.name(letter).split()[-1].lower().replace("lamda", "lambda")
        found[letter] = f"$\\{GREEK.get(letter, name.capitalize() if letter.isupper() else name)}$"
    return found


_TABLE = str.maketrans(LATEX | _greek())


def as_latex(table: PageTable, page: Page) -> str:
    """The table for a LaTeX document that uses booktabs, an interval in brackets behind its score."""
    names = table.columns
    head = table.head[-1] if table.head else []
    align = "".join(_alignment(table, place) for place in range(len(names)))
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape(': '.join(filter(None, [table.heading, page.title])))}}}",
        f"\\label{{tab:{table.slug}}}",
        f"\\begin{{tabular}}{{{align}}}",
        "\\toprule",
    ]
    for cells in table.head[:-1]:
        lines += [_line(cells, "c"), _rules(cells)]
    if head:
        lines += [_line(head, "c"), "\\midrule"]
    for number, cells in enumerate(table.body):
        if _is_divider(cells, len(names)):
            lines += (["\\midrule"] if number else []) + [_line(cells, "l")]
        else:
            lines.append(_line(cells, "l"))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])


def _alignment(table: PageTable, place: int) -> str:
    """Numbers to the right, words to the left, in lines of their own where they are long."""
    cells = [line[place] for line in table.body if len(line) > place]
    if any(len(cell.whole) > LONG for cell in cells if cell.span == 1):
        return "p{0.4\\textwidth}"
    return "l" if any(line[place].left for line in table.head[-1:] if len(line) > place) else "r"


def _line(cells: list[Cell], align: str) -> str:
    shown = [_latex_cell(cell) for cell in cells]
    spanned = [
        f"\\multicolumn{{{cell.span}}}{{{align}}}{{{text}}}" if cell.span > 1 else text
        for cell, text in zip(cells, shown, strict=True)
    ]
    first = "{}" if spanned and spanned[0].startswith(("[", "*")) else ""  # which \\ before it would take for its own
    return first + " & ".join(spanned) + " \\\\"


def _rules(cells: list[Cell]) -> str:
    """A rule below each group of columns."""
    ends = list(accumulate(cell.span for cell in cells))
    grouped = [(cell, end) for cell, end in zip(cells, ends, strict=True) if cell.span > 1]
    return " ".join(f"\\cmidrule(lr){{{end - cell.span + 1}-{end}}}" for cell, end in grouped)


def _latex_cell(cell: Cell) -> str:
    found = [escape(cell.text)] if cell.text else []
    notes = []
    for line in cell.lines:
        if interval := INTERVAL.fullmatch(line):
            found.append(f"[{escape(interval[1])}, {escape(interval[2])}]")
        elif interval := WITH_INTERVAL.fullmatch(line):
            value, low, high = map(escape, interval.groups())
            notes.append(f"{value} [{low}, {high}]")
        else:
            notes.append(escape(line))
    if notes and not found:
        return "; ".join(notes)
    return " ".join([*found, *([f"({'; '.join(notes)})"] if notes else [])])


def escape(text: str) -> str:
    """Text for LaTeX, with its own special characters and those that pdflatex does not know by themselves."""
    return text.translate(_TABLE).replace(" $^{*}$", "$^{*}$")
