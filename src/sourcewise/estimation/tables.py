"""The table of influences and q-values: in memory, or where that is too small part by part in temporary files."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import ALL, CELLS, Array, cuts, row_blocks
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.contract import Estimate, Estimator
from sourcewise.estimation.inference import least_pvalues, pvalues, qvalues, qvalues_in_place
from sourcewise.estimation.moments import GRAM_GROUPS


def estimate_table(subsets: Subsets, estimator: Estimator) -> tuple[Estimate, NDArray[np.floating[Any]]]:
    """Estimate influences and their q-values, both float[E, G].

    A table of more than CELLS is made part by part, in float32 in temporary files: by examples, or by groups where
    these are too many for a Gram matrix. Raises SourcewiseError if the disk has no room.
    """
    shape = subsets.outputs.shape[1], subsets.masks.groups
    if shape[0] * shape[1] > CELLS and estimator.by_parts:
        return _estimate_by_parts(subsets, estimator, shape)
    estimate = estimator.estimate_subsets(subsets)
    return estimate, qvalues(pvalues(estimate.influence, estimate.stderr, estimate.dof, _least_pvalues(subsets)))


def _estimate_by_parts(
    subsets: Subsets, estimator: Estimator, shape: tuple[int, int]
) -> tuple[Estimate, NDArray[np.float32]]:
    by_groups = shape[1] > GRAM_GROUPS
    length, width = (shape[1], shape[0]) if by_groups else shape
    step = max(CELLS // 2 // width // 8 * 8, 8)  # masks are cut at whole bytes
    kept_share, mean, q = np.empty(shape[1]), np.empty(shape[0]), _on_disk(shape)
    least = _least_pvalues(subsets)
    tables: dict[str, Array] = {}
    for tile in cuts(length, step):
        columns, groups = (ALL, tile) if by_groups else (tile, ALL)
        part = estimator.estimate_subsets(subsets, columns, groups)
        for name in ("influence", "stderr", "dof", "coefficients"):
            if (values := getattr(part, name)) is not None:
                if name not in tables:
                    tables[name] = _on_disk(shape)
                tables[name][columns, groups] = values
        mean[columns], kept_share[groups] = part.mean, part.kept_share
        q[columns, groups] = pvalues(part.influence, part.stderr, part.dof, least[groups])
    qvalues_in_place(q, row_blocks(shape))
    return Estimate(**tables, kept_share=kept_share, mean=mean), q


def _least_pvalues(subsets: Subsets) -> Array:
    count = len(subsets.masks)
    return least_pvalues(np.rint(subsets.masks.kept_share() * count), count, subsets.pairs)


def _on_disk(shape: tuple[int, int]) -> NDArray[Any]:
    """Return a float32 table in a temporary file that ends with it. Raises SourcewiseError if the disk has no room."""
    size = 4 * shape[0] * shape[1]
    with tempfile.TemporaryFile(prefix="sourcewise-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise SourcewiseError(
                f"{tempfile.gettempdir()}: no room for {size / 2**30:.1f} GiB ({error.strerror}); set TMPDIR"
            ) from error
        return np.memmap(file, np.float32, "r+", shape=shape)
