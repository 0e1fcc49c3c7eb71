"""Sections of a report as text for a terminal: lines of at most WIDTH columns, without control characters.

Figures and pictures are left out. A star marks what is significant, where a page prints the rest pale.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from sourcewise.core.messages import printable
from sourcewise.report.parts import Cell, Effect, Section, Table

WIDTH = 120
"""Columns of a table or a command at most."""
TEXT_WIDTH = 100
"""Columns of a paragraph at most."""
NAME_WIDTHS = (60, 40, 30, 24, 18, 12, 8)
"""Columns to which names in tables are shortened: the largest that lets the table fit."""
INDENT = "  "
SYMBOLS = str.maketrans({"−": "-", "–": "-", "…": "..."})
"""Characters of the page that a terminal may lack, or that a reader could not copy as a number."""
SHELL_WORD = re.compile(r"""(?:[^\s'"\\]|'[^']*'|"(?:\\.|[^"\\])*"|\\.)+""", re.DOTALL)


def one_line(text: str) -> str:
    r"""Return the text on one line, with `?` for every control character, and in simple symbols.

    >>> one_line("a\x1b[2Jb\nc −0.5")
    'a?[2Jb c -0.5'
    """
    return printable(" ".join(text.split()).translate(SYMBOLS))


def columns(text: str) -> int:
    """Return how many columns of a terminal a printable text takes.

    >>> columns("ape"), columns("猿")
    (3, 2)
    """
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def lines(section: Section) -> Iterator[str]:
    """Yield the lines of a section: its title, and below it, indented, paragraphs, facts, commands and tables."""
    yield from textwrap.wrap(one_line(section.title), TEXT_WIDTH)
    blocks = [[line for text in section.lead for line in _paragraph(text)]]
    blocks.append([line for term, value in section.facts for line in _paragraph(f"{term}: {value}")])
    blocks += [[*_paragraph(f"{label}:"), *_command(command)] for label, command in section.code]
    for table in section.tables:
        legend = " *: significant." if table.marked else ""
        blocks += [_paragraph(f"{table.caption}.{legend}"), _table(table)]
    for place, block in enumerate(filter(None, blocks)):
        yield from ["", *block] if place else block


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(
        one_line(text),
        TEXT_WIDTH,
        initial_indent=INDENT,
        subsequent_indent=INDENT,
        break_on_hyphens=False,
        break_long_words=False,  # a path in two pieces cannot be copied
    )


def _command(command: str) -> list[str]:
    """Return a shell command, broken between words where it is long; the lines can be pasted together."""
    result = [INDENT]
    for word in SHELL_WORD.findall(printable(command)):
        if result[-1].strip() and columns(f"{result[-1]} {word} \\") > WIDTH:
            result[-1] += " \\"
            result.append(2 * INDENT)
        result[-1] += f" {word}" if result[-1].strip() else f"  {word}"
    return result


def _table(table: Table) -> list[str]:
    """Return the lines of a table, with names as long as its width allows."""
    for name_width in NAME_WIDTHS:
        result = _grid(table, name_width)
        if all(columns(line) <= WIDTH for line in result):
            return result
    return [_shorten(line, WIDTH) for line in result]


def _grid(table: Table, name_width: int) -> list[str]:
    """Return titles and rows as lines of aligned columns, with a star before the headers of significant rows."""
    stars = {True: "* ", False: "  ", None: "  " if any(row.significant is not None for row in table.rows) else ""}
    headers = [stars[row.significant] + _shorten(one_line(row.header), name_width) for row in table.rows]
    cells = [_column(column, name_width) for column in zip(*(row.cells for row in table.rows), strict=True)]
    result = []
    for place, (title, column) in enumerate(zip(table.columns, [headers, *cells], strict=True)):
        title = (stars[None] if place == 0 else "") + one_line(title)
        result.append(_pad([title, *column], right=place in table.numeric))
    return [INDENT + "   ".join(line).rstrip() for line in zip(*result, strict=True)]


def _column(cells: Sequence[Cell], name_width: int) -> list[str]:
    """Return cells as texts. Effects are aligned with those above, a star after significant ones."""
    effects = [[] if isinstance(cell, str) else list(cell) for cell in cells]
    grids = []
    for place in range(max(map(len, effects), default=0)):
        shown = [row[place] if place < len(row) else Effect("") for row in effects]
        names = [_shorten(one_line(effect.name), name_width) for effect in shown]
        values = [one_line(effect.value) for effect in shown]
        errors = [
            f" ± {one_line(effect.error)}{'*' if effect.significant else ' '}" if effect.value else ""
            for effect in shown
        ]
        padded = (_pad(names), _pad(values, right=True), _pad(errors))
        grids.append([f"{name} {value}{error}" for name, value, error in zip(*padded, strict=True)])
    joined = ["  ".join(row) for row in zip(*grids, strict=True)] or [""] * len(cells)
    return [
        one_line(cell) if isinstance(cell, str) else text if cell else "-"
        for cell, text in zip(cells, joined, strict=True)
    ]


def _pad(texts: Sequence[str], right: bool = False) -> list[str]:
    """Return the texts with spaces after them, or before them if `right`, so that they take equal columns."""
    width = max(map(columns, texts))
    spaces = [" " * (width - columns(text)) for text in texts]
    return [space + text if right else text + space for text, space in zip(texts, spaces, strict=True)]


def _shorten(text: str, width: int) -> str:
    """Return the text, with an ellipsis at its end where it takes more columns than `width`."""
    if columns(text) <= width:
        return text
    while columns(text) > width - 3:
        text = text[:-1]
    return text + "..."
