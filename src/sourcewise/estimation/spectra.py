"""Eigendecompositions of Gram matrices, each made once.

Estimators, levels and targets are compared on the same folds and halves of the same models, so the same few matrices
come again and again. The last ones are kept, by what they hold; a result never depends on that.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from threading import Lock

import numpy as np

from sourcewise.estimation.arrays import Array

KEPT_BYTES = 2**28
"""Bytes of eigenvectors that are kept; at 1,000 groups, those of about 30 matrices."""

_kept: OrderedDict[bytes, tuple[Array, Array]] = OrderedDict()
_lock = Lock()


def eigen(gram: Array, count: int) -> tuple[Array, Array]:
    """Return eigenvalues, rising, and eigenvectors [G, values] of a Gram matrix of the centred masks of `count` models.

    Those models span at most `count` directions. Where that is less than half of all, the others, whose value is zero,
    are left out. Neither array can be written to.
    """
    state = sha256(f"{count}/{gram.shape}/".encode())
    state.update(np.ascontiguousarray(gram).data)
    key = state.digest()
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    result = _decompose(gram, count)
    for array in result:
        array.flags.writeable = False
    with _lock:
        _kept[key] = result
        while len(_kept) > 1 and sum(vectors.nbytes for _, vectors in _kept.values()) > KEPT_BYTES:
            _kept.popitem(last=False)
    return result


def _decompose(gram: Array, count: int) -> tuple[Array, Array]:
    """Return what `eigen` does, computed in the range of a random projection where models are few.

    That is exact for a matrix of such a rank (Halko, Martinsson & Tropp, SIAM Review 53, 2011).
    """
    if 2 * count >= len(gram):
        values, vectors = np.linalg.eigh(gram)
        return values, vectors
    basis = np.random.default_rng(0).normal(size=(len(gram), count))
    for _ in range(2):  # once for the range, once more for its digits
        basis = np.linalg.qr(gram @ basis)[0]
    values, vectors = np.linalg.eigh(basis.T @ gram @ basis)
    return values, basis @ vectors
