"""How far influences would come out again from other models, and the LDS that the noise of training allows.

What is split is whole units: a subset with all its seeds, and its complement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from sourcewise.estimation.arrays import Array
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.contract import Estimator

GOAL = 0.8
"""Split-half reliability that the forecast of the models needed aims at."""
SPLITS = 4
"""Random splits that a reliability is averaged over."""


@dataclass(frozen=True)
class Ceiling:
    """The LDS that a perfect predictor would reach, with the ends of its 95% interval, which may be 0."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Reliability:
    """Correlation of the influences from one random half of the models with those from the other; NaN if unknown.

    Attributes:
        pooled: over the whole table, each column about its own mean: signal variance over signal plus noise variance,
            so that the Spearman-Brown formula holds.
        error: standard error of `pooled`, by a jackknife over groups.
        median: median over the columns of the correlation of each.
        without_largest: pooled, without the group that has the largest influences.
    """

    pooled: float
    error: float
    median: float
    without_largest: float


def noise_ceiling(subsets: Subsets) -> Ceiling | None:
    """Return the LDS that a perfect predictor would reach; None unless some subsets were trained with several seeds.

    A column's noise is the variance between seeds of one subset over that between the means of subsets, which holds it
    too. The mean over columns, taken from one, is the share of variance that can be predicted; the ceiling of a
    correlation is its square root. Where columns differ much, it lies above the mean of their own ceilings.

    The ratio of two variances from few subsets is too large on average, as Fisher's F is, and that is taken out. The
    interval is Student's t on the logarithm of the mean ratio, by a jackknife over units; where a single subset has
    several seeds it is 0 to 1.
    """
    if subsets.squares is None:
        return None
    outputs = subsets.outputs.astype(np.float64)
    outputs -= outputs.mean(0)
    varies = (outputs**2).sum(0) > 0
    if not varies.any() or subsets.units < 4:
        return None
    sums = [np.ones(len(outputs)), subsets.runs - 1, 1 / subsets.runs]
    columns = np.hstack([np.array(sums).T, outputs[:, varies], outputs[:, varies] ** 2, subsets.squares[:, varies]])
    by_unit = np.zeros((subsets.units, columns.shape[1]))
    np.add.at(by_unit, subsets.unit, columns)
    totals = by_unit.sum(0)
    ratio = _noise_share(totals[None])[0]
    if ratio <= 0:
        return Ceiling(1.0, 1.0, 1.0)
    logs = np.log(np.maximum(_noise_share(totals - by_unit), 1e-300))
    if not np.isfinite(logs).all():  # one unit alone shows the noise, or all of what varies in a column
        return Ceiling(float(np.sqrt(max(1 - ratio, 0.0))), 0.0, 1.0)
    error = np.sqrt((len(logs) - 1) * logs.var()) * stats.t.ppf(0.975, len(logs) - 1)
    return Ceiling(*(float(np.sqrt(max(1 - ratio * np.exp(shift), 0.0))) for shift in (0.0, error, -error)))


def _noise_share(sums: Array) -> Array:
    """Return the mean over columns of the share of noise in the variance of subsets, float[n].

    sums: float[n, 3 + 3 columns] of rows, free seeds, inverse runs; of outputs, of their squares, and within subsets.
    """
    count, free, inverse = (sums[:, [place]] for place in range(3))
    total, square, within = np.split(sums[:, 3:], 3, axis=1)
    between = (square - total**2 / count) / (count - 1)
    excess = (count - 1) / np.maximum(count - 3, 1)  # of the mean of F over one
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((within / free * inverse / count / between / excess).mean(1))


