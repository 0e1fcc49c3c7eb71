"""Several targets: what removing a group does to all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sourcewise.estimation.arrays import Array
from sourcewise.study.effects import GroupEffect


@dataclass(frozen=True)
class Tradeoff:
    """What removing one group does to several targets.

    Attributes:
        group: its name.
        effects: its overall effect, by target.
        removal: what is significant: `helps all`, `hurts all`, `trades` one target for another, or nothing.
        on_front: whether it is on the Pareto front for removal, by the estimates.
    """

    group: str
    effects: Mapping[str, GroupEffect]
    removal: str
    on_front: bool


def find_tradeoffs(effects: Mapping[str, Sequence[GroupEffect]], fdr: float) -> tuple[Tradeoff, ...]:
    """Put the overall effects of each group on several targets side by side, the most harmful groups first.

    Groups that some target does not know are left out. With one target there are none.

    Args:
        effects: overall effects of groups, by target.
        fdr: q-value up to which an effect counts as significant.
    """
    tables = {target: {effect.group: effect for effect in rows} for target, rows in effects.items()}
    names = [group for group in next(iter(tables.values())) if all(group in table for table in tables.values())]
    if len(tables) < 2 or not names:
        return ()
    value, q = (
        np.array([[getattr(table[group], key) for group in names] for table in tables.values()], dtype=float)
        for key in ("influence", "qvalue")
    )
    sign, front = np.where(q <= fdr, np.sign(value), 0), pareto(value)
    cases = [(sign < 0).all(0), (sign > 0).all(0), (sign < 0).any(0) & (sign > 0).any(0)]
    removal = np.select(cases, ["helps all", "hurts all", "trades"], "")
    return tuple(
        Tradeoff(
            group=names[i],
            effects={target: table[names[i]] for target, table in tables.items()},
            removal=str(removal[i]),
            on_front=bool(front[i]),
        )
        for i in np.argsort(value.mean(0), kind="stable").tolist()
    )


def pareto(influences: Array) -> NDArray[np.bool_]:
    """Return the Pareto front of groups for removal, bool[G], from influences float[targets, G].

    A group dominates another if it hurts every target at least as much, and one of them more. On the front are the
    groups that no group dominates.
    """
    candidate, rival = influences[:, None, :], influences[:, :, None]
    front: NDArray[np.bool_] = ~np.any((rival <= candidate).all(0) & (rival < candidate).any(0), axis=0)
    return front
