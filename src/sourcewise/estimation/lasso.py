"""Lasso regression of outputs on masks, all columns at once."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
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
    sum of magnitudes). The path, which need not be
    precise, takes float32. influence, stderr and dof are those of `ridge`.

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
    gram = GramProduct(matrix.astype(np.float32), train.count)
    gram_held, gram_all = GramProduct(matrix_held, held_out.count), GramProduct(matrix_all, moments.count)
    penalty, coefficients = np.empty(moments.columns), np.empty((moments.columns, moments.groups))
    for tile in cuts(moments.columns, TILE_COLUMNS):
        largest = np.abs(cross[tile]).max(1, keepdims=True) / train.count
        unit = np.where(largest > 0, largest, 1.0)
        share, start = _least_held_out_error(gram, cross[tile] / unit, gram_held, cross_held[tile] / unit)
        penalty[tile] = share * largest[:, 0]
        coefficients[tile] = shrink(gram_all, cross_all[tile], penalty[tile], start * unit)
    return replace(companion, coefficients=coefficients, penalty=penalty)


def _least_held_out_error(
    gram: GramProduct, cross: Array, gram_held: GramProduct, cross_held: Array
) -> tuple[Array, Array]:
    """Follow the path of SHRINKAGES down; return the one of least held-out error [e] and its coefficients [e, G].

    A column leaves the path once three penalties in a row did not lower its error. Steps along the path have the
    precision of `gram`, the errors have double precision.

    Args:
        gram: the Gram matrix of the models that are fitted.
        cross: float[e, G], product of their masks and outputs, in units of each column's largest penalty.
        gram_held: the Gram matrix of the held-out models.
        cross_held: float[e, G], as cross.
    """
    columns = len(cross)
    best, error, coefficients = np.zeros(columns), np.full(columns, np.inf), np.zeros_like(cross)
    cross, live = cross.astype(gram.dtype), np.arange(columns)
    slopes = np.zeros_like(cross)
    for share in SHRINKAGES:
        slopes = shrink(gram, cross[live], np.full(len(live), share), slopes, 3e-3, 200)
        precise = slopes.astype(np.float64)
        new_error = ((gram_held(precise) - 2 * cross_held[live]) * precise).sum(1)
        better = new_error <= error[live]
        best[live[better]], coefficients[live[better]] = share, precise[better]
        error[live[better]] = new_error[better]
        stays = best[live] <= 2.6 * share
        live, slopes = live[stays], slopes[stays]
        if not live.size:
            break
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

    Products go through the models where these are fewer than a third of the groups. They have the precision of the
    matrix.
    """

    def __init__(self, matrix: NDArray[np.floating[Any]], count: int) -> None:
        self.count, self.dtype, self._matrix, self._root = count, matrix.dtype, matrix, None
        if 3 * count < len(matrix):
            spectrum = eigen(matrix.astype(np.float64), count)
            self._root = (spectrum.vectors * np.sqrt(np.maximum(spectrum.values, 0))).astype(self.dtype)

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
    threshold = (step * gram.count * penalty)[:, None].astype(cross.dtype)
    momentum = np.ones((len(cross), 1), cross.dtype)
    for _ in range(limit):
        new = gram(ahead)
        new -= c
        new *= -step
        new += ahead
        new -= np.clip(new, -threshold, threshold)
        move = new - old
        ahead -= new
        restart = np.einsum("eg,eg->e", ahead, move)[:, None] > 0
        next_momentum = np.where(restart, 1, (1 + np.sqrt(1 + 4 * momentum**2)) / 2)
        ahead = np.multiply(move, np.where(restart, 0, (momentum - 1) / next_momentum), out=ahead)
        ahead += new
        moving = np.abs(move, out=move).max(1) > tolerance * np.maximum(new.max(1), -new.min(1))
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
