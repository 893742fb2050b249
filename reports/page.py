"""What pages are made of: templates and their filters, figures as pictures, the script that sorts tables."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from cnd.json_files import write_text
from reports import text
from reports.scale import NOTHING

TEMPLATES = Path(__file__).parent / "templates"


class Picture(NamedTuple):
    """A figure ready for the template."""

    source: str  # data: URL
    description: str  # for those who cannot see it
    width: int  # px at which its text has the size of the page's


def environment() -> Environment:
    """The templates, with the filters that they use."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": text.percent,
        "p_value": text.p_value,
        "seconds": _seconds,
        "minutes": _minutes,
        "count": _count,
    }
    return made


def sorting() -> dict[str, str]:
    """The script that sorts tables and turns their pages, and its hash, so that the page allows no other."""
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("sort.js", "pages.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": Markup(script), "script_hash": f"sha256-{digest}"}


def style() -> Markup:
    """The style sheet of the reports, so that all pages look alike."""
    report = (TEMPLATES / "report.html").read_text(encoding="utf-8")
    found = re.search(r"<style>.*?</style>", report, re.DOTALL)
    return Markup(found[0] if found else "")


def write(path: Path, html: str) -> None:
    """So that a reader never meets half a file."""
    write_text(path, html)


def picture(figure: Figure, description: str, photographs: bool = False) -> Picture:
    """A figure as PNG; without photographs a palette of 256 colours makes it a third of the size, and sooner made."""
    figure.set_dpi(150)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    if not photographs:
        image = image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/png;base64,{encoded}", description, round(figure.get_figwidth() * 105))


def _seconds(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}" if math.isfinite(seconds) else NOTHING


def _count(number: float) -> str:
    return f"{number:,.0f}" if math.isfinite(number) else NOTHING
