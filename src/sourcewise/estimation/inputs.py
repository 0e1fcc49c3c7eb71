"""Check the arrays that a caller gives to `fit`, and bring them into one form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import BLOCK_ROWS, cuts
from sourcewise.estimation.masks import PackedMasks


@dataclass(frozen=True)
class Inputs:
    """Masks and outputs of at least two models, which fit together.

    Attributes:
        masks: bool[models, G], as bits.
        outputs: float[models, E], finite, and not all the same.
        seeds: training seeds [models], or None.
        groups: G names.
    """

    masks: PackedMasks
    outputs: NDArray[Any]
    seeds: NDArray[Any] | None
    groups: tuple[str, ...]


def check_inputs(
    masks: ArrayLike | PackedMasks, outputs: ArrayLike, seeds: ArrayLike | None, groups: Sequence[str] | None
) -> Inputs:
    """Check what `fit` is given. Raises SourcewiseError that says what is wrong."""
    packed, table = check_masks(masks), _check_outputs(outputs)
    models = len(packed)
    if models != len(table):
        raise SourcewiseError(f"{models} masks but {len(table)} rows of outputs: one each a model")
    if models < 2:
        raise SourcewiseError(f"{models} record{'s' * (models != 1)}: an estimate needs at least 2")
    if not (table.size and packed.groups):
        raise SourcewiseError(f"nothing to estimate: masks [{models}, {packed.groups}], outputs {table.shape}")
    if all((table[rows] == table[0]).all() for rows in packed.blocks()):
        raise SourcewiseError("outputs are constant: all models say the same, so nothing has an influence")
    names = tuple(groups) if groups is not None else tuple(map(str, range(packed.groups)))
    if len(names) != packed.groups:
        raise SourcewiseError(f"{len(names)} group names for {packed.groups} groups")
    labels = None if seeds is None else np.asarray(seeds)
    if labels is not None and len(labels) != models:
        raise SourcewiseError(f"{len(labels)} seeds for {models} models")
    return Inputs(packed, table, labels, names)


def check_masks(masks: ArrayLike | PackedMasks) -> PackedMasks:
    """Return masks [m, G] of booleans, or of zeros and ones, as bits."""
    if isinstance(masks, PackedMasks):
        return masks
    table = np.asarray(masks)
    if table.ndim != 2:
        raise SourcewiseError(f"masks need two dimensions, models first, not {table.shape}")
    if table.dtype != np.bool_ and not np.isin(table, (0, 1)).all():
        raise SourcewiseError("masks must hold booleans, or zeros and ones (1 = group kept)")
    return PackedMasks.pack(table.astype(np.bool_))


def _check_outputs(outputs: ArrayLike) -> NDArray[Any]:
    """Return the outputs as a table float[m, E] of finite numbers; a single column may come as [m]."""
    table = np.asarray(outputs)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.dtype.kind not in "fiub":
        raise SourcewiseError(
            f"outputs must be real numbers [models, examples], not {table.dtype} of {table.ndim} dimensions"
        )
    finite = [np.isfinite(table[rows]).all(1) for rows in cuts(len(table), BLOCK_ROWS)]
    bad = np.flatnonzero(~np.concatenate([*finite, np.ones(0, np.bool_)]))
    if bad.size:
        named = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        raise SourcewiseError(
            f"outputs hold NaN or infinity in {len(bad)} of {len(table)} rows ({named}): leave them out"
        )
    return table if table.dtype.kind == "f" else table.astype(np.float64)
