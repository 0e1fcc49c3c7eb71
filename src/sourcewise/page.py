"""A self-contained HTML page: what it is made of, how numbers are written in it, and how it becomes a file.

A page is a list of `Section`s, of paragraphs, facts, figures and tables; this module and its template know nothing of
their topics. Nothing is fetched from anywhere, and a content security policy says so; every string is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sourcewise import figures
from sourcewise.pictures import Picture

ROWS = 40
"""Rows of a searchable table that are shown before the reader asks for more."""


@dataclass(frozen=True)
class Effect:
    """One influence in a table: whose it is, how large, whether it is significant; or just a name with a picture."""

    name: str
    value: str = ""
    error: str = ""
    q: str = ""
    significant: bool = True
    picture: Picture | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table: its header names what it is about, its cells are texts or lists of effects."""

    header: str
    cells: Sequence[str | Sequence[Effect]]
    muted: bool = False
    picture: Picture | None = None


@dataclass(frozen=True)
class Table:
    """A table with a caption. The search box filters it if it says what its rows are: `class` or `group`."""

    id: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    numeric: Sequence[int] = ()
    searchable: str = ""

    @property
    def wordy(self) -> bool:
        """Whether names are too long for effects to stand side by side."""
        effects = (e for row in self.rows for cell in row.cells if not isinstance(cell, str) for e in cell)
        return any(len(effect.name) > 8 and not effect.picture for effect in effects)


@dataclass(frozen=True)
class Figure:
    """A plotly figure, the caption that everybody sees, and the text for those who do not see the figure."""

    id: str
    figure: go.Figure
    caption: str
    alternative: str

    @property
    def meta(self) -> dict[str, Any]:
        """What the page needs to know of the figure."""
        return dict(self.figure.layout.meta or {})

    @property
    def width(self) -> int:
        """Pixels below which it is scrolled rather than squeezed."""
        return min(90 + 15 * len(self.meta["groups"]), 640) if self.meta.get("kind") == "heatmap" else 0

    @property
    def data(self) -> Markup:
        """The figure as JSON that is safe inside a script element."""
        return embed(json.loads(self.figure.to_json()))


@dataclass(frozen=True)
class Section:
    """A titled part of the page: leading paragraphs, then facts, figures, tables and code, if it has them."""

    id: str
    title: str
    lead: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    code: Sequence[tuple[str, str]] = ()


def embed(value: object) -> Markup:
    r"""JSON that may stand inside `<script>`: no character in it can end the element or a line of the script.

    >>> print(embed("</script>&"))
    "\u003c/script\u003e\u0026"
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 (escaped above)


def join(names: Sequence[str]) -> str:
    """Names as a reader would say them.

    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), *names[-1:]])


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "class", "classes"), count(1200, "model")
    ('1 class', '1,200 models')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def number(value: float | None, decimals: int = 2, sign: bool = True) -> str:
    """A number with a true minus sign; what the data cannot show is 'not identifiable'.

    >>> number(-0.5), number(float("nan"))
    ('−0.50', 'not identifiable')
    """
    if value is None or not math.isfinite(value):
        return "not identifiable"
    return f"{value:{'+' if sign else ''},.{decimals}f}".replace("-", "−")


def small(q: float | None) -> str:
    """A q-value, never printed as 0.

    >>> small(0.0123), small(1e-9), small(None)
    ('0.012', '< 0.0001', '–')
    """
    if q is None or not math.isfinite(q):
        return "–"
    return "< 0.0001" if q < 1e-4 else f"{q:.2g}"


def duration(seconds: float) -> str:
    """Seconds as a reader would say them.

    >>> duration(75), duration(7300)
    ('1.2 min', '2.0 h')
    """
    sizes = ((2 * 86400, 86400, "days"), (3600, 3600, "h"), (60, 60, "min"))
    return next(
        (f"{seconds / size:,.1f} {name}" for least, size, name in sizes if seconds >= least), f"{seconds:.1f} s"
    )


def html(**parts: Any) -> str:
    """The page; `parts` are what the template names."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sourcewise", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = Path(__file__).with_name("templates")
    style, script = (folder.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    scripts = [get_plotlyjs(), script]
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return environment.get_template("report.html.j2").render(
        **parts,
        themes=embed(figures.THEMES),
        rows=ROWS,
        style=Markup(style),  # noqa: S704 (our own file)
        scripts=[Markup(text) for text in scripts],  # noqa: S704 (plotly's file and our own)
        policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}",
    )
