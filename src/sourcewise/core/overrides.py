"""Settings as a user types them: overrides in Hydra's grammar, and command lines for a shell."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_/][\w./+-]*", re.ASCII)
_KEYWORDS = frozenset({"null", "true", "false", "inf", "nan"})
"""Words that the grammar reads as something other than text."""


def quote(value: Any) -> str:
    r"""Return a value as the grammar of Hydra's overrides reads it back: text in quotes where it needs them.

    >>> quote("cats"), quote("11"), quote(["a b", 1.5, None])
    ('cats', '"11"', '["a b",1.5,null]')
    """
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _KEYWORDS:
            return value
        return f'"{_escape(value)}"'
    if isinstance(value, Sequence):
        return f"[{','.join(map(quote, value))}]"
    return json.dumps(value)


def command(program: str, overrides: Iterable[str]) -> str:
    """Return the command line `python <program> <overrides>`, each word quoted for a shell where it needs it."""
    return shlex.join(["python", *program.split(), *overrides])


def _escape(text: str) -> str:
    """Return text for double quotes: `${` is no interpolation, and backslashes count only before a quote."""
    text = text.replace("${", r"\${")
    return re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), text)


_NOT_RECIPE = frozenset({"subset", "seed", "logger", "only", "hydra"})
"""Settings that choose a run of a recipe, or what becomes of it, and not the recipe."""


def recipe_overrides(overrides: Iterable[str]) -> list[str]:
    """Return those of a command line that choose the recipe, or the folder of its runs.

    >>> recipe_overrides(["experiment=demo", "subset=full", "+subset.seed=1", "seed=2", "model.width=8"])
    ['experiment=demo', 'model.width=8']
    """
    return [item for item in overrides if re.split(r"[=.@/]", item.lstrip("+~"))[0] not in _NOT_RECIPE]


def called_as() -> list[str]:
    """Return the words by which the user called this program: `sourcewise-train`, or `python train.py`."""
    program = sys.argv[0]
    return ["python", program] if program.endswith(".py") else [Path(program).name]
