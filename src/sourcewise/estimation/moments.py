"""Sums over models, which are all that estimators need to see: memory does not grow with the number of models.

Two `Moments` of the same shape add up, and a part can be taken away again. Outputs are centred by a reference row
before anything is squared, so that large means do not cost precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import ALL, BLOCK_ROWS, TILE_COLUMNS, Array, Index, Mask, cuts
from sourcewise.estimation.inference import Mean

GRAM_GROUPS = 4096
"""Groups up to which studies get a Gram matrix, which all estimators but the difference of means need."""


@dataclass(frozen=True)
class Moments:
    """Sums over models. Shapes: G groups, E columns (examples, or means of them).

    Attributes:
        count: models.
        kept: float[G], models that kept each group.
        reference: float[E], what was subtracted from the outputs before all sums below.
        total: float[E], sum of the outputs.
        square: float[E], sum of their squares.
        kept_total: float[E, G], sum of the outputs over the models that kept the group.
        kept_square: float[E, G], sum of the squared outputs over the models that kept the group; None where it was not
            asked for.
        gram: float[G, G], how many models kept both groups; None where it was not asked for.
        pairs: pairs of a subset and its complement among the models. What the two have in common is left out of sums.
        precision: rounding unit of the products.
        models: gives masks bool[m, G] and outputs float[m, E] of the models again, in chunks, for a second pass; None
            where these are sums or differences of moments.
        hierarchy: sums of the columns' logits and of their classes; None where nobody asked for them.
    """

    count: int
    kept: Array
    reference: Array
    total: Array
    square: Array
    kept_total: Array
    kept_square: Array | None
    gram: Array | None = None
    pairs: int = 0
    precision: float = float(np.finfo(np.float64).eps)
    models: Callable[[], Iterable[tuple[Mask, NDArray[Any]]]] | None = None
    hierarchy: HierarchyMoments | None = None

    @property
    def groups(self) -> int:
        """The number of groups, G."""
        return int(self.kept.size)

    @property
    def columns(self) -> int:
        """The number of columns, E."""
        return int(self.total.size)

    @property
    def kept_share(self) -> Array:
        """Share of the models that kept each group, float[G]."""
        return self.kept / self.count

    @property
    def mean(self) -> Array:
        """Mean output over all models, float[E]."""
        return self.reference + self.total / max(self.count, 1)

    @property
    def varying(self) -> Index:
        """Positions of the groups that some models kept and others dropped."""
        return np.flatnonzero((self.kept > 0) & (self.kept < self.count))

    def check_count(self, least: int) -> None:
        """Raise SourcewiseError if there are fewer than `least` models."""
        if self.count < least:
            records = "record" if self.count == 1 else "records"
            raise SourcewiseError(f"{self.count} {records}: an estimate needs at least {least}")

    def squares_about_mean(self) -> tuple[Array, int]:
        """Return the sum of squares about the mean, float[E], and its degrees of freedom: one a pair of complements."""
        squares = self.square - self.total**2 / max(self.count, 1)
        free = self.count - self.pairs - (self.count > 2 * self.pairs)
        return np.where(squares > 64 * self.precision * self.square, squares, 0.0), free

    def gram_about_mean(self, groups: Index | None = None) -> Array:
        """Return the Gram matrix of the centred masks of all groups, or of some.

        Raises SourcewiseError if the moments hold no Gram matrix.
        """
        if self.gram is None:
            raise SourcewiseError("regressions need moments with a Gram matrix (gram=True)")
        kept, gram = self.kept, self.gram
        if groups is not None and len(groups) < self.groups:
            kept, gram = kept[groups], gram[np.ix_(groups, groups)]
        return gram - np.outer(kept, kept / self.count)

    def side_means(self, tile: slice, groups: slice | Index = ALL) -> tuple[Mean, Mean]:
        """Return the mean output [e, G] of the models with each group, and of those without, for a tile of columns.

        Means are NaN for a group that all models kept, or all dropped; the variance is NaN on a side of one model. A
        variance that is all rounding is 0.

        Raises SourcewiseError if the moments hold no sums of squares by group.
        """
        if self.kept_square is None:
            raise SourcewiseError("variances of both sides need moments with sums of squares (squares=True)")
        kept = self.kept[groups]
        total, square = (table[tile][:, groups] for table in (self.kept_total, self.kept_square))
        rest = self.count - kept, self.total[tile, None] - total, self.square[tile, None] - square
        means = []
        for count, sums, squares in ((kept, total, square), rest):
            n = np.where((kept > 0) & (kept < self.count), count, np.nan)
            mean = sums / n
            variance = squares - sums * mean
            variance[variance <= 64 * self.precision * np.abs(squares)] = 0.0
            variance /= np.where(n > 1, n * (n - 1), np.nan)
            means.append(Mean(mean, variance, n - 1))
        return means[0], means[1]

    @property
    def crowding(self) -> float:
        """How much of the other groups leaks into a difference of means, relative to independent draws.

        That is the mean square correlation of two groups' masks, times the models: 1 for independent draws, 0 for
        orthogonal ones (all rows of a Hadamard matrix), 2 for pairs of complements that are otherwise independent. It
        is 1 without a Gram matrix.
        """
        varying = self.varying
        if self.gram is None or varying.size < 2:
            return 1.0
        gram = self.gram_about_mean(varying)
        square = gram**2 / np.outer(np.diag(gram), np.diag(gram))
        return float((square.sum() - varying.size) / (varying.size * (varying.size - 1)) * self.count)

    @property
    def balanced(self) -> bool:
        """Whether the masks are a foldover, or less correlated than those of independent draws would be."""
        if self.gram is None:
            return False
        return 4 * self.pairs >= self.count or self.crowding < 1 - 8 / max(self.varying.size, 1)

    def recentred(self, reference: Array) -> Moments:
        """Return the same sums about another reference float[E]."""
        shift = self.reference - reference
        column, n, kept_square = shift[:, None], self.count, None
        if self.kept_square is not None:
            kept_square = self.kept_square + 2 * column * self.kept_total + column**2 * self.kept
        return replace(
            self,
            reference=reference.copy(),
            total=self.total + n * shift,
            square=self.square + 2 * shift * self.total + n * shift**2,
            kept_total=self.kept_total + column * self.kept,
            kept_square=kept_square,
        )

    def __add__(self, right: Moments) -> Moments:
        """Return the moments of the models of both."""
        return self.combine(right, 1) if self.count else right.combine(self, 1)

    def __sub__(self, part: Moments) -> Moments:
        """Return the moments of the models that are not in `part`, which must be some of these."""
        return self.combine(part, -1)

    def combine(self, right: Moments, sign: int) -> Moments:
        """Return the moments of the models of both, or without those of `right` where the sign is negative."""
        right = right.recentred(self.reference)
        names = ["count", "kept", "total", "square", "kept_total", "pairs"]
        names += [name for name in ("kept_square", "gram") if getattr(self, name) is not None]
        sums = {name: getattr(self, name) + sign * getattr(right, name) for name in names}
        precision, hierarchy = max(self.precision, right.precision), None
        if self.hierarchy is not None and right.hierarchy is not None:
            hierarchy = self.hierarchy.combine(right.hierarchy, sign)
        return replace(self, precision=precision, models=None, hierarchy=hierarchy, **sums)


@dataclass(frozen=True)
class HierarchyMoments:
    """Sums of columns that are examples of classes, on a scale where the effects of groups add up: the logit.

    Attributes:
        labels: int[E], class of each column.
        scale: float[E], units of the output that one unit of the logit is worth.
        priors: tables float[C, G] by name, each of them in proportion to what one expects of the classes' effects.
        logits: of the columns' logits.
        classes: of the mean logit of each class.
        products: float[E], sum of the products of a column's logit and the mean logit of its class.
    """

    labels: Index
    scale: Array
    priors: Mapping[str, Array]
    logits: Moments
    classes: Moments
    products: Array

    def combine(self, right: HierarchyMoments, sign: int) -> HierarchyMoments:
        """Return the moments of the models of both, or without those of `right` where the sign is negative."""
        return replace(
            self,
            logits=self.logits.combine(right.logits, sign),
            classes=self.classes.combine(right.classes, sign),
            products=self.products + sign * right.products,
        )


def sum_models(
    chunks: Iterable[tuple[Mask, NDArray[Any]]],
    groups: int,
    columns: int,
    gram: bool = False,
    pairs: int = 0,
    squares: bool = True,
) -> Moments:
    """Sum over models that come in chunks of any size.

    Products run in the precision of the input (float16 and float32 in float32, float64 in float64), tile by tile. All
    sums are kept in float64.

    >>> chunk = np.array([[True, False], [True, True]]), np.array([[0.5], [1.0]])
    >>> sum_models([chunk], groups=2, columns=1).mean.tolist()
    [0.75]

    Args:
        chunks: masks bool[m, G] and finite outputs float[m, E].
        groups: how many, G.
        columns: how many, E.
        gram: whether to make the Gram matrix.
        pairs: pairs of complements among the models, for `Moments.pairs`.
        squares: whether to sum squares of outputs by group.
    """
    count, kept_by, gram_matrix = 0, np.zeros(groups), np.zeros((groups, groups)) if gram else None
    reference, total, square = np.zeros((3, columns))
    kept_total, kept_square = np.zeros((columns, groups)), np.zeros((columns, groups)) if squares else None
    precision = float(np.finfo(np.float64).eps)
    for masks, outputs in chunks:
        if not len(outputs):
            continue
        work = np.result_type(outputs, np.float32)
        if count == 0:
            head = outputs[:64].astype(work)
            # the mean, clipped so that equal outputs are centred to exactly zero
            clipped = np.clip(head.mean(0, dtype=np.float64), head.min(0), head.max(0))
            reference = clipped.astype(work).astype(np.float64)
        precision, center = max(precision, float(np.finfo(work).eps)), reference.astype(work)
        buffer = np.empty((min(TILE_COLUMNS, columns), groups), work)
        for rows in cuts(len(outputs), BLOCK_ROWS):
            kept: NDArray[np.floating[Any]] = masks[rows].astype(work)
            count += len(kept)
            kept_by += kept.sum(0, dtype=np.float64)
            if gram_matrix is not None:
                gram_matrix += kept.T @ kept
            for tile in cuts(columns, TILE_COLUMNS):
                y: NDArray[np.floating[Any]] = outputs[rows, tile].astype(work)
                y -= center[tile]
                product = buffer[: y.shape[1]]
                for sums, kept_sums in ((total, kept_total), (square, kept_square)):
                    sums[tile] += y.sum(0, dtype=np.float64)
                    if kept_sums is not None:
                        kept_sums[tile] += np.matmul(y.T, kept, out=product)
                    np.multiply(y, y, out=y)
    return Moments(count, kept_by, reference, total, square, kept_total, kept_square, gram_matrix, pairs, precision)
