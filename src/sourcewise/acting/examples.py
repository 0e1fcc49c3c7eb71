"""Single examples of a target: whether they can be examined, and the effect of a group on one of them."""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from sourcewise.core.results import json_name
from sourcewise.study.collect import Study
from sourcewise.study.effects import KEYS, GroupEffect
from sourcewise.study.influences import SMALL


@dataclass(frozen=True, kw_only=True)
class ExampleEffect(GroupEffect):
    """The effect of keeping one group on one example, which has an id and a class."""

    example: int
    class_name: str = json_name("class")


def has_examples(study: Study, target: str) -> bool:
    """Return whether there are outputs of single examples, and groups of several source examples."""
    return study.header.group_names is not None and len(study.targets[target].ids) >= 2


def is_large(study: Study, target: str) -> bool:
    """Return whether the outputs on all examples, or all influences, are more than memory should hold."""
    return len(study.targets[target].ids) * max(study.groups, study.models) > SMALL


def example_effect(dataset: xr.Dataset, row: int, group: int) -> ExampleEffect:
    """Return the effect of the group at position `group` on the example at position `row`."""
    return ExampleEffect(
        example=int(dataset["example"].values[row]),
        class_name=str(dataset["class"].values[dataset["label"].values[row]]),
        group=str(dataset["group"].values[group]),
        **{key: float(dataset[key].values[row, group]) for key in KEYS},
    )
