"""Posteriors of influences by adaptive shrinkage: what to expect of effects, given estimates with errors.

The largest of many noisy estimates are too large. Effects are taken to be draws from a mixture of halves of normals,
above and below what is expected of them, of several scales each: effects that help may be larger than those that harm.
Its weights are fitted to all estimates together (empirical Bayes; Stephens, Biostatistics 18, 2017). So small noisy
estimates shrink much, and the few large effects hardly at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from sourcewise.estimation.arrays import Array, row_blocks

PRIOR_CELLS = 0.05
"""Effects seen beforehand at each scale: few estimates are not to single out one of several that do as well."""
GROWTHS = (1.0, 3.0)
"""How much wider effects may scatter of which much is expected."""
FITTED_CELLS = 2**12
"""Cells, evenly spaced, that the weights of the mixture are fitted to, at most."""
FAR = 3.0
"""Errors by which an estimate must lie away from where a posterior expects it, to count as far."""
FAR_BINS = 400
"""Bins of distances that the rarity of far estimates is fitted to."""


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
    """A distribution of effects about their expectation: halves of normals of several scales.

    Attributes:
        scales: float[S], standard deviations; of the half below what is expected, if negative; zero for that itself.
        weights: float[S], which sum to one.
        log_likelihood: mean over the estimates that it was fitted to.
    """

    scales: Array
    weights: Array
    log_likelihood: float = 0.0


def normal_posterior(mean: Array, sd: Array) -> Posterior:
    """Return the posterior of effects that are normal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        lfsr = np.where(sd > 0, special.ndtr(-np.abs(mean) / sd), np.where(mean == 0, 0.5, 0.0))
    return Posterior(mean, sd, np.where(np.isnan(mean), np.nan, lfsr))


def with_far_effects(posterior: Posterior, influence: Array, stderr: Array, dof: Array) -> Posterior:
    """Return a posterior that lets single effects lie far from what it expects, where their estimates do.

    If effects were as the posterior says, few unbiased estimates would lie farther from its mean than their errors. How
    many do decides how far these are believed: by a mixture with wide parts, in standard errors, fitted to all
    estimates. A single example that one group harms is such an effect, which a posterior that draws all examples of a
    class together would shrink away.

    Args:
        posterior: float[E, G] each, normal.
        influence: float[E, G], unbiased.
        stderr: float[E, G], its standard error.
        dof: float[E, G], degrees of freedom of that, for Student's t.
    """
    distance = influence - posterior.mean
    with np.errstate(divide="ignore", invalid="ignore"):
        distance /= stderr
    apart = (np.abs(distance) > 2) & (stderr > 0)  # never where nothing is known
    students = np.abs(distance[apart])
    # of a normal estimate that lies as far from what is expected, by its p-value
    normal = -special.ndtri(np.maximum(special.stdtr(dof[apart], -students), 1e-300))
    distance[apart] = np.copysign(normal, distance[apart])
    far = apart.copy()
    far[apart] = normal > FAR
    if not far.any():
        return posterior
    unit = (stderr[far] * (students / normal)[normal > FAR])[:, None]
    distances = [block[np.isfinite(block)] for block in (distance[rows] for rows in row_blocks(distance.shape))]
    largest = 1.001 * max(float(np.abs(block).max(initial=0)) for block in distances)
    edges = np.sinh(np.linspace(-1, 1, FAR_BINS + 1) * np.arcsinh(largest))  # finer near zero
    widths = FAR * 2.0 ** np.arange(np.ceil(np.log2(largest / FAR)) + 1)
    mixture = _fit_weights(
        (edges[:-1] + edges[1:]) / 2,
        np.ones(FAR_BINS),
        np.concatenate([-widths, [0.0], widths]),
        np.sum([np.histogram(block, edges)[0] for block in distances], axis=0),
        tolerance=1e-8,
    )
    del distance, distances
    estimate, expected, doubt = (table[far][:, None] / unit for table in (influence, posterior.mean, posterior.sd))
    result = shrink(estimate, np.ones_like(unit), expected, mixture, doubt)
    mean, sd, lfsr = (table.copy() for table in (posterior.mean, posterior.sd, posterior.lfsr))
    mean[far], sd[far], lfsr[far] = (result.mean * unit)[:, 0], (result.sd * unit)[:, 0], result.lfsr[:, 0]
    return Posterior(mean, sd, lfsr)