def split_half(subsets: Subsets, estimator: Estimator, seed: int = 0) -> Reliability:
    """Return how well the influences from random halves of the models agree, averaged over `SPLITS` splits.

    NaN if fewer than two groups compare; without the largest group, fewer than three.
    """
    rng, splits = np.random.default_rng(seed), []
    for _ in range(SPLITS):
        halves = np.split(rng.permutation(subsets.units), [subsets.units // 2])
        estimates = [estimator.estimate_subsets(subsets.take(half), second_pass=False) for half in halves]
        tables = np.array([estimate.influence for estimate in estimates])
        known = ~np.isnan(tables).any((0, 1))
        if known.sum() >= 2:
            splits.append(_agreement(tables[:, :, known]))
    if not splits:
        return Reliability(*[float("nan")] * 4)
    pooled, error, median, without_largest = np.array(splits).mean(0)
    return Reliability(float(pooled), float(error), float(median), float(without_largest))


def _agreement(tables: Array) -> tuple[float, float, float, float]:
    """Return the fields of a `Reliability` from the influences of two halves, float[2, E, K]."""
    count = tables.shape[2]
    first, second = tables - tables.mean(2, keepdims=True)
    products = np.array([first * second, first**2, second**2])
    each = _correlation(*products.sum(2))
    moments, total = products.sum(1), products.sum((1, 2))  # of groups [3, K], and of all
    # Without a group, each column is about the mean of the others: that takes K / (K - 1) of its share away.
    without = _correlation(*(total[:, None] - moments * count / max(count - 1, 1)))
    largest = int((moments[1] + moments[2]).argmax())
    error = np.sqrt((count - 1) * without.var())
    return (
        float(_correlation(*total)),
        float(error),
        float(np.median(each)),
        float(without[largest] if count > 2 else np.nan),
    )


def _correlation(product: Array, square: Array, other_square: Array) -> Array:
    """Return the correlation from sums of products and squares about the mean; 0 where one does not vary."""
    scale = np.sqrt(np.maximum(square, 0) * np.maximum(other_square, 0))
    return np.asarray(np.where(scale > 0, product / np.where(scale > 0, scale, 1), 0.0))


@dataclass(frozen=True)
class Forecast:
    """How many subsets to add until two halves agree with correlation GOAL, with the ends of its 95% interval.

    None where that cannot be told; the upper end is None where it has no bound.
    """

    value: int | None
    low: int | None
    high: int | None


def forecast(reliability: Reliability, subsets: Subsets, estimator: Estimator) -> Forecast:
    """Return how many subsets to add until two halves agree with correlation GOAL.

    `reliability` is that of the estimator's influences from halves of these subsets. Groups leak into each other less
    than at random if the design balances them.
    """
    moments = subsets.take(np.arange(subsets.units), slice(1)).moments(squares=False)
    crowd = 2.0 if moments.pairs else 1.0
    fading = max(crowd - moments.crowding, 0.0) / moments.count if moments.balanced else 0.0
    groups = subsets.masks.groups if estimator.joint or fading else 0
    half_width = 1.96 * reliability.error
    ends = (reliability.pooled + shift for shift in (0.0, half_width, -half_width))
    return Forecast(*(more_models(r, len(subsets.masks), groups, estimator.joint, crowd, fading) for r in ends))


def more_models(
    reliability: float,
    models: int,
    groups: int = 0,
    joint: bool = False,
    crowd: float = 1.0,
    fading: float = 0.0,
) -> int | None:
    """Return how many models to add until two halves agree with correlation GOAL; 0 if they do.

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
    if reliability >= GOAL:
        return 0
    before, after = (groups * (1 - r if joint else 1.0) for r in (reliability, GOAL))
    half = models / 2
    shared = min(half * fading, crowd / 2)
    noise = max((half - before * shared) / reliability - half - before * (crowd - shared), 0.0)
    crowd = 2.0 if fading else crowd  # complements follow
    for _ in range(50):
        shared = min(half * fading, crowd / 2)
        half = (GOAL * (noise + after * (crowd - shared)) + after * shared) / (1 - GOAL)
    return max(int(np.ceil(2 * half - models - 1e-6)), 1)
