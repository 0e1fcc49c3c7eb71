"""The difference of means, which needs no Gram matrix and so can do any number of groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sourcewise.estimation.arrays import TILE_COLUMNS, cuts
from sourcewise.estimation.contract import Estimate, Estimator
from sourcewise.estimation.moments import Moments
from sourcewise.estimation.normal_equations import NormalEquations

SMALL_TILE = 64
"""Columns at a time where a tile takes many tables of its size."""


def difference(moments: Moments) -> Estimate:
    """Subtract the mean output of the models without a group from that of the models with it.

    This is the estimator of arXiv 2207.05739, section 3. The standard error is Welch's, with the Welch-Satterthwaite
    degrees of freedom (Biometrika 34, 1947): neither side's variance nor size has to equal the other's. Where the masks
    are more balanced than independent draws, as in a Hadamard design, and the moments hold a Gram matrix, the error is
    instead that of the difference given the masks, from the variances of noise and effects (see `normal_equations`).

    A group that every model kept, or every model dropped, has NaN throughout. With fewer than two models on a side, the
    influence is given but its stderr and dof are NaN. Where subsets of several fixed sizes are mixed, every group is
    credited with a part of the effect of size.

    Raises:
        SourcewiseError: fewer than two models.
    """
    moments.check_count(2)
    influence, stderr, dof = np.empty((3, moments.columns, moments.groups))
    for tile in cuts(moments.columns, SMALL_TILE):
        with_group, without = moments.side_means(tile)
        gap = with_group - without
        influence[tile], stderr[tile], dof[tile] = gap.value, np.sqrt(gap.variance), gap.dof
    estimate = Estimate(influence, stderr, dof, moments.kept_share, moments.mean)
    return _given_masks(moments, estimate) if moments.balanced else estimate


def _given_masks(moments: Moments, estimate: Estimate) -> Estimate:
    """Return the estimate with the errors that noise and leaks of other groups make, the masks being what they are."""
    normal = NormalEquations(moments)
    groups = normal.groups
    gram = moments.gram_about_mean(groups)
    leak = gram / np.diag(gram)[:, None]
    np.fill_diagonal(leak, 0.0)
    if not normal.sizes_vary:
        leak += (1 - np.eye(len(leak))) / max(len(leak) - 1, 1)
    stderr, dof = np.full((2, moments.columns, moments.groups), np.nan)
    for tile in cuts(moments.columns, TILE_COLUMNS):
        fits = normal.fit(tile)
        leaked = np.outer(fits.effects, (leak**2).sum(1))
        if normal.sizes_vary:
            mean_effect = fits.size_product / normal.size_square
            leaked += np.outer(mean_effect**2, leak.sum(1) ** 2)
        variance = fits.noise[:, None] / np.diag(gram) + leaked
        stderr[tile][:, groups], dof[tile][:, groups] = np.sqrt(variance), normal.dof(fits, variance, leaked)
    return replace(estimate, stderr=stderr, dof=dof)


DIFFERENCE = Estimator("difference", difference, needs_gram=False, joint=False, handles_mixed_sizes=False)
