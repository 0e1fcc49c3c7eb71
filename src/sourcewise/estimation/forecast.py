"""How many more models would make influences reliable."""

from __future__ import annotations

import numpy as np

from sourcewise.estimation.balance import crowding, is_balanced
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.contract import Estimator

GOAL = 0.8
"""Split-half reliability that the forecast aims at."""


def forecast(reliability: float, subsets: Subsets, estimator: Estimator) -> int | None:
    """Return how many subsets to add until two halves agree with correlation GOAL; None if that cannot be told.

    `reliability` is that of the estimator's influences from halves of these subsets. Groups leak into each other less
    than at random if the design balances them.
    """
    half = np.random.default_rng(0).permutation(subsets.units)[: subsets.units // 2]
    moments = subsets.take(half, slice(1)).moments()
    crowd = 2.0 if moments.pairs else 1.0
    fading = max(crowd - crowding(moments), 0.0) / moments.count if is_balanced(moments) else 0.0
    groups = subsets.masks.groups if estimator.joint or fading else 0
    return more_models(reliability, len(subsets.masks), GOAL, groups, estimator.joint, crowd, fading)


def more_models(
    reliability: float,
    models: int,
    goal: float = GOAL,
    groups: int = 0,
    joint: bool = False,
    crowd: float = 1.0,
    fading: float = 0.0,
) -> int | None:
    """Return how many models to add until two halves agree with correlation `goal`; 0 if they do.

    `reliability` is the correlation r of two halves of n of the `models` each. In units of the effects' variance, noise
    makes an error of noise / n in each half, and the other `groups` leak groups (crowd - x) / n into each, where x = 0
    for independent draws. Then r = 1 / (1 + noise / n + leaks), and without groups this is Spearman-Brown's formula. In
    an orthogonal design, x = n fading, at most crowd / 2, and what leaks into one half is missing in the other, which
    takes groups x / n from the covariance of the halves. A `joint` estimator (ridge) knows the other groups the better
    the more models there are: leaks are smaller by the factor 1 - r (state evolution: Donoho, Maleki & Montanari, PNAS
    106, 2009).

    The result is None if the reliability is not positive: then nobody can tell.

    >>> more_models(0.5, 100)
    300
    """
    if not reliability > 0.01:
        return None
    if reliability >= goal:
        return 0
    before, after = (groups * (1 - r if joint else 1.0) for r in (reliability, goal))
    half = models / 2
    shared = min(half * fading, crowd / 2)
    noise = max((half - before * shared) / reliability - half - before * (crowd - shared), 0.0)
    crowd = 2.0 if fading else crowd  # complements follow
    for _ in range(50):
        shared = min(half * fading, crowd / 2)
        half = (goal * (noise + after * (crowd - shared)) + after * shared) / (1 - goal)
    return max(int(np.ceil(2 * half - models - 1e-6)), 1)
