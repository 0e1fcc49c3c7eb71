"""Which models bring most at one cost: those of a proxy, those of the recipe, or some of both.

Each way to spend a budget is scored by what it is for: the models that it buys predict subsets of the recipe that they
have not seen. Nothing is extrapolated. Where a study has more models than a way buys, a second part of them is scored
too, and the mean taken.

Two things make these scores uncertain: which subsets of the recipe there are to predict, and which models of the proxy
or the recipe were trained. Half-samples cover both: the subsets of one study at a time are dealt into two halves, each
is fitted and scored, and a quarter of the squared difference estimates the variance that comes from this study
(McCarthy, Review of the International Statistical Institute 37, 1969); the mean is taken over several deals. All ways
predict the same subsets, so differences between them are paired. A jackknife that leaves out little at a time would
multiply what fits differ by for no reason but their tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sourcewise.estimation.arrays import Array, Index
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.hierarchical import HIERARCHICAL
from sourcewise.estimation.scoring import lds

DEALS = 8
"""How often a study is dealt into halves."""
LEAST_BOUGHT = 8
"""Units of a kind whose half is enough for a fit."""
PARTS = 2
"""Most parts of a study whose scores are averaged."""

Half = tuple[str, int, int]
"""Of which study (a proxy's name; empty for the recipe) which half of which deal is taken."""
ALL: Half = ("", 0, -1)


@dataclass(frozen=True)
class ProxySample:
    """The subsets of a proxy that were trained.

    Attributes:
        units: how many there are.
        effects: returns the effects on the recipe's outputs, float[E, G], by some of the units alone.
    """

    units: int
    effects: Callable[[Index], Array]


@dataclass(frozen=True)
class Purchase:
    """What a budget buys: units of the recipe, units of one proxy, or both.

    Attributes:
        recipe: number of units of the recipe.
        proxy: name of the proxy; empty without one.
        proxy_units: number of its units.
    """

    recipe: int = 0
    proxy: str = ""
    proxy_units: int = 0


def compare(purchases: Sequence[Purchase], recipe: Subsets, proxies: Mapping[str, ProxySample]) -> tuple[Array, Array]:
    """Return the LDS of each purchase on subsets of the recipe that it does not hold, and where their errors come from.

    Effects of a proxy predict alone, or are a prior of the units of the recipe, which are fitted by `hierarchical`.

    Args:
        purchases: LEAST_BOUGHT units or more of each kind that they hold, and of the recipe at most half of all.
        recipe: all its subsets, with a hierarchy.
        proxies: by name.

    Returns:
        Scores float[P], and distances float[D, P]: the variance of a weighted sum of scores is the sum of squares of
        the same sum of distances. Further purchases add columns.
    """

    @cache
    def tables(name: str, size: int, half: Half) -> list[Array]:
        return [proxies[name].effects(part) for part in _parts(proxies[name].units, size, half)]

    def score(purchase: Purchase, half: Half = ALL) -> float:
        of_recipe, of_proxy = (half if half[0] == name else ALL for name in ("", purchase.proxy))
        known = tables(purchase.proxy, purchase.proxy_units, of_proxy) if purchase.proxy else []
        units = np.flatnonzero(_members(recipe.units, of_recipe))
        if not purchase.recipe:
            held_out = recipe.take(units)
            return float(np.mean([_score(held_out.masks.unpack() @ table.T, held_out) for table in known]))
        scores = []
        for number, part in enumerate(_parts(recipe.units, purchase.recipe, of_recipe)):
            fitted, held_out = recipe.take(part), recipe.take(np.setdiff1d(units, part))
            if known and fitted.hierarchy is not None:
                priors = {**fitted.hierarchy.priors, "proxy": known[number % len(known)]}
                fitted = replace(fitted, hierarchy=replace(fitted.hierarchy, priors=priors))
            estimate = HIERARCHICAL.estimate_subsets(fitted, second_pass=False)
            scores.append(_score(estimate.predict(held_out.masks), held_out))
        return float(np.mean(scores))

    def distance(purchase: Purchase, name: str, deal: int) -> float:
        if name not in ("", purchase.proxy):
            return 0.0
        return (score(purchase, (name, deal, 0)) - score(purchase, (name, deal, 1))) / 2

    rows = [[distance(each, name, deal) for each in purchases] for name in ("", *proxies) for deal in range(DEALS)]
    return np.array([score(purchase) for purchase in purchases]), np.array(rows) / np.sqrt(DEALS)


def _score(predicted: Array, subsets: Subsets) -> float:
    """Return the LDS of predictions that owe nothing to these subsets; 0 where they are constant."""
    return float(np.nan_to_num(lds(predicted, subsets, np.zeros(len(subsets.masks), np.int64))))


def _order(units: int) -> Index:
    return np.random.default_rng(0).permutation(units)


def _members(units: int, half: Half) -> NDArray[np.bool_]:
    """Return which units are in a half. Of every two that follow each other in the order of parts, one is."""
    _, deal, side = half
    if side < 0:
        return np.ones(units, bool)
    first = np.random.default_rng(deal).integers(2, size=-(-units // 2))
    members = np.empty(units, bool)
    members[_order(units)] = np.column_stack([first == side, first != side]).ravel()[:units]
    return members


def _parts(units: int, size: int, half: Half) -> list[Index]:
    """Return disjoint parts of a size, as far as their units are in a half."""
    order, members = _order(units), _members(units, half)
    parts = [order[part * size : (part + 1) * size] for part in range(min(units // size, PARTS))]
    return [part[members[part]] for part in parts]
