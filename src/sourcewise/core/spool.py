"""Rows of numbers in a temporary file, so that memory does not grow with them."""

import tempfile
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Spool:
    """Rows of one shape and dtype, in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="sourcewise-")  # noqa: SIM115  # closed with the spool
        weakref.finalize(self, self._file.close)
        self._dtype: np.dtype[Any] = np.dtype(np.float16)
        self._shape: tuple[int, ...] = (0, 0)

    def __len__(self) -> int:
        return self._shape[0]

    def append(self, row: NDArray[Any]) -> None:
        """Add a row, which has the shape and dtype of those before."""
        self._dtype, self._shape = row.dtype, (len(self) + 1, *row.shape)
        self._file.write(row.tobytes())

    def array(self) -> NDArray[Any]:
        """Return all rows `[rows, ...]`, mapped from the file; the mapping outlives the spool."""
        self._file.flush()
        if 0 in self._shape:
            return np.zeros(self._shape, self._dtype)
        return np.memmap(self._file, dtype=self._dtype, mode="r", shape=self._shape)
