"""What an estimator is: the contract `Estimator`, and the `Estimate` that it gives.

The influence of a group on an output is the effect of keeping the group, in units of the output. It is positive where
keeping the group helps. One convention holds for all estimators. In a model y = a + sum_k b_k m_k of the masks m:

* where the sizes of the subsets vary as they do when groups are kept independently, or more (Bernoulli, Hadamard,
  several fractions), the influence is b_k: the effect of keeping the group, all others left as they are;
* where all subsets have one size, no data can tell b from b plus a constant, and the influence is b_k minus the mean of
  the other b: the effect of keeping this group rather than an average other one.

With interactions, b is the best linear account of the outputs under the design.

What predicts best is shrunken, and a shrunken estimate has no honest interval. So every estimate has two sets of
numbers: `coefficients`, shrunken where the estimator shrinks, predict; `influence`, with `stderr` and `dof`, is
unbiased.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import ALL, Array, Index, PackedMasks
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.moments import Moments
from sourcewise.estimation.shrinkage import Posterior


@dataclass(frozen=True)
class Estimate:
    """Influences of G groups on E outputs, with their uncertainty; NaN where the data cannot tell.

    Attributes:
        influence: float[E, G], effect of keeping the group, in units of the output; positive = keeping it helps.
        stderr: float[E, G], its standard error, same unit.
        dof: float[E, G], degrees of freedom of the standard error, for Student's t.
        kept_share: float[G], share of the models that kept each group.
        mean: float[E], mean output.
        coefficients: float[E, G], what `predict` uses; None if that is the influence.
        penalty: float[E], chosen a column at a time; None without one.
        posterior: what to expect of the effects after all; None where the estimator leaves that to adaptive shrinkage.
        weights: weight of each prior, by name, in units of the logit; empty without any.
    """

    influence: Array
    stderr: Array
    dof: Array
    kept_share: Array
    mean: Array
    coefficients: Array | None = None
    penalty: Array | None = None
    posterior: Posterior | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def slopes(self) -> Array:
        """What a group adds to a prediction, float[E, G]; zero where that cannot be told."""
        return np.nan_to_num(self.influence) if self.coefficients is None else self.coefficients

    def predict(self, masks: PackedMasks) -> Array:
        """Return the outputs float[m, E] that are expected of models trained on the subsets bool[m, G]."""
        slopes = self.slopes
        predicted = [(masks[rows].unpack() - self.kept_share) @ slopes.T + self.mean for rows in masks.blocks()]
        return np.concatenate([*predicted, np.empty((0, len(slopes)))])


@dataclass(frozen=True)
class Estimator:
    """A way to estimate influences, with what it needs and what it can do.

    Whatever compares, checks or picks estimators goes by these attributes, never by names. A user's estimator is an
    object of this class; `estimate.py` takes its dotted path (`estimator=my_module.halfway`), `sourcewise.fit` takes
    the object itself too.

    >>> from dataclasses import replace
    >>> from sourcewise.estimation.difference import difference
    >>> def predict_half(moments: Moments) -> Estimate:
    ...     estimate = difference(moments)
    ...     return replace(estimate, coefficients=estimate.slopes / 2)
    >>> halfway = Estimator("halfway", predict_half, needs_gram=False, joint=False, handles_mixed_sizes=False)

    Attributes:
        name: what results call it.
        function: estimates from `Moments`; with `needs_held_out`, from these and the moments of the held-out models
            among them. Each column is estimated by itself. It raises SourcewiseError where the data are too few.
        needs_gram: whether the moments must hold the Gram matrix of the masks, which studies of more than
            `GRAM_GROUPS` groups do not have.
        needs_squares: whether the moments must hold sums of squared outputs by group (`Moments.kept_square`).
        needs_held_out: whether it tunes itself on some models held out from the others.
        needs_hierarchy: whether the moments must hold those of the columns' logits and classes (`Moments.hierarchy`).
        least_subsets: fewest subsets, given the number of groups, with which it is tried when estimators compete.
        substitute: estimator of the influences from a part of the models, for the reliability of split halves; None:
            this estimator.
        joint: whether it estimates the groups together, as a regression does. The more models there are, the less of
            the other groups leaks into an influence then, and the forecast of the models needed counts on that.
        handles_mixed_sizes: whether it tells the effect of a group from that of subset size where sizes are mixed.
        by_parts: whether it may estimate a large table part by part: some examples at a time, or with more than
            `GRAM_GROUPS` groups some groups at a time. Else memory has to hold the table.
    """

    name: str
    function: Callable[..., Estimate]
    needs_gram: bool = True
    needs_squares: bool = True
    needs_held_out: bool = False
    needs_hierarchy: bool = False
    least_subsets: Callable[[int], int] = lambda groups: 2
    substitute: Estimator | None = None
    joint: bool = True
    handles_mixed_sizes: bool = True
    by_parts: bool = True

    @property
    def for_halves(self) -> Estimator:
        """The estimator that estimates from a part of the models in place of this one."""
        return self.substitute or self

    def estimate(self, moments: Moments, held_out: Moments | None = None) -> Estimate:
        """Estimate influences from the moments of all models, and those of the held-out ones if they are needed.

        Raises:
            SourcewiseError: the data are too few, held-out moments are missing, or a user's estimator does not give an
                `Estimate` of the right shape.
        """
        if self.needs_held_out and held_out is None:
            raise SourcewiseError(f"estimator {self.name} needs the moments of some held-out models")
        result = self.function(moments, held_out) if self.needs_held_out else self.function(moments)
        shape = moments.columns, moments.groups
        if not isinstance(result, Estimate) or np.shape(result.influence) != shape:
            raise SourcewiseError(
                f"estimator {self.name} must give an Estimate with influences [{shape[0]}, {shape[1]}],"
                f" not {getattr(result, 'influence', result)!r:.80}"
            )
        return result

    def sum_subsets(self, subsets: Subsets, columns: slice = ALL, groups: slice = ALL) -> Moments:
        """Return the moments of subsets, for a range of columns and groups, with all that the estimator needs."""
        return subsets.moments(columns, groups, self.needs_hierarchy, self.needs_squares)

    def estimate_subsets(
        self,
        subsets: Subsets,
        columns: slice = ALL,
        groups: slice = ALL,
        held_out: Index | None = None,
        second_pass: bool = True,
    ) -> Estimate:
        """Estimate influences from subsets, for a range of columns and groups.

        If held-out models are needed, these are the units `held_out`, by default those of the first fold. Standard
        errors may take a second pass over the models; influences and predictions do not, and are the same without.
        """
        moments = self.sum_subsets(subsets, columns, groups)
        if not second_pass:
            moments = replace(moments, models=None)
        if not self.needs_held_out:
            return self.estimate(moments)
        units = np.unique(subsets.unit[subsets.folds() == 0]) if held_out is None else held_out
        return self.estimate(moments, self.sum_subsets(subsets.take(units, columns), ALL, groups))
