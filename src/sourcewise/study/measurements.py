"""What choices take from one record: values on the target examples that they look at, and on those that judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.splits import PARTS, Split, parts
from sourcewise.records.record import Record, TargetOutputs
from sourcewise.study.outputs import class_means, is_correct

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Values:
    """A model on some of the target examples: mean probability of the correct class, and share that is right."""

    output: float
    score: float


@dataclass(frozen=True)
class Measurement:
    """What choices and their verification take from a record.

    Attributes:
        mask: bool[G], the groups that the model kept.
        choosing: values on the examples that choices look at, weighted over targets.
        unseen: values on the others; on the same ones where choices look at all.
        every: values on all examples.
        classes: float[C], mean output by class over the examples that choices look at, targets side by side.
        logits: float[C], the same on the logit scale.
        mappings: by name, label and feature mapping of these examples, float[C, G]; empty but for full runs.
    """

    mask: Mask
    choosing: Values
    unseen: Values
    every: Values
    classes: Array
    logits: Array
    mappings: Mapping[str, Array]


def class_shares(record: Record, weights: Mapping[str, float], split: Split) -> Array:
    """Return the share of each class in the weighted mean output over the examples that choices look at, float[C]."""
    shares = []
    for name, weight in weights.items():
        labels = record.targets[name].labels
        sizes = np.bincount(labels[split.is_choosing(labels)], minlength=_classes(record, name))
        shares.append(weight * sizes / sizes.sum())
    return np.concatenate(shares)


def measure(record: Record, weights: Mapping[str, float], split: Split) -> Measurement:
    """Return what choices and their verification take from a record. weights: of the targets, which sum to one."""
    targets = [(record.targets[name], weight, _classes(record, name)) for name, weight in weights.items()]
    looks = [split.is_choosing(outputs.labels) for outputs, _, _ in targets]
    hidden = [~rows if not rows.all() else rows for rows in looks]
    mappings: dict[str, list[Array]] = {}
    for outputs, _, classes in targets:
        for name, table in _mappings(outputs, classes, split).items():
            mappings.setdefault(name, []).append(table)
    return Measurement(
        mask=record.mask,
        choosing=_values(targets, looks),
        unseen=_values(targets, hidden),
        every=_values(targets, [np.ones_like(rows) for rows in looks]),
        classes=_by_class(targets, looks, "prob"),
        logits=_by_class(targets, looks, "margin"),
        mappings={name: np.concatenate(tables) for name, tables in mappings.items() if len(tables) == len(targets)},
    )


_Target = tuple[TargetOutputs, float, int]
"""Outputs on a target, its weight, and how many classes it has."""


def _classes(record: Record, target: str) -> int:
    return len(record.header.class_names[target])


def _values(targets: Sequence[_Target], rows: Sequence[Mask]) -> Values:
    output = score = 0.0
    for (outputs, weight, _), part in zip(targets, rows, strict=True):
        output += weight * float(outputs.prob[part].astype(np.float64).mean())
        score += weight * float(is_correct(outputs)[part].mean())
    return Values(output, score)


def _by_class(targets: Sequence[_Target], rows: Sequence[Mask], column: Literal["prob", "margin"]) -> Array:
    means = [
        class_means(getattr(outputs, column)[part], outputs.labels[part], classes)
        for (outputs, _, classes), part in zip(targets, rows, strict=True)
    ]
    return np.concatenate(means)


def _mappings(outputs: TargetOutputs, classes: int, split: Split) -> dict[str, Array]:
    """Return both mappings as means over the examples that choices look at, float[classes, groups]."""
    labels = outputs.labels
    sizes: NDArray[Any] = np.bincount(PARTS * labels.astype(np.int64) + parts(labels), minlength=PARTS * classes)
    weights = (sizes.reshape(classes, PARTS) * split.chosen_parts()).astype(np.float64)
    weights /= np.maximum(weights.sum(1, keepdims=True), 1)
    tables = {"label mapping": outputs.label_mapping_parts, "feature mapping": outputs.feature_mapping_parts}
    return {
        name: np.einsum("cp,pcg->cg", weights, table.astype(np.float64))
        for name, table in tables.items()
        if table is not None
    }
