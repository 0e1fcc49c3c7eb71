"""The table of influences and q-values: in memory, or where that is too small part by part in temporary files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
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
from sourcewise.estimation.shrinkage import Posterior, adapt, adaptive_posterior

POSTERIOR = ("mean", "sd", "lfsr")
"""Tables of a `Posterior`."""


def estimate_table(subsets: Subsets, estimator: Estimator) -> tuple[Estimate, NDArray[np.floating[Any]]]:
    """Estimate influences and their q-values, both float[E, G].

    Of groups that are never apart, nobody can tell the influences, which are NaN. To predictions, each adds an equal
    part of what they add together.

    A table of more than CELLS is made part by part, in float32 in temporary files: by examples, or by groups where
    these are too many for a Gram matrix. Raises SourcewiseError if the disk has no room.
    """
    shape = subsets.outputs.shape[1], subsets.masks.groups
    if shape[0] * shape[1] > CELLS and estimator.by_parts:
        return _estimate_by_parts(subsets, estimator, shape)
    estimate = _without_joint_effects(estimator.estimate_subsets(subsets), _partners(subsets))
    p, least = np.empty(shape), _least_pvalues(subsets)
    for rows in row_blocks(shape):
        p[rows] = pvalues(estimate.influence[rows], estimate.stderr[rows], estimate.dof[rows], least)
    return estimate, qvalues(p)


def _estimate_by_parts(
    subsets: Subsets, estimator: Estimator, shape: tuple[int, int]
) -> tuple[Estimate, NDArray[np.float32]]:
    by_groups = shape[1] > GRAM_GROUPS
    length, width = (shape[1], shape[0]) if by_groups else shape
    step = max(CELLS // 2 // width // 8 * 8, 8)  # masks are cut at whole bytes
    kept_share, mean, q = np.empty(shape[1]), np.empty(shape[0]), _on_disk(shape)
    weights: Mapping[str, float] = {}
    least, partners = _least_pvalues(subsets), _partners(subsets)
    tables: dict[str, Array] = {}
    for tile in cuts(length, step):
        columns, groups = (ALL, tile) if by_groups else (tile, ALL)
        part = _without_joint_effects(estimator.estimate_subsets(subsets, columns, groups), partners, groups)
        values = {name: getattr(part, name) for name in ("influence", "stderr", "dof", "coefficients")}
        values |= {name: getattr(part.posterior, name, None) for name in POSTERIOR}
        for name, value in values.items():
            if value is not None:
                if name not in tables:
                    tables[name] = _on_disk(shape)
                tables[name][columns, groups] = value
        mean[columns], kept_share[groups], weights = part.mean, part.kept_share, part.weights
        q[columns, groups] = pvalues(part.influence, part.stderr, part.dof, least[groups])
    qvalues_in_place(q, row_blocks(shape))
    posterior = Posterior(*(tables[name] for name in POSTERIOR)) if "mean" in tables else None
    return Estimate(
        influence=tables["influence"],
        stderr=tables["stderr"],
        dof=tables["dof"],
        kept_share=kept_share,
        mean=mean,
        coefficients=tables.get("coefficients"),
        posterior=posterior,
        weights=weights,
    ), q


def posterior_table(estimate: Estimate) -> Posterior:
    """Return the posterior of an estimate: its own, or by adaptive shrinkage of its influences, all rows together.

    Where the table is too large for memory, it is fitted to evenly spaced rows and made in temporary files.
    """
    influence, stderr = estimate.influence, estimate.stderr
    if estimate.posterior is not None:
        return estimate.posterior
    if influence.size <= CELLS:
        return adaptive_posterior(influence, stderr)
    rows = np.linspace(0, len(influence) - 1, min(len(influence), 1 + CELLS // 8 // influence.shape[1])).astype(int)
    adaptation = adapt(influence[rows].astype(np.float64), stderr[rows].astype(np.float64))
    tables: list[NDArray[Any]] = [_on_disk(influence.shape) for _ in POSTERIOR]
    for block in row_blocks(influence.shape):
        posterior = adaptation.posterior(influence[block].astype(np.float64), stderr[block].astype(np.float64))
        for table, name in zip(tables, POSTERIOR, strict=True):
            table[block] = getattr(posterior, name)
    return Posterior(*tables)


def _partners(subsets: Subsets) -> Index:
    """Return of how many groups each is one that are never apart, int[G]."""
    partners = np.ones(subsets.masks.groups, np.int64)
    for members in never_apart(subsets.masks):
        partners[members] = len(members)
    return partners


def _without_joint_effects(estimate: Estimate, partners: Index, groups: slice = ALL) -> Estimate:
    """Return the estimate of some groups without influences of those that are never apart from others."""
    joint = partners[groups] > 1
    if not joint.any():
        return estimate
    influence, stderr, dof = (_without(table, joint) for table in (estimate.influence, estimate.stderr, estimate.dof))
    coefficients, posterior = estimate.coefficients, estimate.posterior
    if coefficients is None:
        coefficients = estimate.slopes / partners[groups]
    if posterior is not None:
        posterior = Posterior(*(_without(getattr(posterior, name), joint) for name in POSTERIOR))
    return replace(
        estimate, influence=influence, stderr=stderr, dof=dof, coefficients=coefficients, posterior=posterior
    )


def _without(table: Array, groups: Mask) -> Array:
    """Return the table float[E, G] with NaN for some groups."""
    return np.where(groups, np.nan, table)


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
