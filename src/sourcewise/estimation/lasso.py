"""Lasso regression of outputs on masks, all columns at once."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from scipy import linalg

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import TILE_COLUMNS, Array, cuts
from sourcewise.estimation.contract import Estimate, Estimator
from sourcewise.estimation.moments import Moments
from sourcewise.estimation.ridge import RIDGE, ridge
from sourcewise.estimation.spectra import eigen

SHRINKAGES = np.logspace(0, -2.8, 15)
"""Lasso penalties to choose from, as a share of the smallest one that leaves nothing."""


def lasso(moments: Moments, held_out: Moments) -> Estimate:
    """Regress with a penalty on magnitudes (datamodels, arXiv 2202.00622), chosen a column at a time by held-out error.

    The path of penalties is fitted without the held-out models, their error picks the penalty, and the coefficients
    come from all models at that penalty (on scikit-learn's scale: half the mean squared error plus penalty times the
    sum of magnitudes). influence, stderr and dof are those of `ridge`.

    Args:
        moments: of all models, with a Gram matrix.
        held_out: of some of these.

    Raises:
        SourcewiseError: as `ridge` does, and for held-out models that are none or all.
    """
    if not 0 < held_out.count < moments.count:
        raise SourcewiseError(f"lasso needs some models held out, not {held_out.count} of {moments.count}")
    companion, train = ridge(moments), moments - held_out
    (matrix, cross), (matrix_held, cross_held) = centred_products(train), centred_products(held_out, train)
    matrix_all, cross_all = centred_products(moments)
    gram, gram_held = GramProduct(matrix, train.count), GramProduct(matrix_held, held_out.count)
    gram_all = GramProduct(matrix_all, moments.count)
    penalty, coefficients = np.empty(moments.columns), np.empty((moments.columns, moments.groups))
    for tile in cuts(moments.columns, TILE_COLUMNS):
        largest = np.abs(cross[tile]).max(1) / train.count
        penalty[tile], start = _least_held_out_error(gram, cross[tile], gram_held, cross_held[tile], largest)
        coefficients[tile] = shrink(gram_all, cross_all[tile], penalty[tile], start)
    return replace(companion, coefficients=coefficients, penalty=penalty)


def _least_held_out_error(
    gram: GramProduct, cross: Array, gram_held: GramProduct, cross_held: Array, largest: Array
) -> tuple[Array, Array]:
    """Follow the path of penalties down from `largest` [e]; return the best penalty [e] and its coefficients [e, G].

    A column leaves the path once its error has risen twice running.
    """
    best, error = np.zeros(len(largest)), np.full(len(largest), np.inf)
    coefficients, slopes, live = np.zeros_like(cross), np.zeros_like(cross), np.arange(len(largest))
    for share in SHRINKAGES:
        penalty = share * largest[live]
        slopes = shrink(gram, cross[live], penalty, slopes, 3e-3, 200)
        new_error = ((gram_held(slopes) - 2 * cross_held[live]) * slopes).sum(1)
        better = new_error <= error[live]
        best[live[better]], coefficients[live[better]] = penalty[better], slopes[better]
        error[live[better]] = new_error[better]
        rising_twice = best[live] > 2.6 * share * largest[live]
        live, slopes = live[~rising_twice], slopes[~rising_twice]
    return best, coefficients


def centred_products(moments: Moments, center: Moments | None = None) -> tuple[Array, Array]:
    """Return the Gram matrix of the masks [G, G] and their product with the outputs [E, G], both centred.

    Masks and outputs are taken about the means of `center`, by default of the moments themselves.
    """
    gram = moments.gram_about_mean()
    cross = moments.kept_total - np.outer(moments.total / moments.count, moments.kept)
    if center is not None:
        share, mean = center.kept / center.count, center.recentred(moments.reference).total / center.count
        shift = share - moments.kept / moments.count
        gram += moments.count * np.outer(shift, shift)
        cross += np.outer(moments.count * mean - moments.total, shift)
    return gram, cross


class GramProduct:
    """Products with a Gram matrix float[G, G] of the masks of `count` models, and its largest eigenvalue.

    Products go through the models where these are fewer than half the groups.
    """

    def __init__(self, matrix: Array, count: int) -> None:
        self.count, self._matrix, self._root = count, matrix, None
        if 2 * count < len(matrix):
            spectrum = eigen(matrix, count)
            self._root = spectrum.vectors * np.sqrt(np.maximum(spectrum.values, 0))

    @cached_property
    def largest(self) -> float:
        """The largest eigenvalue; a half where it is less, as it is if no mask varies."""
        if self._root is not None:
            return max(float((self._root**2).sum(0).max()), 0.5)
        last = len(self._matrix) - 1
        return max(float(linalg.eigvalsh(self._matrix, subset_by_index=(last, last))[0]), 0.5)

    def __call__(self, rows: Array) -> Array:
        """Return the product of rows float[e, G] with the matrix."""
        product = rows @ self._matrix if self._root is None else (rows @ self._root) @ self._root.T
        return np.asarray(product)


def shrink(
    gram: GramProduct,
    cross: Array,
    penalty: Array,
    start: Array | None = None,
    tolerance: float = 1e-6,
    limit: int = 5000,
) -> Array:
    """Solve the lasso of all columns at once; return coefficients float[E, G].

    Minimises (w'Gw / 2 - w'c) / gram.count + penalty |w|_1 for every row w of the result. Accelerated proximal gradient
    with restarts (Beck & Teboulle, SIAM J. Imaging Sci. 2, 2009; O'Donoghue & Candes, Found. Comput. Math. 15, 2015):
    one matrix product a step for all columns that have not converged yet.

    Args:
        gram: G, the Gram matrix.
        cross: float[E, G], a row c for each column.
        penalty: float[E].
        start: float[E, G], where to begin; zero by default.
        tolerance: a column stops when no coefficient moves by more than this share of its largest one.
        limit: steps at most.
    """
    step = 1 / gram.largest
    result = np.zeros_like(cross) if start is None else start.copy()
    live = np.arange(len(cross))
    old, ahead, c = result.copy(), result.copy(), cross
    threshold = (step * gram.count * penalty)[:, None]
    momentum = np.ones((len(cross), 1))
    for _ in range(limit):
        new = ahead - step * (gram(ahead) - c)
        new = np.sign(new) * np.maximum(np.abs(new) - threshold, 0)
        move = new - old
        restart = ((ahead - new) * move).sum(1, keepdims=True) > 0
        next_momentum = np.where(restart, 1.0, (1 + np.sqrt(1 + 4 * momentum**2)) / 2)
        ahead = new + np.where(restart, 0.0, (momentum - 1) / next_momentum) * move
        moving = np.abs(move).max(1) > tolerance * np.abs(new).max(1)
        old, momentum = new, next_momentum
        if not moving.all():
            result[live[~moving]] = new[~moving]
            if not moving.any():
                return result
            live, old, ahead, c = live[moving], old[moving], ahead[moving], c[moving]
            threshold, momentum = threshold[moving], momentum[moving]
    result[live] = old
    return result


LASSO = Estimator("lasso", lasso, needs_squares=False, needs_held_out=True, substitute=RIDGE)
