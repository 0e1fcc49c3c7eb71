"""Gram matrices of masks and their eigendecompositions, each made once.

Estimators, levels and targets are compared on the same folds and halves of the same models, so the same few matrices
come again and again. The last ones are kept, by what they hold; a result never depends on that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.estimation.arrays import Array, PackedMasks

KEPT_BYTES = 3 * 2**27
"""Bytes of arrays that are kept, 0.4 GB: at 1,000 groups, about 30 Gram matrices with their eigenvectors."""

Arrays = tuple[NDArray[Any], ...]


class Memo:
    """The arrays that were made or asked for last, by a key that says what they hold. They cannot be written to."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Arrays] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    def get(self, key: bytes, make: Callable[[], Arrays]) -> Arrays:
        """Return what is kept under a key, or else what `make` returns, which is kept from now on."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        arrays = make()
        for array in arrays:
            array.flags.writeable = False
        with self._lock:
            self._bytes += _size(arrays) - _size(self._kept.pop(key, ()))
            self._kept[key] = arrays
            while len(self._kept) > 1 and self._bytes > KEPT_BYTES:
                self._bytes -= _size(self._kept.popitem(last=False)[1])
        return arrays


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays)


_memo = Memo()


def gram(masks: PackedMasks) -> Array:
    """Return how many masks keep both groups, float[G, G]."""
    key = _key(f"gram/{masks.groups}", masks.bits)
    (matrix,) = _memo.get(key, lambda: (_count_both(masks),))
    return matrix.astype(np.float64)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues, rising, and eigenvectors [G, values] of a matrix. They cannot be written to.

    key: says what they hold.
    """

    values: Array
    vectors: Array
    key: bytes

    def derived(self, beside: NDArray[Any], make: Callable[[], Arrays]) -> Arrays:
        """Return the arrays that `make` makes of this and of what is `beside` it, made once."""
        return _memo.get(self.key + beside.tobytes(), make)


def eigen(matrix: Array, count: int) -> Spectrum:
    """Return the spectrum of a Gram matrix of the centred masks of `count` models.

    Those models span at most `count` directions. Where that is less than half of all, the others, whose value is zero,
    are left out.
    """
    key = _key(f"eigen/{count}/{matrix.shape}", matrix)
    values, vectors = _memo.get(key, lambda: _decompose(matrix, count))
    return Spectrum(values, vectors, key)


def _key(kind: str, array: NDArray[Any]) -> bytes:
    state = sha256(f"{kind}/".encode())
    state.update(np.ascontiguousarray(array).data)
    return state.digest()


def _count_both(masks: PackedMasks) -> NDArray[np.float32]:
    """Return the counts in 32 bits, which are exact up to 2^24."""
    counts = np.zeros((masks.groups, masks.groups), np.float32)
    for rows in masks.blocks():
        kept = masks[rows].unpack().astype(np.float32)
        counts += kept.T @ kept
    return counts


def _decompose(matrix: Array, count: int) -> tuple[Array, Array]:
    """Return what `eigen` does, computed in the range of a random projection where models are few.

    That is exact for a matrix of such a rank (Halko, Martinsson & Tropp, SIAM Review 53, 2011).
    """
    if 2 * count >= len(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return values, vectors
    basis = np.random.default_rng(0).normal(size=(len(matrix), count))
    for _ in range(2):  # once for the range, once more for its digits
        basis = np.linalg.qr(matrix @ basis)[0]
    values, vectors = np.linalg.eigh(basis.T @ matrix @ basis)
    return values, basis @ vectors
