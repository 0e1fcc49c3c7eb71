"""The table of influences and q-values: in memory, or where that is too small part by part in temporary files."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import ALL, CELLS, Array, Index, Mask, cuts, row_blocks
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.contract import Estimate, Estimator
from sourcewise.estimation.identifiability import never_apart
from sourcewise.estimation.inference import least_pvalues, pvalues, qvalues, qvalues_in_place
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.estimation.shrinkage import Posterior, adaptive_posterior

POSTERIOR = ("mean", "sd", "lfsr")
"""Tables of a `Posterior`."""


def estimate_table(subsets: Subsets, estimator: Estimator) -> tuple[Estimate, NDArray[np.floating[Any]]]:
    """Estimate influences and their q-values, both float[E, G].

    The estimate has a posterior, adaptive shrinkage about the mean influence of a row where the estimator has none.
    Of groups that are never apart, nobody can tell the influences, which are NaN. To predictions, each adds an equal
    part of what they add together.

    A table of more than CELLS is made part by part, in float32 in temporary files: by examples, or by groups where
    these are too many for a Gram matrix. Raises SourcewiseError if the disk has no room.
    """
    shape = subsets.outputs.shape[1], subsets.masks.groups
    if shape[0] * shape[1] > CELLS and estimator.by_parts:
        return _estimate_by_parts(subsets, estimator, shape)
    estimate = _finish(estimator.estimate_subsets(subsets), _partners(subsets))
    return estimate, qvalues(pvalues(estimate.influence, estimate.stderr, estimate.dof, _least_pvalues(subsets)))


def _estimate_by_parts(
    subsets: Subsets, estimator: Estimator, shape: tuple[int, int]
) -> tuple[Estimate, NDArray[np.float32]]:
    by_groups = shape[1] > GRAM_GROUPS
    length, width = (shape[1], shape[0]) if by_groups else shape
    step = max(CELLS // 2 // width // 8 * 8, 8)  # masks are cut at whole bytes
    kept_share, mean, q = np.empty(shape[1]), np.empty(shape[0]), _on_disk(shape)
    least, partners = _least_pvalues(subsets), _partners(subsets)
    tables: dict[str, Array] = {}
    for tile in cuts(length, step):
        columns, groups = (ALL, tile) if by_groups else (tile, ALL)
        part = _finish(estimator.estimate_subsets(subsets, columns, groups), partners, groups)
        values = {name: getattr(part, name) for name in ("influence", "stderr", "dof", "coefficients")}
        values |= {name: getattr(part.posterior, name) for name in POSTERIOR}
        for name, value in values.items():
            if value is not None:
                if name not in tables:
                    tables[name] = _on_disk(shape)
                tables[name][columns, groups] = value
        mean[columns], kept_share[groups] = part.mean, part.kept_share
        q[columns, groups] = pvalues(part.influence, part.stderr, part.dof, least[groups])
    qvalues_in_place(q, row_blocks(shape))
    posterior = Posterior(*(tables.pop(name) for name in POSTERIOR))
    return Estimate(
        influence=tables["influence"],
        stderr=tables["stderr"],
        dof=tables["dof"],
        kept_share=kept_share,
        mean=mean,
        coefficients=tables.get("coefficients"),
        posterior=posterior,
    ), q


def _partners(subsets: Subsets) -> Index:
    """Return of how many groups each is one that are never apart, int[G]."""
    partners = np.ones(subsets.masks.groups, np.int64)
    for members in never_apart(subsets.masks):
        partners[members] = len(members)
    return partners


def _finish(estimate: Estimate, partners: Index, groups: slice = ALL) -> Estimate:
    """Return the estimate of some groups with a posterior, and without influences of those never apart from others."""
    joint = partners[groups] > 1
    influence, stderr, dof = (_without(table, joint) for table in (estimate.influence, estimate.stderr, estimate.dof))
    coefficients = estimate.coefficients
    if coefficients is None and joint.any():
        coefficients = estimate.slopes / partners[groups]
    posterior = estimate.posterior or adaptive_posterior(influence, stderr)
    posterior = Posterior(*(_without(getattr(posterior, name), joint) for name in POSTERIOR))
    return replace(
        estimate, influence=influence, stderr=stderr, dof=dof, coefficients=coefficients, posterior=posterior
    )


def _without(table: Array, groups: Mask) -> Array:
    """Return the table float[E, G] with NaN for some groups."""
    return np.where(groups, np.nan, table) if groups.any() else table


def _least_pvalues(subsets: Subsets) -> Array:
    return least_pvalues(subsets.masks.kept(), len(subsets.masks), subsets.pairs)


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
