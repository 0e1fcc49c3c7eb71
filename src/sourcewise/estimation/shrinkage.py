"""Posteriors of influences by adaptive shrinkage: what to expect of effects, given estimates with errors.

The largest of many noisy estimates are too large. Effects are taken to be draws from a mixture of normals of several
scales about what is expected of them; its weights are fitted to all estimates together (empirical Bayes; Stephens,
Biostatistics 18, 2017). So small noisy estimates shrink much, and the few large effects hardly at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from sourcewise.estimation.arrays import Array, row_blocks

STEPS = 18
"""Scales of the mixture beside zero, each the square root of two times the one before."""
FITTED_CELLS = 2**16
"""Cells, evenly spaced, that the weights of the mixture are fitted to, at most."""


@dataclass(frozen=True)
class Posterior:
    """Effects as one should expect them after all, float[E, G] each; NaN where nothing is known of a group.

    Attributes:
        mean: expected effect, in units of the output.
        sd: its standard deviation, same unit.
        lfsr: local false sign rate, the probability that the effect does not have the sign of its mean.
    """

    mean: Array
    sd: Array
    lfsr: Array


@dataclass(frozen=True)
class Mixture:
    """A distribution of effects about their expectation: normals of several scales.

    Attributes:
        scales: float[S], standard deviations, the first of which is zero.
        weights: float[S], which sum to one.
    """

    scales: Array
    weights: Array


def normal_posterior(mean: Array, sd: Array) -> Posterior:
    """Return the posterior of effects that are normal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        lfsr = np.where(sd > 0, special.ndtr(-np.abs(mean) / sd), np.where(mean == 0, 0.5, 0.0))
    return Posterior(mean, sd, np.where(np.isnan(mean), np.nan, lfsr))


def fit_mixture(deviation: Array, stderr: Array) -> Mixture:
    """Fit the distribution of effects about their expectation to estimates with errors, by maximum likelihood.

    Args:
        deviation: float[...], estimates less what is expected; NaN are left out.
        stderr: float[...], their standard errors.
    """
    known = np.flatnonzero(np.isfinite(deviation.ravel()) & (stderr.ravel() > 0))
    if not known.size:
        return Mixture(np.zeros(1), np.ones(1))
    known = known[np.linspace(0, known.size - 1, min(known.size, FITTED_CELLS)).astype(np.int64)]
    x, error = deviation.ravel()[known].astype(np.float64), stderr.ravel()[known].astype(np.float64)
    largest = np.sqrt(max(float((x**2 - error**2).max()), float(np.median(error)) ** 2))
    scales = np.concatenate([[0.0], 2 * largest * np.sqrt(0.5) ** np.arange(STEPS)[::-1]])
    likelihood, weights = _likelihood(x, error, scales), np.full(len(scales), 1 / len(scales))
    for _ in range(500):  # expectation-maximisation
        share = likelihood * weights
        new = (share / share.sum(1, keepdims=True)).mean(0)
        moved = np.abs(new - weights).max()
        weights = new
        if moved < 1e-4:
            break
    return Mixture(scales[weights > 1e-6], weights[weights > 1e-6] / weights[weights > 1e-6].sum())


def adaptive_posterior(influence: Array, stderr: Array) -> Posterior:
    """Return the posterior of influences float[E, G] about the mean of each row, all rows being of one kind."""
    known = np.isfinite(influence)
    center = np.where(known, influence, 0.0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
    return shrink(influence, stderr, center, fit_mixture(influence - center, stderr))


def shrink(estimate: Array, stderr: Array, expected: Array, mixture: Mixture) -> Posterior:
    """Return the posterior of effects from their estimates, float[E, G], under the mixture about `expected`.

    Args:
        estimate: float[E, G], unbiased; NaN stays NaN.
        stderr: float[E, G], standard errors of the estimates; where zero, the estimate is taken as it is.
        expected: float[E, G], or what broadcasts to it.
        mixture: of effects less what is expected.
    """
    mean, sd, lfsr = np.empty((3, *estimate.shape))
    expected = np.broadcast_to(expected, estimate.shape)
    for rows in row_blocks((len(estimate), estimate.shape[1] * len(mixture.scales))):
        mean[rows], sd[rows], lfsr[rows] = _shrink_rows(estimate[rows], stderr[rows], expected[rows], mixture)
    return Posterior(mean, sd, lfsr)


def _shrink_rows(estimate: Array, stderr: Array, expected: Array, mixture: Mixture) -> tuple[Array, Array, Array]:
    error = stderr[..., None]
    deviation, square = (estimate - expected)[..., None], mixture.scales**2
    with np.errstate(divide="ignore", invalid="ignore"):
        share = _likelihood(estimate - expected, stderr, mixture.scales) * mixture.weights
        share /= share.sum(-1, keepdims=True)
        kept = np.where(error > 0, square / (square + error**2), 1.0)
        means = expected[..., None] + kept * deviation
        variances = kept * error**2
        mean = (share * means).sum(-1)
        variance = (share * (variances + (means - mean[..., None]) ** 2)).sum(-1)
        positive = np.where(variances > 0, special.ndtr(means / np.sqrt(variances)), np.where(means > 0, 1.0, 0.0))
        zero = np.where((variances == 0) & (means == 0), share, 0.0).sum(-1)
        above = (share * positive).sum(-1)
    lfsr = np.where(mean > 0, 1 - above, np.where(mean < 0, above + zero, np.maximum(1 - above, above + zero)))
    return mean, np.sqrt(variance), np.where(np.isnan(mean), np.nan, np.clip(lfsr, 0, 1))


def _likelihood(deviation: Array, stderr: Array, scales: Array) -> Array:
    """Return the density of deviations under each scale, float[..., S], relative to the largest one."""
    variance = np.maximum(scales**2 + stderr[..., None] ** 2, 1e-300)
    log_density = -0.5 * (np.log(variance) + deviation[..., None] ** 2 / variance)
    return np.asarray(np.exp(log_density - log_density.max(-1, keepdims=True)))
