"""Subsets near the best one so far: which of them to train, what they say of single groups there, where to go from it.

Near the best subset groups add up, nearly, while effects in random halves are others. So an additive model is fitted to
the models near it, and subsets are drawn by its posterior: a group that is surely worth keeping is in all of them, one
that is in doubt in half of them. (Thompson sampling: Russo et al., A Tutorial on Thompson Sampling, 2018, section 4.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sourcewise.acting.search.candidates import Candidate, as_keep
from sourcewise.core.randomness import uniform
from sourcewise.estimation.arrays import Array, Mask

MOVED = "moves"
"""Where subsets come from that a move trains."""
MOVES = 3
"""Subsets that a fit leads to, at most."""
NEAR = 0.35
"""Share of the groups in which a subset near the best one differs from it, at most."""


@dataclass(frozen=True)
class Slopes:
    """What keeping each group adds to a model's value, near a subset: a normal posterior.

    Attributes:
        mean: float[G], in units of the value.
        root: float[G, G], the symmetric square root of the covariance.
    """

    mean: Array
    root: Array


def local_slopes(keep: Sequence[bool], masks: Mask, values: Array, prior: Array) -> Slopes:
    """Return slopes of a ridge regression with a free intercept; penalty and noise by marginal likelihood.

    Args:
        keep: the best subset so far, bool[G].
        masks: bool[m, G], subsets of models near it, its own among them.
        values: float[m], of these models.
        prior: float[G], what keeping each group is thought to add.
    """
    x = masks.astype(np.float64) - np.array(keep)
    y = values - x @ prior
    x, y = x - x.mean(0), y - y.mean()
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    projected = left.T @ y
    rest, n = max(float(y @ y - projected @ projected), 0.0), max(len(y) - 1, 1)

    def noise(penalty: float) -> float:
        return (rest + float((projected**2 / (1 + singular**2 / penalty)).sum())) / n

    def cost(penalty: float) -> float:
        return n * float(np.log(max(noise(penalty), 1e-300))) + float(np.log(1 + singular**2 / penalty).sum())

    scale = max(float((singular**2).mean()), 1e-12)
    penalty = min((scale * 10.0**power for power in np.linspace(-3, 4, 29)), key=cost)
    mean = prior + right.T @ (singular / (singular**2 + penalty) * projected)
    unseen = np.eye(len(prior)) - right.T @ right  # directions in which the models do not differ
    root = right.T @ (right / np.sqrt(singular**2 + penalty)[:, None]) + unseen / np.sqrt(penalty)
    return Slopes(mean, np.sqrt(noise(penalty)) * root)


def draws(keep: Sequence[bool], slopes: Slopes, count: int, key: str) -> list[Candidate]:
    """Return subsets that would be best near `keep` if slopes were what is drawn from their posterior.

    keep: the best subset so far, bool[G]. key: of the random numbers.
    """
    normal = stats.norm.ppf(np.clip(uniform(key, count, len(keep)), 1e-12, 1 - 1e-12))
    gains = np.where(keep, -1, 1) * (slopes.mean + normal @ slopes.root)  # of flips
    flipped = [_flipped(keep, gain, int(NEAR * len(keep))) for gain in gains]
    return [Candidate(drawn or tuple(keep), MOVED) for drawn in flipped]


def moves(keep: Sequence[bool], slopes: Slopes) -> list[Candidate]:
    """Return subsets that should be better than `keep`: with all flips that gain, the better half, a quarter."""
    gains = np.where(keep, -slopes.mean, slopes.mean)
    promising = int((gains > 0).sum())
    flipped = [_flipped(keep, gains, round(share * promising)) for share in 0.5 ** np.arange(MOVES)]
    return [Candidate(moved, MOVED) for moved in dict.fromkeys(flipped) if moved and moved != tuple(keep)]


def _flipped(keep: Sequence[bool], gains: Array, most: int) -> tuple[bool, ...] | None:
    """Return a subset with the flips that gain most, if they gain; None where nothing would be left of the source."""
    flips = np.argsort(-gains, kind="stable")[:most]
    moved = np.array(keep)
    moved[flips[gains[flips] > 0]] ^= True
    return as_keep(moved) if moved.any() else None
