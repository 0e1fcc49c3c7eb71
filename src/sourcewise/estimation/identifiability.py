"""What a set of subsets cannot tell, whatever the outputs are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sourcewise.core.messages import first_names
from sourcewise.estimation.arrays import Index, PackedMasks
from sourcewise.estimation.inference import LEAST_SIDE


def never_apart(masks: PackedMasks) -> list[Index]:
    """Return the sets of groups that every subset keeps or drops together, int[groups of a set] each.

    Groups in every subset, or in none, are not among them. Columns are compared by a random sum of 64 bits.

    >>> masks = PackedMasks.pack(np.array([[True, True, False], [False, False, True], [True, True, True]]))
    >>> never_apart(masks)
    [array([0, 1])]
    """
    weights = np.random.default_rng(0).integers(0, 2**64, len(masks), dtype=np.uint64)
    sums = np.zeros(masks.groups, np.uint64)
    for rows in masks.blocks():
        for kept, weight in zip(masks[rows].unpack(), weights[rows], strict=True):
            sums[kept] += weight  # a product would need eight bytes a cell
    kept_by = masks.kept()
    varying = np.flatnonzero((kept_by > 0) & (kept_by < len(masks)))
    _, number, sizes = np.unique(sums[varying], return_inverse=True, return_counts=True)
    return [varying[number == i] for i in np.flatnonzero(sizes > 1)]


def limits(masks: PackedMasks, names: Sequence[str]) -> list[str]:
    """Return what subsets cannot tell of the groups with these names, a sentence each; empty if there is nothing."""
    kept, sentences = masks.kept(), list[str]()
    smaller = np.minimum(kept, len(masks) - kept)
    constant = np.flatnonzero(smaller == 0).tolist()
    few = np.flatnonzero((smaller > 0) & (smaller < LEAST_SIDE)).tolist()
    if constant:
        listed = first_names([names[i] for i in constant])
        sentences.append(f"Groups in every subset, or in none, have no identifiable influence: {listed}.")
    if together := never_apart(masks):
        sets = "; ".join(first_names([names[i] for i in members]) for members in together[:3])
        more = f"; and {len(together) - 3:,} more" if len(together) > 3 else ""
        sentences.append(f"Groups that are never apart have no identifiable influences of their own: {sets}{more}.")
    if few and len(few) + len(constant) == len(names):
        sentences.append(
            f"Fewer than {LEAST_SIDE} subsets keep, or drop, each group: nothing can be told from noise. Train more."
        )
    elif few:
        listed = first_names([names[i] for i in few])
        sentences.append(f"Fewer than {LEAST_SIDE} subsets keep, or drop, these groups; they get no q-value: {listed}.")
    return sentences
