"""The difference of means, which needs no Gram matrix and so can do any number of groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sourcewise.estimation.arrays import TILE_COLUMNS, Array, cuts
from sourcewise.estimation.contract import Estimate, Estimator
from sourcewise.estimation.inference import pooled_variance, uneven_noise_ratio, uneven_sides
from sourcewise.estimation.moments import Moments
from sourcewise.estimation.normal_equations import NormalEquations

SMALL_TILE = 64
"""Columns at a time where a tile takes many tables of its size."""


def difference(moments: Moments) -> Estimate:
    """Subtract the mean output of the models without a group from that of the models with it.

    This is the estimator of arXiv 2207.05739, section 3. The standard error is Student's, from the variance of both
    sides together: a side of few models says too little of its own, and Welch's error would often be far too small.
    Where the sides' sizes and variances clearly differ, it is corrected for that (see `inference.uneven_noise_ratio`).
    Where the masks are more balanced than independent draws, as in a Hadamard design, and the moments hold a Gram
    matrix, the error is instead that of the difference given the masks, from the variances of noise and effects (see
    `normal_equations`).

    A group that every model kept, or every model dropped, has NaN throughout. With fewer than two models on a side, the
    influence is given but its stderr and dof are NaN. Where subsets of several fixed sizes are mixed, every group is
    credited with a part of the effect of size.

    Raises:
        SourcewiseError: fewer than two models.
    """
    moments.check_count(2)
    influence, stderr, dof = np.empty((3, moments.columns, moments.groups))
    uneven = uneven_sides(moments.kept, moments.count - moments.kept)
    for tile in cuts(moments.columns, SMALL_TILE):
        with_group, without = moments.side_means(tile)
        influence[tile] = with_group.value - without.value
        variance = pooled_variance(with_group, without)
        dof[tile] = np.where(np.isnan(variance), np.nan, with_group.dof + without.dof)
        if uneven.any():
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(variance > 0, (with_group - without).variance / variance, 1.0)
            variance *= np.where(uneven, uneven_noise_ratio(ratio, _ratio_error(moments)), 1.0)
        stderr[tile] = np.sqrt(variance)
    estimate = Estimate(influence, stderr, dof, moments.kept_share, moments.mean)
    return _given_masks(moments, estimate) if moments.balanced else estimate


def _ratio_error(moments: Moments) -> Array:
    """Return the variance, float[G], of Welch's variance over Student's for normal outputs of one variance."""
    kept, dropped = (np.maximum(side, 1.0) for side in (moments.kept, moments.count - moments.kept))
    return np.asarray(2 * ((kept**-3 + dropped**-3) / (1 / kept + 1 / dropped) ** 2 - 1 / moments.count))


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
        size_product = fits.projection.size_product
        mean_effect = size_product / normal.size_square if normal.sizes_vary else np.zeros(len(size_product))
        size_leak = np.outer(mean_effect**2, leak.sum(1) ** 2)
        variance = fits.noise[:, None] / np.diag(gram) + np.outer(fits.effects, (leak**2).sum(1)) + size_leak
        stderr[tile][:, groups], dof[tile][:, groups] = np.sqrt(variance), normal.free
    return replace(estimate, stderr=stderr, dof=dof)


DIFFERENCE = Estimator("difference", difference, needs_gram=False, joint=False, handles_mixed_sizes=False)
