"""Sums over models, which are all that estimators need to see: memory does not grow with the number of models.

`Accumulator` takes models in chunks and ends as `Moments`. Two `Moments` of the same shape add up, and a part can be
taken away again. Outputs are centred by a reference row before anything is squared, so that large means do not eat the
digits. Products run in the precision of the input (float16 and float32 in float32, float64 in float64), tile by tile.
All sums are kept in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import BLOCK_ROWS, TILE_COLUMNS, Array, Index, Mask, cuts

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
        kept_square: float[E, G], the same of the squares.
        gram: float[G, G], how many models kept both groups; None where it was not asked for.
        pairs: pairs of a subset and its complement among the models. What the two have in common is left out of sums.
        precision: rounding unit of the products.
    """

    count: int
    kept: Array
    reference: Array
    total: Array
    square: Array
    kept_total: Array
    kept_square: Array
    gram: Array | None = None
    pairs: int = 0
    precision: float = float(np.finfo(np.float64).eps)

    @property
    def groups(self) -> int:
        """G."""
        return int(self.kept.size)

    @property
    def columns(self) -> int:
        """E."""
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
        chosen = np.arange(self.groups) if groups is None else groups
        kept = self.kept[chosen]
        return self.gram[np.ix_(chosen, chosen)] - np.outer(kept, kept) / self.count

    def recentred(self, reference: Array) -> Moments:
        """Return the same sums about another reference float[E]."""
        shift = self.reference - reference
        column, n = shift[:, None], self.count
        return replace(
            self,
            reference=reference.copy(),
            total=self.total + n * shift,
            square=self.square + 2 * shift * self.total + n * shift**2,
            kept_total=self.kept_total + column * self.kept,
            kept_square=self.kept_square + 2 * column * self.kept_total + column**2 * self.kept,
        )

    def __add__(self, right: Moments) -> Moments:
        """Return the moments of the models of both."""
        return self._combine(right, 1) if self.count else right._combine(self, 1)

    def __sub__(self, part: Moments) -> Moments:
        """Return the moments of the models that are not in `part`, which must be some of these."""
        return self._combine(part, -1)

    def _combine(self, right: Moments, sign: int) -> Moments:
        right = right.recentred(self.reference)
        names = ["count", "kept", "total", "square", "kept_total", "kept_square", "pairs"]
        names += ["gram"] if self.gram is not None else []
        sums = {name: getattr(self, name) + sign * getattr(right, name) for name in names}
        return replace(self, precision=max(self.precision, right.precision), **sums)


class Accumulator:
    """The sums of `Moments` while models are still being added.

    >>> sums = Accumulator(groups=2, columns=1)
    >>> sums.add(np.array([[True, False], [True, True]]), np.array([[0.5], [1.0]]))
    >>> sums.finish().mean.tolist()
    [0.75]
    """

    def __init__(self, groups: int, columns: int, gram: bool = False) -> None:
        self._count, self._kept = 0, np.zeros(groups)
        self._reference, self._total, self._square = np.zeros((3, columns))
        self._kept_total, self._kept_square = np.zeros((2, columns, groups))
        self._gram = np.zeros((groups, groups)) if gram else None
        self._precision = float(np.finfo(np.float64).eps)

    def add(self, masks: Mask, outputs: NDArray[Any]) -> None:
        """Add models, in chunks of any size: masks bool[m, G], outputs finite float[m, E]."""
        if not len(outputs):
            return
        columns, groups = self._kept_total.shape
        work = np.result_type(outputs, np.float32)
        if self._count == 0:
            head = outputs[:64].astype(work)
            # the mean, clipped so that equal outputs are centred to exactly zero
            center = np.clip(head.mean(0, dtype=np.float64), head.min(0), head.max(0))
            self._reference = center.astype(work).astype(np.float64)
        self._precision = max(self._precision, float(np.finfo(work).eps))
        reference = self._reference.astype(work)
        buffer = np.empty((min(TILE_COLUMNS, columns), groups), work)
        for rows in cuts(len(outputs), BLOCK_ROWS):
            kept: NDArray[np.floating[Any]] = masks[rows].astype(work)
            self._count += len(kept)
            self._kept += kept.sum(0, dtype=np.float64)
            if self._gram is not None:
                self._gram += kept.T @ kept
            for tile in cuts(columns, TILE_COLUMNS):
                y: NDArray[np.floating[Any]] = outputs[rows, tile].astype(work)
                y -= reference[tile]
                product = buffer[: y.shape[1]]
                for total, kept_total in ((self._total, self._kept_total), (self._square, self._kept_square)):
                    total[tile] += y.sum(0, dtype=np.float64)
                    kept_total[tile] += np.matmul(y.T, kept, out=product)
                    np.multiply(y, y, out=y)

    def finish(self, pairs: int = 0) -> Moments:
        """Return the moments of all models. They take the sums over, so nothing may be added afterwards."""
        sums = self._kept, self._reference, self._total, self._square, self._kept_total, self._kept_square
        return Moments(self._count, *sums, self._gram, pairs, self._precision)
