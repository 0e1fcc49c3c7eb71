"""Influences and their standard errors from `Moments`.

The influence of a group on an output is the effect of keeping the group, in units of the output: positive means that
keeping it helps. One convention holds for all estimators. In a model y = a + sum_k b_k m_k of the masks m:

* where the sizes of the subsets vary as they do when groups are kept independently, or more (Bernoulli, Hadamard,
  several fractions), influence is b_k: the effect of keeping the group, all others left as they are;
* where all subsets have one size, no data can tell b from b plus a constant, and influence is b_k minus the mean of the
  other b: the effect of keeping this group rather than an average other one.

With interactions, b is the best linear account of the outputs under the design. The difference of means estimates just
this in either case (but not where subsets of several fixed sizes are mixed: there it credits every group with a part of
the effect of size; the regressions do not).

What predicts best is shrunken, and a shrunken estimate has no honest interval. So every estimate has two faces:
`coefficients`, shrunken where the estimator shrinks, predict; `influence`, with `stderr` and `dof`, is unbiased. For
ridge, influence is each coefficient over its own shrinkage factor H_kk, H = (G + penalty I)^-1 G. That leaves b_k +
sum_j H_kj / H_kk b_j + noise: unbiased for the group itself, with leaks of the other groups whose signs are random by
design. With b_j of variance tau^2 and noise of variance sigma^2, its error has the variance sigma^2 [(G + penalty I)^-1
G (G + penalty I)^-1]_kk / H_kk^2 + tau^2 sum_j (H_kj / H_kk)^2. Both variances come from restricted maximum likelihood
(Patterson & Thompson, Biometrika 58, 1971), a column at a time. It runs from ordinary least squares (no penalty) to the
difference of means (large penalty), is defined with fewer models than groups, and the penalty that predicts best makes
its error smallest too. Lasso shares this companion.

All results have the layout [examples, groups]. `ESTIMATORS` lists the estimators by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.inference import Mean
from sourcewise.estimation.moments import ALL, TILE, Array, Index, Moments, Packed, cuts

PENALTIES = np.logspace(-3, 3, 31)
"""Ridge penalties to choose from, in units of the mean eigenvalue of the Gram matrix."""
SHRINKAGES = np.logspace(0, -2.8, 15)
"""Lasso penalties to choose from, as a share of the smallest one that leaves nothing."""
PRIOR = 0.125
"""Information, in squares of log units, that the range of PENALTIES gives on their logarithm."""


@dataclass(frozen=True)
class Estimate:
    """Influences with their uncertainty, all float[E, G]; NaN where the data cannot tell.

    Attributes:
        influence: effect of keeping the group, in units of the output; positive = keeping it helps.
        stderr: its standard error, same unit.
        dof: degrees of freedom of the standard error, for Student's t.
        coefficients: float[E, G], what `predict` uses; None if that is the influence.
        kept: float[G], share of the models that kept each group.
        mean: float[E], mean output.
        penalty: float[E], chosen a column at a time, or None.
    """

    influence: Array
    stderr: Array
    dof: Array
    kept: Array
    mean: Array
    coefficients: Array | None = None
    penalty: Array | None = None

    @property
    def slopes(self) -> Array:
        """float[E, G]: what a group adds to a prediction; zero where that cannot be told."""
        return np.nan_to_num(self.influence) if self.coefficients is None else self.coefficients

    def predict(self, masks: Packed) -> Array:
        """Outputs float[m, E] expected of models trained on the subsets bool[m, G]."""
        slopes = self.slopes
        predicted = [(masks[rows].unpack() - self.kept) @ slopes.T + self.mean for rows in masks.blocks()]
        return np.concatenate([*predicted, np.empty((0, len(slopes)))])


def difference(moments: Moments) -> Estimate:
    """Mean output of the models with a group minus that of the models without (arXiv 2207.05739, section 3).

    The standard error is Welch's, with the Welch-Satterthwaite degrees of freedom (Biometrika 34, 1947): neither side's
    variance nor size has to equal the other's. Where masks are more `balanced` than independent draws, as in a Hadamard
    design, the error is that of the difference given the masks (see the module), if the moments hold a Gram matrix.

    A group that every model kept, or every model dropped, has NaN throughout. With fewer than two models on a side, the
    influence is given but its stderr and dof are NaN. Raises SourcewiseError for fewer than two models.
    """
    _enough(moments, 2)
    influence, stderr, dof = np.empty((3, moments.columns, moments.groups))
    for tile in cuts(moments.columns, 64):
        kept, dropped = _sides(moments, tile)
        gap = kept - dropped
        influence[tile], stderr[tile], dof[tile] = gap.value, np.sqrt(gap.variance), gap.dof
    found = Estimate(influence, stderr, dof, moments.kept / moments.count, moments.mean())
    return _given_masks(moments, found) if balanced(moments) else found


def ridge(moments: Moments) -> Estimate:
    """Ridge regression, its penalty chosen a column at a time by generalised cross-validation.

    Needs moments with a Gram matrix; one eigendecomposition of it serves all columns and penalties (Golub, Heath &
    Wahba, Technometrics 21, 1979). The mean of all coefficients is not penalised where sizes vary. For influence and
    stderr see the module. Noise may differ between the models with and without a group (the sandwich to its first
    order, which is all that these sums can show).

    Raises SourcewiseError for fewer than four models, or no group that was ever dropped.
    """
    normal = _Normal(moments)

    def part(tile: slice) -> tuple[Array, ...]:
        fit = normal.fit(tile)
        return normal.estimate(tile, fit, fit.chosen, fit.sigma, fit.tau)

    return _by_columns(moments, normal.active, part)


def ols(moments: Moments) -> Estimate:
    """Ordinary least squares; needs moments with a Gram matrix, and more subsets than groups.

    Errors as in `ridge`. A group that cannot be told from others (always kept together with one, say) is NaN. Raises
    SourcewiseError for too few subsets (a subset and its complement count once), or no group that was ever dropped.
    """
    normal = _Normal(moments)
    free, unknown = normal.free - normal.rank, normal.leak[-1] > 1e-6  # the last penalty is none
    if free < 1 or unknown.all():
        raise SourcewiseError(
            f"{moments.count} models are too few for ols of {normal.active.size} groups; ridge can do"
        )

    def part(tile: slice) -> tuple[Array, ...]:
        fit = normal.fit(tile)
        none = np.full_like(fit.chosen, len(normal.penalties) - 1)
        influence, error, _, *rest = normal.estimate(tile, fit, none, fit.residual / free, np.zeros_like(fit.tau))
        influence[:, unknown] = np.nan
        return influence, error, np.full_like(error, free), *rest

    return _by_columns(moments, normal.active, part)


def lasso(moments: Moments, held: Moments) -> Estimate:
    """Lasso (datamodels, arXiv 2202.00622), its penalty chosen a column at a time by held-out error.

    `held` are the moments of some of the models in `moments`. The path is fitted without them, their error picks the
    penalty, and the coefficients come from all models at that penalty (scikit-learn's scale: half the mean squared
    error plus penalty times the sum of magnitudes). influence, stderr and dof are those of `ridge`.

    Raises SourcewiseError as `ridge` does, and for held-out models that are none or all.
    """
    if not 0 < held.count < moments.count:
        raise SourcewiseError(f"lasso needs some models held out, not {held.count} of {moments.count}")
    companion, train = ridge(moments), moments - held
    (matrix, cross), (matrix_held, cross_held) = centred(train), centred(held, train)
    matrix_all, cross_all = centred(moments)
    gram, gram_held = Gram(matrix, train.count), Gram(matrix_held, held.count)
    gram_all = Gram(matrix_all, moments.count)
    penalty, coefficients = np.empty(moments.columns), np.empty((moments.columns, moments.groups))
    for tile in cuts(moments.columns, TILE):
        top = np.abs(cross[tile]).max(1) / train.count
        best, error = np.zeros(len(top)), np.full(len(top), np.inf)
        final, slopes, live = np.zeros_like(cross[tile]), np.zeros_like(cross[tile]), np.arange(len(top))
        for share in SHRINKAGES:
            slopes = shrink(gram, cross[tile][live], share * top[live], slopes, 3e-3, 200)
            now = ((gram_held(slopes) - 2 * cross_held[tile][live]) * slopes).sum(1)
            better = now <= error[live]
            best[live[better]], final[live[better]] = share * top[live[better]], slopes[better]
            error[live[better]] = now[better]
            on = best[live] <= 2.6 * share * top[live]  # worse twice running: past its best
            live, slopes = live[on], slopes[on]
        penalty[tile] = best
        coefficients[tile] = shrink(gram_all, cross_all[tile], best, final)
    return replace(companion, coefficients=coefficients, penalty=penalty)


def centred(moments: Moments, about: Moments | None = None) -> tuple[Array, Array]:
    """Gram matrix of the masks [G, G] and their product with the outputs [E, G], about the means of `about`, or own."""
    gram, cross = _gram(moments), moments.kept_total - np.outer(moments.total / moments.count, moments.kept)
    if about is not None:
        share, mean = about.kept / about.count, about.moved(moments.reference).total / about.count
        apart = share - moments.kept / moments.count
        gram += moments.count * np.outer(apart, apart)
        cross += np.outer(moments.count * mean - moments.total, apart)
    return gram, cross


def _gram(moments: Moments, groups: Index | None = None) -> Array:
    """Gram matrix of the masks, of some of the groups where given, about their means."""
    if moments.gram is None:
        raise SourcewiseError("regressions need moments with a Gram matrix (gram=True)")
    chosen = np.arange(moments.groups) if groups is None else groups
    kept = moments.kept[chosen]
    return moments.gram[np.ix_(chosen, chosen)] - np.outer(kept, kept) / moments.count


def eigen(gram: Array, count: int) -> tuple[Array, Array]:
    """Eigenvalues, rising, and eigenvectors [G, values] of a Gram matrix of the centred masks of `count` models.

    Those models span at most `count` directions. Where that is less than half of all, the others, whose value is zero,
    are left out, and these are found in the range of a random projection (Halko, Martinsson & Tropp, SIAM Review 53,
    2011), which is exact for such a matrix.
    """
    if 2 * count >= len(gram):
        values, vectors = np.linalg.eigh(gram)
        return values, vectors
    basis = np.random.default_rng(0).normal(size=(len(gram), count))
    for _ in range(2):  # once for the range, once more for its digits
        basis = np.linalg.qr(gram @ basis)[0]
    values, vectors = np.linalg.eigh(basis.T @ gram @ basis)
    return values, basis @ vectors


class Gram:
    """A Gram matrix float[G, G] of the masks of `count` models, as the lasso needs it.

    That is: its largest eigenvalue (a half where it is less, as it is if no mask varies), and its products, which go
    through the models where these are fewer than half the groups.
    """

    def __init__(self, matrix: Array, count: int) -> None:
        self.count, self._matrix, self._root = count, matrix, None
        if 2 * count < len(matrix):
            values, vectors = eigen(matrix, count)
            self._root = vectors * np.sqrt(np.maximum(values, 0))
        else:
            values = np.asarray(np.linalg.eigvalsh(matrix))
        self.largest = max(float(values[-1]), 0.5)

    def __call__(self, rows: Array) -> Array:
        """The product of rows float[e, G] with the matrix."""
        product = rows @ self._matrix if self._root is None else (rows @ self._root) @ self._root.T
        return np.asarray(product)


def confounded(masks: Packed) -> bool:
    """Whether subset sizes vary by more or less than independent draws would, though not fixed to one size.

    The difference of means then credits every group with a part of the effect of size; the regressions do not.
    """
    share = masks.share()
    ratio = float(masks.sizes().var()) / max(float((share * (1 - share)).sum()), 1e-300)
    return bool(ratio > 0.1 and abs(ratio - 1) > 6 * np.sqrt(2 / len(masks)))


def crowding(moments: Moments) -> float:
    """How much of the other groups leaks into a difference of means, as a multiple of what independent draws let in.

    That is the mean square correlation of two groups' masks, times the models: 1 for independent draws, 0 for
    orthogonal ones (all rows of a Hadamard matrix), 2 for pairs of complements that are otherwise independent.
    """
    active = _varying(moments)
    if moments.gram is None or active.size < 2:
        return 1.0
    gram = _gram(moments, active)
    square = gram**2 / np.outer(np.diag(gram), np.diag(gram))
    return float((square.sum() - active.size) / (active.size * (active.size - 1)) * moments.count)


def balanced(moments: Moments) -> bool:
    """Whether the masks are a foldover, or less correlated than those of independent draws would be."""
    if moments.gram is None:
        return False
    return 4 * moments.pairs >= moments.count or crowding(moments) < 1 - 8 / max(_varying(moments).size, 1)


def shrink(
    gram: Gram,
    cross: Array,
    penalty: Array,
    start: Array | None = None,
    tolerance: float = 1e-6,
    limit: int = 5000,
) -> Array:
    """Lasso of all columns at once, float[E, G], each with its row c of `cross` [E, G] and its own penalty [E].

    Minimises (w'Gw / 2 - w'c) / gram.count + penalty |w|_1 for every row w of the result. Accelerated proximal gradient
    with restarts (Beck & Teboulle, SIAM J. Imaging Sci. 2, 2009; O'Donoghue & Candes, Found. Comput. Math. 15, 2015):
    one matrix product a step for all columns that have not converged yet. A column stops when no coefficient moves by
    more than the share `tolerance` of its largest one, or after `limit` steps. `start` is where to begin.
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
        following = np.where(restart, 1.0, (1 + np.sqrt(1 + 4 * momentum**2)) / 2)
        ahead = new + np.where(restart, 0.0, (momentum - 1) / following) * move
        moving = np.abs(move).max(1) > tolerance * np.abs(new).max(1)
        old, momentum = new, following
        if not moving.all():
            result[live[~moving]] = new[~moving]
            if not moving.any():
                return result
            live, old, ahead, c = live[moving], old[moving], ahead[moving], c[moving]
            threshold, momentum = threshold[moving], momentum[moving]
    result[live] = old
    return result


@dataclass(frozen=True)
class _Fit:
    """One tile of columns against the eigenvectors. Shapes: rotated [e, rank], the others [e]."""

    rotated: Array
    size: Array  # product of the subset size with the outputs
    sigma: Array  # noise variance
    tau: Array  # variance of the effects
    likely: Index  # penalty of highest restricted likelihood, sigma / tau
    chosen: Index  # penalty of least generalised cross-validation
    residual: Array  # sum of squares that least squares leaves


class _Normal:
    """Normal equations of the K groups that vary, without the direction of subset size, in their eigenbasis.

    Attributes: weight float[K], the size direction: what of the mean effect each group's slope carries; size, sum of
    squares of the subset size; penalties [L], the last of which is zero; filters [L, rank], 1 / (value + penalty); own
    [L, K], the shrinkage H_kk, NaN where the group cannot be told from the others at all; noise and leak [L, K], what
    noise and leaks of unit variance make of the influence.
    """

    def __init__(self, moments: Moments) -> None:
        _enough(moments, 4)
        self.moments, self.active = moments, _varying(moments)
        if not self.active.size:
            raise SourcewiseError("every group was kept by all models or by none: no influence can be estimated")
        gram = _gram(moments, self.active)
        self.spread, self.free = moments.spread()
        weight, self.size, scale = gram.sum(1), float(gram.sum()), float(np.trace(gram))
        if self.active.size > 1 and self.size > 1e-9 * scale:
            gram = gram - np.outer(weight, weight) / self.size
            self.free -= 1
        else:
            self.size = 0.0
        self.weight = weight / self.size if self.size else np.zeros(self.active.size)
        self.absolute = self.size > 0.1 * scale
        values, vectors = eigen(gram, moments.count)
        solid = values > 1e-9 * max(float(values[-1]), 1e-9 * scale)
        self.values, self.vectors, self.rank = values[solid], vectors[:, solid], int(solid.sum())
        self.penalties = np.append(PENALTIES * (self.values.mean() if self.rank else 1.0), 0.0)
        self.filters = 1 / (self.values + self.penalties[:, None])
        own = (self.values * self.filters) @ (self.vectors**2).T
        self.own = np.where(own > 1e-9, own, np.nan)
        self.noise, self.leak = self._errors(self.values * self.filters)

    def fit(self, tile: slice) -> _Fit:
        """Choose the penalty and the variances of one tile of columns."""
        m, free = self.moments, self.free
        cross = m.kept_total[tile][:, self.active] - np.outer(m.total[tile] / m.count, m.kept[self.active])
        size = cross.sum(1)
        cross -= np.outer(size, self.weight)
        rotated = cross @ self.vectors
        square = rotated**2
        total = self.spread[tile] - (size**2 / self.size if self.size else 0.0)
        floor = 64 * m.precision * self.spread[tile] + 1e-300
        filters, shares = self.filters, self.values * self.filters
        quadratic = np.maximum(total - filters @ square.T, floor)
        residual = np.maximum(total - (filters * (2 - shares)) @ square.T, floor)
        shrunk = shares[:-1].sum(1)[:, None]
        log = np.log1p(self.values / self.penalties[:-1, None]).sum(1)[:, None]
        likely = (free * np.log(quadratic[:-1]) + log).argmin(0)
        chosen = (residual[:-1] / (free - shrunk) ** 2).argmin(0)
        sigma = np.take_along_axis(quadratic, likely[None], 0)[0] / free
        sigma[self.spread[tile] == 0] = 0.0
        residual[-1, self.spread[tile] == 0] = 0.0
        return _Fit(rotated, size, sigma, sigma / self.penalties[likely], likely, chosen, residual[-1])

    def _errors(self, shares: Array) -> tuple[Array, Array]:
        """Noise and leak, from shares [L, rank], the shrinkage of each direction."""
        filters, square, k = self.filters, (self.vectors**2).T, self.active.size
        noise = (shares * filters) @ square / self.own**2
        leak = shares**2 @ square / self.own**2 - 1
        if k > 1:
            leak -= 1 / (k - 1)
        leak = np.maximum(leak, 0.0)
        if self.absolute:
            scale, along = (k - 1) / k, self.weight @ self.vectors
            noise = scale**2 * noise - 2 * scale * ((shares * filters * along) @ self.vectors.T) / self.own
            noise += 1 / self.size + ((shares * filters) @ along**2)[:, None]
            off = (1 - shares) ** 2 @ along**2
            leak = scale**2 * leak + off[:, None]
        return noise, leak

    def estimate(self, tile: slice, fit: _Fit, index: Index, sigma: Array, tau: Array) -> tuple[Array, ...]:
        """What `_by_columns` needs, at the penalties that `index` [e] points to and variances sigma and tau [e]."""
        slopes = (fit.rotated * self.filters[index]) @ self.vectors.T
        influence = slopes / self.own[index]
        if self.absolute:
            level, k = (fit.size / self.size - slopes @ self.weight)[:, None], self.active.size
            influence, slopes = level + (k - 1) / k * influence, level + slopes
        leaked = tau[:, None] * self.leak[index]
        var = sigma[:, None] * self.noise[index] + leaked
        dof = self.dof(fit, var, leaked)
        return influence, np.sqrt(_uneven(self.moments, tile, self.active, var)), dof, slopes, self.penalties[index]

    def dof(self, fit: _Fit, var: Array, leaked: Array) -> Array:
        """Degrees of freedom of `var` [e, K], of which `leaked` is due to leaks.

        By the delta method, after Satterthwaite, from the expected information on the logarithms of sigma and of the
        penalty: least squares has free - rank, a difference of means free - 0, and what the data cannot split costs
        little where the sum of both parts is known.
        """
        shares = self.values * self.filters[fit.likely]
        one, two = shares.sum(1)[:, None], (shares**2).sum(1)[:, None] + PRIOR
        with np.errstate(invalid="ignore"):
            part = np.where(var > 0, leaked / var, 0.0)
        dof = (self.free * two - one**2) / (two - 2 * part * one + part**2 * self.free)
        return np.asarray(np.clip(dof, 1.0, self.free))


def _given_masks(moments: Moments, found: Estimate) -> Estimate:
    """The difference of means with the errors that noise and leaks make of it, the masks being what they are."""
    normal = _Normal(moments)
    gram = _gram(moments, normal.active)
    leak = gram / np.diag(gram)[:, None]
    np.fill_diagonal(leak, 0.0)
    if not normal.absolute:
        leak += (1 - np.eye(len(leak))) / max(len(leak) - 1, 1)

    def part(tile: slice) -> tuple[Array, ...]:
        fit = normal.fit(tile)
        level = (fit.size / normal.size) ** 2 if normal.absolute else np.zeros(len(fit.size))
        leaked = np.outer(fit.tau, (leak**2).sum(1)) + np.outer(level, leak.sum(1) ** 2)
        var = fit.sigma[:, None] / np.diag(gram) + leaked
        influence = found.influence[tile][:, normal.active]
        return influence, np.sqrt(var), normal.dof(fit, var, leaked), influence, fit.sigma

    errors = _by_columns(moments, normal.active, part)
    return replace(found, stderr=errors.stderr, dof=errors.dof)


def _uneven(moments: Moments, tile: slice, active: Index, var: Array) -> Array:
    """Add to the variance what differing noise on the two sides of a group, of unequal size, makes of it.

    Only as far as the difference of the sides' variances exceeds its own error (James-Stein, positive part).
    """
    least = np.minimum(moments.kept[active], moments.count - moments.kept[active])
    uneven = np.flatnonzero((moments.count - 2 * least > 0.1 * moments.count) & (least > 2))
    if uneven.size:
        sides = _sides(moments, tile, active[uneven])
        n1, n0 = (side.dof + 1 for side in sides)
        var1, var0 = sides[0].variance * n1, sides[1].variance * n0
        gap = var1 - var0
        error = 2 * (var1**2 / n1 + var0**2 / n0)
        change = gap * (n0 - n1) / (n1 * n0)
        error *= np.where(change > 0, 1, 4)  # slower to lower the variance than to raise it
        change *= np.maximum(0.0, 1 - error / np.maximum(gap**2, 1e-300))
        var[:, uneven] = np.maximum(var[:, uneven] + change, var[:, uneven] / 4)
    return var


def _sides(moments: Moments, tile: slice, groups: Any = ALL) -> list[Mean]:
    """Mean output [e, G] of the models with each group, then of those without; NaN where there are too few of them.

    A variance that is all rounding is 0.
    """
    kept = moments.kept[groups]
    total, square = (table[tile][:, groups] for table in (moments.kept_total, moments.kept_square))
    rest = moments.count - kept, moments.total[tile, None] - total, moments.square[tile, None] - square
    found = []
    for count, sums, squares in ((kept, total, square), rest):
        n = np.where((kept > 0) & (kept < moments.count), count, np.nan)
        mean = sums / n
        spread = squares - sums * mean
        spread[spread <= 64 * moments.precision * np.abs(squares)] = 0.0
        spread /= np.where(n > 1, n * (n - 1), np.nan)
        found.append(Mean(mean, spread, n - 1))
    return found


def _varying(moments: Moments) -> Index:
    """The groups that some models kept and others dropped."""
    return np.flatnonzero((moments.kept > 0) & (moments.kept < moments.count))


def _by_columns(moments: Moments, active: Index, part: Callable[[slice], tuple[Array, ...]]) -> Estimate:
    """What `part` says of each tile of columns: influence, stderr, dof, coefficients [e, K] and penalty [e]."""
    shape = moments.columns, moments.groups
    tables, penalty = [*np.full((3, *shape), np.nan), np.zeros(shape)], np.empty(moments.columns)
    for tile in cuts(moments.columns, TILE):
        *found, penalty[tile] = part(tile)
        for table, values in zip(tables, found, strict=True):
            table[tile][:, active] = values
    influence, stderr, dof, coefficients = tables
    return Estimate(influence, stderr, dof, moments.kept / moments.count, moments.mean(), coefficients, penalty)


def _enough(moments: Moments, least: int) -> None:
    if moments.count < least:
        raise SourcewiseError(
            f"{moments.count} record{'s' if moments.count != 1 else ''}: an estimate needs at least {least}"
        )


ESTIMATORS: dict[str, Callable[..., Estimate]] = {"difference": difference, "ridge": ridge, "ols": ols, "lasso": lasso}
"""Estimators by the name that configs and results use. All take moments; lasso takes held-out ones too."""
