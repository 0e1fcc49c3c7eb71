"""The command that trains further models of a recipe, from what a record holds of the command that made it."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sourcewise.core.overrides import command, override_key, quote, recipe_overrides
from sourcewise.designs.registry import DESIGNS
from sourcewise.records.arrays import DESIGN
from sourcewise.records.record import Header

_LOOKED_UP = ("mode", "metric")
"""Settings that name something of ours, or the dotted path of an object of the user's."""


def train_command(header: Header, *overrides: str) -> str:
    """Return the command that trains models of a record's recipe, with these overrides.

    The new runs join the study. Where a record does not hold the overrides that made it, or where its settings name
    code that is not ours, there is no command to paste: a phrase is returned that says why, and where the settings are.
    Nor is there one for models that something else trained.
    """
    if header.design == DESIGN:
        return "more models of yours, as rows of the same files"
    places = [f"runs_dir={quote(header.config['runs_dir'])}"] if "runs_dir" in header.config else []
    recipe = recipe_overrides(header.overrides or ())
    if header.overrides is not None and _names_no_code(header.config) and all(map(_is_plain, recipe)):
        return command("train.py -m", [*recipe, *places, *overrides])
    reason = "the records do not hold them" if header.overrides is None else "they name code that is not sourcewise's"
    return (
        f"train.py -m with the overrides of these runs and {shlex.join([*places, *overrides])}"
        f" (the overrides are not shown, since {reason}; `config` in summary.json has all settings)"
    )


class Sweeps:
    """The sweeps that records come from, as overrides, from designs of ours whose settings are numbers."""

    def __init__(self) -> None:
        self._seeds: dict[tuple[str, ...], tuple[set[int], set[int]]] = {}

    def add(self, header: Header) -> None:
        """Count the seeds of a record's subset and training."""
        settings = {key: value for key, value in header.config["subset"].items() if key not in ("design", "seed")}
        if header.design not in DESIGNS or not all(type(value) in (int, float) for value in settings.values()):
            return
        overrides = [f"subset={header.design}", *(f"subset.{key}={quote(value)}" for key, value in settings.items())]
        subset_seeds, seeds = self._seeds.setdefault(tuple(overrides), (set(), set()))
        seeds.add(header.seed)
        if header.subset_seed is not None:
            subset_seeds.add(header.subset_seed)

    def overrides(self) -> list[list[str]]:
        """Return the overrides of each sweep."""
        return [self._overrides(start, *seeds) for start, seeds in self._seeds.items()]

    def longer(self, models: int) -> list[str]:
        """Return the overrides of the largest sweep over random subsets, with so many more models; none without one."""
        random = [start for start in self._seeds if DESIGNS[start[0].removeprefix("subset=")].is_random]
        if not random:
            return []
        start = max(random, key=lambda start: len(self._seeds[start][0]))
        subset_seeds, seeds = self._seeds[start]
        first = max(subset_seeds) + 1
        return self._overrides(start, subset_seeds.union(range(first, first + math.ceil(models / len(seeds)))), seeds)

    @staticmethod
    def _overrides(start: Sequence[str], subset_seeds: Collection[int], seeds: Collection[int]) -> list[str]:
        ranges = {"subset.seed": subset_seeds, "seed": () if seeds == {0} else seeds}
        return [*start, *(f"{key}={as_range(values)}" for key, values in ranges.items() if values)]


def as_range(numbers: Collection[int]) -> str:
    """Return numbers as the value of a sweep; of many with gaps, the range that holds them.

    >>> as_range({0, 1, 2}), as_range({0, 4}), as_range({7})
    ('range(0,3)', '0,4', '7')
    """
    low, high = min(numbers), max(numbers)
    if (len(numbers) <= 20 and high - low >= len(numbers)) or high == low:
        return ",".join(map(str, sorted(numbers)))
    return f"range({low},{high + 1})"


def _names_no_code(node: Any) -> bool:
    """Return whether settings instantiate and look up nothing but what is ours."""
    if isinstance(node, Mapping):
        return all(_is_ours(str(key), value) and _names_no_code(value) for key, value in node.items())
    return all(map(_names_no_code, node)) if isinstance(node, list | tuple) else True


def _is_ours(key: str, value: Any) -> bool:
    if key == "_target_":
        return str(value).startswith("sourcewise.")
    return key not in _LOOKED_UP or "." not in str(value)


def _is_plain(override: str) -> bool:
    """Return whether an override chooses by plain names and values: no code, no interpolation, no file elsewhere.

    Records may come from others, and a pasted command shall do no more than train.
    """
    key, value = override_key(override), override.partition("=")[2]
    if "_target_" in override or "${" in override or not _is_ours(key.rpartition(".")[2], value):
        return False
    return "." in key or re.search(r"[/\\{]|\.\.", value) is None  # an option of a group, not a file
