"""Moves: subsets near the best one so far, what they say of single groups there, and where to go from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sourcewise.acting.search.candidates import Candidate, as_keep
from sourcewise.core.randomness import uniform
from sourcewise.estimation.arrays import Array

MOVED = "moves"
"""Where subsets come from that a move trains."""
MOVES = 3
"""Subsets that a fit leads to, at most."""
FLIPPED = 0.12
"""Share of the groups in which a neighbour differs, on average."""


def neighbours(keep: Sequence[bool], doubt: Array, count: int, key: str) -> list[tuple[bool, ...]]:
    """Return subsets in which a few groups are in that were out, or out that were in.

    Args:
        keep: the best subset so far, bool[G].
        doubt: float[G], how likely it is that the group is on the wrong side, in any unit; more doubtful groups are
            tried more often.
        count: how many.
        key: of the random numbers.
    """
    share = np.clip(FLIPPED * len(keep) * doubt / doubt.sum(), 0, 0.5)
    flips = uniform(key, count, len(keep)) < share
    nobody = ~flips.any(1)
    flips[nobody, np.argmax(doubt)] = True
    tried = np.array(keep) ^ flips
    tried[~tried.any(1)] = keep
    return [as_keep(row) for row in tried]


def moves(keep: Sequence[bool], masks: Array, outputs: Array, prior: Array) -> list[Candidate]:
    """Return subsets that should be better than the best one so far, by an additive fit to models near it.

    Args:
        keep: the best subset so far, bool[G].
        masks: bool[m, G], subsets of models near it, its own among them.
        outputs: float[m], their mean outputs.
        prior: float[G], what keeping each group is thought to add, in units of the output.
    """
    x = masks.astype(np.float64) - np.array(keep)
    slopes = prior + _ridge(x, outputs - x @ prior)
    gains = np.where(keep, -slopes, slopes)  # of a flip
    order = np.argsort(-gains, kind="stable")
    promising = int((gains > 0).sum())
    candidates: dict[tuple[bool, ...], Candidate] = {}
    for share in 0.5 ** np.arange(MOVES):
        flips = order[: round(share * promising)]
        if len(flips):
            moved = np.array(keep)
            moved[flips] ^= True
            if moved.any():
                candidates.setdefault(as_keep(moved), Candidate(as_keep(moved), MOVED))
    return list(candidates.values())


def _ridge(x: Array, y: Array) -> Array:
    """Return slopes float[G] of a ridge regression with a free intercept, its penalty by marginal likelihood."""
    x, y = x - x.mean(0), y - y.mean()
    left, values, right = np.linalg.svd(x, full_matrices=False)
    projected = left.T @ y
    rest, n = float(y @ y - projected @ projected), len(y) - 1

    def cost(penalty: float) -> float:
        spread = 1 + values**2 / penalty  # variance of the projections, in units of the noise
        noise = (rest + float((projected**2 / spread).sum())) / n
        return n * float(np.log(max(noise, 1e-300))) + float(np.log(spread).sum())

    scale = max(float((values**2).mean()), 1e-12)
    penalty = min((scale * 10.0**power for power in np.linspace(-3, 4, 29)), key=cost)
    return np.asarray(right.T @ (values / (values**2 + penalty) * projected))
