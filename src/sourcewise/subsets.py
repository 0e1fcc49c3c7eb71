"""Designs: which groups a run keeps, as pure functions of (groups, settings, seed).

The same arguments give the same subset on every machine and with every version of every library: randomness comes from
SHAKE-256 rather than from a random number library, and golden tests pin it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.errors import SourcewiseError, did_you_mean
from sourcewise.randomness import permutation

Mask = NDArray[np.bool_]


def full(groups: Sequence[str]) -> Mask:
    """Keep every group. Returns `bool[groups]`."""
    return np.ones(len(groups), dtype=bool)


def random(groups: Sequence[str], fraction: float, seed: int) -> Mask:
    """Keep `round(fraction * groups)` groups, at least one, every such subset equally likely. Returns `bool[groups]`.

    Raises SourcewiseError when the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise SourcewiseError(f"subset.fraction={fraction}: it must be above 0 and at most 1")
    size = max(1, round(fraction * len(groups)))
    mask = np.zeros(len(groups), dtype=bool)
    mask[permutation(f"random/{seed}", len(groups))[:size]] = True
    return mask


def listed(
    groups: Sequence[str], keep: Sequence[str] | str | None = None, drop: Sequence[str] | str | None = None
) -> Mask:
    """Keep the named groups, or drop them. Names come as a list, or as a text file with one name a line.

    Returns `bool[groups]`. Raises SourcewiseError when both or neither list is given, a name is unknown, or nothing is
    left.
    """
    if (keep is None) == (drop is None):
        raise SourcewiseError("subset=listed: set exactly one of subset.keep and subset.drop")
    setting, names = ("keep", keep) if keep is not None else ("drop", drop)
    assert names is not None
    where = f"subset.{setting}={names}" if isinstance(names, str) else f"subset.{setting}"
    if isinstance(names, str):
        names = _read_names(names, where)
    index = {name: position for position, name in enumerate(groups)}
    unknown = [str(name) for name in names if str(name) not in index]
    if unknown:
        hint = did_you_mean(unknown[0], index) or f"; the groups are {_short(list(index))}"
        raise SourcewiseError(f"{where}: no group is called {_short(unknown)}{hint}")
    mask = np.full(len(groups), setting == "drop")
    mask[[index[str(name)] for name in names]] = setting == "keep"
    if not mask.any():
        raise SourcewiseError(f"{where}: no group is left to train on; keep at least one")
    return mask


DESIGNS: Mapping[str, Callable[..., Mask]] = {"full": full, "random": random, "listed": listed}
"""The designs by name, as `subset.design` says it; the other keys of `subset` are the design's arguments."""


RANDOM_DESIGNS = frozenset({"random"})
"""Designs that influences can be estimated from; the others were chosen by hand, or by what influences said."""


def draw(groups: Sequence[str], design: str, **settings: Any) -> Mask:
    """The subset `bool[groups]` that a design draws. Raises SourcewiseError for an unknown design."""
    if design not in DESIGNS:
        raise SourcewiseError(f"subset.design={design}: not a design; choose one of {', '.join(DESIGNS)}")
    return DESIGNS[design](groups, **settings)


def _read_names(path: str, where: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourcewiseError(f"{where}: cannot read this list of names ({error})") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _short(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
