"""Checks of an estimator against its own data: does it predict unseen models, and would its influences come out again.

Whatever is held out or split is whole units: a subset with all its seeds, and its complement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from sourcewise.estimation.arrays import Array, Index
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.contract import Estimator

LEAST_UNITS = 10
"""Units below which nothing can be held out."""


@dataclass(frozen=True)
class Score:
    """A linear datamodeling score with the ends of its 95% bootstrap interval; NaN where it cannot be told."""

    value: float
    low: float
    high: float


class Point(NamedTuple):
    """One point of the convergence curve: the LDS and the split-half reliability that so many models give."""

    models: int
    lds: float
    split_half: float


def predictions(subsets: Subsets, estimator: Estimator, fold: Index) -> Array:
    """Predict the outputs of each subset, float[S, E], from the other folds.

    An estimator that needs held-out models gets those of a further fold; with two folds, a part of the other.
    """
    units = [np.unique(subsets.unit[fold == f]) for f in range(int(fold.max()) + 1)]
    parts = [subsets.take(members).moments() for members in units]
    everything = sum(parts[1:], parts[0])
    predicted = np.empty(subsets.outputs.shape)
    for f, part in enumerate(parts):
        held_out, following = None, (f + 1) % len(parts)
        if estimator.needs_held_out:
            few = units[following][: max(len(units[following]) // 4, 1)]
            held_out = subsets.take(few).moments() if len(parts) == 2 else parts[following]
        estimate = estimator.estimate(everything - part, held_out)
        predicted[fold == f] = estimate.predict(subsets.masks[fold == f])
    return predicted


def lds(predicted: Array, subsets: Subsets, fold: Index, draws: int = 200, seed: int = 0) -> Score:
    """Score predictions by their Spearman correlation with outputs in each fold, averaged over folds and columns.

    Columns that never vary are left out. The interval is normal, with the standard deviation over bootstrap draws of
    the units; each fold's ranks are kept.
    """
    rng = np.random.default_rng(seed)
    draw = rng.multinomial(subsets.units, np.full(subsets.units, 1 / subsets.units), size=draws).astype(np.float64)
    weights = np.vstack([np.ones(subsets.units), draw])[:, subsets.unit]
    scores = []
    for f in range(int(fold.max()) + 1):
        rows = fold == f
        left, right = (stats.rankdata(a[rows], axis=0) for a in (predicted, subsets.outputs.astype(np.float64)))
        scores.append(correlation(left - left.mean(0), right - right.mean(0), weights[:, rows]))
    with np.errstate(invalid="ignore"):
        known = ~np.isnan(scores)
        means = np.where(known, scores, 0.0).sum((0, 2)) / known.sum((0, 2))
    value, drawn = float(means[0]), means[1:][~np.isnan(means[1:])]
    error = 1.96 * float(drawn.std()) if drawn.size else float("nan")
    return Score(value, value - error, value + error)


def cross_fitted_lds(subsets: Subsets, estimator: Estimator, draws: int = 200) -> Score:
    """Score the predictions that an estimator makes of every fold from the others."""
    fold = subsets.folds()
    return lds(predictions(subsets, estimator, fold), subsets, fold, draws)


def correlation(left: Array, right: Array, weights: Array) -> Array:
    """Return the correlation of the columns under each row of weights, float[draws, E]; NaN where one does not vary."""
    total = weights.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean1, mean2 = weights @ left / total, weights @ right / total
        var1, var2 = weights @ left**2 / total - mean1**2, weights @ right**2 / total - mean2**2
        score = (weights @ (left * right) / total - mean1 * mean2) / np.sqrt(var1 * var2)
    return np.where(np.minimum(var1, var2) > 1e-9, score, np.nan)


def noise_ceiling(subsets: Subsets) -> float | None:
    """Return the LDS that a perfect predictor would reach; None unless some subsets were trained with several seeds.

    Per column, the reliability is the variance between subsets over that plus the variance within, each divided by the
    seeds that a row averages. The ceiling of a correlation is its square root.
    """
    if subsets.within is None:
        return None
    total = subsets.outputs.var(0, ddof=1, dtype=np.float64)
    noise = subsets.within * np.mean(1 / subsets.runs)
    varies = total > 0
    reliability = np.clip(1 - noise[varies] / total[varies], 0.0, 1.0)
    return float(np.sqrt(reliability).mean()) if varies.any() else None


def split_half(subsets: Subsets, estimator: Estimator, repeats: int = 4, seed: int = 0) -> float:
    """Return the correlation of the influences from one random half of the models with those from the other.

    Over the whole table, each column about its own mean: signal variance over signal plus noise variance, so that the
    Spearman-Brown formula holds. Averaged over `repeats` splits; NaN if fewer than two groups compare.
    """
    rng, correlations = np.random.default_rng(seed), []
    for _ in range(repeats):
        halves = np.split(rng.permutation(subsets.units), [subsets.units // 2])
        tables = [estimator.estimate_subsets(subsets.take(half)).influence for half in halves]
        known = ~np.isnan(tables[0] + tables[1]).any(0)
        if known.sum() < 2:
            continue
        first, second = (table[:, known] - table[:, known].mean(1, keepdims=True) for table in tables)
        scale = np.sqrt((first * first).sum() * (second * second).sum())
        correlations.append(float((first * second).sum() / scale) if scale > 0 else 0.0)
    return float(np.mean(correlations)) if correlations else float("nan")


def curve(subsets: Subsets, estimator: Estimator, seed: int = 0) -> list[Point]:
    """Return LDS and split-half reliability at an eighth, a quarter, a half, and all of the models."""
    order = np.random.default_rng(seed).permutation(subsets.units)
    points = []
    for count in (subsets.units // 8, subsets.units // 4, subsets.units // 2, subsets.units):
        if count < 2 * LEAST_UNITS:
            continue
        part = subsets.take(order[:count])
        score = cross_fitted_lds(part, estimator, draws=1)
        points.append(Point(int(part.runs.sum()), score.value, split_half(part, estimator, seed=seed)))
    return points
