"""Influences and their standard errors from `Moments`.

The influence of a group on an output is the effect of keeping the group, in units of the output: positive
means that keeping it helps. All results have the layout [examples, groups]. `ESTIMATORS` lists the estimators
by name; a new one is a function `Moments -> Estimate` with a line there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sourcewise.errors import SourcewiseError
from sourcewise.moments import TILE, Array, Moments


@dataclass(frozen=True)
class Estimate:
    """Influences with their uncertainty, all float[E, G]; NaN where the data cannot tell.

    Attributes:
        influence: effect of keeping the group, in units of the output; positive = keeping it helps.
        stderr: its standard error, same unit.
        dof: degrees of freedom of the standard error, for Student's t.
    """

    influence: Array
    stderr: Array
    dof: Array


def difference(moments: Moments) -> Estimate:
    """Mean output of the models with a group minus that of the models without (arXiv 2207.05739, section 3).

    The standard error is Welch's, with the Welch-Satterthwaite degrees of freedom (Biometrika 34, 1947):
    neither side's variance nor size has to equal the other's. Where all subsets have one size, keeping one
    group means dropping another: the difference is then relative to the mean of the other groups.

    A group that every model kept, or every model dropped, has NaN throughout. With fewer than two models on a
    side, the influence is given but its stderr and dof are NaN.

    Raises:
        SourcewiseError: fewer than two models.
    """
    _enough(moments, 2)
    shape = (moments.columns, moments.groups)
    influence, stderr, dof = np.empty(shape), np.empty(shape), np.empty(shape)
    n1 = np.where((moments.kept > 0) & (moments.kept < moments.count), moments.kept, np.nan)
    n0 = moments.count - n1
    f1, f0 = np.where(n1 > 1, n1 - 1, np.nan), np.where(n0 > 1, n0 - 1, np.nan)
    for left in range(0, moments.columns, TILE):
        tile = slice(left, left + TILE)
        mean1, var1 = _side(n1, f1, moments.kept_total[tile], moments.kept_square[tile], moments.precision)
        rest_total = moments.total[tile, None] - moments.kept_total[tile]
        rest_square = moments.square[tile, None] - moments.kept_square[tile]
        mean0, var0 = _side(n0, f0, rest_total, rest_square, moments.precision)
        influence[tile] = mean1 - mean0
        var1 /= n1
        var0 /= n0
        both = var1 + var0
        stderr[tile] = np.sqrt(both)
        with np.errstate(invalid="ignore"):  # 0/0 where both sides are constant
            share = var1 / both
        share = np.where(both == 0, 0.5, share)
        dof[tile] = 1 / (share**2 / f1 + (1 - share) ** 2 / f0)
    return Estimate(influence, stderr, dof)


def _side(n: Array, free: Array, total: Array, square: Array, precision: float) -> tuple[Array, Array]:
    """Mean and unbiased variance [E, G] of one side of each group; a variance that is all rounding is 0."""
    mean = total / n
    spread = square - total * mean
    spread[spread <= 64 * precision * np.abs(square)] = 0.0
    return mean, spread / free


def _enough(moments: Moments, least: int) -> None:
    if moments.count < least:
        raise SourcewiseError(
            f"{moments.count} record{'s' if moments.count != 1 else ''}: an estimate needs at least {least}"
        )


ESTIMATORS: dict[str, Callable[[Moments], Estimate]] = {"difference": difference}
"""Estimators by the name that configs and results use."""
