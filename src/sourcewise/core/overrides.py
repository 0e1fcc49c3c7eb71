"""Settings as a user types them: overrides in Hydra's grammar, and command lines for a shell."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_/][\w./+-]*", re.ASCII)
_KEYWORDS = frozenset({"null", "true", "false", "inf", "nan"})
"""Words that the grammar reads as something other than text."""


def quote(value: Any) -> str:
    r"""Return a value as the grammar of Hydra's overrides reads it back: text in quotes where it needs them.

    value: text, a number, true, false, null, or a list or mapping of such values. Raises ValueError for a mapping with
    a key that the grammar cannot hold: it has no quotes for keys.

    >>> quote("cats"), quote("11"), quote(["a b", 1.5, None]), quote({"seed": True})
    ('cats', '"11"', '["a b",1.5,null]', '{seed:true}')
    """
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _KEYWORDS:
            return value
        return f'"{_escape(value)}"'
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{_key(key)}:{quote(item)}' for key, item in value.items())}}}"
    if isinstance(value, Sequence):
        return f"[{','.join(map(quote, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


def command(program: str, overrides: Iterable[str]) -> str:
    """Return the command line `python <program> <overrides>`, each word quoted for a shell where it needs it."""
    return shlex.join(["python", *program.split(), *overrides])


def _key(key: Any) -> str:
    text = quote(key)
    if text.startswith('"'):
        raise ValueError(f"{key!r}: this cannot be a key of a mapping in an override")
    return text


def _escape(text: str) -> str:
    """Return text for double quotes, of which OmegaConf takes no part for an interpolation.

    Backslashes stand for themselves, except before `${` and before a quote, where each is written twice.
    """
    text = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)
    return re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), text)
