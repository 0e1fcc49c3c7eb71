"""Checks of an estimator against its own data, and the forecast of the models that it needs.

Does it predict models that it has not seen, and would its influences come out again from other models? Whatever is held
out or split is whole units: a subset with all its seeds, and its complement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import Array, Index
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.contract import Estimator

LEAST_UNITS = 10
"""Units below which nothing can be held out."""
GOAL = 0.8
"""Split-half reliability that the forecast of the models needed aims at."""


class Point(NamedTuple):
    """One point of the convergence curve: the LDS and the split-half reliability that so many models give."""

    models: int
    lds: float
    split_half: float


@dataclass(frozen=True, kw_only=True)
class Checks:
    """How far influences can be trusted.

    Attributes:
        estimator: name of the one that was used.
        lds: held-out linear datamodeling score, cross-fitted; NaN with fewer than ten subsets.
        lds_interval: the ends of its 95% bootstrap interval.
        noise_ceiling: the LDS of a perfect predictor; None without subsets trained with several seeds.
        split_half: reliability of influences from half of the models; None with too few models.
        more_models: how many more would bring split_half to GOAL; None if that cannot be told.
        candidates: LDS of every estimator that was tried, by name, the best first.
        verdict: all of these in a sentence or two.
        curve: for growing numbers of models; None where it was not asked for.
    """

    estimator: str
    lds: float
    lds_interval: tuple[float, float]
    noise_ceiling: float | None
    split_half: float | None
    more_models: int | None
    candidates: Mapping[str, float]
    verdict: str
    curve: Sequence[Point] | None = None


@dataclass(frozen=True)
class Score:
    """A linear datamodeling score with the ends of its 95% bootstrap interval; NaN where it cannot be told."""

    value: float
    low: float
    high: float


def check(method: Estimator, scores: Mapping[str, Score], sample: Subsets, models: int, level: str) -> Checks:
    """Check an estimator on a sample of the columns.

    Args:
        method: the estimator.
        scores: of all that were tried, by name, the best first.
        sample: subsets with these columns.
        models: how many models the subsets were collapsed from.
        level: what a column is, for the verdict.
    """
    reliability, more = None, None
    if sample.units >= 2 * LEAST_UNITS:
        reliability = split_half(sample, method.for_halves)
        more = forecast(reliability, sample, method.for_halves)
    score = scores.get(method.name, Score(np.nan, np.nan, np.nan))
    result = Checks(
        estimator=method.name,
        lds=score.value,
        lds_interval=(score.low, score.high),
        noise_ceiling=noise_ceiling(sample),
        split_half=reliability,
        more_models=None if more is None else int(np.ceil(more * models / len(sample.masks))),
        candidates={name: tried.value for name, tried in scores.items()},
        verdict="",
    )
    verdict = describe(result, level)
    if not method.handles_mixed_sizes and sample.masks.mixes_sizes():
        verdict += f" Subset sizes are mixed, and influences by {method.name} carry their effect: take ridge."
    return replace(result, verdict=verdict)


def describe(result: Checks, level: str) -> str:
    """Return what checks say of influences at a level, in a sentence or two."""
    reliability, (low, high) = result.split_half, result.lds_interval
    if reliability is None or np.isnan(result.lds + reliability):
        return f"Influences at {level} level cannot be checked: too few different subsets to hold any out."
    share = f", {result.lds / result.noise_ceiling:.0%} of the noise ceiling" if result.noise_ceiling else ""
    predicts = f"LDS {result.lds:z.2f} ({low:z.2f} to {high:z.2f}{share})"
    if low <= 0:
        predicts += ", so they do not predict held-out models"
    if reliability >= GOAL:
        quality = "are reliable"
    elif reliability >= 0.5:
        quality = "are right in the large, uncertain one by one"
    else:
        quality = "are mostly noise"
    text = f"Influences at {level} level {quality}: split-half reliability {reliability:z.2f}, {predicts}."
    if result.more_models is None:
        return text + " How many models would help cannot be told yet."
    if result.more_models:
        rounded = round(result.more_models, 2 - max(len(str(result.more_models)), 2))  # a forecast has no more digits
        text += f" About {rounded:,} more models would reach split-half {GOAL:g}."
    return text


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

    Of several candidates, those that do not suit the design or the number of subsets do not compete.
    """
    scores: dict[str, Score] = {}
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


def forecast(reliability: float, subsets: Subsets, estimator: Estimator) -> int | None:
    """Return how many subsets to add until two halves agree with correlation GOAL; None if that cannot be told.

    `reliability` is that of the estimator's influences from halves of these subsets. Groups leak into each other less
    than at random if the design balances them.
    """
    half = np.random.default_rng(0).permutation(subsets.units)[: subsets.units // 2]
    moments = subsets.take(half, slice(1)).moments()
    crowd = 2.0 if moments.pairs else 1.0
    fading = max(crowd - moments.crowding, 0.0) / moments.count if moments.balanced else 0.0
    groups = subsets.masks.groups if estimator.joint or fading else 0
    return more_models(reliability, len(subsets.masks), groups, estimator.joint, crowd, fading)


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
