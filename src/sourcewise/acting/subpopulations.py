"""Subpopulations: classes whose examples are supported by different groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from sourcewise.core.results import json_name
from sourcewise.estimation.arrays import Array
from sourcewise.estimation.collapse import Subsets, collapse
from sourcewise.estimation.contract import Estimator
from sourcewise.estimation.inference import pvalues, qvalues
from sourcewise.study.collect import Study
from sourcewise.study.effects import ExampleEffect, GroupEffect, example_effect
from sourcewise.study.influences import Estimated

LEAST = 20
"""Examples that a class needs to be split; a subpopulation needs a quarter as many."""
AGREE = 0.5
"""Adjusted Rand index that subpopulations from two halves of the models must reach."""


@dataclass(frozen=True, kw_only=True)
class Subpopulation(GroupEffect):
    """A part of a class, and the group that sets it apart.

    The effect is that on the mean output of the part minus that of the rest of the class, estimated
    from the half of the models that was not used to find the part.

    Attributes:
        examples: their ids; those that the group supports most come first.
    """

    examples: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ClassSplit:
    """A class that is split into subpopulations.

    Attributes:
        agreement: adjusted Rand index of the splits that two halves of the models give.
    """

    class_name: str = json_name("class")
    agreement: float
    parts: tuple[Subpopulation, ...]


@dataclass(frozen=True, kw_only=True)
class GroupExamples:
    """The examples that one group helps most and that it hurts most."""

    group: str
    helps: tuple[ExampleEffect, ...]
    hurts: tuple[ExampleEffect, ...]


@dataclass(frozen=True, kw_only=True)
class Subpopulations:
    """The groups with the strongest evidence on any class, and all classes that are split."""

    groups: tuple[GroupExamples, ...]
    splits: tuple[ClassSplit, ...]


def find_subpopulations(study: Study, name: str, estimated: Estimated, fdr: float, seed: int = 0) -> Subpopulations:
    """Split the classes of a target where that holds up at this false discovery rate, the clearest splits first."""
    dataset, target = estimated.dataset, study.targets[name]
    subsets = collapse(study.masks, study.in_precision(name, target.examples), study.seeds)
    units = np.random.default_rng(seed).permutation(subsets.units)
    estimator, splits = estimated.estimator.for_halves, []
    if len(units) >= 2 * LEAST:
        halves = subsets.take(units[: len(units) // 2]), subsets.take(units[len(units) // 2 :])
        tables = [estimator.estimate_subsets(part, second_pass=False).influence for part in halves]
        tables.append(dataset["influence"].values.astype(np.float64))
        for position, class_name in enumerate(target.class_names):
            rows = np.flatnonzero(target.labels == position)
            held_out = halves[1].take(np.arange(halves[1].units), rows)
            members = dataset.isel(example=rows)
            if split := split_class(class_name, members, [table[rows] for table in tables], held_out, estimator, fdr):
                splits.append(split)
    splits.sort(key=lambda split: -min(part.influence for part in split.parts))
    return Subpopulations(groups=strongest_groups(dataset), splits=tuple(splits))


def split_class(
    class_name: str,
    influences: xr.Dataset,
    tables: Sequence[Array],
    held_out: Subsets,
    estimator: Estimator,
    fdr: float,
    most: int = 4,
) -> ClassSplit | None:
    """Split the examples of one class by the groups that support them; None when no split holds up.

    Subpopulations are clusters (k-means) of the directions of the examples' influences, about their mean: an example
    that models hardly learn has small influences of the same kind. They are found with half of the models. A split
    holds up when the other half finds nearly the same, and every part has a group that helps it more than the rest of
    the class, significantly in these other models, and no two parts have the same group.

    Args:
        class_name: name of the class.
        influences: on its examples, by which the examples of a part are put in order.
        tables: float[examples, groups], influences from one half of the models, from the other, and from all.
        held_out: the other half, with the class's examples.
        estimator: of influences.
        fdr: false discovery rate over the table of parts by groups.
        most: subpopulations at most; the largest number that holds up is taken.
    """
    if len(tables[0]) < LEAST:
        return None
    first, second, all_models = (_directions(table) for table in tables)
    for count in range(most, 1, -1):
        part, second_part = (KMeans(count, n_init=10, random_state=0).fit(x).labels_ for x in (first, second))
        size, agreement = np.bincount(part, minlength=count), float(adjusted_rand_score(part, second_part))
        if size.min() < LEAST // 4 or agreement < AGREE:
            continue
        member = part[:, None] == np.arange(count)
        contrast = member / size - ~member / (len(part) - size)
        center = None if held_out.center is None else held_out.center @ contrast
        contrasted = replace(held_out, outputs=held_out.outputs @ contrast, center=center, squares=None)
        effects = estimator.estimate_subsets(contrasted)
        q = qvalues(pvalues(effects.influence, effects.stderr, effects.dof))
        with np.errstate(divide="ignore", invalid="ignore"):
            helps = (q <= fdr) & (effects.influence > 0)
            evidence = np.where(helps, effects.influence / effects.stderr, 0.0)
        groups = evidence.argmax(1)
        if evidence.max(1).min() > 0 and len(set(groups.tolist())) == count:
            centres = np.stack([all_models[part == k].mean(0) for k in range(count)])
            part = KMeans(count, init=centres, n_init=1).fit(all_models).labels_
            parts = (
                Subpopulation(
                    group=str(influences["group"].values[group]),
                    influence=float(effects.influence[k, group]),
                    stderr=float(effects.stderr[k, group]),
                    qvalue=float(q[k, group]),
                    examples=_most_supported(influences.isel(example=part == k, group=group)),
                )
                for k, group in enumerate(groups.tolist())
            )
            return ClassSplit(class_name=class_name, agreement=agreement, parts=tuple(parts))
    return None


def strongest_groups(dataset: xr.Dataset, groups: int = 8, most: int = 5) -> tuple[GroupExamples, ...]:
    """Return the groups with the strongest evidence on any class, with up to `most` examples on either side."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.abs(dataset["influence_class"].values / dataset["stderr_class"].values)
    evidence = np.nan_to_num(z, nan=0.0, posinf=0.0).max(0)
    return tuple(
        GroupExamples(
            group=str(dataset["group"].values[group]),
            helps=_most_affected(dataset, group, 1, most),
            hurts=_most_affected(dataset, group, -1, most),
        )
        for group in np.argsort(-evidence, kind="stable")[:groups].tolist()
    )


def _most_affected(dataset: xr.Dataset, group: int, sign: int, most: int) -> tuple[ExampleEffect, ...]:
    column = sign * np.nan_to_num(dataset["posterior"].values[:, group])
    rows = np.argsort(-column, kind="stable")[:most].tolist()
    return tuple(example_effect(dataset, row, group) for row in rows if column[row] > 0)


def _most_supported(effects: xr.Dataset) -> tuple[int, ...]:
    """Return the ids of examples, those that a group supports most first, from its posterior effects on them."""
    order = np.argsort(-effects["posterior"].values, kind="stable")
    return tuple(effects["example"].values[order].tolist())


def _directions(table: Array) -> NDArray[np.float32]:
    """Return every example's influences at unit length, about the mean of all; clusters need no more digits."""
    table = np.nan_to_num(table)
    table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    return np.asarray(table - table.mean(0), dtype=np.float32)
