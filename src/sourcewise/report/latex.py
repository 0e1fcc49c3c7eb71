r"""Tables of the report in LaTeX, to be read with `\input` into a table of a paper; they need booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sourcewise.report.parts import Cell, Effect, Table

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": r"{[}",  # after a line break it would begin an option
    "]": r"{]}",
    "*": r"{*}",
    "−": r"$-$",
    "±": r"$\pm$",
    "…": r"\ldots{}",
    "–": r"\textendash{}",
    "×": r"$\times$",
}
_TABLE = str.maketrans(SPECIAL)


def escape(text: str) -> str:
    r"""Return a text as LaTeX that prints it, in one line. Letters that are not Latin need XeLaTeX or LuaLaTeX.

    >>> escape("50% of $x_1$")
    '50\\% of \\$x\\_1\\$'
    """
    line = " ".join(text.split())
    escaped = "".join(character for character in line if character.isprintable()).translate(_TABLE)
    return re.sub("-(?=-)", "-{}", escaped)  # two hyphens are no dash


def latex(table: Table) -> str:
    """Return a table as a tabular with its caption as a comment; several effects of a cell stand below each other.

    Where the table distinguishes them, a star marks what is significant.
    """
    columns = "".join("r" if place in table.numeric else "l" for place in range(len(table.columns)))
    legend = ". *: significant" if table.marked else ""
    lines = [
        f"% {escape(table.caption + legend)}",
        r"% Needs \usepackage{booktabs} and \usepackage[T1]{fontenc}.",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _line(map(escape, table.columns)),
        r"\midrule",
        *(_line([escape(row.header) + _star(row.significant), *map(_cell, row.cells)]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escape(cell)
    parts = [_effect(effect) for effect in cell]
    return parts[0] if len(parts) == 1 else r"\begin{tabular}[t]{@{}l@{}}" + r" \\ ".join(parts) + r"\end{tabular}"


def _effect(effect: Effect) -> str:
    if not effect.value:
        return escape(effect.name)
    return escape(f"{effect.name} {effect.value} ± {effect.error}") + _star(effect.significant)


def _star(significant: bool | None) -> str:
    return r"\textsuperscript{*}" if significant else ""
