"""Masks of subsets as bits, which take an eighth of the memory of booleans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sourcewise.estimation.arrays import ALL, BLOCK_ROWS, CELLS, Array, Index, Mask, cuts


@dataclass(frozen=True)
class PackedMasks:
    """Masks bool[m, G] of m subsets of G groups.

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
        step = int(np.clip(4 * CELLS // self.groups, 64, BLOCK_ROWS))
        return cuts(len(self), step)

    def sizes(self) -> Index:
        """Return how many groups each subset keeps, int[m]."""
        counts = [np.bitwise_count(self.bits[rows]).sum(1, dtype=np.int64) for rows in self.blocks()]
        return np.concatenate([*counts, np.zeros(0, np.int64)])

    def kept_share(self) -> Array:
        """Return the share of the subsets that keep each group, float[G]."""
        total = np.zeros(self.groups)
        for rows in self.blocks():
            total += self[rows].unpack().sum(0)
        return total / max(len(self), 1)
