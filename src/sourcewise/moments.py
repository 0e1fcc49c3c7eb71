"""Sufficient statistics of (masks, outputs), streamed: memory does not grow with the number of models.

`Moments` holds counts, sums and sums of squares of the outputs, overall and over the models that kept each
group, and on request the Gram matrix of the masks. Two `Moments` of the same shape add up, and a part can be
taken away again. `Stream` is the same for a caller that has one record at a time.

Outputs are centred by a reference row before anything is squared, so that large means do not eat the digits.
Products run in the precision of the input (float16 and float32 in float32, float64 in float64), tile by tile;
all sums are kept in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from sourcewise.errors import SourcewiseError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ROWS = 2048
"""Rows of one matrix product: their sums run in float32, so it stays small enough for six digits."""
TILE = 1024
"""Columns of one matrix product, so that its result stays in the processor's cache."""
ALL = slice(None)
BUFFER_BYTES = 32 * 2**20
"""What a Stream may hold back before it multiplies."""


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
        pairs: how many pairs of a subset and its complement are among the models (see `update`).
        pair_total: float[E], sum of the outputs over those pairs.
        pair_square: float[E], sum over those pairs of half the square of their summed outputs.
        precision: rounding unit of the products so far.
    """

    count: int
    kept: Array
    reference: Array
    total: Array
    square: Array
    kept_total: Array
    kept_square: Array
    pair_total: Array
    pair_square: Array
    pairs: int = 0
    gram: Array | None = None
    precision: float = float(np.finfo(np.float64).eps)

    @classmethod
    def empty(cls, groups: int, columns: int, gram: bool = False) -> Moments:
        """Moments of no models yet, for `groups` groups and `columns` outputs a model."""
        if groups < 1 or columns < 1:
            raise SourcewiseError(f"moments need a group and a column at least, not {groups} and {columns}")
        e, g = columns, groups
        return cls(
            count=0,
            kept=np.zeros(g),
            reference=np.zeros(e),
            total=np.zeros(e),
            square=np.zeros(e),
            kept_total=np.zeros((e, g)),
            kept_square=np.zeros((e, g)),
            pair_total=np.zeros(e),
            pair_square=np.zeros(e),
            gram=np.zeros((g, g)) if gram else None,
        )

    @property
    def groups(self) -> int:
        """G."""
        return int(self.kept.size)

    @property
    def columns(self) -> int:
        """E."""
        return int(self.total.size)

    def update(self, masks: Mask, outputs: NDArray[Any], paired: bool = False) -> Moments:
        """Add models, in chunks of any size: masks bool[m, G], outputs float[m, E]. Returns itself.

        With `paired`, rows 0 and 1, 2 and 3, ... are a subset and its complement, as in a foldover design.
        What such a pair has in common (interactions of two groups, for instance) cancels from every
        influence, and the regressions leave it out of the error as well. `collapse` finds the pairs.

        Raises:
            SourcewiseError: shapes that do not fit, or outputs that are not finite (with their rows).
                Nothing is added then.
        """
        check(masks, outputs, self.groups, self.columns)
        if paired and not (len(masks) % 2 == 0 and np.array_equal(masks[0::2], ~masks[1::2])):
            raise SourcewiseError("paired rows must be a subset and its complement, in turn")
        if not len(outputs):
            return self
        single = outputs.dtype.kind == "f" and outputs.dtype.itemsize <= 4
        work: np.dtype[np.floating[Any]] = np.dtype(np.float32 if single else np.float64)
        if self.count == 0:
            head = outputs[:64].astype(work)
            # the mean, clipped so that equal outputs are centred to exactly zero
            center = np.clip(head.mean(0, dtype=np.float64), head.min(0), head.max(0))
            self.reference = center.astype(work).astype(np.float64)
        self.precision = max(self.precision, float(np.finfo(work).eps))
        reference = self.reference.astype(work)
        room = np.empty((min(TILE, self.columns), self.groups), work)
        for start in range(0, len(outputs), ROWS):
            rows = slice(start, start + ROWS)
            kept: NDArray[np.floating[Any]] = masks[rows].astype(work)
            self.count += len(kept)
            self.pairs += len(kept) // 2 if paired else 0
            self.kept += kept.sum(0, dtype=np.float64)
            if self.gram is not None:
                self.gram += kept.T @ kept
            for left in range(0, self.columns, TILE):
                tile = slice(left, left + TILE)
                y: NDArray[np.floating[Any]] = outputs[rows, tile].astype(work)
                y -= reference[tile]
                self.total[tile] += y.sum(0, dtype=np.float64)
                product = room[: y.shape[1]]
                self.kept_total[tile] += np.matmul(y.T, kept, out=product)
                if paired:
                    both = y[0::2] + y[1::2]
                    self.pair_total[tile] += both.sum(0, dtype=np.float64)
                    self.pair_square[tile] += (both * both).sum(0, dtype=np.float64) / 2
                np.multiply(y, y, out=y)
                self.square[tile] += y.sum(0, dtype=np.float64)
                self.kept_square[tile] += np.matmul(y.T, kept, out=product)
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
            pair_total=self.pair_total + 2 * self.pairs * shift,
            pair_square=self.pair_square + 2 * shift * self.pair_total + 2 * self.pairs * shift**2,
        )

    def _combine(self, other: Moments, sign: float) -> Moments:
        mine, theirs = ((m.groups, m.columns, m.gram is not None) for m in (self, other))
        if mine != theirs:
            raise SourcewiseError(f"moments of (groups, columns, gram) {mine} and {theirs} do not combine")
        if not np.array_equal(self.reference, other.reference):
            other = other.moved(self.reference)
        return Moments(
            count=self.count + int(sign) * other.count,
            kept=self.kept + sign * other.kept,
            reference=self.reference.copy(),
            total=self.total + sign * other.total,
            square=self.square + sign * other.square,
            kept_total=self.kept_total + sign * other.kept_total,
            kept_square=self.kept_square + sign * other.kept_square,
            pair_total=self.pair_total + sign * other.pair_total,
            pair_square=self.pair_square + sign * other.pair_square,
            pairs=self.pairs + int(sign) * other.pairs,
            gram=None if self.gram is None or other.gram is None else self.gram + sign * other.gram,
            precision=max(self.precision, other.precision),
        )

    def __add__(self, other: Moments) -> Moments:
        """Moments of the models of both."""
        if self.count == 0:
            return other._combine(self, 1.0)
        return self._combine(other, 1.0)

    def __sub__(self, part: Moments) -> Moments:
        """Moments of the models that are not in `part`, which must be among those of self."""
        return self._combine(part, -1.0)

    def mean(self) -> Array:
        """float[E], mean output over all models."""
        return self.reference + self.total / max(self.count, 1)

    def spread(self) -> tuple[Array, int]:
        """float[E], squares about the mean less what pairs have in common, and how many of them count."""
        mean = self.total / max(self.count, 1)
        common = self.pair_square - 2 * mean * self.pair_total + 2 * self.pairs * mean**2
        free = self.count - self.pairs - (self.count > 2 * self.pairs)
        rounding = 64 * self.precision * self.square
        spread = self.square - self.count * mean**2 - common
        return np.where(spread > rounding, spread, 0.0), free


class Stream:
    """Moments from one record at a time: rows are held back and multiplied by blocks.

    >>> stream = Stream(groups=2, columns=1)
    >>> for mask, output in [([True, False], [0.75]), ([False, True], [0.5])]:
    ...     stream.add(np.array(mask), np.array(output))
    >>> stream.moments().count
    2
    """

    def __init__(self, groups: int, columns: int, gram: bool = False) -> None:
        self._moments = Moments.empty(groups, columns, gram=gram)
        self._masks: list[Mask] = []
        self._outputs: list[NDArray[Any]] = []
        self._block = int(np.clip(BUFFER_BYTES // (2 * columns), 64, ROWS))

    def add(self, mask: Mask, output: NDArray[Any]) -> None:
        """Add one model: mask bool[G], output float[E]. Adds nothing and raises SourcewiseError if bad."""
        check(mask[None], output[None], self._moments.groups, self._moments.columns)
        self._masks.append(mask.copy())
        self._outputs.append(output.copy())
        if len(self._masks) >= self._block:
            self._flush()

    def _flush(self) -> None:
        if self._masks:
            self._moments.update(np.stack(self._masks), np.stack(self._outputs))
            self._masks, self._outputs = [], []

    def moments(self) -> Moments:
        """The moments of all models added so far. More may be added afterwards."""
        self._flush()
        return self._moments


@dataclass(frozen=True)
class Subsets:
    """One row a subset, the mean over its seeds; complements side by side, first.

    Attributes:
        masks: bool[S, G].
        outputs: float[S, E].
        runs: int[S], models behind each row.
        unit: int[S], rows that belong together (a subset and its complement); folds never split them.
        pairs: the first 2 * pairs rows are pairs of complements.
        within: float[E], variance of the models of one subset; None where each has one model.
    """

    masks: Mask
    outputs: NDArray[Any]
    runs: NDArray[np.int64]
    unit: NDArray[np.int64]
    pairs: int
    within: Array | None = None

    def take(self, units: NDArray[np.int64] | Mask, columns: slice | NDArray[np.int64] = ALL) -> Subsets:
        """The rows of some units, and some of the columns."""
        rows = units[self.unit] if units.dtype == np.bool_ else np.isin(self.unit, units)
        pairs = int(rows[: 2 * self.pairs].sum()) // 2
        within = None if self.within is None else self.within[columns]
        outputs = self.outputs[rows][:, columns]
        return Subsets(self.masks[rows], outputs, self.runs[rows], self.unit[rows], pairs, within)

    def moments(self, gram: bool = True) -> Moments:
        """The moments of all rows, each with the weight of one."""
        found = Moments.empty(self.masks.shape[1], self.outputs.shape[1], gram=gram)
        cut = 2 * self.pairs
        found.update(self.masks[:cut], self.outputs[:cut], paired=True)
        return found.update(self.masks[cut:], self.outputs[cut:])


def collapse(masks: Mask, outputs: NDArray[Any], seeds: NDArray[Any] | None = None) -> Subsets:
    """Average the models of one subset over their seeds, and put complementary subsets side by side.

    The subset is the unit that was drawn at random: seeds of one subset share its interactions, so errors
    must count subsets, not models. Equal (or complementary) masks that no more than chance brings about, as
    with a handful of groups, are left alone; given `seeds`, equal masks are always one subset, and a run that
    is there twice (same subset, seed and outputs) counts once.
    """
    check(masks, outputs)
    if seeds is not None:
        distinct = _distinct(masks, outputs, seeds)
        if len(distinct) < len(masks):
            masks, outputs = masks[distinct], outputs[distinct]
    n = len(masks)
    chances = _chances(masks)
    packed = [row.tobytes() for row in np.packbits(masks, axis=1)]
    number: dict[bytes, int] = {}
    subset = np.array([number.setdefault(key, len(number)) for key in packed], dtype=np.int64)
    sizes = np.bincount(subset, minlength=len(number))
    if seeds is None and (sizes * (sizes - 1)).sum() / 2 <= 3 * (chances[0] + 1):
        subset, sizes = np.arange(n), np.ones(n, dtype=np.int64)
    first = np.unique(subset, return_index=True)[1]
    within = None
    if len(first) < n:
        means = np.zeros((len(first), outputs.shape[1]), np.float64 if outputs.dtype.itemsize > 4 else np.float32)
        np.add.at(means, subset, outputs)
        means /= sizes[:, None].astype(means.dtype)
        within = np.zeros(outputs.shape[1])
        for start in range(0, n, ROWS):
            rows = slice(start, start + ROWS)
            within += ((outputs[rows] - means[subset[rows]]) ** 2).sum(0, dtype=np.float64)
        within /= n - len(first)
        masks, outputs = masks[first], means
    last = {packed[row]: s for s, row in enumerate(first)}
    other = [last.get(row.tobytes(), -1) for row in np.packbits(~masks, axis=1)]
    pairs = [(s, o) for s, o in enumerate(other) if s < o and other[o] == s]
    if len(pairs) <= 3 * (chances[1] + 1):
        return Subsets(masks, outputs, sizes, np.arange(len(masks)), 0, within)
    paired = np.array(pairs).ravel()
    order = np.concatenate([paired, np.setdiff1d(np.arange(len(masks)), paired)])
    unit = np.concatenate([np.arange(len(paired)) // 2, len(pairs) + np.arange(len(order) - len(paired))])
    return Subsets(masks[order], outputs[order], sizes[order], unit, len(pairs), within)


def _distinct(masks: Mask, outputs: NDArray[Any], seeds: NDArray[Any]) -> NDArray[np.int64]:
    """Rows that are no copy of an earlier one."""
    seen: set[tuple[bytes, Any, bytes]] = set()
    keys = zip(masks, np.asarray(seeds).tolist(), outputs, strict=True)
    rows = []
    for row, (mask, seed, output) in enumerate(keys):
        key = (mask.tobytes(), seed, sha256(output.tobytes()).digest())
        if key not in seen:
            rows.append(row)
        seen.add(key)
    return np.array(rows, dtype=np.int64)


def _chances(masks: Mask) -> tuple[float, float]:
    """How many pairs of equal, and of complementary, masks are to be expected of independent draws."""
    n, p = len(masks), masks.mean(0) if len(masks) else np.zeros(masks.shape[1])
    varying = (p > 0) & (p < 1)
    groups = int(varying.sum())
    share = np.bincount(masks[:, varying].sum(1), minlength=groups + 1) / max(n, 1)
    ways = special.binom(groups, np.arange(groups + 1))
    sized = share**2 / ways, share * share[::-1] / ways  # as if all subsets of one size were equally likely
    free = np.prod(p**2 + (1 - p) ** 2), np.prod(2 * p * (1 - p))
    equal, opposite = (n * (n - 1) / 2 * max(float(a.sum()), float(b)) for a, b in zip(sized, free, strict=True))
    return equal, opposite


def check(masks: NDArray[Any], outputs: NDArray[Any], groups: int | None = None, columns: int | None = None) -> None:
    """Raise SourcewiseError unless masks are bool[m, G] and outputs finite real[m, E], of the given sizes."""
    if masks.ndim != 2 or outputs.ndim != 2:
        raise SourcewiseError(
            f"masks and outputs need two dimensions, models first, not {masks.shape} and {outputs.shape}"
        )
    if len(masks) != len(outputs):
        raise SourcewiseError(f"{len(masks)} masks but {len(outputs)} rows of outputs: one each a model")
    if masks.dtype != np.bool_:
        raise SourcewiseError(f"masks must be bool (True = group kept), not {masks.dtype}")
    if outputs.dtype.kind not in "fiub":
        raise SourcewiseError(f"outputs must be real numbers, not {outputs.dtype}")
    if groups is not None and masks.shape[1] != groups:
        raise SourcewiseError(f"masks cover {masks.shape[1]} groups, but {groups} are expected")
    if columns is not None and outputs.shape[1] != columns:
        raise SourcewiseError(f"outputs have {outputs.shape[1]} columns, but {columns} are expected")
    if outputs.dtype.kind == "f":
        blocks = (_finite(outputs[start : start + ROWS]) for start in range(0, len(outputs), ROWS))
        bad = np.flatnonzero(~np.concatenate([*blocks, np.ones(0, np.bool_)]))
        if bad.size:
            named = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
            raise SourcewiseError(
                f"outputs hold NaN or infinity in {len(bad)} of {len(outputs)} rows ({named}): leave them out"
            )


def _finite(block: NDArray[Any]) -> Mask:
    """bool[m]: which rows are finite throughout."""
    finite = np.isfinite(block)
    return np.ones(len(block), np.bool_) if finite.all() else np.asarray(finite.all(1))
