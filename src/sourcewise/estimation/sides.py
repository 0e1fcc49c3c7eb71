"""The two sides of a group, which are the models that kept it and those that dropped it: their means and noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from sourcewise.estimation.arrays import ALL, Array, Index
from sourcewise.estimation.inference import Mean
from sourcewise.estimation.moments import Moments


def side_means(moments: Moments, tile: slice, groups: Any = ALL) -> tuple[Mean, Mean]:
    """Return the mean output [e, G] of the models with each group, and of those without, for a tile of columns.

    Means are NaN for a group that all models kept, or all dropped; the variance is NaN on a side of one model. A
    variance that is all rounding is 0.
    """
    kept = moments.kept[groups]
    total, square = (table[tile][:, groups] for table in (moments.kept_total, moments.kept_square))
    rest = moments.count - kept, moments.total[tile, None] - total, moments.square[tile, None] - square
    means = []
    for count, sums, squares in ((kept, total, square), rest):
        n = np.where((kept > 0) & (kept < moments.count), count, np.nan)
        mean = sums / n
        variance = squares - sums * mean
        variance[variance <= 64 * moments.precision * np.abs(squares)] = 0.0
        variance /= np.where(n > 1, n * (n - 1), np.nan)
        means.append(Mean(mean, variance, n - 1))
    return means[0], means[1]


def with_uneven_noise(moments: Moments, tile: slice, groups: Index, variance: Array) -> Array:
    """Return the variance [e, K] of influences, corrected for noise that differs between the two sides of a group.

    Sides of equal size need no correction. Others are corrected only as far as the difference of the sides' variances
    exceeds its own error (James-Stein, positive part; Efron & Morris, J. Am. Stat. Assoc. 68, 1973).

    Args:
        moments: the sums that influences came from.
        tile: e of their columns.
        groups: positions of the K groups.
        variance: float[e, K], taking noise to be the same on both sides.
    """
    smaller = np.minimum(moments.kept[groups], moments.count - moments.kept[groups])
    uneven = np.flatnonzero((moments.count - 2 * smaller > 0.1 * moments.count) & (smaller > 2))
    if not uneven.size:
        return variance
    with_group, without = side_means(moments, tile, groups[uneven])
    n1, n0 = with_group.dof + 1, without.dof + 1
    var1, var0 = with_group.variance * n1, without.variance * n0
    gap = var1 - var0
    error = 2 * (var1**2 / n1 + var0**2 / n0)
    change = gap * (n0 - n1) / (n1 * n0)
    error *= np.where(change > 0, 1, 4)  # slower to lower the variance than to raise it
    change *= np.maximum(0.0, 1 - error / np.maximum(gap**2, 1e-300))
    corrected = variance.copy()
    corrected[:, uneven] = np.maximum(variance[:, uneven] + change, variance[:, uneven] / 4)
    return corrected
