"""What a report is made of: sections of paragraphs, facts, figures, tables with pictures, and commands.

Parts know nothing of their topics: `contents` turns them into HTML, `terminal` into text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

NUMBERS = re.compile(r"[+-][\d.,]+(?: (?:to|±) [+-]?[\d.,]+| \([+-][\d.,]+ to [+-][\d.,]+\))?")
"""Texts that begin like a formula and are numbers."""
THUMBNAIL_SIDE = 64
"""Pixels of a side to which larger images are shrunk."""


@dataclass(frozen=True)
class Picture:
    """The thumbnail of one example.

    pixels: uint8[height, width] or uint8[height, width, 3]. uri: the same image as a data URI. name: a description.
    label: the name of the example's class.
    """

    pixels: NDArray[np.uint8]
    uri: str
    name: str
    label: str

    def large(self) -> NDArray[np.uint8]:
        """Return the pixels, those of a small picture repeated so that it is about THUMBNAIL_SIDE pixels high."""
        times = max(THUMBNAIL_SIDE // len(self.pixels), 1)
        return self.pixels.repeat(times, 0).repeat(times, 1)


@dataclass(frozen=True)
class Effect:
    """An influence in a table, as text; or a name alone, which may have a picture.

    name: of the group, class or example. q: the q-value.
    """

    name: str
    value: str = ""
    error: str = ""
    q: str = ""
    significant: bool = True
    picture: Picture | None = None


Cell = str | Sequence[Effect]


@dataclass(frozen=True)
class Row:
    """A row of a table. Its header names its subject.

    significant: whether the influence in the row is; None where there is none, or Effects, which carry their own flag.
    """

    header: str
    cells: Sequence[Cell]
    significant: bool | None = None
    picture: Picture | None = None


@dataclass(frozen=True)
class Table:
    """A table with a caption, which has no full stop.

    columns: their titles, that of the row headers first. numeric: the columns that hold numbers. searchable: what the
    rows are, `class` or `group`, if the page's search box filters them.
    """

    id: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    numeric: Sequence[int] = ()
    searchable: str = ""

    @property
    def effects(self) -> list[Effect]:
        """All effects in the cells."""
        return [effect for row in self.rows for cell in row.cells if not isinstance(cell, str) for effect in cell]

    @property
    def marked(self) -> bool:
        """Whether the table distinguishes significant influences, so that a reader needs a legend."""
        return any(row.significant is not None for row in self.rows) or any(effect.value for effect in self.effects)

    @property
    def has_long_names(self) -> bool:
        """Whether names are too long for effects to stand side by side."""
        return any(len(effect.name) > 5 and not effect.picture for effect in self.effects)

    @property
    def images(self) -> list[tuple[NDArray[np.uint8], str]]:
        """The pictures of the influences, small ones enlarged, each with a description."""
        return [
            (picture.large(), f"{row.header} {column.lower()} {picture.name}: {effect.value} ± {effect.error}")
            for row in self.rows
            for column, cell in zip(self.columns[1:], row.cells, strict=True)
            for effect in (() if isinstance(cell, str) else cell)
            if effect.value and (picture := effect.picture)
        ]

    def csv(self) -> str:
        """Return the table as CSV, with what the page shows in each cell; semicolons part several effects."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        lines = [self.columns, *([row.header, *map(_cell_text, row.cells)] for row in self.rows)]
        writer.writerows([spreadsheet_safe(text.replace("−", "-")) for text in line] for line in lines)
        return file.getvalue()

    def brief(self, rows: int, noun: str = "", columns: int | None = None) -> Table:
        """Return the first rows and columns, with two effects in a cell at most; the caption says which rows."""
        columns = columns or len(self.columns)
        short = [
            replace(row, cells=[cell if isinstance(cell, str) else cell[:2] for cell in row.cells[: columns - 1]])
            for row in self.rows[:rows]
        ]
        some = f". The first {rows} of {len(self.rows):,} {noun}".rstrip() if len(self.rows) > rows else ""
        return replace(self, caption=self.caption + some, columns=self.columns[:columns], rows=short)


def spreadsheet_safe(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: with an apostrophe before it, if it begins like one.

    >>> spreadsheet_safe("=1+2"), spreadsheet_safe("-crane"), spreadsheet_safe("-0.2 to 0.1"), spreadsheet_safe("crane")
    ("'=1+2", "'-crane", '-0.2 to 0.1', 'crane')
    """
    begins = text.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{text}" if begins and not NUMBERS.fullmatch(text) else text


def _cell_text(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    texts = (f"{effect.name} {effect.value} ± {effect.error}" if effect.value else effect.name for effect in cell)
    return "; ".join(" ".join(text.split()) for text in texts)


@dataclass(frozen=True)
class Figure:
    """A plotly figure. Its caption also describes it to those who do not see it."""

    id: str
    figure: go.Figure
    caption: str


@dataclass(frozen=True)
class Section:
    """A titled part of a report, shown in the order of its fields.

    Ids, here and in figures and tables, differ within a target; the page puts the target's id before them.

    Attributes:
        lead: paragraphs.
        facts: pairs of a term and its value.
        code: pairs of a label and a command, or settings.
        brief: what a terminal shows of the section, if anything.
        folded: whether the page shows no more than the title until a reader asks for it.
    """

    id: str
    title: str
    lead: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    code: Sequence[tuple[str, str]] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    brief: Section | None = None
    folded: bool = False


def as_code(commands: Sequence[tuple[str, str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return paragraphs and code for commands with their labels; a phrase in place of a command is a paragraph."""
    is_command = [command.startswith("python ") for _, command in commands]
    paragraphs = [f"{label}: {phrase}." for (label, phrase), keep in zip(commands, is_command, strict=True) if not keep]
    return paragraphs, [pair for pair, keep in zip(commands, is_command, strict=True) if keep]
