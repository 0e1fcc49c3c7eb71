"""P-values, q-values, intervals of influences and of means. Arrays of one shape; NaN stays NaN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from sourcewise.estimation.arrays import Array, Index, Mask

LEAST_SIDE = 5
"""Subsets with a group, and subsets without it, below which an influence is not tested."""


def pvalues(influence: Array, stderr: Array, dof: Array, least: Array | float = 0.0) -> Array:
    """Return the two-sided p-values of Student's t for "this influence is zero", none below `least`.

    Where the standard error is zero (outputs that vary on neither side), p is 1 if the influence is zero too, and
    `least` if it is not. Where `least` is NaN, so is p.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(influence) / stderr
    t = np.where((stderr == 0) & (influence == 0), 0.0, t)
    p = 2 * special.stdtr(dof, -t)
    p = np.where(np.isnan(t) | np.isnan(dof), np.nan, np.where(np.isposinf(t), 0.0, p))
    return np.maximum(p, least)


def least_pvalues(kept: Array | Index, subsets: int, pairs: int = 0) -> Array:
    """Return the smallest p-value that any test of a group could have, float[G]; NaN for a side below LEAST_SIDE.

    If a group does nothing, all choices of the subsets that keep it are equally likely, as in a permutation test
    (Fisher, The Design of Experiments, 1935). The most extreme of them has p = 1 / choices, or twice that where both
    sides are of equal size, since its mirror image is as extreme.

    Args:
        kept: subsets that keep each group, [G].
        subsets: how many there are.
        pairs: pairs of complements among them. Of a pair, one keeps the group.

    >>> least_pvalues(np.array([6, 5, 4]), 12).round(4).tolist()
    [0.0022, 0.0013, nan]
    """
    kept = np.asarray(kept, dtype=np.float64)
    single, kept_single = subsets - 2 * pairs, kept - pairs
    choices = special.binom(single, kept_single)
    p = np.where(2 * kept_single == single, 2.0, 1.0) * np.exp2(-float(pairs)) / choices
    return np.where(np.minimum(kept, subsets - kept) < LEAST_SIDE, np.nan, np.minimum(p, 1.0))


def qvalues(p: Array) -> Array:
    """Return the Benjamini-Hochberg q-values over the whole table (J. R. Stat. Soc. B 57, 1995).

    Calling all entries with q <= 0.05 significant keeps the expected share of false ones among them at 5%. NaN entries
    are no tests: they are left out, and stay NaN.

    >>> qvalues(np.array([[0.01, 0.04], [np.nan, 0.03]])).round(3).tolist()
    [[0.03, 0.04], [nan, 0.04]]
    """
    q, known = np.full(np.shape(p), np.nan), ~np.isnan(p)
    tests = p[known]
    order = np.argsort(tests)
    scaled, factor = tests[order], np.arange(1.0, len(tests) + 1)
    scaled *= np.divide(len(tests), factor, out=factor)  # in place, since tables may be large
    np.minimum.accumulate(scaled[::-1], out=scaled[::-1])
    tests[order] = np.minimum(scaled, 1, out=scaled)
    q[known] = tests
    return q


def qvalues_in_place(p: NDArray[np.float32], rows: Sequence[slice]) -> None:
    """Replace the p-values of a table too large to sort by q-values, in two passes over its `rows`.

    Ranks come from a histogram by the leading bits of the numbers: q-values are those of `qvalues`, or larger by a
    share of 1/2048 at most.
    """
    dropped_bits = 12  # of the 23 bits of a fraction
    counts = np.zeros((int(np.ones(1, np.float32).view(np.uint32)[0]) >> dropped_bits) + 1, np.int64)
    for part in rows:
        counts += np.bincount(p[part][~np.isnan(p[part])].view(np.uint32) >> dropped_bits, minlength=counts.size)
    bits = (((np.arange(counts.size) + 1) << dropped_bits) - 1).astype(np.uint32)
    largest = bits.view(np.float32).astype(np.float64)  # of each bin
    scaled = largest * counts.sum() / np.maximum(np.cumsum(counts), 1)
    q = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    for part in rows:
        known = ~np.isnan(p[part])
        p[part][known] = q[p[part][known].view(np.uint32) >> dropped_bits]


