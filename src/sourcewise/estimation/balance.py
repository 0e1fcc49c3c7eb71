"""Whether subset sizes are more mixed, and groups less correlated, than by independent draws."""

from __future__ import annotations

import numpy as np

from sourcewise.estimation.masks import PackedMasks
from sourcewise.estimation.moments import Moments


def mixes_sizes(masks: PackedMasks) -> bool:
    """Return whether subset sizes vary by more or less than independent draws would, though not fixed to one size.

    The difference of means then credits every group with a part of the effect of size; the regressions do not.
    """
    share = masks.kept_share()
    ratio = float(masks.sizes().var()) / max(float((share * (1 - share)).sum()), 1e-300)
    return bool(ratio > 0.1 and abs(ratio - 1) > 6 * np.sqrt(2 / len(masks)))


def crowding(moments: Moments) -> float:
    """Return how much of the other groups leaks into a difference of means, relative to independent draws.

    That is the mean square correlation of two groups' masks, times the models: 1 for independent draws, 0 for
    orthogonal ones (all rows of a Hadamard matrix), 2 for pairs of complements that are otherwise independent. It is 1
    where moments hold no Gram matrix.
    """
    varying = moments.varying
    if moments.gram is None or varying.size < 2:
        return 1.0
    gram = moments.gram_about_mean(varying)
    square = gram**2 / np.outer(np.diag(gram), np.diag(gram))
    return float((square.sum() - varying.size) / (varying.size * (varying.size - 1)) * moments.count)


def is_balanced(moments: Moments) -> bool:
    """Return whether the masks are a foldover, or less correlated than those of independent draws would be."""
    if moments.gram is None:
        return False
    return 4 * moments.pairs >= moments.count or crowding(moments) < 1 - 8 / max(moments.varying.size, 1)
