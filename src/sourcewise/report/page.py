"""A self-contained HTML page: what it is made of, how numbers are written in it, and how it becomes a file.

A page is a list of `Section`s, of paragraphs, facts, figures and tables; this module knows nothing of their topics.
Nothing is fetched from anywhere, and a content security policy says so; every string is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from sourcewise.report import figures
from sourcewise.report.pictures import Picture

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
    """A table with a caption. The search box filters it if it says what its rows are: `class` or `group`.

    numeric: the columns that hold numbers.
    """

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

    @property
    def images(self) -> list[tuple[NDArray[np.uint8], str]]:
        """The pictures of its influences, small ones enlarged, with what it says of each."""
        return [
            (picture.large(), f"{row.header} {column.lower()} {picture.name}: {effect.value} ± {effect.error}")
            for row in self.rows
            for column, cell in zip(self.columns[1:], row.cells, strict=True)
            for effect in (() if isinstance(cell, str) else cell)
            if effect.value and (picture := effect.picture)
        ]


@dataclass(frozen=True)
class Figure:
    """A plotly figure, and a caption that also tells those who do not see it what it is."""

    id: str
    figure: go.Figure
    caption: str


@dataclass(frozen=True)
class Section:
    """A titled part of the page: leading paragraphs, then facts, figures, tables and code, if it has them.

    Ids, here and of what it holds, differ within a target; the page puts the target's before them.
    """

    id: str
    title: str
    lead: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    code: Sequence[tuple[str, str]] = ()


def join(names: Sequence[str]) -> str:
    """Names as a reader would say them.

    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), *names[-1:]])


def count(number: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "class"), count(2, "class"), count(1200, "model")
    ('1 class', '2 classes', '1,200 models')
    """
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def number(value: float | None, decimals: int = 2, sign: bool = False) -> str:
    """A number with a true minus sign, and a plus if `sign`; what the data cannot show is 'not identifiable'.

    >>> number(-0.5), number(0.5, 1, sign=True), number(float("nan"))
    ('−0.50', '+0.5', 'not identifiable')
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
    loader = jinja2.PackageLoader("sourcewise.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["count"] = count
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    style, script = (loader.get_source(environment, f"report.{kind}")[0] for kind in ("css", "js"))
    scripts = [get_plotlyjs(), script]
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return environment.get_template("report.html.j2").render(
        **parts,
        themes=figures.THEMES,
        rows=ROWS,
        style=style,
        scripts=scripts,
        policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}",
    )
