"""Settings as a user types them: overrides in Hydra's grammar, and command lines for a shell."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sourcewise.core.errors import SourcewiseError

_PLAIN = re.compile(r"[A-Za-z_/][\w./+-]*", re.ASCII)
_KEYWORDS = frozenset({"null", "true", "false", "inf", "nan"})
"""Words that the grammar reads as something other than text."""
_NAMES = re.compile(r"\+{0,2}subset\.(keep|drop)=\[")
"""How an override begins that lists names of groups."""
_BARE = re.compile(r"""(\+{0,2}subset\.(?:keep|drop)=)([^\s\[\](){}"']+)""")
"""An override that gives one word in place of such a list, or several for a sweep."""
_ELEMENT = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?<=[\[,])(\s*)([^\s,\[\](){}"']+)(?=\s*[\],])""")
"""An element of a list: in quotes, or one word."""
_NUMBER = r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[+-]?\d[\d_]*)?"
_NO_TEXT = re.compile(rf"{_NUMBER}|[+-]?(inf|nan)|null|true|false", re.IGNORECASE)
_INTEGER = re.compile(r"0|-?[1-9]\d*")
"""A word that reads as it is written whether it is a number or text."""
NO_SEARCH = "search=null"
"""The override of runs that a search asks for."""
_KEPT = ("logger=none", NO_SEARCH)
_RECIPE = frozenset(
    {"experiment", "study", "trainer", "trainer.precision", "trainer.sync_batchnorm", "trainer.devices"}
)
"""Settings of the recipe besides all of the source, targets, model, transfer and proxy."""


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


def names_as_typed(arguments: Iterable[str]) -> list[str]:
    """Return the words of a command line, with quotes for names of groups that the grammar would not read as text.

    One word without brackets is a file, and null none.

    >>> names_as_typed(["subset.drop=[1_1,1e3,null,11,a]", "subset.keep=1_1", "seed=1_1"])
    ['subset.drop=["1_1","1e3","null",11,a]', 'subset.keep="1_1"', 'seed=1_1']
    """

    def quoted(match: re.Match[str]) -> str:
        word = match[3]
        if word is None or _INTEGER.fullmatch(word) or not _NO_TEXT.fullmatch(word):
            return match[0]
        return f'{match[2]}"{word}"'

    def text(word: str) -> str:
        return f'"{word}"' if _NO_TEXT.fullmatch(word) and word.lower() != "null" else word

    def read(word: str) -> str:
        if bare := _BARE.fullmatch(word):
            return bare[1] + ",".join(map(text, bare[2].split(",")))
        return _ELEMENT.sub(quoted, word) if _NAMES.match(word) else word

    return [read(word) for word in arguments]


def check_targets(arguments: Iterable[str], options: Path) -> None:
    """Raise SourcewiseError for a list of targets on a command line that has one twice: Hydra would train it once.

    options: the folder of files that each hold a target, which may have another name than its file.
    """
    for word in arguments:
        for listed in re.findall(r"\[([^][]*)\]", word) if word.startswith("target=") else ():
            targets: dict[str, str] = {}
            for option in (name.strip() for name in listed.split(",")):
                target = _target(options / f"{option}.yaml")
                if target in targets:
                    both = "is there twice" if targets[target] == option else f"and {targets[target]} are both {target}"
                    raise SourcewiseError(
                        f"{word}: {option} {both}, which is one target; give each of your own a name:"
                        " 'target=[]' +target@target.birds=named_folder target.birds.root=..."
                    )
                targets[target] = option


def _target(file: Path) -> str:
    """Return the name of the target in a file of a config, or of the file where it does not say."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return next((key for key in re.findall(r"^(\w+):", text, re.MULTILINE) if key != "defaults"), file.stem)


def command(program: str, overrides: Iterable[str]) -> str:
    """Return the command line `python <program> <overrides>`, each word quoted for a shell where it needs it."""
    return shlex.join(["python", *program.split(), *overrides])


def override_key(override: str) -> str:
    """Return the setting or the config group that an override is about, without `+`, `~` and package.

    >>> override_key("+transfer.weighted=true"), override_key("~logger"), override_key("source@other=cifar10")
    ('transfer.weighted', 'logger', 'source')
    """
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def names_subset(overrides: Iterable[str]) -> bool:
    """Return whether overrides say which subsets, or which training seeds, are trained.

    >>> names_subset(["model=resnet9", "subset.seed=3"]), names_subset(["source.groups=example"])
    (True, False)
    """
    return any(override_key(override).partition(".")[0] in ("subset", "seed") for override in overrides)


def recipe_overrides(overrides: Iterable[str]) -> list[str]:
    """Return the overrides that choose the recipe of a run.

    The subset, seeds, loggers, places and all of Hydra's own settings are left out. Of the trainer's, those stay that
    decide outputs (see `names.recipe`); a choice of `trainer` stays because it sets the precision. `logger=none` stays
    too, so that further models of what was kept from W&B do not go there, and `search=null`, so that further models of
    what a search trained are no search.

    >>> recipe_overrides(["model=resnet9", "subset.seed=3", "trainer.accelerator=gpu", "+transfer.weighted=true"])
    ['model=resnet9', '+transfer.weighted=true']
    """
    return [override for override in overrides if override in _KEPT or _is_recipe(override_key(override))]


def _is_recipe(key: str) -> bool:
    return key in _RECIPE or key.partition(".")[0] in ("source", "target", "model", "transfer", "proxy")


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


def called_as() -> list[str]:
    """Return the words by which the user called this program: `sourcewise-train`, or `python train.py`."""
    program = sys.argv[0]
    return ["python", program] if program.endswith(".py") else [Path(program).name]
