"""Influences from plain arrays: `fit(masks, outputs)`. The estimate command is a caller of it.

>>> rng = np.random.default_rng(0)
>>> masks = rng.random((200, 5)) < 0.5
>>> outputs = masks @ np.array([[0.3], [-0.2], [0.0], [0.0], [0.0]]) + rng.normal(0, 0.05, (200, 1))
>>> found = fit(masks, outputs)
>>> found.influence.round(1).tolist()
[[0.3, -0.2, 0.0, 0.0, -0.0]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sourcewise import checks
from sourcewise.checks import Estimator, Point, Score
from sourcewise.errors import SourcewiseError
from sourcewise.estimators import ESTIMATORS, Estimate, confounded
from sourcewise.inference import intervals, pvalues, qvalues
from sourcewise.moments import Array, Mask, Moments, Subsets, check, collapse

SAMPLE = 1000
"""Columns that the checks look at, at most (evenly spaced), fewer where groups are many."""


@dataclass(frozen=True)
class Fit:
    """Influences of groups on outputs, and how far to trust them. Layout [examples, groups].

    Attributes:
        estimate: influence, stderr, dof and coefficients.
        qvalue: float[E, G], Benjamini-Hochberg over the table.
        estimator: the one used.
        groups: their names.
        lds: held-out linear datamodeling score, cross-fitted; NaN with fewer than ten subsets.
        lds_interval: its 95% bootstrap interval.
        noise_ceiling: the LDS of a perfect predictor; None without subsets trained with several seeds.
        split_half: reliability of influences from half of the models; None with too few models.
        more_models: how many more would bring split_half to 0.8; None if that cannot be told.
        candidates: LDS of every estimator that was tried.
        verdict: all that in words.
    """

    estimate: Estimate
    qvalue: Array
    estimator: str
    groups: tuple[str, ...]
    lds: float
    lds_interval: tuple[float, float]
    noise_ceiling: float | None
    split_half: float | None
    more_models: int | None
    verdict: str
    candidates: dict[str, float] = field(default_factory=dict)

    @property
    def influence(self) -> Array:
        """float[E, G]; positive = keeping the group helps. NaN where the models cannot tell."""
        return self.estimate.influence

    @property
    def stderr(self) -> Array:
        """float[E, G], standard error of influence."""
        return self.estimate.stderr

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Lower and upper ends float[E, G] of the confidence intervals of influence."""
        return intervals(self.influence, self.stderr, self.estimate.dof, level)

    def predict(self, masks: ArrayLike) -> Array:
        """Outputs float[m, E] expected of models trained on the subsets bool[m, G]."""
        table = _masks(masks)
        if table.shape[1] != len(self.groups):
            raise SourcewiseError(f"masks cover {table.shape[1]} groups, but {len(self.groups)} were fitted")
        return self.estimate.predict(table)


def named(name: str) -> Estimator:
    """The estimator of that name as a function of all moments and of those of some held-out models."""
    if name not in ESTIMATORS:
        raise SourcewiseError(f"no estimator {name!r}: choose from auto, {', '.join(ESTIMATORS)}")
    return partial(_call, name)


def _call(name: str, moments: Moments, held: Moments) -> Estimate:
    return ESTIMATORS[name](moments, held) if name == "lasso" else ESTIMATORS[name](moments)


