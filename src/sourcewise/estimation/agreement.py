"""How far influences of the same groups agree, apart from noise: of two studies, or on two outputs of one study."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from sourcewise.estimation.arrays import Array, Mask
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.contract import Estimator
from sourcewise.estimation.inference import pvalues, qvalues
from sourcewise.estimation.reliability import SPLITS

LEAST_GROUPS = 5
"""Groups in common below which nothing is said."""
SHARED = 3.0
"""Standard errors by which a correlation must be above what noise allows, to say that studies share their noise."""
WIDEST = 1.0
"""Width of an interval of a correlation above which the data cannot tell."""

_CORRELATIONS = np.arange(-50, 51) / 50
_RELIABILITIES = np.linspace(0.01, 0.99, 50)


@dataclass(frozen=True)
class Table:
    """Influences of one study.

    Attributes:
        influence: float[rows, groups], in any unit; the zero of a row does not matter. NaN where it is not known.
        stderr: their standard errors.
        models: how many models they rest on.
    """

    influence: Array
    stderr: Array
    models: int


@dataclass(frozen=True)
class Agreement:
    """How two tables agree; NaN with fewer than `LEAST_GROUPS` groups.

    Attributes:
        groups: how many have a known influence in both.
        correlation: of the influences as estimated, over groups, within rows.
        ceiling: the correlation that noise would leave of perfect agreement: the root of both reliabilities.
        corrected: their quotient, the correlation of the true influences, no further out than the interval; NaN where
            the correlation is far above the ceiling, so that both must share their noise.
        low, high: ends of its 95% interval, that of highest density.
    """

    groups: int
    correlation: float
    ceiling: float
    corrected: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether the interval is narrow enough to say anything."""
        return self.high - self.low <= WIDEST


def agreement(first: Table, second: Table) -> Agreement:
    """Return how two tables of the same rows and groups agree, from independent models.

    Noise lowers a correlation by the root of both reliabilities (attenuation; Spearman, Am. J. Psychol. 15, 1904),
    where a reliability is 1 - mean squared standard error / variance over groups. The interval is that of a posterior:
    true influences are normal, noise has the variance that standard errors say, and correlation and both reliabilities
    are uniform a priori. Rows that are alike count as fewer (Satterthwaite's degrees of freedom).
    """
    known = _known(first) & _known(second)
    groups = int(known.sum())
    if groups < LEAST_GROUPS:
        return Agreement(groups, *[float("nan")] * 5)
    a, b = (table.influence[:, known] - table.influence[:, known].mean(1, keepdims=True) for table in (first, second))
    noise = [float(np.mean(table.stderr[:, known] ** 2)) for table in (first, second)]
    moments = np.array([[np.sum(x * y) for y in (a, b)] for x in (a, b)]) / (len(a) * (groups - 1))
    spread = np.sqrt(np.diag(moments))
    if not (spread > 0).all():
        return Agreement(groups, *[float("nan")] * 5)
    dof = (groups - 1) * min(_rows(a), _rows(b))
    reliabilities = np.maximum(1 - np.array(noise) / spread**2, 0)
    probability = _posterior(moments, noise, dof)
    likely = np.sort(probability)[::-1]
    least = likely[np.searchsorted(np.cumsum(likely), 0.95)]
    inside = _CORRELATIONS[probability >= least]
    correlation, ceiling = float(moments[0, 1] / spread.prod()), float(np.sqrt(reliabilities.prod()))
    quotient = correlation / ceiling if ceiling else 0.0
    corrected = float(np.clip(quotient, inside[0], inside[-1]))
    beyond = np.arctanh(min(correlation, 0.999)) - np.arctanh(min(ceiling, 0.999))
    if beyond > SHARED / np.sqrt(max(dof - 3, 1)):  # noise is in both: such as of the same kept models
        return Agreement(groups, correlation, ceiling, float("nan"), -1.0, 1.0)
    return Agreement(groups, correlation, ceiling, corrected, float(inside[0]), float(inside[-1]))


