"""Rows on disk while records are read, so that memory does not grow with their number."""

from __future__ import annotations

import tempfile
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Spool:
    """Rows of one length and dtype, one for each record, in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="sourcewise-")  # noqa: SIM115  # closed with the spool
        weakref.finalize(self, self._file.close)
        self._dtype: np.dtype[Any] = np.dtype(np.float16)
        self._shape = (0, 0)

    def __len__(self) -> int:
        return self._shape[0]

    def append(self, row: NDArray[Any]) -> None:
        """Append the row of one record."""
        self._dtype = row.dtype
        self._file.write(row.tobytes())
        self._shape = (len(self) + 1, len(row))

    def array(self) -> NDArray[Any]:
        """Return all rows `[records, columns]`, mapped from the file; the mapping outlives the spool."""
        self._file.flush()
        return np.memmap(self._file, dtype=self._dtype, mode="r", shape=self._shape)
