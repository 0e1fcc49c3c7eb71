"""Choose an estimator by how well it predicts, and assess how far its influences can be trusted, in words too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation import checks
from sourcewise.estimation.arrays import CELLS
from sourcewise.estimation.balance import mixes_sizes
from sourcewise.estimation.checks import Score
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.contract import Estimator
from sourcewise.estimation.forecast import GOAL, forecast

SAMPLE = 1000
"""Columns that the checks look at, at most (evenly spaced), fewer where groups are many."""
UNKNOWN = Score(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Choice:
    """The estimator that is used.

    Attributes:
        estimator: the one with the highest LDS.
        scores: held-out LDS of all that were tried, by name, the best first.
        mixed_sizes: whether subset sizes are mixed, so that not every estimator suits.
    """

    estimator: Estimator
    scores: Mapping[str, Score]
    mixed_sizes: bool


@dataclass(frozen=True)
class Assessment:
    """How far the influences at one level can be trusted.

    Attributes:
        estimator: name of the one used.
        lds: held-out linear datamodeling score, cross-fitted; NaN with fewer than ten subsets.
        lds_interval: the ends of its 95% bootstrap interval.
        noise_ceiling: the LDS of a perfect predictor; None without subsets trained with several seeds.
        split_half: reliability of influences from half of the models; None with too few models.
        more_models: how many more would bring split_half to 0.8; None if that cannot be told.
        candidates: LDS of every estimator that was tried, by name, the best first.
        verdict: all that in words.
    """

    estimator: str
    lds: float
    lds_interval: tuple[float, float]
    noise_ceiling: float | None
    split_half: float | None
    more_models: int | None
    candidates: Mapping[str, float]
    verdict: str


def sample_columns(subsets: Subsets) -> Subsets:
    """Return evenly spaced columns, so few that checks stay cheap."""
    columns, groups = subsets.outputs.shape[1], subsets.masks.groups
    count = min(columns, int(np.clip(2e8 / groups**2, 100, SAMPLE)), max(CELLS // 2 // groups, 1))
    picked = np.linspace(0, columns - 1, count).round().astype(np.int64)
    return subsets.take(np.arange(subsets.units), picked)


def choose(candidates: Sequence[Estimator], sample: Subsets) -> Choice:
    """Choose the candidate with the highest cross-fitted LDS; the first where none can be scored.

    Of several candidates, those that do not suit the design or the number of subsets do not compete.
    """
    mixed = mixes_sizes(sample.masks)
    suited = [
        estimator
        for estimator in candidates
        if sample.units >= estimator.least_subsets(sample.masks.groups) and (estimator.handles_mixed_sizes or not mixed)
    ]
    competing = suited if len(candidates) > 1 else candidates
    scores: dict[str, Score] = {}
    for estimator in competing if sample.units >= checks.LEAST_UNITS else ():
        try:
            scores[estimator.name] = checks.cross_fitted_lds(sample, estimator)
        except SourcewiseError:  # enough models for the fit itself, perhaps, but not without a fold
            continue
    ranked = sorted(scores, key=lambda name: -np.nan_to_num(scores[name].value, nan=-2.0))
    by_name = {estimator.name: estimator for estimator in candidates}
    chosen = by_name[ranked[0]] if ranked else candidates[0]
    return Choice(chosen, {name: scores[name] for name in ranked}, mixed)


def assess(choice: Choice, sample: Subsets, models: int, level: str) -> Assessment:
    """Check the chosen estimator on some columns of the subsets.

    Args:
        choice: from `choose`.
        sample: from `sample_columns`.
        models: how many models there are, seeds of one subset included.
        level: what a column is, for the verdict: example, class, overall.
    """
    estimator, reliability, more = choice.estimator, None, None
    if sample.units >= 2 * checks.LEAST_UNITS:
        reliability = checks.split_half(sample, estimator.halved)
        more = forecast(reliability, sample, estimator.halved)
        more = None if more is None else int(np.ceil(more * models / len(sample.masks)))
    ceiling, score = checks.noise_ceiling(sample), choice.scores.get(estimator.name)
    text = _verdict(score, ceiling, reliability, more, level)
    if not estimator.handles_mixed_sizes and choice.mixed_sizes:
        text += f" Subset sizes are mixed, and influences by {estimator.name} carry their effect: take ridge."
    lds = score or UNKNOWN
    return Assessment(
        estimator=estimator.name,
        lds=lds.value,
        lds_interval=(lds.low, lds.high),
        noise_ceiling=ceiling,
        split_half=reliability,
        more_models=more,
        candidates={name: tried.value for name, tried in choice.scores.items()},
        verdict=text,
    )


def _verdict(
    score: Score | None, ceiling: float | None, reliability: float | None, more: int | None, level: str = "example"
) -> str:
    """Say in a sentence or two how far the influences at one level (example, class, overall) can be trusted."""
    if score is None or reliability is None or np.isnan(score.value + reliability):
        return f"Influences at {level} level cannot be checked: too few different subsets to hold any out."
    share = f", {score.value / ceiling:.0%} of the noise ceiling" if ceiling else ""
    predicts = f"LDS {score.value:.2f} ({score.low:.2f} to {score.high:.2f}{share})"
    if score.low <= 0:
        predicts += ", so they do not predict held-out models"
    if reliability >= GOAL:
        quality = "are reliable"
    elif reliability >= 0.5:
        quality = "are right in the large, uncertain one by one"
    else:
        quality = "are mostly noise"
    text = f"Influences at {level} level {quality}: split-half reliability {reliability:.2f}, {predicts}."
    if more is None:
        return text + " How many models would help cannot be told yet."
    if more:
        text += f" About {_rounded(more):,} more models would reach split-half {GOAL:g}."
    return text


def _rounded(count: int) -> int:
    """Round to two digits, since a forecast has no more."""
    digits = max(len(str(count)) - 2, 0)
    return int(round(count, -digits))
