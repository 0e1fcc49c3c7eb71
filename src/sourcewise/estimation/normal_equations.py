"""The normal equations of regressions of outputs on masks, in the eigenbasis of the Gram matrix.

Ridge shrinks each coefficient by a factor H_kk, H = (G + penalty I)^-1 G. Its influence is the coefficient over that
factor, which leaves b_k + sum_j H_kj / H_kk b_j + noise: unbiased for the group itself, with leaks of the other groups
whose signs are random by design. With b_j of variance tau^2 and noise of variance sigma^2, its error has the variance
sigma^2 [(G + penalty I)^-1 G (G + penalty I)^-1]_kk / H_kk^2 + tau^2 sum_j (H_kj / H_kk)^2. Both variances are means
over all penalties sigma^2 / tau^2, weighted by their restricted likelihood (Patterson & Thompson, Biometrika 58,
1971), a column at a time: the most likely penalty alone would make errors far too small where models are few. This runs
from ordinary least squares (no penalty) to the difference of means (large penalty), is defined with fewer models than
groups, and the penalty that predicts best makes its error smallest too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import ALL, TILE_COLUMNS, Array, Index, cuts
from sourcewise.estimation.contract import Estimate
from sourcewise.estimation.inference import uneven_noise_ratio, uneven_sides
from sourcewise.estimation.moments import Moments
from sourcewise.estimation.spectra import eigen

PENALTIES = np.logspace(-3, 3, 31)
"""Ridge penalties to choose from, in units of the mean eigenvalue of the Gram matrix."""


def relative_likelihood(deviance: Array) -> Array:
    """Return the likelihoods of the rows, which sum to one in each column, from their deviances."""
    likelihood = np.exp((deviance.min(0) - deviance) / 2)
    return np.asarray(likelihood / likelihood.sum(0))


@dataclass(frozen=True)
class Projection:
    """A tile of e columns against the eigenvectors. Shapes: rotated [e, rank], the others [e].

    Attributes:
        rotated: product of the eigenvectors with the masks and the outputs.
        size_product: product of the subset size with the outputs.
        total: sum of the squares of the outputs about their mean, without what the subset size explains.
        floor: rounding of sums of squares.
    """

    rotated: Array
    size_product: Array
    total: Array
    floor: Array


@dataclass(frozen=True)
class ColumnFits:
    """What suits a tile of e columns. Shapes: [e].

    Attributes:
        projection: of the columns.
        noise: variance of the noise, sigma^2.
        effects: variance of the effects, tau^2.
        best: index of the penalty of least generalised cross-validation.
        residual: sum of squares that least squares leaves.
    """

    projection: Projection
    noise: Array
    effects: Array
    best: Index
    residual: Array


Choice = Callable[[ColumnFits], tuple[Index, Array, Array]]
"""From the fits of e columns, int[e], indices into the penalties, and float[e], the variances of the noise and of the
effects of other groups, which leak."""


def least_cross_validation(fits: ColumnFits) -> tuple[Index, Array, Array]:
    """Return the penalties of least generalised cross-validation, and the variances by likelihood."""
    return fits.best, fits.noise, fits.effects


class NormalEquations:
    """Normal equations of the K groups that vary, without the direction of subset size, in their eigenbasis.

    Attributes:
        groups: int[K], positions of the groups that vary.
        size_weight: float[K], the direction of subset size: what of the mean effect each group's slope carries.
        size_square: sum of squares of the subset size; 0 where it does not vary, or one group alone varies.
        sizes_vary: whether sizes vary enough to tell effects themselves, not only relative to those of other groups.
        free: degrees of freedom that the mean and the subset size leave.
        values, vectors: float[rank] and float[K, rank], eigenvalues and eigenvectors.
        rank: directions that the masks span.
        penalties: float[L], the last of which is zero.
        filters: float[L, rank], 1 / (eigenvalue + penalty).
        log_determinant: float[L - 1], what the likelihood of each positive penalty has of the masks.
        shrinkage: float[L, K], H_kk; NaN where the group cannot be told from the others at all.
        noise_gain, leak_gain: float[L, K], variance that noise, and effects of other groups, of unit variance give the
            influence.

    Raises:
        SourcewiseError: fewer than four models, no Gram matrix, or no group that was ever dropped.
    """

    def __init__(self, moments: Moments) -> None:
        moments.check_count(4)
        self.moments, self.groups = moments, moments.varying
        if not self.groups.size:
            raise SourcewiseError("every group was kept by all models or by none: no influence can be estimated")
        gram = moments.gram_about_mean(self.groups)
        self._squares, self.free = moments.squares_about_mean()
        weight, self.size_square, scale = gram.sum(1), float(gram.sum()), float(np.trace(gram))
        if self.groups.size > 1 and self.size_square > 1e-9 * scale:
            gram = gram - np.outer(weight, weight) / self.size_square
            self.free -= 1
        else:
            self.size_square = 0.0
        self.size_weight = weight / self.size_square if self.size_square else np.zeros(self.groups.size)
        self.sizes_vary = self.size_square > 0.1 * scale
        spectrum = eigen(gram, moments.count)
        first = np.searchsorted(spectrum.values, 1e-9 * max(float(spectrum.values[-1]), 1e-9 * scale), side="right")
        self.values, self.vectors = spectrum.values[first:], spectrum.vectors[:, first:]
        self.rank = len(self.values)
        self.penalties = np.append(PENALTIES * (self.values.mean() if self.rank else 1.0), 0.0)
        self.filters = 1 / (self.values + self.penalties[:, None])
        self.log_determinant = np.log1p(self.values / self.penalties[:-1, None]).sum(1)
        sizes = np.append(self.size_weight, [self.size_square, scale])
        self.shrinkage, self.noise_gain, self.leak_gain = spectrum.derived(sizes, self._gains)

    def with_outputs(self, moments: Moments) -> NormalEquations:
        """Return the equations of other outputs of the same models."""
        result = copy.copy(self)
        result.moments, result._squares = moments, moments.squares_about_mean()[0]
        return result

    def project(self, tile: slice = ALL) -> Projection:
        """Return a tile of columns against the eigenvectors."""
        m = self.moments
        cross = m.kept_total[tile][:, self.groups] - np.outer(m.total[tile] / m.count, m.kept[self.groups])
        size_product = cross.sum(1)
        cross -= np.outer(size_product, self.size_weight)
        squares = self._squares[tile]
        total = squares - (size_product**2 / self.size_square if self.size_square else 0.0)
        return Projection(cross @ self.vectors, size_product, total, 64 * m.precision * squares + 1e-300)

    def fit(self, tile: slice) -> ColumnFits:
        """Choose the penalty and the variances of a tile of columns.

        Generalised cross-validation needs one eigendecomposition for all columns and penalties (Golub, Heath & Wahba,
        Technometrics 21, 1979).
        """
        projection, free = self.project(tile), self.free
        square, total, floor = projection.rotated**2, projection.total, projection.floor
        constant = self._squares[tile] == 0
        filters, shares = self.filters, self.values * self.filters
        quadratic = np.maximum(total - filters @ square.T, floor)
        residual = np.maximum(total - (filters * (2 - shares)) @ square.T, floor)
        shrunk = shares[:-1].sum(1)[:, None]
        likelihood = relative_likelihood(free * np.log(quadratic[:-1]) + self.log_determinant[:, None])
        best = (residual[:-1] / (free - shrunk) ** 2).argmin(0)
        quadratic[:, constant] = residual[:, constant] = 0.0
        noise = likelihood * quadratic[:-1] / free
        effects = noise / self.penalties[:-1, None]
        return ColumnFits(projection, noise.sum(0), effects.sum(0), best, residual[-1])

    def group_slopes(self, rotated: Array, size_product: Array) -> Array:
        """Return the slopes of the groups, float[e, K], that those along the eigenvectors [e, rank] stand for."""
        slopes = rotated @ self.vectors.T
        if self.sizes_vary:
            slopes += (size_product / self.size_square - slopes @ self.size_weight)[:, None]
        return slopes

    def estimate(self, choose: Choice = least_cross_validation) -> Estimate:
        """Estimate all columns; groups that do not vary are NaN, their coefficients zero."""
        m, groups, k = self.moments, self.groups, self.groups.size
        influence, stderr = (np.full((m.columns, m.groups), np.nan) for _ in range(2))  # one may be dropped
        dof = np.full(m.groups, np.nan)
        dof[groups] = self.free
        coefficients, penalties = np.zeros((m.columns, m.groups)), np.empty(m.columns)
        uneven = uneven_sides(m.kept[groups], m.count - m.kept[groups])
        for tile in cuts(m.columns, TILE_COLUMNS):
            fits = self.fit(tile)
            penalty, noise, effects = choose(fits)
            projection = fits.projection
            slopes = (projection.rotated * self.filters[penalty]) @ self.vectors.T
            effect = slopes / self.shrinkage[penalty]
            if self.sizes_vary:
                mean_effect = (projection.size_product / self.size_square - slopes @ self.size_weight)[:, None]
                effect, slopes = mean_effect + (k - 1) / k * effect, mean_effect + slopes
            noise_gain = self.noise_gain[penalty]
            if uneven.any():
                noise_gain *= np.where(uneven, self._noise_ratio(tile, penalty, slopes), 1.0)
            variance = noise[:, None] * noise_gain + effects[:, None] * self.leak_gain[penalty]
            stderr[tile][:, groups] = np.sqrt(variance)
            influence[tile][:, groups], coefficients[tile][:, groups] = effect, slopes
            penalties[tile] = self.penalties[penalty]
        dofs = np.broadcast_to(dof, influence.shape)  # which takes no memory
        return Estimate(influence, stderr, dofs, m.kept_share, m.mean, coefficients, penalties)

    def _noise_ratio(self, tile: slice, penalty: Index, slopes: Array) -> Array:
        """Return how many times the variance for even noise each influence has, float[e, K], by a second pass.

        An influence is a weighted sum of the outputs. With noise that differs from model to model, its variance is the
        sum of the squares of weights and residuals, each over one minus the model's leverage (HC2).

        Args:
            tile: e of the columns.
            penalty: int[e], indices into `penalties`.
            slopes: float[e, K], what predicts these columns.
        """
        m, k = self.moments, self.groups.size
        if m.models is None:
            return np.ones_like(slopes)
        used, column_penalty = np.unique(penalty, return_inverse=True)
        robust, (square_sum, fourth_sum) = np.zeros(slopes.shape), np.zeros((2, len(slopes)))
        weight_sum, weight_square = np.zeros((2, len(used), k))
        for masks, outputs in m.models():
            centred = masks[:, self.groups] - m.kept_share[self.groups]
            size = centred.sum(1)
            rotated = (centred - np.outer(size, self.size_weight)) @ self.vectors
            residual = outputs[:, tile] - m.mean[tile] - centred @ slopes.T
            for i, chosen in enumerate(used):
                columns = np.flatnonzero(column_penalty == i)
                slope_weight = (rotated * self.filters[chosen]) @ self.vectors.T
                leverage = 1 / m.count + rotated**2 @ self.filters[chosen]
                weight = slope_weight / self.shrinkage[chosen]
                if self.size_square:
                    leverage += size**2 / self.size_square
                if self.sizes_vary:
                    weight *= (k - 1) / k
                    weight += (size / self.size_square - slope_weight @ self.size_weight)[:, None]
                weight **= 2
                square = residual[:, columns] ** 2 / np.maximum(1 - leverage, 1e-3)[:, None]
                robust[columns] += square.T @ weight
                square_sum[columns] += square.sum(0)
                fourth_sum[columns] += (square**2).sum(0)
                weight_sum[i] += weight.sum(0)
                weight_square[i] += (weight**2).sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            level = square_sum / m.count
            kurtosis = fourth_sum / m.count / level**2 - 1
            ratio = robust / (weight_sum[column_penalty] * level[:, None])
            spread = np.maximum(weight_square / weight_sum**2 - 1 / m.count, 0.0)
            result = uneven_noise_ratio(ratio, kurtosis[:, None] * spread[column_penalty])
        return np.where(np.isnan(result), 1.0, result)

    def _gains(self) -> tuple[Array, Array, Array]:
        """Return the shrinkage, and the gains of noise and leaks."""
        filters, square, k = self.filters, (self.vectors**2).T, self.groups.size
        shares = self.values * filters
        shrinkage = shares @ square
        shrinkage = np.where(shrinkage > 1e-9, shrinkage, np.nan)
        noise = (shares * filters) @ square / shrinkage**2
        leak = shares**2 @ square / shrinkage**2 - 1
        if k > 1:
            leak -= 1 / (k - 1)
        leak = np.maximum(leak, 0.0)
        if self.sizes_vary:
            scale, along = (k - 1) / k, self.size_weight @ self.vectors
            noise = scale**2 * noise - 2 * scale * ((shares * filters * along) @ self.vectors.T) / shrinkage
            noise += 1 / self.size_square + ((shares * filters) @ along**2)[:, None]
            off = (1 - shares) ** 2 @ along**2
            leak = scale**2 * leak + off[:, None]
        return shrinkage, noise, leak
