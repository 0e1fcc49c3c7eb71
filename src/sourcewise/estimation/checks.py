"""Checks of an estimate against its own data: does it predict unseen models, and would it come out again.

All work on `moments.Subsets` and on an estimator's name.
Whatever is held out or split is whole units: a subset with all its seeds, and its complement.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from sourcewise.estimation.estimators import ESTIMATORS
from sourcewise.estimation.moments import Array, Index, Subsets

LEAST = 10
"""Units below which nothing can be held out."""
GOAL = 0.8
"""Split-half reliability that the planner plans for."""


class Score(NamedTuple):
    """A linear datamodeling score with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


class Point(NamedTuple):
    """One point of the convergence curve: what so many models would have given."""

    models: int
    lds: float
    split_half: float


def folds(subsets: Subsets, seed: int = 0) -> Index:
    """int[S]: the fold, of two to five, that each row belongs to; rows of one unit share it."""
    parts = int(np.clip(subsets.units // 5, 2, 5))
    of_unit = np.random.default_rng(seed).permutation(subsets.units) % parts
    return np.asarray(of_unit[subsets.unit], dtype=np.int64)


def predictions(subsets: Subsets, name: str, fold: Index) -> Array:
    """float[S, E]: outputs of each subset as predicted from the other folds by the named estimator."""
    units = [np.unique(subsets.unit[fold == f]) for f in range(int(fold.max()) + 1)]
    parts = [subsets.take(own).moments() for own in units]
    whole = sum(parts[1:], parts[0])
    predicted = np.empty(subsets.outputs.shape)
    for f, part in enumerate(parts):
        held, after = [], (f + 1) % len(parts)
        if name == "lasso":  # it tunes on held-out models: a further fold, or with two folds a part of the other
            few = units[after][: max(len(units[after]) // 4, 1)]
            held = [subsets.take(few).moments() if len(parts) == 2 else parts[after]]
        predicted[fold == f] = ESTIMATORS[name](whole - part, *held).predict(subsets.masks[fold == f])
    return predicted


def lds(predicted: Array, subsets: Subsets, fold: Index, draws: int = 200, seed: int = 0) -> Score:
    """Spearman correlation of predicted and actual outputs within each fold, averaged over folds and columns.

    Columns that never vary are left out. The interval is normal with the standard deviation over bootstrap
    draws of the units, each fold's ranks being kept.
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
        table = np.where(known, scores, 0.0).sum((0, 2)) / known.sum((0, 2))
    value, drawn = float(table[0]), table[1:][~np.isnan(table[1:])]
    error = 1.96 * float(drawn.std()) if drawn.size else float("nan")
    return Score(value, value - error, value + error)


def correlation(left: Array, right: Array, weights: Array) -> Array:
    """float[draws, E]: correlation of the columns under each row of weights; NaN where one does not vary."""
    total = weights.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean1, mean2 = weights @ left / total, weights @ right / total
        var1, var2 = weights @ left**2 / total - mean1**2, weights @ right**2 / total - mean2**2
        score = (weights @ (left * right) / total - mean1 * mean2) / np.sqrt(var1 * var2)
    return np.where(np.minimum(var1, var2) > 1e-9, score, np.nan)


def noise_ceiling(subsets: Subsets) -> float | None:
    """The LDS that a perfect predictor would reach; None unless some subsets were trained with several seeds.

    Per column, reliability is the variance between subsets over that plus the variance within, each divided
    by the seeds that a row averages; the ceiling of a correlation is its square root.
    """
    if subsets.within is None:
        return None
    total = subsets.outputs.var(0, ddof=1, dtype=np.float64)
    noise = subsets.within * np.mean(1 / subsets.runs)
    varies = total > 0
    reliability = np.clip(1 - noise[varies] / total[varies], 0.0, 1.0)
    return float(np.sqrt(reliability).mean()) if varies.any() else None


def split_half(subsets: Subsets, name: str, repeats: int = 4, seed: int = 0) -> float:
    """Correlation of the influences from one random half of the models with those from the other.

    Over the whole table, each column about its own mean: signal variance over signal plus noise variance,
    so that the Spearman-Brown formula holds. Averaged over `repeats` splits; NaN if fewer than two groups compare.
    """
    rng, found = np.random.default_rng(seed), []
    for _ in range(repeats):
        halves = np.split(rng.permutation(subsets.units), [subsets.units // 2])
        tables = [ESTIMATORS[name](subsets.take(half).moments()).influence for half in halves]
        known = ~np.isnan(tables[0] + tables[1]).any(0)
        if known.sum() < 2:
            continue
        a, b = (t[:, known] - t[:, known].mean(1, keepdims=True) for t in tables)
        scale = np.sqrt((a * a).sum() * (b * b).sum())
        found.append(float((a * b).sum() / scale) if scale > 0 else 0.0)
    return float(np.mean(found)) if found else float("nan")


def more_models(
    reliability: float, models: int, goal: float = GOAL, groups: int = 0, shrunken: bool = False, crowd: float = 1.0,
    fading: float = 0.0,
) -> int | None:  # fmt: skip
    """How many models to add until two halves agree with correlation `goal`; 0 if they do.

    `reliability` is the correlation r of two halves of n of the `models` each. In units of the effects' variance, noise
    makes an error of noise / n in each half, and the other `groups` leak groups (crowd - x) / n into each, where x = 0
    for independent draws; then r = 1 / (1 + noise / n + leaks), and without groups this is Spearman-Brown's formula. In
    an orthogonal design, x = n fading, at most crowd / 2, and what leaks into one half is missing in the other, which
    takes groups x / n from the covariance of the halves. A `shrunken` estimator (ridge) knows the other groups the
    better the more models there are: leaks are smaller by the factor 1 - r (state evolution: Donoho, Maleki &
    Montanari, PNAS 106, 2009).

    None if the reliability is not positive: then nobody can tell.
    """
    if not reliability > 0.01:
        return None
    if reliability >= goal:
        return 0
    before, after = (groups * (1 - r if shrunken else 1.0) for r in (reliability, goal))
    half = models / 2
    shared = min(half * fading, crowd / 2)
    noise = max((half - before * shared) / reliability - half - before * (crowd - shared), 0.0)
    crowd = 2.0 if fading else crowd  # complements follow
    for _ in range(50):
        shared = min(half * fading, crowd / 2)
        half = (goal * (noise + after * (crowd - shared)) + after * shared) / (1 - goal)
    return max(int(np.ceil(2 * half - models - 1e-6)), 1)


def curve(subsets: Subsets, name: str, seed: int = 0) -> list[Point]:
    """LDS and split-half reliability at an eighth, a quarter, a half, and all of the models."""
    order = np.random.default_rng(seed).permutation(subsets.units)
    points = []
    for count in (subsets.units // 8, subsets.units // 4, subsets.units // 2, subsets.units):
        if count < 2 * LEAST:
            continue
        part = subsets.take(order[:count])
        fold = folds(part)
        score = lds(predictions(part, name, fold), part, fold, draws=1)
        points.append(Point(int(part.runs.sum()), score.value, split_half(part, name, seed=seed)))
    return points


def verdict(
    score: Score | None, ceiling: float | None, reliability: float | None, more: int | None, level: str = "example"
) -> str:
    """One sentence or two on how far the influences at one level (example, class, overall) can be trusted."""
    if score is None or reliability is None or np.isnan(score.value + reliability):
        return f"Influences at {level} level cannot be checked: too few different subsets to hold any out."
    share = f", {score.value / ceiling:.0%} of the noise ceiling" if ceiling else ""
    predicts = f"LDS {score.value:.2f} ({score.low:.2f} to {score.high:.2f}{share})"
    if score.low <= 0:
        predicts += ", so they do not predict held-out models"
    if reliability >= GOAL:
        words = "are reliable"
    elif reliability >= 0.5:
        words = "are right in the large, uncertain one by one"
    else:
        words = "are mostly noise"
    text = f"Influences at {level} level {words}: split-half reliability {reliability:.2f}, {predicts}."
    if more is None:
        return text + " How many models would help cannot be told yet."
    if more:
        text += f" About {_rounded(more):,} more models would reach split-half {GOAL:g}."
    return text


def _rounded(count: int) -> int:
    """To two digits: a forecast has no more."""
    digits = max(len(str(count)) - 2, 0)
    return int(round(count, -digits))
