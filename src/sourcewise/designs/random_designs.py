"""Designs that draw subsets at random: influences can be estimated from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.randomness import permutation, uniform


def random(groups: Sequence[str], fraction: float, seed: NonNegativeInt) -> NDArray[np.bool_]:
    """Keep `round(fraction * groups)` groups, at least one, every such subset equally likely. Return `bool[groups]`.

    Raises SourcewiseError when the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise SourcewiseError(f"subset.fraction={fraction}: it must be above 0 and at most 1")
    size = max(1, round(fraction * len(groups)))
    mask = np.zeros(len(groups), dtype=bool)
    mask[permutation(f"random/{seed}", len(groups))[:size]] = True
    return mask


def hadamard(groups: Sequence[str], seed: NonNegativeInt) -> NDArray[np.bool_]:
    """Draw row `seed` of a randomised foldover Hadamard design. Return `bool[groups]`, about half of them kept.

    With n the power of two above the number of groups, runs 0 to n - 1 are the rows of a Hadamard matrix in random
    order, its constant column dropped, its columns permuted, their signs flipped at random. Over these n runs no two
    groups are confounded; over the next n, which are their complements in the same order, no group is with any pair.
    Then comes another randomisation. Rows come before complements because a sweep that stops early is better off so:
    in simulations of 36 groups, 64 models explain more of held-out subsets than with complements side by side.

    The subset that would be empty, as one of a few groups may be, keeps all of them.
    """
    order = 1 << len(groups).bit_length()
    block, run = divmod(seed, 2 * order)
    complement, place = divmod(run, order)
    row = np.argpartition(uniform(f"hadamard/{block}/rows", order), place)[place]
    columns = 1 + permutation(f"hadamard/{block}/columns", order - 1)[: len(groups)]
    # An entry's sign in Sylvester's matrix is the parity of the bits that its two indices share.
    parity = np.bitwise_count(columns & row) & 1
    mask: NDArray[np.bool_] = (parity != complement) ^ (uniform(f"hadamard/{block}/signs", len(groups)) < 0.5)
    return mask if mask.any() else ~mask


def replicated(groups: Sequence[str], fraction: float, replicas: int, seed: NonNegativeInt) -> NDArray[np.bool_]:
    """Draw the subset of `random` with seed `seed // replicas`, which `replicas` runs share. Return `bool[groups]`.

    The runs differ in their training: see `replica_name`. Raises SourcewiseError as `random` does, and for fewer than
    one replica.
    """
    if replicas < 1:
        raise SourcewiseError(f"subset.replicas={replicas}: it must be at least 1")
    return random(groups, fraction, seed // replicas)


def replica_name(subset: Mapping[str, Any]) -> str:
    """Return the number of a run among those of `replicated` that share its subset, as the name of its randomness."""
    return f"/replica/{subset['seed'] % subset['replicas']}"
