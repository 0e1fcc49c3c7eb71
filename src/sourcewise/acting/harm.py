"""Real harm: what keeping a group does to a target, where influences alone only compare it with the average group."""

from __future__ import annotations

import numpy as np
import xarray as xr

from sourcewise.estimation.arrays import Array
from sourcewise.estimation.inference import Mean, pvalues, qvalues
from sourcewise.study.collect import Study


def harmful_groups(study: Study, name: str, dataset: xr.Dataset, fdr: float) -> tuple[str, ...] | None:
    """Return the groups that significantly hurt a target overall, the worst first.

    Where all subsets have one size, influences are relative to the average group, and a negative one need not be harm:
    two or more models of the full source show which are. Return None without these, and for subsets of other sizes.

    fdr: false discovery rate.
    """
    full = [run.values[name].every.output for run in study.counterfactual_runs if not run.study and run.mask.all()]
    if "reference" not in dataset.attrs or len(full) < 2:
        return None
    gap = Mean.from_runs(np.array(full)[:, None]) - Mean.from_runs(study.targets[name].overall_means[:, None])
    influence, error = (dataset[f"{key}_overall"].values[None] for key in ("influence", "stderr"))
    effect, stderr = add_constant(influence, error, study.masks.kept_share(), gap)
    q = qvalues(pvalues(effect, stderr, np.full_like(effect, study.models - 2)))[0]
    worst_first = np.argsort(effect[0], kind="stable")
    return tuple(str(dataset["group"].values[i]) for i in worst_first if effect[0, i] < 0 and q[i] <= fdr)


def add_constant(influence: Array, stderr: Array, kept: Array, gap: Mean) -> tuple[Array, Array]:
    """Return effects of keeping each group, and their standard errors, from influences known up to a constant.

    Subsets of one size identify effects only up to the mean of the other groups (see `contract`); models of the full
    source identify the constant: together, the groups that subsets lack make the gap. Units are those of influences.

    Args:
        influence: float[E, G], NaN for a group that all subsets keep or lack, which counts as an average one.
        stderr: float[E, G], its standard error.
        kept: float[G], share of the subsets that kept each group.
        gap: of [E], mean output of models of the full source minus that of the subsets.
    """
    lacking, against_all = 1 - kept, 1 - 1 / np.count_nonzero((kept > 0) & (kept < 1))
    effect, error = influence * against_all, stderr * against_all
    constant = (gap.value - np.nan_to_num(effect) @ lacking) / lacking.sum()
    return effect + constant[:, None], np.sqrt(error**2 + (gap.variance / lacking.sum() ** 2)[:, None])
