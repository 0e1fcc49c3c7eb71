"""What an estimate sees of a target at each level: outputs, and what is known of them besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.splits import ALL, Split
from sourcewise.estimation.arrays import row_blocks
from sourcewise.estimation.collapse import Knowledge, Subsets, collapse
from sourcewise.estimation.fitting import logit_slopes
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.study.collect import Study, StudyTarget
from sourcewise.study.outputs import Outputs

LEVELS = {"example": "", "class": "_class", "overall": "_overall"}
"""Levels and the suffix of their variables."""

Tables = Mapping[str, NDArray[np.floating[Any]]]
"""By name: tables float[classes, groups] that may be in proportion to the groups' effects on classes."""

TablesByTarget = Mapping[str, Tables]


def fit_arguments(study: Study, name: str, priors: Tables) -> dict[str, dict[str, Any]]:
    """Return the arguments of `fit` by level: outputs, and what is known of them where an estimator may use that."""
    target = study.targets[name]
    present = target.class_sizes > 0
    outputs = {
        "class": target.class_means[:, present],
        "example": study.in_precision(name, target.examples),
        "overall": target.overall_means[:, None],
    }
    levels: dict[str, dict[str, Any]] = {level: {"outputs": table} for level, table in outputs.items()}
    if study.groups > GRAM_GROUPS:
        return levels
    members = class_shares(target)
    tables = {key: table[present].astype(np.float64) for key, table in priors.items()}
    share = target.class_sizes[present] / len(target.labels)
    levels["class"] |= {"labels": np.arange(present.sum()), "priors": tables}
    levels["example"] |= {"labels": members.argmax(1), "priors": tables}
    levels["overall"] |= {"labels": [0], "priors": {key: share[None] @ table for key, table in tables.items()}}
    if study.output == "prob":
        class_logits = _class_averages(target.logits, target)
        levels["class"]["logits"] = class_logits
        levels["example"]["logits"] = study.in_precision(name, target.logits)
        levels["overall"]["logits"] = (class_logits @ share)[:, None]
    return levels


def class_shares(target: StudyTarget, rows: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return the shares float[examples, classes] that examples have in the means of the classes that have any.

    rows: bool[examples], which examples count; None for all.
    """
    counted = np.ones(len(target.labels), bool) if rows is None else rows
    members = (target.labels[:, None] == np.unique(target.labels[counted])) & counted[:, None]
    return np.asarray(members / members.sum(0))


def weighted_classes(
    study: Study, weights: Mapping[str, float], priors: TablesByTarget, split: Split = ALL
) -> tuple[Subsets, NDArray[np.float64]]:
    """Return the classes of several targets side by side, and the share of each in the weighted mean output, float[C].

    A table that knows nothing of a target is zero there. split: examples that it does not look at do not count.
    """
    looked = [(study.targets[name], split.sides(study.targets[name].labels)[0]) for name in weights]
    sizes = [np.bincount(target.labels[seen], minlength=len(target.class_names)) for target, seen in looked]
    presents = dict(zip(weights, (size > 0 for size in sizes), strict=True))
    means = [_class_averages(target.examples, target, seen) for target, seen in looked]
    shares = [weight * size[size > 0] / size.sum() for weight, size in zip(weights.values(), sizes, strict=True)]
    tables: dict[str, NDArray[np.float64]] = {}
    for key in dict.fromkeys(key for name in weights for key in priors.get(name, {})):
        rows = [
            priors.get(name, {}).get(key, np.zeros((len(present), study.groups)))[present]
            for name, present in presents.items()
        ]
        tables[key] = np.concatenate(rows).astype(np.float64)
    outputs, share = np.concatenate(means, axis=1), np.concatenate(shares)
    logits, scale = None, np.ones(len(share))
    if study.output == "prob":
        logits = np.concatenate([_class_averages(target.logits, target, seen) for target, seen in looked], axis=1)
        scale = logit_slopes(outputs, logits)
    knowledge = Knowledge(np.arange(len(share)), scale, tables, logits)
    return collapse(study.masks, outputs, study.seeds, knowledge), share


def _class_averages(values: Outputs, target: StudyTarget, rows: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return the mean of values float[models, examples] over the examples of each class that has any.

    rows: as in `class_shares`.
    """
    members = class_shares(target, rows)
    return np.concatenate([values[block].astype(np.float64) @ members for block in row_blocks(values.shape)])
