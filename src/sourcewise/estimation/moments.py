"""Sufficient statistics of (masks, outputs), streamed: memory does not grow with the number of models.

`Moments` holds counts, sums and sums of squares of the outputs, overall and over the models that kept each group, and
on request the Gram matrix of the masks. Two `Moments` of the same shape add up, and a part can be taken away again.
`collapse` makes `Subsets` of a study, whose moments are those of any of its columns and groups.

Outputs are centred by a reference row before anything is squared, so that large means do not eat the digits. Products
run in the precision of the input (float16 and float32 in float32, float64 in float64), tile by tile; all sums are kept
in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

ROWS = 2048
"""Rows of one matrix product: their sums run in float32, so it stays small enough for six digits."""
TILE = 1024
"""Columns of one matrix product, so that its result stays in the processor's cache."""
GRAM = 4096
"""Groups up to which the Gram matrix is made, which all estimators but the difference of means need."""
CELLS = 2**24
"""Cells of the largest table that is held in memory."""
ALL = slice(None)


def cuts(size: int, step: int) -> list[slice]:
    """`range(size)` in slices of `step`."""
    return [slice(left, left + step) for left in range(0, size, step)]


@dataclass(frozen=True)
class Packed:
    """Masks bool[m, G] as bits: uint8[m, ceil(G / 8)], as `np.packbits` makes them."""

    bits: NDArray[np.uint8]
    groups: int

    @classmethod
    def of(cls, masks: Mask) -> Packed:
        """The bits of masks bool[m, G]."""
        return cls(np.packbits(masks, axis=1), masks.shape[1])

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, rows: slice | Index | Mask) -> Packed:
        return Packed(self.bits[rows], self.groups)

    def unpack(self, groups: slice = ALL) -> Mask:
        """bool[m, g] of some of the groups, the first of which is a multiple of eight."""
        left, right, _ = groups.indices(self.groups)
        bits = self.bits[:, left // 8 : -(-right // 8)]
        return np.unpackbits(bits, axis=1, count=right - left).view(np.bool_)

    def blocks(self) -> list[slice]:
        """Rows, by so many that their unpacked masks take little memory."""
        step = int(np.clip(4 * CELLS // self.groups, 64, ROWS))
        return cuts(len(self), step)

    def sizes(self) -> Index:
        """int[m], how many groups each subset keeps."""
        counts = [np.bitwise_count(self.bits[rows]).sum(1, dtype=np.int64) for rows in self.blocks()]
        return np.concatenate([*counts, np.zeros(0, np.int64)])

    def share(self) -> Array:
        """float[G], share of the models that kept each group."""
        total = np.zeros(self.groups)
        for rows in self.blocks():
            total += self[rows].unpack().sum(0)
        return total / max(len(self), 1)


@dataclass
class Moments:
    """Sums over models. Shapes: G groups, E columns (examples, or means of them).

    Attributes:
        count: models seen.
        kept: float[G], models that kept each group.
        reference: float[E], what was subtracted from the outputs before all sums below.
        total: float[E], sum of the outputs.
        square: float[E], sum of their squares.
        kept_total: float[E, G], sum of the outputs over the models that kept the group.
        kept_square: float[E, G], the same of the squares.
        gram: float[G, G], how many models kept both groups; None unless asked for.
        pairs: how many pairs of a subset and its complement are among the models, without what they have in common.
        precision: rounding unit of the products so far.
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

    @classmethod
    def empty(cls, groups: int, columns: int, gram: bool = False) -> Moments:
        """Moments of no models yet, for `groups` groups and `columns` outputs a model."""
        reference, total, square = np.zeros((3, columns))
        kept_total, kept_square = np.zeros((2, columns, groups))
        table = np.zeros((groups, groups)) if gram else None
        return cls(0, np.zeros(groups), reference, total, square, kept_total, kept_square, table)

    @property
    def groups(self) -> int:
        """G."""
        return int(self.kept.size)

    @property
    def columns(self) -> int:
        """E."""
        return int(self.total.size)

    def update(self, masks: Mask, outputs: NDArray[Any]) -> Moments:
        """Add models, in chunks of any size: masks bool[m, G], outputs finite float[m, E]. Returns itself."""
        if not len(outputs):
            return self
        work = np.result_type(outputs, np.float32)
        if self.count == 0:
            head = outputs[:64].astype(work)
            # the mean, clipped so that equal outputs are centred to exactly zero
            center = np.clip(head.mean(0, dtype=np.float64), head.min(0), head.max(0))
            self.reference = center.astype(work).astype(np.float64)
        self.precision = max(self.precision, float(np.finfo(work).eps))
        reference = self.reference.astype(work)
        room = np.empty((min(TILE, self.columns), self.groups), work)
        for rows in cuts(len(outputs), ROWS):
            kept: NDArray[np.floating[Any]] = masks[rows].astype(work)
            self.count += len(kept)
            self.kept += kept.sum(0, dtype=np.float64)
            if self.gram is not None:
                self.gram += kept.T @ kept
            for tile in cuts(self.columns, TILE):
                y: NDArray[np.floating[Any]] = outputs[rows, tile].astype(work)
                y -= reference[tile]
                product = room[: y.shape[1]]
                for total, kept_total in ((self.total, self.kept_total), (self.square, self.kept_square)):
                    total[tile] += y.sum(0, dtype=np.float64)
                    kept_total[tile] += np.matmul(y.T, kept, out=product)
                    np.multiply(y, y, out=y)
        return self

    def moved(self, reference: Array) -> Moments:
        """The same sums about another reference float[E]."""
        shift = self.reference - reference
        s, n = shift[:, None], self.count
        return replace(
            self,
            reference=reference.copy(),
            total=self.total + n * shift,
            square=self.square + 2 * shift * self.total + n * shift**2,
            kept_total=self.kept_total + s * self.kept,
            kept_square=self.kept_square + 2 * s * self.kept_total + s**2 * self.kept,
        )

    def _combine(self, other: Moments, sign: int) -> Moments:
        other = other.moved(self.reference)
        names = ["count", "kept", "total", "square", "kept_total", "kept_square", "pairs"]
        names += ["gram"] if self.gram is not None else []
        sums = {name: getattr(self, name) + sign * getattr(other, name) for name in names}
        return replace(self, precision=max(self.precision, other.precision), **sums)

    def __add__(self, other: Moments) -> Moments:
        """Moments of the models of both."""
        return self._combine(other, 1) if self.count else other._combine(self, 1)

    def __sub__(self, part: Moments) -> Moments:
        """Moments of the models that are not in `part`, which must be among those of self."""
        return self._combine(part, -1)

    def mean(self) -> Array:
        """float[E], mean output over all models."""
        return self.reference + self.total / max(self.count, 1)

    def spread(self) -> tuple[Array, int]:
        """float[E], sum of squares about the mean, and its degrees of freedom: one a pair of complements."""
        spread = self.square - self.total**2 / max(self.count, 1)
        free = self.count - self.pairs - (self.count > 2 * self.pairs)
        return np.where(spread > 64 * self.precision * self.square, spread, 0.0), free


@dataclass(frozen=True)
class Subsets:
    """One row a subset, the mean over its seeds; complements side by side, first.

    Attributes:
        masks: bool[S, G], as bits.
        outputs: float[S, E].
        runs: int[S], models behind each row.
        unit: int[S], rows that belong together (a subset and its complement); folds never split them.
        pairs: the first 2 * pairs rows are pairs of complements.
        center: float[E], mean output of those rows; None without pairs.
        within: float[E], variance of the models of one subset; None where each has one model.
    """

    masks: Packed
    outputs: NDArray[Any]
    runs: Index
    unit: Index
    pairs: int = 0
    center: Array | None = None
    within: Array | None = None

    @property
    def units(self) -> int:
        """How many units there are."""
        return int(self.unit[-1]) + 1 if len(self.unit) else 0

    def take(self, units: Index, columns: slice | Index = ALL) -> Subsets:
        """The rows of some units, which are numbered anew, and some of the columns."""
        rows = np.flatnonzero(np.isin(self.unit, units))
        center, within = (None if row is None else row[columns] for row in (self.center, self.within))
        unit = np.unique(self.unit[rows], return_inverse=True)[1]
        pairs = int((rows < 2 * self.pairs).sum()) // 2
        outputs = self.outputs[np.ix_(rows, np.arange(self.outputs.shape[1])[columns])]
        return Subsets(self.masks[rows], outputs, self.runs[rows], unit, pairs, center, within)

    def moments(self, columns: slice = ALL, groups: slice = ALL) -> Moments:
        """The moments of all rows, each with the weight of one; with a Gram matrix, unless groups are too many.

        With a Gram matrix, what a subset and its complement have in common (interactions of two groups, for instance)
        is left out: it cancels from every influence, and so must not count as noise.
        """
        gram = self.masks.groups <= GRAM
        width, height = len(range(*groups.indices(self.masks.groups))), self.outputs[:1, columns].shape[1]
        found = Moments.empty(width, height, gram)
        for rows in self.masks.blocks():
            masks, outputs = self.masks[rows].unpack(groups), self.outputs[rows, columns]
            paired = min(max(2 * self.pairs - rows.start, 0), len(outputs)) if gram else 0
            if paired and self.center is not None:
                outputs = outputs.astype(np.result_type(outputs, np.float32))
                half = (outputs[0:paired:2] - outputs[1:paired:2]) / 2
                outputs[0:paired:2], outputs[1:paired:2] = self.center[columns] + half, self.center[columns] - half
            found.update(masks, outputs)
        found.pairs = self.pairs if gram else 0
        return found


def collapse(masks: Mask | Packed, outputs: NDArray[Any], seeds: NDArray[Any] | None = None) -> Subsets:
    """Average the models of one subset over their seeds, and put complementary subsets side by side.

    The subset is the unit that was drawn at random: seeds of one subset share its interactions, so errors must count
    subsets, not models. Equal (or complementary) masks that no more than chance brings about, as with a handful of
    groups, are left alone; given `seeds`, equal masks are always one subset, and a run that is there twice (same
    subset, seed and outputs) counts once.
    """
    packed = masks if isinstance(masks, Packed) else Packed.of(masks)
    keys = _digests(packed.bits)
    if seeds is not None:
        again = pd.DataFrame({"subset": keys, "seed": seeds, "outputs": _digests(outputs)}).duplicated().to_numpy()
        if again.any():
            packed, outputs, keys = packed[~again], outputs[~again], keys[~again]
    n, chances = len(packed), _chances(packed)
    subset = pd.factorize(keys)[0]
    sizes = np.bincount(subset)
    if seeds is None and (sizes * (sizes - 1)).sum() / 2 <= 3 * (chances[0] + 1):
        subset, sizes = np.arange(n), np.ones(n, dtype=np.int64)
    first = np.unique(subset, return_index=True)[1]
    within = None
    if len(first) < n:
        means = np.zeros((len(first), outputs.shape[1]), np.result_type(outputs, np.float32))
        np.add.at(means, subset, outputs)
        means /= sizes[:, None].astype(means.dtype)
        within = np.zeros(outputs.shape[1])
        for rows in cuts(n, ROWS):
            within += ((outputs[rows] - means[subset[rows]]) ** 2).sum(0, dtype=np.float64)
        within /= n - len(first)
        packed, outputs = packed[first], means
    last = {keys[row]: s for s, row in enumerate(first)}
    ones = np.packbits(np.ones(packed.groups, np.bool_))
    other = [last.get(key, -1) for key in _digests(row ^ ones for row in packed.bits)]
    pairs = [(s, o) for s, o in enumerate(other) if s < o and other[o] == s]
    if len(pairs) <= 3 * (chances[1] + 1):
        return Subsets(packed, outputs, sizes, np.arange(len(packed)), within=within)
    paired = np.array(pairs).ravel()
    order = np.concatenate([paired, np.setdiff1d(np.arange(len(packed)), paired)])
    unit = np.concatenate([np.arange(len(paired)) // 2, len(pairs) + np.arange(len(order) - len(paired))])
    outputs = outputs[order]
    center = outputs[: len(paired)].mean(0, dtype=np.float64)
    return Subsets(packed[order], outputs, sizes[order], unit, len(pairs), center, within)


def _digests(rows: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """A hash of each row."""
    return np.array([sha256(row.tobytes()).digest() for row in rows], dtype=object)


def _chances(masks: Packed) -> tuple[float, float]:
    """How many pairs of equal, and of complementary, masks are to be expected of independent draws."""
    n, p = len(masks), masks.share()
    groups = int(((p > 0) & (p < 1)).sum())
    share = np.bincount(masks.sizes() - int((p == 1).sum()), minlength=groups + 1) / max(n, 1)
    ways = special.binom(groups, np.arange(groups + 1))
    sized = share**2 / ways, share * share[::-1] / ways  # as if all subsets of one size were equally likely
    free = np.prod(p**2 + (1 - p) ** 2), np.prod(2 * p * (1 - p))
    equal, opposite = (n * (n - 1) / 2 * max(float(a.sum()), float(b)) for a, b in zip(sized, free, strict=True))
    return equal, opposite