def fit_mixture(deviation: Array, stderr: Array) -> Mixture:
    """Fit the distribution of effects about their expectation to estimates with errors, by greatest posterior density.

    Args:
        deviation: float[...], estimates less what is expected; NaN are left out.
        stderr: float[...], their standard errors.
    """
    known = np.flatnonzero(np.isfinite(deviation.ravel()) & (stderr.ravel() > 0))
    if not known.size:
        return Mixture(np.zeros(1), np.ones(1))
    known = known[np.linspace(0, known.size - 1, min(known.size, FITTED_CELLS)).astype(np.int64)]
    x, error = deviation.ravel()[known].astype(np.float64), stderr.ravel()[known].astype(np.float64)
    typical = float(np.median(error))
    largest = 2 * np.sqrt(max(float((x**2 - error**2).max()), typical**2))
    steps = int(np.ceil(np.log2(largest / typical) + 2))
    halves = largest * 0.5 ** np.arange(steps)  # down to half an error
    scales = np.concatenate([-halves, [0.0], halves[::-1]])
    mixture = _fit_weights(x, error, scales, np.ones(len(x)))
    weights = np.where(mixture.weights < 1e-3, 0.0, mixture.weights)
    return Mixture(scales[weights > 0], weights[weights > 0] / weights.sum(), mixture.log_likelihood)


def _fit_weights(deviation: Array, stderr: Array, scales: Array, counts: Array, tolerance: float = 1e-4) -> Mixture:
    """Return the mixture of the scales with the greatest posterior density, by expectation-maximisation.

    deviation, stderr, counts: float[n], estimates less what is expected, their errors, and how often each is there.
    tolerance: change of a weight that ends the iteration.
    """
    log_density = _components(deviation, stderr, scales).log_density
    largest_log = log_density.max(1, keepdims=True)
    likelihood, weights = np.exp(log_density - largest_log), np.full(len(scales), 1 / len(scales))
    total, least_square = counts.sum() + PRIOR_CELLS * len(scales), len(scales) * tolerance**2
    new, moves, ratio = np.empty_like(weights), np.empty_like(weights), np.empty(len(likelihood))
    for _ in range(200):  # in place: with few estimates, what takes time is the calls
        np.divide(counts, np.dot(likelihood, weights, out=ratio), out=ratio)
        np.multiply(np.dot(ratio, likelihood, out=new), weights, out=new)
        new += PRIOR_CELLS
        new /= total
        np.subtract(new, weights, out=moves)
        weights, new = new, weights
        if moves @ moves < least_square and np.abs(moves).max() < tolerance:
            break
    log_likelihood = float(counts @ (np.log(likelihood @ weights) + largest_log[:, 0]) / counts.sum())
    return Mixture(scales, weights, log_likelihood)


@dataclass(frozen=True)
class Adaptation:
    """How effects are distributed, as unbiased influences let one think.

    Attributes:
        mixture: of effects about what is expected, over their widths.
        about_mean: whether what is expected takes in the mean of a row.
        growth: how much wider effects of which much is expected scatter, see `_widths`.
    """

    mixture: Mixture
    about_mean: bool
    growth: float

    def posterior(self, influence: Array, stderr: Array, expected: Array | float = 0.0) -> Posterior:
        """Return the posterior of effects from unbiased influences float[E, G], about what is expected of them."""
        width, center, error = _widths(expected, self.growth), expected, np.zeros((len(influence), 1))
        if self.about_mean:
            mean, error = row_center(influence - expected, stderr)
            center = expected + mean
        result = shrink(influence / width, stderr / width, center / width, self.mixture, error / width)
        return Posterior(result.mean * width, result.sd * width, result.lfsr)


