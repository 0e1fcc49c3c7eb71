"""Influences from plain arrays: `fit(masks, outputs)`. The estimate command is a caller of it.

>>> rng = np.random.default_rng(0)
>>> masks = rng.random((200, 5)) < 0.5
>>> outputs = masks @ np.array([[0.3], [-0.2], [0.0], [0.0], [0.0]]) + rng.normal(0, 0.05, (200, 1))
>>> found = fit(masks, outputs)
>>> found.influence.round(1).tolist()
[[0.3, -0.2, 0.0, 0.0, -0.0]]
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation import checks
from sourcewise.estimation.checks import Point, Score
from sourcewise.estimation.estimators import ESTIMATORS, Estimate, balanced, confounded, crowding
from sourcewise.estimation.inference import intervals, pvalues, qvalues, qvalues_in_place
from sourcewise.estimation.moments import ALL, CELLS, GRAM, ROWS, Array, Index, Packed, Subsets, collapse, cuts

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
        verdict: all that in words.
        sample: what the checks looked at.
        candidates: LDS of every estimator that was tried.
    """

    estimate: Estimate
    qvalue: NDArray[np.floating[Any]]
    estimator: str
    groups: tuple[str, ...]
    lds: float
    lds_interval: tuple[float, float]
    noise_ceiling: float | None
    split_half: float | None
    more_models: int | None
    verdict: str
    sample: Subsets = field(repr=False)
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

    def predict(self, masks: ArrayLike | Packed) -> Array:
        """Outputs float[m, E] expected of models trained on the subsets bool[m, G]."""
        table = _masks(masks)
        if table.groups != len(self.groups):
            raise SourcewiseError(f"masks cover {table.groups} groups, but {len(self.groups)} were fitted")
        return self.estimate.predict(table)

    def curve(self) -> list[Point]:
        """LDS and split-half reliability against the number of models, up to all."""
        return checks.curve(self.sample, halved(self.estimator))


def halved(name: str) -> str:
    """What estimates from a part of the models: least squares may need all, and the lasso's influences are ridge's."""
    return name if name == "difference" else "ridge"