def shared_agreement(subsets: Subsets, columns: int, estimator: Estimator, seed: int = 0) -> Agreement:
    """Return how influences on two kinds of outputs of the same models agree, as after two transfers.

    Both rest on the same source models, so they share noise. What is compared is therefore the influences on one kind
    from a random half of the models with those on the other kind from the other half, against what the halves of each
    kind say of themselves: four splits. The interval is that of a jackknife over groups.

    subsets: with the columns of both side by side, of which the first `columns` are those of one.
    """
    rng, splits = np.random.default_rng(seed), []
    for _ in range(SPLITS):
        halves = np.split(rng.permutation(subsets.units), [subsets.units // 2])
        tables = [estimator.estimate_subsets(subsets.take(half), second_pass=False).influence for half in halves]
        splits.append(np.array(tables))
    known = np.isfinite(np.array(splits)).all((0, 1, 2))
    groups, unknown = int(known.sum()), float("nan")
    if groups < LEAST_GROUPS:
        return Agreement(groups, *[unknown] * 5)
    sums = np.zeros((5, groups))
    for both in splits:
        first, second = (table[:, known] - table[:, known].mean(1, keepdims=True) for table in both)
        a1, b1, a2, b2 = first[:columns], first[columns:], second[:columns], second[columns:]
        across, within = (a1 * b2 + a2 * b1) / 2, (a1 * a2, b1 * b2)
        squares = ((a1**2 + a2**2) / 2, (b1**2 + b2**2) / 2)
        sums += np.array([table.sum(0) for table in (across, *within, *squares)])
    total = sums.sum(1)
    if not (total[1:] > 0).all():
        return Agreement(groups, *[unknown] * 5)
    ceiling = float(np.sqrt(total[1] / total[3] * total[2] / total[4]))
    corrected = float(total[0] / np.sqrt(total[1] * total[2]))
    without = total[:, None] - sums
    positive = (without[1:3] > 0).all(0)
    estimates = np.where(positive, without[0] / np.sqrt(np.abs(without[1] * without[2])), unknown)
    error = float(np.sqrt((groups - 1) * np.var(estimates))) * stats.t.ppf(0.975, groups - 1)
    low, high = (float(np.clip(corrected + side * error, -1, 1)) for side in (-1, 1))
    return Agreement(groups, corrected * ceiling, ceiling, float(np.clip(corrected, -1, 1)), low, high)


def disagreement(first: Table, second: Table, same_unit: bool) -> tuple[Array, Array, Array]:
    """Return differences of influences, first minus second, with standard errors and q-values, float[rows, groups].

    Each row is relative to its mean over the groups that both know. Without a common unit, a table is in units of the
    standard deviation of its true influences. q-values are those of Student's t over the whole table.
    """
    known = _known(first) & _known(second)
    values, errors = [], []
    for table in (first, second):
        influence = np.where(known, table.influence, np.nan)
        centred = influence - np.nanmean(influence, 1, keepdims=True) if known.any() else influence
        noise = float(np.mean(table.stderr[:, known] ** 2)) if known.any() else np.nan
        total = float(np.mean(centred[:, known] ** 2)) if known.any() else np.nan
        scale = 1.0 if same_unit else np.sqrt(total - noise if total > noise else total)
        values.append(centred / scale)
        errors.append(np.where(known, table.stderr, np.nan) / scale)
    difference, stderr = values[0] - values[1], np.hypot(*errors)
    dof = np.full(difference.shape, min(first.models, second.models) - 2.0)
    return difference, stderr, qvalues(pvalues(difference, stderr, dof))


def _posterior(moments: Array, noise: list[float], dof: float) -> Array:
    """Return the posterior of the true correlation on the grid, from the covariance of estimates (Wishart)."""
    rho, first, second = np.meshgrid(_CORRELATIONS, _RELIABILITIES, _RELIABILITIES, indexing="ij", sparse=True)
    # The noise is known, so a reliability says the total variance too; without any noise it would say nothing.
    a, b = (
        np.maximum(part, 1e-6 * moments[i, i]) / (1 - reliability)
        for i, (part, reliability) in enumerate(zip(noise, (first, second), strict=True))
    )
    shared = rho * np.sqrt(a * first * b * second)
    determinant = a * b - shared**2
    quadratic = (moments[0, 0] * b + moments[1, 1] * a - 2 * moments[0, 1] * shared) / determinant
    log_likelihood = -0.5 * dof * (np.log(determinant) + quadratic)
    probability = np.exp(log_likelihood - log_likelihood.max()).sum((1, 2))
    return np.asarray(probability / probability.sum())


def _rows(centred: Array) -> float:
    """Return how many independent rows a table is worth."""
    product = centred @ centred.T
    return float(np.trace(product) ** 2 / np.sum(product**2))


def _known(table: Table) -> Mask:
    return np.asarray(np.isfinite(table.influence + table.stderr).all(0))
