"""Influences from plain arrays: `fit(masks, outputs)`.

>>> rng = np.random.default_rng(0)
>>> masks = rng.random((200, 5)) < 0.5
>>> outputs = masks @ np.array([[0.3], [-0.2], [0.0], [0.0], [0.0]]) + rng.normal(0, 0.05, (200, 1))
>>> result = fit(masks, outputs)
>>> result.influence.round(1).tolist()
[[0.3, -0.2, 0.0, 0.0, -0.0]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation import checks, scoring
from sourcewise.estimation.arrays import BLOCK_ROWS, CELLS, Array, PackedMasks, cuts
from sourcewise.estimation.checks import Checks, Point
from sourcewise.estimation.collapse import Knowledge, Subsets, collapse
from sourcewise.estimation.contract import Estimate, Estimator
from sourcewise.estimation.estimators import AUTO, EstimatorSetting, find_estimators
from sourcewise.estimation.identifiability import limits
from sourcewise.estimation.inference import intervals
from sourcewise.estimation.shrinkage import Posterior
from sourcewise.estimation.tables import estimate_table, posterior_table

SAMPLE = 1000
"""Columns that the checks look at, at most (evenly spaced), fewer where groups are many."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Influences of groups on outputs, and how far to trust them. Layout [examples, groups].

    Attributes:
        estimate: influence, stderr, dof and coefficients.
        qvalue: float[E, G], Benjamini-Hochberg over the table.
        groups: their names.
        method: the estimator used.
        checks: how far to trust the influences.
        sample: the subsets with the columns that the checks looked at.
    """

    estimate: Estimate
    qvalue: NDArray[np.floating[Any]]
    groups: tuple[str, ...]
    method: Estimator
    checks: Checks
    sample: Subsets = field(repr=False)

    @property
    def influence(self) -> Array:
        """Influences float[E, G]; positive = keeping the group helps. NaN where the models cannot tell."""
        return self.estimate.influence

    @property
    def stderr(self) -> Array:
        """Standard errors of the influences, float[E, G]."""
        return self.estimate.stderr

    @cached_property
    def posterior(self) -> Posterior:
        """What to expect of the effects after all, float[E, G] each."""
        return posterior_table(self.estimate)

    @property
    def verdict(self) -> str:
        """What the checks say, in a sentence or two."""
        return self.checks.verdict

    @property
    def gaps(self) -> str:
        """What these models cannot tell, in sentences; empty if they tell something of every group."""
        return " ".join(limits(self.sample.masks, self.groups))

    def __repr__(self) -> str:
        lines = strongest_lines(self.groups, self.influence, self.stderr, self.qvalue)
        return "\n".join(filter(None, [self.verdict, self.gaps, *lines]))

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Return the lower and upper ends, float[E, G], of the confidence intervals of the influences."""
        return intervals(self.influence, self.stderr, self.estimate.dof, level)

    def predict(self, masks: ArrayLike | PackedMasks) -> Array:
        """Return the outputs float[m, E] that are expected of models trained on the subsets bool[m, G]."""
        packed = _check_masks(masks)
        if packed.groups != len(self.groups):
            raise SourcewiseError(f"masks cover {packed.groups} groups, but {len(self.groups)} were fitted")
        return self.estimate.predict(packed)

    def curve(self) -> list[Point]:
        """Return LDS and split-half reliability against the number of models, up to all."""
        return sorted(checks.curve(self.sample, self.method.for_halves, self.checks))


