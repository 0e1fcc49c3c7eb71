"""Array types, masks as bits, and the pieces in which large arrays are worked on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

ALL = slice(None)
BLOCK_ROWS = 2048
"""Rows of one matrix product. Its sums run in float32, so it stays small enough for six digits."""
TILE_COLUMNS = 1024
"""Columns of one matrix product, so that its result stays in the processor's cache."""
CELLS = 2**24
"""Cells of the largest table that is held in memory."""


def cuts(size: int, step: int) -> list[slice]:
    """Cut `range(size)` into slices of `step`; the last may reach beyond the end.

    >>> cuts(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    return [slice(start, start + step) for start in range(0, size, step)]


def row_blocks(shape: tuple[int, ...]) -> list[slice]:
    """Cut the rows of a table [rows, columns] into blocks that take little memory each."""
    return cuts(shape[0], max(CELLS // 4 // shape[1], 1))


@dataclass(frozen=True)
class PackedMasks:
    """Masks bool[m, G] of m subsets of G groups, as bits: an eighth of the memory of booleans.

    >>> masks = PackedMasks.pack(np.array([[True, False, True], [False, False, True]]))
    >>> masks.sizes().tolist(), masks.kept_share().tolist()
    ([2, 1], [0.5, 0.0, 1.0])

    Attributes:
        bits: uint8[m, ceil(G / 8)], as `np.packbits` makes them.
        groups: G.
    """

    bits: NDArray[np.uint8]
    groups: int

    @classmethod
    def pack(cls, masks: Mask) -> PackedMasks:
        """Pack masks bool[m, G]."""
        return cls(np.packbits(masks, axis=1), masks.shape[1])

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, rows: slice | Index | Mask) -> PackedMasks:
        return PackedMasks(self.bits[rows], self.groups)

    def unpack(self, groups: slice = ALL) -> Mask:
        """Return the masks bool[m, g] of a range of groups. The first of them must be a multiple of eight."""
        start, stop, _ = groups.indices(self.groups)
        bits = self.bits[:, start // 8 : -(-stop // 8)]
        return np.unpackbits(bits, axis=1, count=stop - start).view(np.bool_)

    def complements(self) -> PackedMasks:
        """Return the masks of the groups that each subset dropped."""
        return PackedMasks(self.bits ^ np.packbits(np.ones(self.groups, np.bool_)), self.groups)

    def blocks(self) -> list[slice]:
        """Cut the rows into blocks whose unpacked masks take little memory each."""
        return cuts(len(self), int(np.clip(4 * CELLS // self.groups, 64, BLOCK_ROWS)))

    def sizes(self) -> Index:
        """Return how many groups each subset keeps, int[m]."""
        counts = [np.bitwise_count(self.bits[rows]).sum(1, dtype=np.int64) for rows in self.blocks()]
        return np.concatenate([*counts, np.zeros(0, np.int64)])

    def kept(self) -> Array:
        """Return how many subsets keep each group, float[G]."""
        total = np.zeros(self.groups)
        for rows in self.blocks():
            total += self[rows].unpack().sum(0)
        return total

    def kept_share(self) -> Array:
        """Return the share of the subsets that keep each group, float[G]."""
        return self.kept() / max(len(self), 1)

    def mixes_sizes(self) -> bool:
        """Return whether subset sizes vary by more or less than independent draws would, though not fixed to one size.

        The difference of means then credits every group with a part of the effect of size; the regressions do not.
        """
        share = self.kept_share()
        ratio = float(self.sizes().var()) / max(float((share * (1 - share)).sum()), 1e-300)
        return bool(ratio > 0.1 and abs(ratio - 1) > 6 * np.sqrt(2 / len(self)))