def intervals(influence: Array, stderr: Array, dof: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Return the lower and upper ends of Student's t intervals, each of its own coverage `level`."""
    half = special.stdtrit(dof, 0.5 + level / 2) * stderr
    return influence - half, influence + half


@dataclass(frozen=True)
class Mean:
    """A mean, or a difference of means, with its variance and degrees of freedom: numbers, or arrays of one shape.

    >>> gain = Mean.from_runs([0.8, 0.9, 0.85]) - Mean.from_runs([0.6, 0.7])
    >>> round(float(gain.value), 3)
    0.2
    """

    value: Array
    variance: Array
    dof: Array

    @classmethod
    def from_runs(cls, values: Sequence[float] | Array) -> Mean:
        """Return the mean of independent runs [n], or [n, columns]. With one run the variance is not known: NaN."""
        table = np.asarray(values, dtype=np.float64)
        variance = table.var(0, ddof=1) / len(table) if len(table) > 1 else np.nan
        return cls(np.asarray(table.mean(0)), np.asarray(variance), np.asarray(len(table) - 1.0))

    def __sub__(self, right: Mean) -> Mean:
        """Return the difference from an independent mean.

        Its degrees of freedom are those of Welch and Satterthwaite (Biometrika 34, 1947).
        """
        variance = self.variance + right.variance
        with np.errstate(divide="ignore", invalid="ignore"):
            dof = variance**2 / (self.variance**2 / self.dof + right.variance**2 / right.dof)
        dof = np.where(variance == 0, self.dof + right.dof, dof)
        return Mean(self.value - right.value, variance, dof)

    def scaled(self, factor: Array) -> Mean:
        """Return the mean times a factor that is known exactly."""
        return Mean(self.value * factor, self.variance * factor**2, np.broadcast_to(self.dof, np.shape(factor)))

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Return the lower and upper end of Student's t interval."""
        return intervals(self.value, np.sqrt(self.variance), self.dof, level)


def uneven_sides(kept: Array, dropped: Array) -> Mask:
    """Return where so many more models kept a group than dropped it, or the reverse, that their noise may differ.

    Sides of nearly equal size need no correction; one of two models or fewer allows none.
    """
    smaller = np.minimum(kept, dropped)
    return np.asarray((kept + dropped - 2 * smaller > 0.1 * (kept + dropped)) & (smaller > 2))


def uneven_noise_ratio(ratio: Array, error: Array) -> Array:
    """Return how many times the variance for even noise an influence has, shrunken from what the residuals say.

    The ratio that the residuals say is believed only as far as its distance from 1 exceeds its own error (James-Stein,
    positive part; Efron & Morris, J. Am. Stat. Assoc. 68, 1973), and slower if it lowers the variance. It is never less
    than a quarter.

    Args:
        ratio: variance that allows for noise of any size in each model (HC2; MacKinnon & White, J. Econometrics 29,
            1985) over that of even noise.
        error: variance of the ratio if noise is even.
    """
    gap = ratio - 1
    error = np.where(gap > 0, error, 4 * error)
    return np.maximum(1 + gap * np.maximum(0.0, 1 - error / np.maximum(gap**2, 1e-300)), 0.25)


def pooled_variance(left: Mean, right: Mean) -> Array:
    """Return the variance of the difference of two means whose runs have one variance, estimated from both sides."""
    squares = sum(side.variance * (side.dof + 1) * side.dof for side in (left, right))
    each = squares / (left.dof + right.dof)
    return each * (1 / (left.dof + 1) + 1 / (right.dof + 1))