def fit(
    masks: ArrayLike | PackedMasks,
    outputs: ArrayLike,
    estimator: EstimatorSetting = AUTO,
    seeds: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    level: str = "example",
    logits: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    priors: Mapping[str, ArrayLike] | None = None,
) -> Fit:
    """Estimate influences, their errors, and how well they predict models they have not seen.

    With more than 4,096 groups, only estimators that need no Gram matrix can be used: the difference of means. A table
    that memory should not hold is made part by part, in temporary files.

    Args:
        masks: bool[models, G], True where a model kept the group.
        outputs: float[models, E] (or [models]), outputs of each model on each example.
        estimator: difference, ridge, ols, lasso, hierarchical, the dotted path of your `Estimator`, or the object.
            Of several in a list, and for auto of all of ours, the one with the highest cross-fitted LDS is used; below
            twenty subsets the first.
        seeds: training seeds [models]. Models of one subset are averaged, and errors count subsets, not models.
        groups: names of the groups.
        level: what a column is, for the verdict: example, class, overall.
        logits: float[models, E], the outputs, which are probabilities then, on the scale where effects of groups add
            up best. Only estimators with a hierarchy use these, and what follows.
        labels: int[E], the class of each example; None: all are of one class.
        priors: float[classes, G] by name, tables that may be in proportion to the groups' effects on classes, such as
            similarities. How much each counts is fitted.

    Raises:
        SourcewiseError: fewer than two models, shapes that do not fit, NaN (with its rows), outputs that are all
            constant, an unknown estimator, or too few models for the one asked for.
    """
    packed, table = _check_masks(masks), _check_outputs(outputs)
    _check_sizes(packed, table)
    names = tuple(groups) if groups is not None else tuple(map(str, range(packed.groups)))
    if len(names) != packed.groups:
        raise SourcewiseError(f"{len(names)} group names for {packed.groups} groups")
    seed_of = None if seeds is None else np.asarray(seeds)
    if seed_of is not None and len(seed_of) != len(packed):
        raise SourcewiseError(f"{len(seed_of)} seeds for {len(packed)} models")
    candidates = find_estimators(estimator, packed.groups)
    knowledge = _check_knowledge(table, packed.groups, logits, labels, priors or {})
    uses_knowledge = any(item.needs_hierarchy for item in candidates)
    subsets = collapse(packed, table, seed_of, knowledge if uses_knowledge else None)
    sample = _sample_columns(subsets)
    comparison = scoring.compare_estimators(candidates, sample)
    method = next((item for item in candidates if item.name == next(iter(comparison.scores), "")), candidates[0])
    estimate, qvalue = estimate_table(subsets, method)
    return Fit(
        estimate=estimate,
        qvalue=qvalue,
        groups=names,
        method=method,
        checks=checks.check(method, comparison, sample, len(packed), level, estimate.weights),
        sample=sample,
    )


