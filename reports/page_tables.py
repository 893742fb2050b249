"""The tables and sentences of a rendered report, read back from its HTML: what is shown, and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

HEADINGS = ("h2", "h3", "summary")
BLOCKS = ("p", "li", "figcaption", "h1", "h2", "h3", "summary", "pre", "caption")
VOID = ("br", "img", "meta", "col", "hr", "input", "link", "wbr", "use", "image")
LONGEST = 60  # characters of a slug


@dataclass
class Cell:
    """One cell as it is read.

    Attributes:
        text: the first line.
        lines: those in smaller type below it.
        span: columns.
        left: whether it is set to the left.
        names_row: whether it says what its line is of.
    """

    text: str = ""
    lines: list[str] = field(default_factory=list)
    span: int = 1
    left: bool = False
    names_row: bool = False

    @property
    def whole(self) -> str:
        """All lines in one, the smaller ones in brackets."""
        below = "; ".join(self.lines)
        return f"{self.text} ({below})" if self.text and below else self.text or below


@dataclass
class PageTable:
    """One table.

    Attributes:
        heading: of the section it stands in, with a line of its own where it has one.
        slug: its name in files and links, different from that of every other table of the page.
        head: lines of the header; body: the other lines.
        start, end: positions in the HTML of ``<table`` and behind ``</table>``, and of the block that scrolls.
    """

    heading: str
    slug: str
    head: list[list[Cell]] = field(default_factory=list)
    body: list[list[Cell]] = field(default_factory=list)
    start: int = 0
    end: int = 0

    @property
    def columns(self) -> list[str]:
        """A name for each column: the lowest header, with the group above it where two say the same."""
        rows = [[cell for cell in line for _ in range(cell.span)] for line in self.head]
        if not rows:
            return [str(number + 1) for number in range(max(map(len, self.body), default=0))]
        texts = [cell.text for cell in rows[-1]]
        groups = [cell.whole for cell in rows[0]] if len(rows) > 1 else [""] * len(texts)
        return [
            f"{group}: {cell.whole}" if group and texts.count(cell.text) > 1 else cell.whole
            for group, cell in zip(groups, rows[-1], strict=False)
        ]


@dataclass
class Page:
    """What a report shows.

    Attributes:
        title: of the window.
        sentences: section and text of every block that is in no table.
        pictures: section and source of every picture.
    """

    title: str = ""
    tables: list[PageTable] = field(default_factory=list)
    sentences: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)


def read_page(html: str) -> Page:
    """Tables, sentences and pictures of a report, in order."""
    reader = _Reader(html)
    reader.feed(html)
    reader.close()
    return reader.page


class _Reader(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.page = Page()
        self._starts = [0]  # of lines
        for line in html.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._heading, self._under = "", ""  # of the section, and of the table alone
        self._block: list[str] | None = None  # text of the open block
        self._kind = ""
        self._strong = ""  # what of it is bold
        self._table: PageTable | None = None
        self._in_head, self._line, self._cell = False, list[Cell](), Cell()
        self._open: list[str] | None = None  # text of the open cell's line
        self._small = self._bold = self._skip = 0
        self._titled = False

    def _at(self) -> int:
        line, column = self.getpos()
        return self._starts[line - 1] + column

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        classes = given.get("class", "").split()
        if tag in ("style", "script"):
            self._skip += 1
        elif tag == "title":
            self._titled = True
        elif tag in ("img", "image"):
            self.page.pictures.append((self._heading, given.get("src") or given.get("href", "")))
            self._under = ""
        elif tag == "table":
            heading = ": ".join(filter(None, [self._heading, self._under]))
            slug = _slug(heading, [table.slug for table in self.page.tables])
            self._table = PageTable(heading, slug, start=self._at())
        elif self._table is not None:
            self._in_table(tag, given, classes)
        elif tag in BLOCKS:
            self._block, self._kind, self._strong, self._under = [], tag, "", ""
        self._bold += tag == "strong"

    def _in_table(self, tag: str, given: dict[str, str], classes: list[str]) -> None:
        if tag in ("thead", "tbody"):
            self._in_head = tag == "thead"
        elif tag == "tr":
            self._line = []
        elif tag in ("td", "th"):
            names_row = given.get("scope") in ("row", "rowgroup")
            left = names_row or "left" in classes
            self._cell, self._open = Cell(span=int(given.get("colspan") or 1), left=left, names_row=names_row), []
        elif tag in ("small", "br"):
            self._next_line()
            self._small += tag == "small"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        self._bold -= tag == "strong"
        if tag in ("style", "script"):
            self._skip -= 1
        elif tag == "title":
            self._titled = False
        elif self._table is None:
            if tag == self._kind:
                self._close_block()
        elif tag == "small":
            self._next_line()
            self._small -= 1
        elif tag in ("td", "th"):
            self._next_line()
            self._open = None
            self._line.append(self._cell)
        elif tag == "tr":
            (self._table.head if self._in_head else self._table.body).append(self._line)
        elif tag == "table":
            self._table.end = self._at() + len("</table>")
            self.page.tables.append(self._table)
            self._table = None

    def _next_line(self) -> None:
        """What was read of the open cell is a line of it: the first one, unless it is small."""
        text, self._open = _clean("".join(self._open or [])), []
        if not text:
            return
        if self._cell.text or self._cell.lines or self._small:
            self._cell.lines.append(text)
        else:
            self._cell.text = text

    def _close_block(self) -> None:
        text, self._block = _clean("".join(self._block or [])), None
        if self._kind in HEADINGS:
            self._heading = text
        elif self._kind == "p" and text == _clean(self._strong):
            self._under = text
        if text:
            self.page.sentences.append((self._heading, text))
        self._kind = ""

    def handle_data(self, data: str) -> None:
        if self._skip:
            return
        if self._titled:
            self.page.title = _clean(self.page.title + data)
        if self._table is not None:
            if self._open is not None:
                self._open.append(data)
        elif self._block is not None:
            self._block.append(data)
            self._strong += data if self._bold else ""


def _clean(text: str) -> str:
    """Without the spaces of the source; hyphens and spaces that only forbid a line break become plain ones."""
    return " ".join(text.replace("‑", "-").replace("\u00a0", " ").split())


def _slug(heading: str, taken: list[str]) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")[:LONGEST].rsplit("-", 1)
    whole = "-".join(plain) if len("-".join(plain)) < LONGEST else plain[0]
    slug, number = whole or "table", 1
    while (slug if number == 1 else f"{slug}-{number}") in taken:
        number += 1
    return slug if number == 1 else f"{slug}-{number}"
