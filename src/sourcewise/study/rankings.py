"""Rankings of the groups for choices: they look at some of the target examples, so that the others can judge."""

from __future__ import annotations

import numpy as np

from sourcewise.estimation.arrays import Array
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.hierarchical import HIERARCHICAL
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.study.collect import Study
from sourcewise.study.levels import TablesByTarget, weighted_classes
from sourcewise.study.outputs import UNITS
from sourcewise.study.split_values import chosen_mappings

FEWEST = 4
"""Subsets from which on a hierarchy can be fitted."""


def choosing_tables(study: Study) -> dict[str, dict[str, Array]]:
    """Return label and feature mapping of the examples that choices look at, float[classes, groups] by target, name."""
    return {
        name: chosen_mappings(outputs, len(study.targets[name].class_names), study.split)
        for name, outputs in study.mappings.items()
        if name in study.targets
    }


def group_scores(subsets: Subsets, shares: Array) -> Array:
    """Return what keeping each group is expected to add to the mean output, float[G], up to a constant.

    It is NaN for a group that all subsets keep, or none does. shares: float[C], of classes in the mean output.
    """
    estimate = HIERARCHICAL.estimate_subsets(subsets, second_pass=False)
    return np.where(np.isnan(estimate.influence).all(0), np.nan, shares @ estimate.slopes)


def ranking(study: Study, target: str, tables: TablesByTarget) -> Array | None:
    """Return `group_scores` on the examples of a target that choices look at, float[G]; the lowest are the worst.

    tables: what else is known of the groups, by target. None for a study with too many groups or too few models, or
    whose output is a scalar of the whole target.
    """
    if study.output not in UNITS or study.groups > GRAM_GROUPS:
        return None
    subsets, shares = weighted_classes(study, {target: 1.0}, tables, study.split)
    return None if subsets.units < FEWEST else group_scores(subsets, shares)


def mapping_rankings(study: Study, target: str, tables: TablesByTarget) -> dict[str, dict[str, float]]:
    """Return the score of every group by each mapping of `choosing_tables`, by name: the mean over the examples."""
    labels = study.targets[target].labels
    looked = labels[study.split.sides(labels)[0]]
    share = np.bincount(looked, minlength=len(study.targets[target].class_names)) / len(looked)
    return {
        name: dict(zip(study.group_names, (share @ table).tolist(), strict=True))
        for name, table in tables.get(target, {}).items()
    }
