"""The linear datamodeling score (LDS): how well an estimator predicts models that it has not seen.

What is held out is whole units: a subset with all its seeds, and its complement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import Array, Index
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.contract import Estimator

LEAST_UNITS = 10
"""Units below which nothing can be held out."""
LEAST_TO_COMPETE = 20
"""Units below which the first estimator is used: the held-out scores of so few choose by chance."""


@dataclass(frozen=True)
class Score:
    """A linear datamodeling score with the ends of its 95% bootstrap interval; NaN where it cannot be told."""

    value: float
    low: float
    high: float


def predictions(subsets: Subsets, estimator: Estimator, fold: Index) -> Array:
    """Predict the outputs of each subset, float[S, E], from the other folds.

    An estimator that needs held-out models gets those of a further fold; with two folds, a part of the other.
    """
    units = [np.unique(subsets.unit[fold == f]) for f in range(int(fold.max()) + 1)]
    parts = [subsets.take(members).moments(hierarchy=estimator.needs_hierarchy) for members in units]
    everything = sum(parts[1:], parts[0])
    predicted = np.empty(subsets.outputs.shape)
    for f, part in enumerate(parts):
        held_out, following = None, (f + 1) % len(parts)
        if estimator.needs_held_out:
            few = units[following][: max(len(units[following]) // 4, 1)]
            held_out = parts[following]
            if len(parts) == 2:
                held_out = subsets.take(few).moments(hierarchy=estimator.needs_hierarchy)
        estimate = estimator.estimate(everything - part, held_out)
        predicted[fold == f] = estimate.predict(subsets.masks[fold == f])
    return predicted


def lds(predicted: Array, subsets: Subsets, fold: Index, draws: int = 200, seed: int = 0) -> Score:
    """Score predictions by their Spearman correlation with outputs in each fold, averaged over folds and columns.

    Columns that never vary are left out. The interval is normal, with the standard deviation over bootstrap draws of
    the units, and ends at -1 and 1; each fold's ranks are kept.
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
    return Score(value, *map(float, np.clip((value - error, value + error), -1, 1)))


def cross_fitted_lds(subsets: Subsets, estimator: Estimator, draws: int = 200) -> Score:
    """Score the predictions that an estimator makes of every fold from the others."""
    fold = subsets.folds()
    return lds(predictions(subsets, estimator, fold), subsets, fold, draws)


def compare_estimators(candidates: Sequence[Estimator], subsets: Subsets) -> dict[str, Score]:
    """Return the cross-fitted LDS of the candidates that can be scored, by name, the best first.

    Of several candidates, those that do not suit the design or the number of subsets do not compete. With few units
    only the first is scored.
    """
    scores: dict[str, Score] = {}
    if subsets.units < LEAST_TO_COMPETE:
        candidates = candidates[:1]
    mixed = subsets.masks.mixes_sizes()
    for estimator in candidates if subsets.units >= LEAST_UNITS else ():
        enough = subsets.units >= estimator.least_subsets(subsets.masks.groups)
        suited = enough and (estimator.handles_mixed_sizes or not mixed)
        if suited or len(candidates) == 1:
            try:
                scores[estimator.name] = cross_fitted_lds(subsets, estimator)
            except SourcewiseError:  # enough models for the fit itself, perhaps, but not without a fold
                continue
    ranked = sorted(scores, key=lambda name: -np.nan_to_num(scores[name].value, nan=-2.0))
    return {name: scores[name] for name in ranked}


def correlation(left: Array, right: Array, weights: Array) -> Array:
    """Return the correlation of the columns under each row of weights, float[draws, E]; NaN where one does not vary."""
    total = weights.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean1, mean2 = weights @ left / total, weights @ right / total
        var1, var2 = weights @ left**2 / total - mean1**2, weights @ right**2 / total - mean2**2
        score = (weights @ (left * right) / total - mean1 * mean2) / np.sqrt(var1 * var2)
    return np.where(np.minimum(var1, var2) > 1e-9, score, np.nan)
