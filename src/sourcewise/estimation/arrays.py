"""Array types, and the pieces in which large arrays are worked on."""

from __future__ import annotations

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