def adapt(influence: Array, stderr: Array, expected: Array | float = 0.0) -> Adaptation:
    """Fit the distribution of effects to unbiased influences float[E, G].

    Effects are about what is expected of them, or about that plus the mean of their row (where more data helps, all
    groups help), whichever has the smaller Bayesian information criterion. They scatter wider where much is expected,
    as far as that is more likely.
    """
    deviation, groups = influence - expected, max(influence.shape[1], 2)
    center, _ = row_center(deviation, stderr)
    known = np.isfinite(deviation) & (stderr > 0)

    def attempt(about_mean: bool, growth: float) -> tuple[float, Adaptation]:
        width = _widths(expected, growth)
        mixture = fit_mixture((deviation - center if about_mean else deviation) / width, stderr / width)
        stretch = float(np.log(np.broadcast_to(width, known.shape)[known]).mean()) if known.any() else 0.0
        penalty = np.log(groups) / (2 * groups) if about_mean else 0.0
        return mixture.log_likelihood - stretch - penalty, Adaptation(mixture, about_mean, growth)

    tried = [attempt(about_mean, 0.0) for about_mean in ((False, True) if center.any() else (False,))]
    if np.any(expected):
        about_mean = tried[-1][0] > tried[0][0]
        tried += [attempt(about_mean, growth) for growth in GROWTHS]
    return max(tried, key=lambda item: item[0])[1]


def adaptive_posterior(influence: Array, stderr: Array, expected: Array | float = 0.0) -> Posterior:
    """Return the posterior of effects from unbiased influences float[E, G], see `adapt`."""
    return adapt(influence, stderr, expected).posterior(influence, stderr, expected)


def _widths(expected: Array | float, growth: float) -> Array:
    """Return the scale of deviations relative to that where nothing is expected; what is expected counts in its rms."""
    scale = np.sqrt(np.mean(np.square(expected)))
    return np.asarray(np.sqrt(1 + (growth * expected / scale) ** 2 if growth else np.ones((1, 1))))


def row_center(influence: Array, stderr: Array) -> tuple[Array, Array]:
    """Return the mean influence of each row and its standard error, float[E, 1] each.

    Both are zero where influences are relative to that mean, as with subsets of one size.
    """
    known = np.isfinite(influence + stderr)
    count = np.maximum(known.sum(1, keepdims=True), 1)
    center = np.where(known, influence, 0.0).sum(1, keepdims=True) / count
    error = np.sqrt(np.where(known, stderr**2, 0.0).sum(1, keepdims=True)) / count
    relative = np.abs(center) <= 1e-6 * error
    return np.where(relative, 0.0, center), np.where(relative, 0.0, error)


def shrink(
    estimate: Array, stderr: Array, expected: Array | float, mixture: Mixture, expected_error: Array | float = 0.0
) -> Posterior:
    """Return the posterior of effects from their estimates, float[E, G], under the mixture about `expected`.

    Args:
        estimate: float[E, G], unbiased; NaN stays NaN.
        stderr: float[E, G], standard errors of the estimates; where zero, the estimate is taken as it is.
        expected: float[E, G], or what broadcasts to it.
        mixture: of effects less what is expected.
        expected_error: standard error of `expected`, or what broadcasts to it.
    """
    mean, sd, lfsr = np.empty((3, *estimate.shape))
    center, center_error = (np.broadcast_to(table, estimate.shape) for table in (expected, expected_error))
    for rows in row_blocks((len(estimate), 8 * estimate.shape[1] * len(mixture.scales))):  # many tables of this size
        mean[rows], sd[rows], lfsr[rows] = _shrink_rows(
            estimate[rows], stderr[rows], center[rows], center_error[rows], mixture
        )
    return Posterior(mean, sd, lfsr)


