"""P-values, q-values, intervals of influences and of means. Arrays of one shape; NaN stays NaN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from sourcewise.estimation.moments import Array


def pvalues(influence: Array, stderr: Array, dof: Array) -> Array:
    """Two-sided p-values of Student's t for "this influence is zero".

    Where the standard error is zero (outputs that vary on neither side), p is 1 if the influence is zero too
    and 0 if it is not.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(influence) / stderr
    t = np.where((stderr == 0) & (influence == 0), 0.0, t)
    p = 2 * special.stdtr(dof, -t)
    return np.where(np.isnan(t) | np.isnan(dof), np.nan, np.where(np.isposinf(t), 0.0, p))


def qvalues(p: Array) -> Array:
    """Benjamini-Hochberg q-values over the whole table (J. R. Stat. Soc. B 57, 1995).

    Calling all entries with q <= 0.05 significant keeps the expected share of false ones among them at 5%.
    NaN entries are no tests: they are left out, and stay NaN.
    """
    q, known = np.full(np.shape(p), np.nan), ~np.isnan(p)
    if known.any():
        q[known] = stats.false_discovery_control(p[known])
    return q


def qvalues_in_place(p: NDArray[np.float32], rows: Sequence[slice]) -> None:
    """Put q-values in the place of the p-values of a table too large to sort, in two passes over its `rows`.

    Ranks come from a histogram by the leading bits of the numbers: q-values are those of `qvalues`, or larger by a
    share of 1/2048 at most.
    """
    drop = 12  # of the 23 bits of a fraction
    counts = np.zeros((int(np.ones(1, np.float32).view(np.uint32)[0]) >> drop) + 1, np.int64)
    for part in rows:
        counts += np.bincount(p[part][~np.isnan(p[part])].view(np.uint32) >> drop, minlength=counts.size)
    largest = (((np.arange(counts.size) + 1) << drop) - 1).astype(np.uint32).view(np.float32).astype(np.float64)
    scaled = largest * counts.sum() / np.maximum(np.cumsum(counts), 1)
    q = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    for part in rows:
        known = ~np.isnan(p[part])
        p[part][known] = q[p[part][known].view(np.uint32) >> drop]


def intervals(influence: Array, stderr: Array, dof: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Lower and upper ends of the confidence intervals of Student's t, each of its own coverage `level`."""
    half = special.stdtrit(dof, 0.5 + level / 2) * stderr
    return influence - half, influence + half


@dataclass(frozen=True)
class Mean:
    """A mean, or a difference of means, with its variance and degrees of freedom: numbers, or arrays of one shape."""

    value: Array
    variance: Array
    dof: Array

    @classmethod
    def of(cls, values: Sequence[float] | Array) -> Mean:
        """Of independent runs [n], or [n, columns]. Of one run alone the variance is not known: NaN."""
        table = np.asarray(values, dtype=np.float64)
        variance = table.var(0, ddof=1) / len(table) if len(table) > 1 else np.nan
        return cls(np.asarray(table.mean(0)), np.asarray(variance), np.asarray(len(table) - 1.0))

    def __sub__(self, other: Mean) -> Mean:
        """Of independent means, with the degrees of freedom of Welch and Satterthwaite (Biometrika 34, 1947)."""
        both = self.variance + other.variance
        with np.errstate(divide="ignore", invalid="ignore"):
            dof = both**2 / (self.variance**2 / self.dof + other.variance**2 / other.dof)
        return Mean(self.value - other.value, both, np.where(both == 0, self.dof + other.dof, dof))

    def times(self, factor: Array) -> Mean:
        """Each of them by a factor that is known exactly."""
        return Mean(self.value * factor, self.variance * factor**2, np.broadcast_to(self.dof, np.shape(factor)))

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Lower and upper end of Student's t interval."""
        return intervals(self.value, np.sqrt(self.variance), self.dof, level)
