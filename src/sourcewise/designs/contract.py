"""The contract of a design: what it draws, and what else the product asks of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SubsetSettings = Mapping[str, Any]
"""The settings `subset.*` of a run: `design`, and the arguments of its `draw`."""


@dataclass(frozen=True)
class Design:
    """A way to choose the groups that a run keeps.

    draw: function of the group names and, by name, of the design's settings, to `bool[groups]` (True: the group is
        kept). The settings of a design are the other parameters of this function: names, types and defaults are
        checked against its signature. It must give the same subset for the same arguments, always.
    is_random: whether subsets are drawn at random, so that influences may be estimated from them. Subsets chosen by
        hand, or by what influences are, would bias the estimate.
    resolve: function of all settings of a subset to those that the run is named by and its record keeps, done before
        a run is named: the content of a file takes the place of the file's name. Resolving twice is resolving once.
    replica: function of the resolved settings to a text that differs between trainings on one subset with one
        training seed; empty where settings do not tell trainings apart.
    curve: function of the resolved settings to the curve that the run is a point of, where the design removes more
        and more groups: `worst, <ranking>`, `best, <ranking>` or `random`; other words come last. Empty for all
        other designs.
    names_groups: whether the settings name groups, so that they fit one source only.

    An estimate imports no code that a record names. So of a user's design it uses `is_random`, which the record holds,
    but neither `replica`, which counts in training, nor `curve`: these it takes from `registry.DESIGNS` alone.

    A design of your own is such an object in a module that Python can import, named by its path:

    >>> def every_other(groups, first: int):
    ...     return np.arange(len(groups)) % 2 == first
    >>> design = Design(every_other)  # in my_designs.py: subset.design=my_designs.design +subset.first=1
    >>> design.draw(["a", "b", "c"], first=0).tolist()
    [True, False, True]
    """

    draw: Callable[..., NDArray[np.bool_]]
    is_random: bool = False
    resolve: Callable[[SubsetSettings], dict[str, Any]] = dict
    replica: Callable[[SubsetSettings], str] = field(default=lambda subset: "")
    curve: Callable[[SubsetSettings], str] = field(default=lambda subset: "")
    names_groups: bool = False
