"""Checks of an estimator against its own data, and the forecast of the models that it needs.

Does it predict models that it has not seen, and would its influences come out again from other models? Whatever is held
out or split is whole units: a subset with all its seeds, and its complement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.contract import Estimator
from sourcewise.estimation.reliability import GOAL, Reliability, forecast, noise_ceiling, split_half
from sourcewise.estimation.score_interval import score_interval
from sourcewise.estimation.scoring import LEAST_UNITS, Comparison, cross_fitted_lds


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
        lds_interval: 95% interval of the LDS of the fit of all models, which mostly lies above `lds`: each of the
            fits that are scored lacks a fold (see `score_interval`).
        noise_ceiling: the LDS of a perfect predictor; None without subsets trained with several seeds.
        noise_ceiling_interval: the ends of its 95% interval.
        split_half: reliability of influences from half of the models, over the table; None with too few models.
        split_half_median: median over outputs of the reliability of each.
        split_half_without_largest: as split_half, without the group that has the largest influences.
        more_models: how many more would bring split_half to GOAL; None if that cannot be told.
        more_models_interval: the ends of its 95% interval; an end is None if it has no bound.
        candidates: LDS of every estimator that was tried, by name, the best first.
        prior_weights: how much each prior counts, by name: the size that it lets expect of effects, in units of the
            logit; None where the estimator takes none.
        lds_without_priors: LDS of the same estimator by the records alone; None where it takes no priors.
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
    noise_ceiling_interval: tuple[float, float] | None = None
    split_half_median: float | None = None
    split_half_without_largest: float | None = None
    more_models_interval: tuple[int | None, int | None] | None = None
    prior_weights: Mapping[str, float] | None = None
    lds_without_priors: float | None = None


def check(
    method: Estimator,
    comparison: Comparison,
    sample: Subsets,
    models: int,
    level: str,
    prior_weights: Mapping[str, float],
) -> Checks:
    """Check an estimator on a sample of the columns.

    Args:
        method: the estimator.
        comparison: of all that were tried, the estimator first unless none could be scored.
        sample: subsets with these columns.
        models: how many models the subsets were collapsed from.
        level: what a column is, for the verdict.
        prior_weights: by name; empty without priors.
    """
    alone, scores, interval = None, comparison.scores, (np.nan, np.nan)
    if prior_weights and sample.hierarchy is not None and method.name in scores:
        without = replace(sample, hierarchy=replace(sample.hierarchy, priors={}))
        alone = cross_fitted_lds(without, method)
    if method.name in scores:
        interval = score_interval(sample, method, comparison.predicted)
    result = Checks(
        estimator=method.name,
        lds=scores.get(method.name, np.nan),
        lds_interval=interval,
        noise_ceiling=None,
        split_half=None,
        more_models=None,
        candidates=dict(scores),
        prior_weights=dict(prior_weights) or None,
        lds_without_priors=alone,
        verdict="",
    )
    if (ceiling := noise_ceiling(sample)) is not None:
        ends = (ceiling.low, ceiling.high)
        result = replace(result, noise_ceiling=ceiling.value, noise_ceiling_interval=ends)
    if sample.units >= 2 * LEAST_UNITS:
        result = _with_reliability(result, split_half(sample, method.for_halves), sample, method, models)
    verdict = describe(result, level)
    if not method.handles_mixed_sizes and sample.masks.mixes_sizes():
        verdict += f" Subset sizes are mixed, and influences by {method.name} carry their effect: take ridge."
    return replace(result, verdict=verdict)


def _with_reliability(
    result: Checks, reliability: Reliability, sample: Subsets, method: Estimator, models: int
) -> Checks:
    """Return the checks with a reliability and the forecast from it, in models."""
    needed = forecast(reliability, sample, method.for_halves)
    value, low, high = (
        None if number is None else int(np.ceil(number * models / len(sample.masks)))
        for number in (needed.value, needed.low, needed.high)
    )
    return replace(
        result,
        split_half=reliability.pooled,
        split_half_median=reliability.median,
        split_half_without_largest=reliability.without_largest,
        more_models=value,
        more_models_interval=None if value is None else (low, high),
    )


def describe(result: Checks, level: str) -> str:
    """Return what checks say of influences at a level, in a sentence or two. The words follow the worst reliability."""
    reliability, (low, high) = result.split_half, result.lds_interval
    if reliability is None or np.isnan(result.lds + reliability):
        return f"Influences at {level} level cannot be checked: too few different subsets to hold any out."
    share = ""
    if result.noise_ceiling and (result.noise_ceiling_interval or (1.0, 1.0))[0] > 0:
        share = f", {result.lds / result.noise_ceiling:.0%} of the noise ceiling"
    predicts = f"LDS {result.lds:z.2f} ({low:z.2f} to {high:z.2f}{share})"
    if low <= 0:
        predicts += ", so they do not predict held-out models"
    parts = {
        "in the median output": result.split_half_median,
        "without the largest group": result.split_half_without_largest,
    }
    words = _words(reliability)
    lower = {where: r for where, r in parts.items() if r is not None and r < reliability and _words(r) != words}
    beside = "".join(f", {r:z.2f} {where}" for where, r in lower.items())
    text = f"Influences at {level} level {_words(min([reliability, *lower.values()]))}:"
    text += f" split-half reliability {reliability:z.2f}{beside}, {predicts}."
    if result.more_models is None:
        return text + " How many models would help cannot be told yet."
    if result.more_models:
        least, most = result.more_models_interval or (result.more_models, result.more_models)
        ends = f"{_rounded(least or 0)} {'or more' if most is None else f'to {_rounded(most)}'}"
        text += f" About {_rounded(result.more_models)} more models ({ends}) would reach split-half {GOAL:g}."
    return text


def _words(reliability: float) -> str:
    """Return what a split-half reliability says of influences."""
    if reliability >= GOAL:
        return "are reliable"
    return "are right in the large, uncertain one by one" if reliability >= 0.5 else "are mostly noise"


def _rounded(models: int) -> str:
    """Return a forecast as text, with two digits: it has no more."""
    return f"{round(models, 2 - max(len(str(models)), 2)):,}"


def curve(subsets: Subsets, estimator: Estimator, result: Checks, seed: int = 0) -> Iterator[Point]:
    """Yield LDS and split-half reliability at all of the models, a half, a quarter, and an eighth.

    result: checks of all of them, which may hold what the first point needs.
    """
    if result.split_half is not None:
        known = result.candidates.get(estimator.name)
        score = cross_fitted_lds(subsets, estimator) if known is None else known
        yield Point(int(subsets.runs.sum()), score, result.split_half)
    order = np.random.default_rng(seed).permutation(subsets.units)
    for count in (subsets.units // 2, subsets.units // 4, subsets.units // 8):
        if count >= 2 * LEAST_UNITS:
            part = subsets.take(order[:count])
            score, reliability = cross_fitted_lds(part, estimator), split_half(part, estimator, seed).pooled
            yield Point(int(part.runs.sum()), score, reliability)