def fit(
    masks: ArrayLike | Packed,
    outputs: ArrayLike,
    estimator: str = "auto",
    seeds: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    level: str = "example",
) -> Fit:
    """Estimate influences, their errors, and how well they predict models they have not seen.

    With more than 4,096 groups, only the difference of means is estimated; a table that memory should not hold is made
    part by part, in temporary files.

    Args:
        masks: bool[models, G], True where a model kept the group.
        outputs: float[models, E] (or [models]), what each model says of each example.
        estimator: difference, ridge, ols, lasso, or auto: the one with the highest cross-fitted LDS.
        seeds: training seeds [models]. Models of one subset are averaged, and errors count subsets, not models.
        groups: names of the groups.
        level: what a column is, for the verdict: example, class, overall.

    Raises:
        SourcewiseError: fewer than two models, shapes that do not fit, NaN (with its rows), outputs that
            are all constant, or too few models for the estimator asked for.
    """
    kept, table = _masks(masks), _outputs(outputs)
    models, large = len(kept), kept.groups > GRAM
    if estimator not in ("auto", *ESTIMATORS):
        raise SourcewiseError(f"no estimator {estimator!r}: choose from auto, {', '.join(ESTIMATORS)}")
    if large and estimator not in ("auto", "difference"):
        raise SourcewiseError(f"estimator={estimator} can do {GRAM} groups, not {kept.groups}: use difference")
    if models != len(table):
        raise SourcewiseError(f"{models} masks but {len(table)} rows of outputs: one each a model")
    if models < 2:
        raise SourcewiseError(f"{models} record{'s' * (models != 1)}: an estimate needs at least 2")
    if not (table.size and kept.groups):
        raise SourcewiseError(f"nothing to estimate: masks [{models}, {kept.groups}], outputs {table.shape}")
    if all((table[rows] == table[0]).all() for rows in kept.blocks()):
        raise SourcewiseError("outputs are constant: all models say the same, so nothing has an influence")
    names = tuple(groups) if groups is not None else tuple(map(str, range(kept.groups)))
    if len(names) != kept.groups:
        raise SourcewiseError(f"{len(names)} group names for {kept.groups} groups")
    seeds = None if seeds is None else np.asarray(seeds)
    if seeds is not None and len(seeds) != models:
        raise SourcewiseError(f"{len(seeds)} seeds for {models} models")
    subsets = collapse(kept, table, seeds)
    sample, mixed = _sample(subsets), confounded(subsets.masks)
    candidates = [estimator]
    if estimator == "auto":
        candidates = ["difference"] if large else [name for name in ESTIMATORS if name != "difference" or not mixed]
        candidates = [name for name in candidates if name != "ols" or subsets.units // 2 > kept.groups + 5]
    scores: dict[str, Score] = {}
    fold = checks.folds(subsets)
    for name in candidates if subsets.units >= checks.LEAST else ():
        try:
            scores[name] = checks.lds(checks.predictions(sample, name, fold), sample, fold)
        except SourcewiseError:  # enough models for the fit itself, perhaps, but not without a fold
            continue
    ranked = sorted(scores, key=lambda name: -np.nan_to_num(scores[name].value, nan=-2.0))
    used = estimator if estimator != "auto" else [*ranked, "difference"][0]
    estimate, qvalue = _estimate(subsets, used, np.unique(subsets.unit[fold == 0]))
    score, reliability, more = scores.get(used), None, None
    if subsets.units >= 2 * checks.LEAST:
        reliability = checks.split_half(sample, halved(used))
        more = _more_models(reliability, sample, used != "difference")
        more = None if more is None else int(np.ceil(more * models / len(subsets.masks)))
    ceiling = checks.noise_ceiling(sample)
    words = checks.verdict(score, ceiling, reliability, more, level)
    if used == "difference" and mixed:
        words += " Subset sizes are mixed, and differences of means carry their effect: take ridge."
    lds = score or Score(*[float("nan")] * 3)
    return Fit(
        estimate=estimate,
        qvalue=qvalue,
        estimator=used,
        groups=names,
        lds=lds.value,
        lds_interval=(lds.low, lds.high),
        noise_ceiling=ceiling,
        split_half=reliability,
        more_models=more,
        verdict=words,
        sample=sample,
        candidates={name: scores[name].value for name in ranked},
    )


def _estimate(subsets: Subsets, name: str, held: Index) -> tuple[Estimate, NDArray[np.floating[Any]]]:
    """Influences by the named estimator, and their q-values; `held` are the units that the lasso's penalty rests on.

    A table too large for memory is made part by part, in float32 in temporary files: by examples, or by groups where
    these are too many for a Gram matrix.
    """

    def part(columns: slice, groups: slice) -> Estimate:
        held_out = [subsets.take(held, columns).moments()] if name == "lasso" else []
        return ESTIMATORS[name](subsets.moments(columns, groups), *held_out)

    shape = subsets.outputs.shape[1], subsets.masks.groups
    if shape[0] * shape[1] <= CELLS:
        found = part(ALL, ALL)
        return found, qvalues(pvalues(found.influence, found.stderr, found.dof))
    by_groups = subsets.masks.groups > GRAM
    cut, whole = (1, 0) if by_groups else (0, 1)
    step = max(CELLS // 2 // shape[whole] // 8 * 8, 8)
    kept, mean, qvalue = np.empty(shape[1]), np.empty(shape[0]), on_disk(shape)
    tables: dict[str, Array] = {}
    for tile in cuts(shape[cut], step):
        where = (ALL, tile) if by_groups else (tile, ALL)
        found = part(*where)
        for key in ("influence", "stderr", "dof", "coefficients"):
            if (values := getattr(found, key)) is not None:
                if key not in tables:
                    tables[key] = on_disk(shape)
                tables[key][where] = values
        mean[where[0]], kept[where[1]] = found.mean, found.kept
        qvalue[where] = pvalues(found.influence, found.stderr, found.dof)
    qvalues_in_place(qvalue, parts_of(shape))
    return Estimate(**tables, kept=kept, mean=mean), qvalue


def on_disk(shape: tuple[int, int]) -> NDArray[Any]:
    """A float32 table in a temporary file that ends with it. Raises SourcewiseError when the disk has no room."""
    size = 4 * shape[0] * shape[1]
    with tempfile.TemporaryFile(prefix="sourcewise-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise SourcewiseError(
                f"{tempfile.gettempdir()}: no room for {size / 2**30:.1f} GiB ({error.strerror}); set TMPDIR"
            ) from error
        return np.memmap(file, np.float32, "r+", shape=shape)


def parts_of(shape: tuple[int, ...]) -> list[slice]:
    """Rows of a table of that shape, by so many that they take little memory."""
    return cuts(shape[0], max(CELLS // 4 // shape[1], 1))


def _more_models(reliability: float, subsets: Subsets, shrunken: bool) -> int | None:
    """How many rows to add: groups leak into each other less than at random if the design balances them."""
    half = np.random.default_rng(0).permutation(subsets.units)[: subsets.units // 2]
    moments = subsets.take(half, slice(1)).moments()
    crowd, groups = (2.0 if moments.pairs else 1.0), subsets.masks.groups
    fading = max(crowd - crowding(moments), 0.0) / moments.count if balanced(moments) else 0.0
    groups = groups if shrunken or fading else 0
    return checks.more_models(reliability, len(subsets.masks), checks.GOAL, groups, shrunken, crowd, fading)


def _sample(subsets: Subsets) -> Subsets:
    """Evenly spaced columns, so few that checks stay cheap."""
    columns, groups = subsets.outputs.shape[1], subsets.masks.groups
    count = min(columns, int(np.clip(2e8 / groups**2, 100, SAMPLE)), max(CELLS // 2 // groups, 1))
    picked = np.linspace(0, columns - 1, count).round().astype(np.int64)
    return subsets.take(np.arange(subsets.units), picked)


def _outputs(outputs: ArrayLike) -> NDArray[Any]:
    """The table float[m, E] of finite numbers."""
    table = np.asarray(outputs)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.dtype.kind not in "fiub":
        raise SourcewiseError(
            f"outputs must be real numbers [models, examples], not {table.dtype} of {table.ndim} dimensions"
        )
    finite = [np.isfinite(table[rows]).all(1) for rows in cuts(len(table), ROWS)]
    bad = np.flatnonzero(~np.concatenate([*finite, np.ones(0, np.bool_)]))
    if bad.size:
        named = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        raise SourcewiseError(
            f"outputs hold NaN or infinity in {len(bad)} of {len(table)} rows ({named}): leave them out"
        )
    return table if table.dtype.kind == "f" else table.astype(np.float64)


def _masks(masks: ArrayLike | Packed) -> Packed:
    """The bits of booleans [m, G], or of zeros and ones."""
    if isinstance(masks, Packed):
        return masks
    table = np.asarray(masks)
    if table.ndim != 2:
        raise SourcewiseError(f"masks need two dimensions, models first, not {table.shape}")
    if table.dtype != np.bool_ and not np.isin(table, (0, 1)).all():
        raise SourcewiseError("masks must hold booleans, or zeros and ones (1 = group kept)")
    return Packed.of(table.astype(np.bool_))