def fit(
    masks: ArrayLike,
    outputs: ArrayLike,
    estimator: str = "auto",
    seeds: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    level: str = "example",
) -> Fit:
    """Estimate influences, their errors, and how well they predict models they have not seen.

    Args:
        masks: bool[models, G], True where a model kept the group.
        outputs: float[models, E] (or [models]), what each model says of each example.
        estimator: difference, ridge, ols, lasso, or auto: the one with the highest cross-fitted LDS.
        seeds: training seeds [models]. Models of one subset are averaged, and errors count subsets, not
        models.
        groups: names of the groups.
        level: what a column is, for the verdict: example, class, overall.

    Raises:
        SourcewiseError: fewer than two models, shapes that do not fit, NaN (with its rows), outputs that
            are all constant, or too few models for the estimator asked for.
    """
    kept, table = _masks(masks), np.asarray(outputs)
    table = table[:, None] if table.ndim == 1 else table
    if estimator != "auto":
        named(estimator)
    check(kept, table)
    if len(kept) < 2:
        raise SourcewiseError(f"{len(kept)} record{'s' * (len(kept) != 1)}: an estimate needs at least 2")
    if not (table.size and kept.shape[1]):
        raise SourcewiseError(f"nothing to estimate: masks {kept.shape}, outputs {table.shape}")
    if (table == table[0]).all():
        raise SourcewiseError("outputs are constant: all models say the same, so nothing has an influence")
    names = tuple(groups) if groups is not None else tuple(str(g) for g in range(kept.shape[1]))
    if len(names) != kept.shape[1]:
        raise SourcewiseError(f"{len(names)} group names for {kept.shape[1]} groups")
    if seeds is not None and len(np.asarray(seeds)) != len(kept):
        raise SourcewiseError(f"{len(np.asarray(seeds))} seeds for {len(kept)} models")
    subsets = collapse(kept, table, None if seeds is None else np.asarray(seeds))
    moments = subsets.moments()
    sample = _sample(subsets)
    units = int(subsets.unit[-1]) + 1
    scores: dict[str, Score] = {}
    fold = checks.folds(subsets)
    if units >= checks.LEAST:
        for name in _candidates(moments, units) if estimator == "auto" else [estimator]:
            try:
                predicted = checks.predictions(sample, named(name), fold)
            except SourcewiseError:  # enough models for the fit itself, perhaps, but not without a fold
                continue
            scores[name] = checks.lds(predicted, sample, fold)
    ranked = sorted(scores, key=lambda name: -np.nan_to_num(scores[name].value, nan=-2.0))
    used = estimator if estimator != "auto" else ranked[0] if ranked else "difference"
    held = subsets.take(np.unique(subsets.unit[fold == 0])).moments() if used == "lasso" else moments
    estimate = named(used)(moments, held)
    score, reliability, more = scores.get(used), None, None
    if units >= 2 * checks.LEAST:
        # halves may have fewer models than groups, where least squares fails; ridge does not
        plain = used == "difference"
        reliability = checks.split_half(sample, named("difference" if plain else "ridge"))
        # a foldover's pairs tell the groups apart half as well as independent models, until they are complete
        learnt = len(names) * (2 if subsets.pairs else int(not plain))
        rows = len(subsets.masks)
        more = checks.more_models(reliability, rows, groups=learnt)
        more = None if more is None else int(np.ceil(more * len(kept) / rows))
    ceiling = checks.noise_ceiling(sample)
    words = checks.verdict(score, ceiling, reliability, more, level)
    if used == "difference" and confounded(moments):
        words += " Subset sizes are mixed, and differences of means carry their effect: take ridge."
    nan = float("nan")
    return Fit(
        estimate=estimate,
        qvalue=qvalues(pvalues(estimate.influence, estimate.stderr, estimate.dof)),
        estimator=used,
        groups=names,
        lds=score.value if score else nan,
        lds_interval=(score.low, score.high) if score else (nan, nan),
        noise_ceiling=ceiling,
        split_half=reliability,
        more_models=more,
        verdict=words,
        candidates={name: scores[name].value for name in ranked},
    )


def convergence(
    masks: ArrayLike, outputs: ArrayLike, estimator: str = "ridge", seeds: ArrayLike | None = None
) -> list[Point]:
    """LDS and split-half reliability against the number of models, up to all. Arguments as in `fit`."""
    table = np.asarray(outputs)
    table = table[:, None] if table.ndim == 1 else table
    subsets = collapse(_masks(masks), table, None if seeds is None else np.asarray(seeds))
    return checks.curve(_sample(subsets), named(estimator))


def _candidates(moments: Moments, units: int) -> list[str]:
    """Estimators worth trying on such models."""
    names = [name for name in ESTIMATORS if name != "ols" or units // 2 > moments.groups + 5]
    return [name for name in names if name != "difference" or not confounded(moments)]


def _sample(subsets: Subsets) -> Subsets:
    """Evenly spaced columns, so few that checks stay cheap."""
    columns, groups = subsets.outputs.shape[1], subsets.masks.shape[1]
    count = min(columns, int(np.clip(2e8 / groups**2, 100, SAMPLE)))
    picked = np.linspace(0, columns - 1, count).round().astype(np.int64)
    return subsets.take(np.unique(subsets.unit), picked)


def _masks(masks: ArrayLike) -> Mask:
    """bool[m, G] of booleans, or of zeros and ones."""
    table: NDArray[Any] = np.asarray(masks)
    if table.ndim != 2:
        raise SourcewiseError(f"masks need two dimensions, models first, not {table.shape}")
    if table.dtype != np.bool_ and not np.isin(table, (0, 1)).all():
        raise SourcewiseError("masks must hold booleans, or zeros and ones (1 = group kept)")
    return table.astype(np.bool_)
