"""Randomness that is the same on every machine and with every version of every library: SHAKE-256 and SHA-256.

Each purpose has a stream of its own, named by a key, so that drawing more of one never shifts another.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


def permutation(key: str, size: int) -> NDArray[np.intp]:
    """Return a uniformly random order of `range(size)`: positions sorted by 64-bit SHAKE-256 output of the key."""
    return np.argsort(_integers(key, size), kind="stable")


def ranks(key: str, labels: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return the place of each example in a random order of its class, `int[n]` from 0 on; labels: `int[n]`."""
    order = permutation(key, len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, each in random order
    sizes = np.bincount(labels)
    places = np.empty(len(labels), np.intp)
    places[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return places


def uniform(key: str, *shape: int) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1), `float64[shape]`, with 53 random bits each."""
    bits = (_integers(key, int(np.prod(shape))) >> np.uint64(11)).reshape(shape)
    return bits.astype(np.float64) * 2.0**-53


def derive_seed(purpose: str, training_seed: int, mask: NDArray[np.bool_]) -> int:
    """Return the seed of one torch generator of a run, below 2**63; mask: the run's subset, `bool[groups]`.

    It depends on the subset too: two runs share their randomness only when they share both seed and subset, so that
    a study never depends on one initialisation.
    """
    state = hashlib.sha256(f"sourcewise/{purpose}/{training_seed}/{len(mask)}/".encode())
    state.update(np.packbits(mask).tobytes())
    return int.from_bytes(state.digest()[:8], "little") >> 1


def _integers(key: str, size: int) -> NDArray[np.uint64]:
    """Return the stream of a key, `uint64[size]`."""
    return np.frombuffer(hashlib.shake_256(f"sourcewise/{key}".encode()).digest(8 * size), dtype="<u8")
