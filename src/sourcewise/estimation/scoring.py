"""The linear datamodeling score (LDS): how well an estimator predicts models that it has not seen.

What is held out is whole units: a subset with all its seeds, and its complement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """A linear datamodeling score with the ends of its 95% interval; NaN where it cannot be told."""

    value: float
    low: float
    high: float


def predictions(subsets: Subsets, estimator: Estimator, fold: Index) -> Array:
    """Predict the outputs of each subset, float[S, E], from the other folds.

    An estimator that needs held-out models gets those of a further fold; with two folds, a part of the other.
    """
    units = [np.unique(subsets.unit[fold == f]) for f in range(int(fold.max()) + 1)]
    parts = [estimator.sum_subsets(subsets.take(members)) for members in units]
    everything = sum(parts[1:], parts[0])
    predicted = np.empty(subsets.outputs.shape)
    for f, part in enumerate(parts):
        held_out, following = None, (f + 1) % len(parts)
        if estimator.needs_held_out:
            few = units[following][: max(len(units[following]) // 4, 1)]
            held_out = parts[following]
            if len(parts) == 2:
                held_out = estimator.sum_subsets(subsets.take(few))
        estimate = estimator.estimate(everything - part, held_out)
        predicted[fold == f] = estimate.predict(subsets.masks[fold == f])
    return predicted


def lds(predicted: Array, subsets: Subsets, fold: Index) -> float:
    """Score predictions by their Spearman correlation with outputs in each fold, averaged over folds and columns.

    Columns that never vary are left out. The result is NaN if none is left.
    """
    scores = []
    for f in range(int(fold.max()) + 1):
        left, right = ranks(predicted[fold == f]), ranks(subsets.outputs[fold == f])
        scores.append(correlation(left, right, np.ones((1, len(left))))[0])
    known = ~np.isnan(scores)
    return float(np.where(known, scores, 0.0).sum() / known.sum()) if known.any() else float("nan")


def cross_fitted_lds(subsets: Subsets, estimator: Estimator) -> float:
    """Score the predictions that an estimator makes of every fold from the others."""
    fold = subsets.folds()
    return lds(predictions(subsets, estimator, fold), subsets, fold)


@dataclass(frozen=True)
class Comparison:
    """Estimators side by side.

    Attributes:
        scores: cross-fitted LDS of those that can be scored, by name, the best first.
        predicted: float[S, E], what the best predicts of each fold from the others; None where none is scored.
    """

    scores: Mapping[str, float]
    predicted: Array | None = None


def compare_estimators(candidates: Sequence[Estimator], subsets: Subsets) -> Comparison:
    """Score the candidates by their predictions of every fold from the others.

    Of several candidates, those that do not suit the design or the number of subsets do not compete. With few units
    only the first is scored.
    """
    scores: dict[str, float] = {}
    best, fold = None, subsets.folds()
    if subsets.units < LEAST_TO_COMPETE:
        candidates = candidates[:1]
    mixed = subsets.masks.mixes_sizes()
    for estimator in candidates if subsets.units >= LEAST_UNITS else ():
        enough = subsets.units >= estimator.least_subsets(subsets.masks.groups)
        suited = enough and (estimator.handles_mixed_sizes or not mixed)
        if suited or len(candidates) == 1:
            try:
                predicted = predictions(subsets, estimator, fold)
            except SourcewiseError:  # enough models for the fit itself, perhaps, but not without a fold
                continue
            scores[estimator.name] = lds(predicted, subsets, fold)
            if _rank(scores)[0] == estimator.name:
                best = predicted
    return Comparison({name: scores[name] for name in _rank(scores)}, best)


def _rank(scores: Mapping[str, float]) -> list[str]:
    """Return the names by score, the best first; of equal ones, the one that came first."""
    return sorted(scores, key=lambda name: -np.nan_to_num(scores[name], nan=-2.0))


def ranks(table: NDArray[Any]) -> Array:
    """Return the rank of each value in its column, about the mean rank, float[n, E]. Equal values share their mean.

    scipy's `rankdata` takes twice as long.
    """
    values = np.ascontiguousarray(table.T, dtype=np.float64)
    order, count = values.argsort(1), values.shape[1]
    ordered = np.take_along_axis(values, order, 1)
    is_first = np.ones(values.shape, np.bool_)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.flatnonzero(is_first)
    equal = np.diff(first, append=values.size)
    shared = np.repeat(first % count + (equal - count) / 2, equal)
    rank = np.empty_like(values)
    np.put_along_axis(rank, order, shared.reshape(values.shape), 1)
    return rank.T


def correlation(left: Array, right: Array, weights: Array) -> Array:
    """Return the correlation of the columns under each row of weights, float[draws, E]; NaN where one does not vary."""
    total = weights.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean1, mean2 = weights @ left / total, weights @ right / total
        var1, var2 = weights @ left**2 / total - mean1**2, weights @ right**2 / total - mean2**2
        score = (weights @ (left * right) / total - mean1 * mean2) / np.sqrt(var1 * var2)
    return np.where(np.minimum(var1, var2) > 1e-9, score, np.nan)
