"""What a search takes from one record: values on the target examples that it looks at, and on those that judge it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.splits import Split
from sourcewise.records.record import Record
from sourcewise.study.outputs import class_means
from sourcewise.study.split_values import Array, SplitValues, chosen_mappings, split_values, target_metric


@dataclass(frozen=True)
class Measurement(SplitValues):
    """What choices and their verification take from a record; its values are weighted over targets.

    Attributes:
        mask: bool[G], the groups that the model kept.
        classes: float[C], mean output by class over the examples that choices look at, targets side by side.
        logits: float[C], the same on the logit scale.
        mappings: by name, label and feature mapping of these examples, float[C, G]; empty but for full runs.
        seconds: wall time of the run.
    """

    mask: NDArray[np.bool_]
    classes: Array
    logits: Array
    mappings: Mapping[str, Array]
    seconds: float = 0.0


def class_shares(record: Record, weights: Mapping[str, float], split: Split) -> Array:
    """Return the share of each class in the weighted mean output over the examples that choices look at, float[C]."""
    shares = []
    for name, weight in weights.items():
        labels = record.targets[name].labels
        sizes = np.bincount(labels[split.sides(labels)[0]], minlength=_classes(record, name))
        shares.append(weight * sizes / sizes.sum())
    return np.concatenate(shares)


def measure(record: Record, weights: Mapping[str, float], split: Split) -> Measurement:
    """Return what choices and their verification take from a record.

    weights: of the targets, which sum to one. Raises SourcewiseError where a target has too few test examples for the
    split, or for its metric.
    """
    values = [_checked_values(record, name, split) for name in weights]
    mappings: dict[str, list[Array]] = {}
    for name in weights:
        for key, table in chosen_mappings(record.targets[name], _classes(record, name), split).items():
            mappings.setdefault(key, []).append(table)
    return Measurement(
        **vars(SplitValues.weighted(values, list(weights.values()))),
        mask=record.mask,
        classes=_by_class(record, weights, split, "prob"),
        logits=_by_class(record, weights, split, "margin"),
        mappings={key: np.concatenate(tables) for key, tables in mappings.items() if len(tables) == len(weights)},
        seconds=sum(record.header.seconds.values()),
    )


def _classes(record: Record, target: str) -> int:
    return len(record.header.class_names[target])


def _checked_values(record: Record, target: str, split: Split) -> SplitValues:
    """Return a target's values. Raises SourcewiseError as `measure` does."""
    outputs, metric = record.targets[target], target_metric(record.header, target)
    advice = "give more of them, or search.choose=1, which takes all for choices and verdict"
    if split.share < 1 and split.sides(outputs.labels)[0].all():
        raise SourcewiseError(
            f"target.{target}: its {len(outputs.labels)} test examples are too few for some that choose and others that"
            f" judge; {advice}"
        )
    values = split_values(outputs, split, metric)
    if not np.isfinite([values.choosing.score, values.unseen.score]).all():
        raise SourcewiseError(
            f"target.{target}.metric={metric}: it is not defined on the test examples that choose, or on those that"
            f" judge; take another metric, {advice}"
        )
    return values


def _by_class(record: Record, targets: Mapping[str, float], split: Split, column: Literal["prob", "margin"]) -> Array:
    """Return the mean of a column by class over the examples that choices look at, targets side by side."""
    means = []
    for name in targets:
        outputs = record.targets[name]
        rows = split.sides(outputs.labels)[0]
        means.append(class_means(getattr(outputs, column)[rows], outputs.labels[rows], _classes(record, name)))
    return np.concatenate(means)
