"""Influences from plain arrays: `fit(masks, outputs)`, the list of all steps.

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
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation import checks
from sourcewise.estimation.arrays import Array
from sourcewise.estimation.assessment import Assessment, assess, choose, sample_columns
from sourcewise.estimation.checks import Point
from sourcewise.estimation.collapse import Subsets, collapse
from sourcewise.estimation.contract import Estimate, Estimator
from sourcewise.estimation.estimators import AUTO, EstimatorSetting, find_estimators
from sourcewise.estimation.inference import intervals
from sourcewise.estimation.inputs import check_inputs, check_masks
from sourcewise.estimation.masks import PackedMasks
from sourcewise.estimation.tables import estimate_table


@dataclass(frozen=True)
class Fit:
    """Influences of groups on outputs, and how far to trust them. Layout [examples, groups].

    Attributes:
        estimate: influence, stderr, dof and coefficients.
        qvalue: float[E, G], Benjamini-Hochberg over the table.
        groups: their names.
        assessment: what the checks say.
        chosen: the estimator used.
        sample: the subsets with the columns that the checks looked at.
    """

    estimate: Estimate
    qvalue: NDArray[np.floating[Any]]
    groups: tuple[str, ...]
    assessment: Assessment
    chosen: Estimator = field(repr=False)
    sample: Subsets = field(repr=False)

    @property
    def influence(self) -> Array:
        """Influences float[E, G]; positive = keeping the group helps. NaN where the models cannot tell."""
        return self.estimate.influence

    @property
    def stderr(self) -> Array:
        """Standard errors of the influences, float[E, G]."""
        return self.estimate.stderr

    @property
    def estimator(self) -> str:
        """Name of the estimator used."""
        return self.assessment.estimator

    @property
    def lds(self) -> float:
        """Held-out linear datamodeling score, cross-fitted; NaN with fewer than ten subsets."""
        return self.assessment.lds

    @property
    def lds_interval(self) -> tuple[float, float]:
        """Ends of the 95% bootstrap interval of `lds`."""
        return self.assessment.lds_interval

    @property
    def noise_ceiling(self) -> float | None:
        """LDS of a perfect predictor; None without subsets trained with several seeds."""
        return self.assessment.noise_ceiling

    @property
    def split_half(self) -> float | None:
        """Reliability of influences from half of the models; None with too few models."""
        return self.assessment.split_half

    @property
    def more_models(self) -> int | None:
        """How many more models would bring `split_half` to 0.8; None if that cannot be told."""
        return self.assessment.more_models

    @property
    def candidates(self) -> Mapping[str, float]:
        """LDS of every estimator that was tried, by name, the best first."""
        return self.assessment.candidates

    @property
    def verdict(self) -> str:
        """What the checks say, in a sentence or two."""
        return self.assessment.verdict

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Return the lower and upper ends, float[E, G], of the confidence intervals of the influences."""
        return intervals(self.influence, self.stderr, self.estimate.dof, level)

    def predict(self, masks: ArrayLike | PackedMasks) -> Array:
        """Return the outputs float[m, E] that are expected of models trained on the subsets bool[m, G]."""
        packed = check_masks(masks)
        if packed.groups != len(self.groups):
            raise SourcewiseError(f"masks cover {packed.groups} groups, but {len(self.groups)} were fitted")
        return self.estimate.predict(packed)

    def curve(self) -> list[Point]:
        """Return LDS and split-half reliability against the number of models, up to all."""
        return checks.curve(self.sample, self.chosen.halved)


def fit(
    masks: ArrayLike | PackedMasks,
    outputs: ArrayLike,
    estimator: EstimatorSetting = AUTO,
    seeds: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    level: str = "example",
) -> Fit:
    """Estimate influences, their errors, and how well they predict models they have not seen.

    With more than 4,096 groups, only estimators that need no Gram matrix can be used: the difference of means. A table
    that memory should not hold is made part by part, in temporary files.

    Args:
        masks: bool[models, G], True where a model kept the group.
        outputs: float[models, E] (or [models]), what each model says of each example.
        estimator: difference, ridge, ols, lasso, the dotted path of an `Estimator` of yours, or the object. Of several
            in a list, and for auto of all of ours, the one with the highest cross-fitted LDS is used.
        seeds: training seeds [models]. Models of one subset are averaged, and errors count subsets, not models.
        groups: names of the groups.
        level: what a column is, for the verdict: example, class, overall.

    Raises:
        SourcewiseError: fewer than two models, shapes that do not fit, NaN (with its rows), outputs that are all
            constant, an unknown estimator, or too few models for the one asked for.
    """
    inputs = check_inputs(masks, outputs, seeds, groups)
    candidates = find_estimators(estimator, inputs.masks.groups)
    subsets = collapse(inputs.masks, inputs.outputs, inputs.seeds)
    sample = sample_columns(subsets)
    choice = choose(candidates, sample)
    estimate, qvalue = estimate_table(subsets, choice.estimator)
    assessment = assess(choice, sample, len(inputs.masks), level)
    return Fit(estimate, qvalue, inputs.groups, assessment, choice.estimator, sample)