def strongest_lines(
    groups: Sequence[str], influence: Array, stderr: Array, qvalue: NDArray[np.floating[Any]], most: int = 5
) -> list[str]:
    """Return the influences [E, G] with the strongest evidence as lines of text, each with its error and q-value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        evidence = np.nan_to_num(np.abs(influence) / stderr, nan=-1.0, posinf=np.inf)
    order = np.argsort(-evidence, axis=None, kind="stable")[: min(most, int((evidence >= 0).sum()))]
    lines = []
    for row, group in zip(*np.unravel_index(order, evidence.shape), strict=True):
        where = f" on column {row}" if len(influence) > 1 else ""
        value, error, q = influence[row, group], stderr[row, group], qvalue[row, group]
        lines.append(f"  {groups[group]}{where}: {value:+.3g} ± {error:.2g}, q = {q:.2g}")
    return lines


def _check_knowledge(
    outputs: NDArray[Any],
    groups: int,
    logits: ArrayLike | None,
    labels: ArrayLike | None,
    priors: Mapping[str, ArrayLike],
) -> Knowledge | None:
    """Return what is known of the columns, or None. Raises SourcewiseError for shapes that do not fit."""
    if logits is None and labels is None and not priors:
        return None
    columns = outputs.shape[1]
    label = np.zeros(columns, np.int64) if labels is None else np.asarray(labels)
    if label.shape != (columns,) or label.dtype.kind not in "iu" or label.min(initial=0) < 0:
        raise SourcewiseError(f"labels must be {columns} numbers of classes, not {label.dtype}{list(label.shape)}")
    classes = int(label.max()) + 1
    tables = {name: np.asarray(table, dtype=np.float64) for name, table in priors.items()}
    for name, prior in tables.items():
        if prior.ndim != 2 or len(prior) < classes or prior.shape[1] != groups or not np.isfinite(prior).all():
            raise SourcewiseError(
                f"prior {name}: needs finite numbers [{classes} classes, {groups} groups], not {list(prior.shape)}"
            )
    if len({len(prior) for prior in tables.values()}) > 1:
        raise SourcewiseError(f"priors {', '.join(tables)}: all need the same number of classes")
    if logits is None:
        return Knowledge(label.astype(np.int64), np.ones(columns), tables)
    logit_table = _check_outputs(logits)
    if logit_table.shape != outputs.shape:
        raise SourcewiseError(f"logits need the shape of the outputs, {outputs.shape}, not {logit_table.shape}")
    if any(
        (table < 0).any() or (table > 1).any() for table in (outputs[rows] for rows in cuts(len(outputs), BLOCK_ROWS))
    ):
        raise SourcewiseError("logits go with outputs that are probabilities, between 0 and 1")
    return Knowledge(label.astype(np.int64), logit_slopes(outputs, logit_table), tables, logit_table)


def logit_slopes(probabilities: NDArray[Any], logits: NDArray[Any]) -> Array:
    """Return what one unit of the logit is worth in units of the probability, float[E]: the slope over models.

    That is the mean of p (1 - p) where logits are normal (Stein's lemma). Where a group moves them far, it is less: the
    slope of the chord, not of the tangents. It is 0 where logits never vary.
    """
    product, square = np.zeros((2, probabilities.shape[1]))
    mean = logits.mean(0, dtype=np.float64)
    for rows in cuts(len(probabilities), BLOCK_ROWS):
        centred = logits[rows] - mean
        product += (centred * probabilities[rows]).sum(0)
        square += (centred**2).sum(0)
    return np.maximum(product, 0.0) / np.where(square > 0, square, 1.0)


def _sample_columns(subsets: Subsets) -> Subsets:
    """Return evenly spaced columns, so few that checks stay cheap."""
    columns, groups = subsets.outputs.shape[1], subsets.masks.groups
    count = min(columns, int(np.clip(2e8 / groups**2, 100, SAMPLE)), max(CELLS // 2 // groups, 1))
    picked = np.linspace(0, columns - 1, count).round().astype(np.int64)
    return subsets.take(np.arange(subsets.units), picked)


def _check_sizes(masks: PackedMasks, outputs: NDArray[Any]) -> None:
    models = len(masks)
    if models != len(outputs):
        raise SourcewiseError(f"{models} masks but {len(outputs)} rows of outputs: each model needs one of both")
    if models < 2:
        raise SourcewiseError(f"{models} record{'s' * (models != 1)}: an estimate needs at least 2")
    if not (outputs.size and masks.groups):
        raise SourcewiseError(f"nothing to estimate: masks [{models}, {masks.groups}], outputs {outputs.shape}")
    if all((outputs[rows] == outputs[0]).all() for rows in masks.blocks()):
        raise SourcewiseError("outputs are constant: all models say the same, so nothing has an influence")


def _check_masks(masks: ArrayLike | PackedMasks) -> PackedMasks:
    """Return masks [m, G] of booleans, or of zeros and ones, as bits."""
    if isinstance(masks, PackedMasks):
        return masks
    table = np.asarray(masks)
    if table.ndim != 2:
        raise SourcewiseError(f"masks need two dimensions, models first, not {table.shape}")
    if table.dtype != np.bool_ and not np.isin(table, (0, 1)).all():
        raise SourcewiseError("masks must hold booleans, or zeros and ones (1 = group kept)")
    return PackedMasks.pack(table.astype(np.bool_))


def _check_outputs(outputs: ArrayLike) -> NDArray[Any]:
    """Return the outputs as a table float[m, E] of finite numbers; a single column may come as [m]."""
    table = np.asarray(outputs)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.dtype.kind not in "fiub":
        raise SourcewiseError(
            f"outputs must be real numbers [models, examples], not {table.dtype} of {table.ndim} dimensions"
        )
    finite = [np.isfinite(table[rows]).all(1) for rows in cuts(len(table), BLOCK_ROWS)]
    bad = np.flatnonzero(~np.concatenate([*finite, np.ones(0, np.bool_)]))
    if bad.size:
        named = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        raise SourcewiseError(
            f"outputs hold NaN or infinity in {len(bad)} of {len(table)} rows ({named}): leave them out"
        )
    return table if table.dtype.kind == "f" else table.astype(np.float64)
