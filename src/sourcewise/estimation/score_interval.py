"""The 95% interval of the linear datamodeling score (LDS) that the fit of all models has on fresh subsets.

Three things part that score from the cross-fitted one:

* The held-out units are few. A jackknife over them, predictions kept, gives that variance.
* The folds that predict are few models too, and a unit that is held out from one fold trains the others. Outputs that
  are dealt anew to the units have no effects, and the variance of their scores is so many times what the jackknife says
  of them. The excess is noise of predictions times noise of outputs. A score of r is the product of the correlations of
  both with the effects, so noise has at most the share (1 - r)^2 of the product of their variances. Of a dozen units, a
  jackknife is often far too small. So the variance is at least that share of the one of scores dealt anew.
* Each fit lacks a fold. Effects are planted in outputs that are dealt anew, on the same masks, and the score that the
  fit of all has on fresh subsets, which is known then, is compared with the cross-fitted one.

An estimator's substitute (`Estimator.for_halves`: ridge for lasso and for a hierarchy) stands in for it on outputs that
are dealt anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from sourcewise.estimation.arrays import CELLS, Array, Index, PackedMasks, cuts
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.contract import Estimator
from sourcewise.estimation.scoring import Score, predictions, ranks

DEALS = 20
"""How often outputs are dealt anew to the units, without effects."""
SHARES = (0.2, 0.5, 0.85)
"""Shares of planted effects in the variance of outputs."""
COLUMNS = 40
"""Most columns that are dealt at a time."""


def score_interval(
    subsets: Subsets, estimator: Estimator, predicted: Array | None = None, seed: int = 0
) -> tuple[float, float]:
    """Return the ends of the 95% interval of the LDS that an estimator's fit of all subsets has on fresh subsets.

    It ends at -1 and 1, and holds the cross-fitted score. NaN where no column varies. predicted: float[S, E], what the
    estimator predicts of each fold from the others, if that is known.
    """
    fold = subsets.folds()
    predicted = predictions(subsets, estimator, fold) if predicted is None else predicted
    score, variance = _jackknife(predicted, subsets, fold, subsets.outputs.shape[1])
    if np.isnan(score).all():
        return float("nan"), float("nan")
    value = float(_mean_of_known(score, (0, 1)))
    # Outputs that are dealt anew have no classes or priors to borrow from, and tuning on each deal takes long.
    dealt, excess, gain = _simulated(subsets, estimator.for_halves, fold, value, np.random.default_rng(seed))
    noise_share = (1 - np.clip(value, 0, 1)) ** 2
    free = min(DEALS - 1, subsets.units - len(score))  # of the less certain variance
    total = max(variance[0] * (1 + noise_share * excess), noise_share * dealt)
    error = stats.t.ppf(0.975, free) * np.sqrt(total)
    low, high = gain * (value - error), gain * (value + error)
    return float(np.clip(min(low, value), -1, 1)), float(np.clip(max(high, value), -1, 1))


def score_without_fit(predicted: Array, subsets: Subsets) -> Score:
    """Score predictions that owe nothing to these subsets; the interval is that of the jackknife over units."""
    score, variance = _jackknife(predicted, subsets, np.zeros(len(subsets.masks), np.int64), subsets.outputs.shape[1])
    if np.isnan(score).all():
        return Score(float("nan"), float("nan"), float("nan"))
    value, error = float(_mean_of_known(score, (0, 1))), 1.96 * float(np.sqrt(variance[0]))
    return Score(value, max(value - error, -1.0), min(value + error, 1.0))


def _jackknife(predicted: Array, subsets: Subsets, fold: Index, block: int) -> tuple[Array, Array]:
    """Return the LDS by fold and column, float[F, E], and the variance of its mean over each block of columns.

    The variance is that of leaving out each unit, ranks kept. `block` columns make a block.
    """
    score, variance = [], np.zeros(predicted.shape[1] // block)
    for f in range(int(fold.max()) + 1):
        rows = np.flatnonzero(fold == f)
        rows = rows[np.argsort(subsets.unit[rows], kind="stable")]
        first, count = np.unique(subsets.unit[rows], return_index=True, return_counts=True)[1:]
        left, right = ranks(predicted[rows]), ranks(subsets.outputs[rows])
        sums = [np.add.reduceat(table, first) for table in (left, right, left**2, right**2, left * right)]
        score.append(_correlation([table.sum(0) for table in sums], len(rows)))
        without = _correlation([table.sum(0) - table for table in sums], len(rows) - count[:, None])
        without = np.where(np.isnan(without), score[-1], without).reshape(len(count), -1, block)
        variance += (len(count) - 1) * _mean_of_known(without, 2).var(0)
    return np.array(score), variance / len(score) ** 2


def _mean_of_known(table: Array, axis: int | tuple[int, ...]) -> Array:
    """Return the mean of what is not NaN; 0 of nothing."""
    known = ~np.isnan(table)
    return np.asarray(np.where(known, table, 0.0).sum(axis) / np.maximum(known.sum(axis), 1))


def _correlation(sums: Sequence[Array], count: Array | Index | int) -> Array:
    """Return the correlation from `sums` of left, right, their squares and product; NaN if one is constant."""
    left, right, left2, right2, product = sums
    square = (left2 - left**2 / count) * (right2 - right**2 / count)
    return np.asarray((product - left * right / count) / np.sqrt(np.where(square > 1e-9, square, np.nan)))


def _simulated(
    subsets: Subsets, estimator: Estimator, fold: Index, value: float, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return the variance of scores without effects, its excess over the jackknife's, and the gain by missing folds.

    The excess is a share of the jackknife's. The gain is how many times the cross-fitted score `value` the fit of all
    has.
    """
    groups, available = subsets.masks.groups, subsets.outputs.shape[1]
    most = int(np.clip(1e7 / groups**2, 5, COLUMNS))
    columns = np.linspace(0, available - 1, min(available, most)).round().astype(np.int64)
    width, each = len(columns), -(-4 * most // len(columns))
    share = np.repeat([0.0, *SHARES], [DEALS, *[each] * len(SHARES)])
    scores, variances, truths = [], [], []
    for part in cuts(len(share), max(CELLS // 2 // groups // width, 1)):
        planted, effects = _planted(subsets, columns, share[part], rng)
        score, variance = _jackknife(predictions(planted, estimator, fold), planted, fold, width)
        slopes = estimator.estimate_subsets(planted, second_pass=False).slopes
        scores.append(_mean_of_known(score.reshape(len(score), -1, width), (0, 2)))
        variances.append(variance)
        truths.append(_mean_of_known(_score_on_fresh(slopes, effects, subsets.masks).reshape(-1, width), 1))
    score, truth = np.concatenate(scores), np.concatenate(truths)
    jackknifed = np.concatenate(variances)[:DEALS].mean()
    dealt = score[:DEALS].var(ddof=1)
    excess = max(dealt / jackknifed - 1, 0.0) if jackknifed > 0 else 0.0
    folds, fresh = (np.array([table[share == s].mean() for s in SHARES]) for table in (score, truth))
    constant, slope = np.linalg.lstsq(np.array([folds, folds**2]).T, fresh)[0]  # gain: constant + slope * score
    return float(dealt), float(excess), float(np.clip(constant + slope * value, 1, 3))


def _planted(subsets: Subsets, columns: Index, share: Array, rng: np.random.Generator) -> tuple[Subsets, Array]:
    """Return subsets whose outputs are dealt anew, each time with random effects of a share of the variance, and these.

    Args:
        subsets: which outputs are dealt, whole rows: pairs of complements among themselves.
        columns: int[e], those that are used.
        share: float[n], share of effects each time.
        rng: what is drawn from.

    Returns:
        Subsets with n * e columns, and effects float[n * e, G].
    """
    width, masks = len(columns), subsets.masks
    rows = np.lexsort((masks.unpack(slice(1))[:, 0], subsets.unit))  # does not depend on the order of records
    pairs, single = rows[rows < 2 * subsets.pairs].reshape(-1, 2), rows[rows >= 2 * subsets.pairs]
    table = subsets.outputs[:, columns].astype(np.float64)
    table -= table.mean(0)
    table /= np.where(table.std(0) > 0, table.std(0), 1.0)
    effects = rng.normal(size=(len(share), width, masks.groups))
    variance = _covariance(effects, effects, masks)
    tells = variance > 1e-9 * masks.groups  # a few groups whose sizes vary strangely may tell nothing
    effects *= np.where(tells, np.sqrt(share[:, None] / np.where(tells, variance, 1.0)), 0.0)[..., None]
    effects = effects.reshape(len(share) * width, -1)
    outputs, kept_share = np.empty((len(masks), len(effects)), dtype=np.float32), masks.kept_share()
    for block in masks.blocks():
        outputs[block] = (masks[block].unpack() - kept_share) @ effects.T
    for i, s in enumerate(share):
        dealt = np.empty(len(rows), dtype=np.int64)
        dealt[pairs] = rng.permuted(rng.permutation(pairs), axis=1)
        dealt[single] = rng.permutation(single)
        outputs[:, i * width : (i + 1) * width] += np.sqrt(1 - s) * table[dealt]
    shaped = subsets.take(np.arange(subsets.units), np.tile(columns, len(share)))
    center = outputs[: 2 * subsets.pairs].mean(0, dtype=np.float64) if subsets.pairs else None
    return replace(shaped, outputs=outputs, center=center, squares=None, hierarchy=None), effects


def _covariance(left: Array, right: Array, masks: PackedMasks) -> Array:
    """Return the covariance over fresh subsets of what two tables of effects [..., G] add up to.

    Fresh subsets keep each group as often as these, and their sizes vary as much; else groups are kept independently.
    """
    variance = masks.kept_share() * (1 - masks.kept_share())
    groups = masks.groups
    between = (masks.sizes().var() - variance.sum()) / max(groups * (groups - 1), 1)
    independent = (left * right * (variance - between * (variance > 0))).sum(-1)
    return np.asarray(independent + between * left.sum(-1) * right.sum(-1))


def _score_on_fresh(slopes: Array, effects: Array, masks: PackedMasks) -> Array:
    """Return the Spearman correlation, float[E], that predictions have with outputs of unit variance on fresh subsets.

    NaN where predictions are constant. For normal variables it is 6 / pi asin(r / 2), where r is Pearson's
    (Pearson 1907).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        r = _covariance(slopes, effects, masks) / np.sqrt(_covariance(slopes, slopes, masks))
    return np.asarray(6 / np.pi * np.arcsin(np.clip(r, -1, 1) / 2))
