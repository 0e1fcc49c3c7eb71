"""Designs of chosen subsets: all groups, those of a list, and all but one end of a ranking.

Influences are never estimated from them; they are retrained to see what influences predict.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from sourcewise.core.errors import SourcewiseError, did_you_mean
from sourcewise.core.messages import first_names
from sourcewise.core.randomness import permutation
from sourcewise.designs.files import read_names, read_ranking

Order = Literal["worst", "random", "best"]
"""Which groups `ranked` removes: those at one end of a ranking, or random ones."""

ORDERS: tuple[str, ...] = get_args(Order)


def full(groups: Sequence[str]) -> NDArray[np.bool_]:
    """Keep every group. Return `bool[groups]`."""
    return np.ones(len(groups), dtype=bool)


def listed(
    groups: Sequence[str],
    keep: Sequence[str | int] | str | None = None,
    drop: Sequence[str | int] | str | None = None,
) -> NDArray[np.bool_]:
    """Keep the named groups, or drop them. Names come as a list, or as a text file with one name a line.

    Return `bool[groups]`. Raises SourcewiseError when both or neither list is given, a name is unknown, or no group is
    left.
    """
    if (keep is None) == (drop is None):
        raise SourcewiseError("subset=listed: set exactly one of subset.keep and subset.drop")
    setting, names = ("keep", keep) if keep is not None else ("drop", drop)
    assert isinstance(names, list | tuple)  # resolved
    return named_mask(groups, names, setting == "keep", f"subset.{setting}")


def resolve_listed(subset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `listed` with the names in place of the file that holds them."""
    files = {key: path for key in ("keep", "drop") if isinstance(path := subset.get(key), str)}
    return {**subset, **{key: read_names(path, f"subset.{key}") for key, path in files.items()}}


def ranked(
    groups: Sequence[str],
    remove: float | Sequence[str],
    order: Order,
    ranking: str = "",
    target: str | None = None,
    seed: NonNegativeInt = 0,
    ranks: str | None = None,
) -> NDArray[np.bool_]:
    """Keep all groups but `remove` of them, those at the worst or the best end of a ranking, or random ones.

    `remove` is a number of groups, or a share of them if below 1; resolved (see `resolve_ranked`), their names. Groups
    without a score, whose influence is unknown, are never among the worst or the best; of groups with equal scores the
    first by name goes first. Random removals of the same seed are nested. ranks: a hash of the groups that the ranking
    is of; only resolved settings have it.

    Return `bool[groups]`. Raises SourcewiseError for a ranking of other groups.
    """
    assert isinstance(remove, Sequence)  # resolved
    if ranks != _digest(sorted(groups)):
        raise SourcewiseError(
            f"subset.ranking{f'={ranking}' * bool(ranking)}: it does not rank the source's {len(groups)} groups, which"
            f" are {first_names(groups, show=repr)}; take a ranking of this source"
        )
    return named_mask(groups, remove, False, "subset.remove")


def resolve_ranked(subset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `ranked` with the names of the groups removed in place of their number.

    The ranking becomes its name and a hash of its order: a ranking that moves leaves a run its name, one that changes
    does not. Settings that do not affect the subset are dropped: the ranking when order=random. With nothing to
    remove, the design is `full`.

    Raises SourcewiseError for a ranking that cannot be read or is about another target, and a number of groups that
    cannot be removed.
    """
    if isinstance(subset["remove"], Sequence):
        return dict(subset)
    order, seed = subset["order"], subset.get("seed", 0)
    ranking = read_ranking(Path(subset.get("ranking", "")), subset.get("target"))
    groups = sorted(ranking.scores)
    known = sorted((g for g in groups if math.isfinite(ranking.scores[g])), key=lambda g: ranking.scores[g])
    candidates = {
        "random": [groups[i] for i in permutation(f"ranked/{seed}", len(groups))],
        "worst": known,
        "best": sorted(known, key=lambda group: -ranking.scores[group]),
    }[order]
    count = _count(subset["remove"], len(groups))
    if count > len(candidates):
        raise SourcewiseError(
            f"subset.ranking={subset['ranking']}: only {len(known)} of its {len(groups)} groups have a score to remove"
            " them by"
        )
    if count == 0:
        return {"design": "full"}
    decisive = {"seed": seed} if order == "random" else {"ranking": f"{ranking.name}@{_digest(known)[:6]}"}
    removed = {"remove": sorted(candidates[:count]), "ranks": _digest(groups)}
    return {"design": subset["design"], **decisive, "order": order, **removed}


def ranked_curve(subset: Mapping[str, Any]) -> str:
    """Return the curve of a run from its resolved settings. Raises KeyError or ValueError for those that no run has."""
    if subset["order"] not in ORDERS:
        raise ValueError(f"order={subset['order']}")
    return "random" if subset["order"] == "random" else f"{subset['order']}, {subset['ranking']}"


def named_mask(groups: Sequence[str], names: Sequence[str | int], keep: bool, setting: str) -> NDArray[np.bool_]:
    """Keep the named groups, or all but these. Return `bool[groups]`.

    setting: where the names come from. Raises SourcewiseError when one is unknown, or no group is left.
    """
    index = {name: position for position, name in enumerate(groups)}
    unknown = [str(name) for name in names if str(name) not in index]
    if unknown:
        hint = did_you_mean(unknown[0], index) or f"; the groups are {first_names(groups, show=repr)}"
        raise SourcewiseError(f"{setting}: no group is called {first_names(unknown, show=repr)}{hint}")
    mask = np.full(len(groups), not keep)
    mask[[index[str(name)] for name in names]] = keep
    if not mask.any():
        raise SourcewiseError(f"{setting}: no group is left to train on; keep at least one")
    return mask


def _count(remove: float, groups: int) -> int:
    """Return how many of the groups `subset.remove` means."""
    if remove < 0 or (remove > 1 and not float(remove).is_integer()):
        raise SourcewiseError(f"subset.remove={remove}: give a number of groups, or a share of them below 1")
    count = round(remove * groups) if remove < 1 else int(remove)
    if count >= groups:
        raise SourcewiseError(f"subset.remove={remove}: there are {groups} groups, and one at least must be left")
    return count


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:10]