def _shrink_rows(
    estimate: Array, stderr: Array, expected: Array, expected_error: Array, mixture: Mixture
) -> tuple[Array, Array, Array]:
    parts = _components(estimate - expected, stderr, mixture.scales)
    center, blur = expected[..., None], ((1 - parts.kept) * expected_error[..., None]) ** 2
    with np.errstate(invalid="ignore"):
        share = np.exp(parts.log_density - parts.log_density.max(-1, keepdims=True)) * mixture.weights
        share /= share.sum(-1, keepdims=True)
        means = center + parts.mean
        mean = (share * means).sum(-1)
        variance = (share * (parts.variance + blur + (means - mean[..., None]) ** 2)).sum(-1)
        above, below = ((share * part).sum(-1) for part in parts.sides(center, blur))
    lfsr = np.where(mean > 0, 1 - above, np.where(mean < 0, 1 - below, 1 - np.minimum(above, below)))
    return mean, np.sqrt(variance), np.where(np.isnan(mean), np.nan, np.clip(lfsr, 0, 1))


@dataclass(frozen=True)
class _Components:
    """Posterior of deviations from what is expected under each part of a mixture, float[..., S] each.

    Attributes:
        scales: float[S], as in `Mixture`.
        log_density: of the estimate, up to a constant.
        kept: share of the estimate that a whole normal would keep.
        center, spread: of that normal, of which the posterior is the half on the side of the scale.
        mean, variance: of the half.
    """

    scales: Array
    log_density: Array
    kept: Array
    center: Array
    spread: Array
    mean: Array
    variance: Array

    def sides(self, expected: Array, blur: Array) -> tuple[Array, Array]:
        """Return the probabilities that the effect, which is the deviation plus `expected`, is above and below zero.

        Where `expected` has a variance, `blur`, each part counts as normal.
        """
        side = np.sign(self.scales)
        if not expected.any() and not blur.any():  # most often
            return np.asarray(side > 0, np.float64), np.asarray(side < 0, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            if blur.any():
                above = special.ndtr((expected + self.mean) / np.sqrt(self.variance + blur))
                return above, 1 - above
            # of the half of a normal, the part beyond -expected, which lies on the other side of zero if it is cut
            tail = special.log_ndtr(side * (self.center + expected) / self.spread)
            kept = np.exp(np.minimum(tail - special.log_ndtr(side * self.center / self.spread), 0.0))
        cut = np.where(side * expected >= 0, 1.0, kept)
        above = np.where(side > 0, cut, np.where(side < 0, 1 - cut, expected > 0))
        below = np.where(side > 0, 1 - cut, np.where(side < 0, cut, expected < 0))
        exact = (self.spread == 0) & (side != 0)  # an estimate without an error
        effect = expected + self.mean
        return np.where(exact, effect > 0, above), np.where(exact, effect < 0, below)


def _components(deviation: Array, stderr: Array, scales: Array) -> _Components:
    """Return what each part of a mixture makes of deviations with errors, float[...]."""
    error, side = stderr[..., None], np.sign(scales)
    variance = np.maximum(scales**2 + error**2, 1e-300)
    kept = scales**2 / variance
    center, spread = kept * deviation[..., None], np.sqrt(kept) * error
    log_density = -0.5 * (np.log(variance) + deviation[..., None] ** 2 / variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(spread > 0, side * center / spread, np.sign(side * center) * 38.0)
    log_half = special.log_ndtr(z)
    hazard = np.exp(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - log_half)
    return _Components(
        scales=scales,
        log_density=log_density + np.where(side == 0, 0.0, np.log(2) + log_half),
        kept=kept,
        center=center,
        spread=spread,
        mean=np.where(side == 0, 0.0, center + side * spread * hazard),
        variance=np.where(side == 0, 0.0, np.maximum(spread**2 * (1 - hazard * (z + hazard)), 0.0)),
    )
