"""Influences as rows: the effect of one group, overall, on a class or on an example, with its error and q-value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sourcewise.core.results import json_name
from sourcewise.estimation import fitting
from sourcewise.estimation.arrays import row_blocks

KEYS = ("influence", "stderr", "qvalue")
"""Variables of influences.nc that do not shrink, without the suffix of a level."""
POSTERIOR_KEYS = ("posterior", "posterior_sd", "lfsr")
"""Variables of influences.nc that say what to expect after all."""
ALL_KEYS = (*KEYS, *POSTERIOR_KEYS)


@dataclass(frozen=True, kw_only=True)
class EffectEstimate:
    """An estimated effect in units of the output, with its standard error and q-value; positive: keeping helps."""

    influence: float
    stderr: float
    qvalue: float


@dataclass(frozen=True, kw_only=True)
class GroupEffect(EffectEstimate):
    """The effect of keeping one source group.

    Attributes:
        posterior: the effect to expect after all, shrunken; None where nobody estimated that.
        posterior_sd: its standard deviation.
        lfsr: local false sign rate, the probability that the effect does not have the sign of `posterior`.
    """

    group: str
    posterior: float | None = None
    posterior_sd: float | None = None
    lfsr: float | None = None


@dataclass(frozen=True, kw_only=True)
class ExampleEffect(GroupEffect):
    """The effect of keeping one group on one example, which has an id and a class."""

    example: int
    class_name: str = json_name("class")


def effect_table(dataset: xr.Dataset, target_class: str | None = None) -> pd.DataFrame:
    """Return the effects of groups on a class (None: overall), from the most helpful to the most harmful posterior.

    Columns are group and `ALL_KEYS`. Groups whose influence or error is unknown are left out; the
    q-value of one that few subsets keep, or drop, is NaN.
    """
    suffix, where = ("_overall", {}) if target_class is None else ("_class", {"class": target_class})
    columns = {key: dataset[f"{key}{suffix}"].sel(where).values.astype(float) for key in ALL_KEYS}
    order = np.argsort(-columns["posterior"], kind="stable")
    order = order[np.isfinite((columns["influence"] + columns["stderr"])[order])]
    sorted_columns = {key: column[order] for key, column in columns.items()}
    return pd.DataFrame({"group": dataset["group"].values[order], **sorted_columns})


def strongest_lines(dataset: xr.Dataset) -> list[str]:
    """Return the groups with the strongest evidence overall as lines of text."""
    influence, stderr, qvalue = (dataset[f"{key}_overall"].values[None].astype(float) for key in KEYS)
    return fitting.strongest_lines(list(map(str, dataset["group"].values)), influence, stderr, qvalue)


def group_effects(dataset: xr.Dataset, target_class: str | None = None) -> tuple[GroupEffect, ...]:
    """Return the rows of `effect_table`."""
    rows: Any = effect_table(dataset, target_class).to_dict("records")
    return tuple(GroupEffect(**row) for row in rows)


def example_effect(dataset: xr.Dataset, row: int, group: int) -> ExampleEffect:
    """Return the effect of the group at position `group` on the example at position `row`."""
    return ExampleEffect(
        example=int(dataset["example"].values[row]),
        class_name=str(dataset["class"].values[dataset["label"].values[row]]),
        group=str(dataset["group"].values[group]),
        **{key: float(dataset[key].values[row, group]) for key in ALL_KEYS},
    )


def count_significant(dataset: xr.Dataset, suffix: str, fdr: float) -> tuple[int, int]:
    """Return how many influences of a level have a q-value up to `fdr`, and how many are known.

    suffix: of the level's variables. The table is read in blocks, since it may be larger than memory.
    """
    q = np.atleast_2d(dataset[f"qvalue{suffix}"].values)
    blocks = [q[rows] for rows in row_blocks(q.shape)]
    return sum(int((block <= fdr).sum()) for block in blocks), sum(int(np.isfinite(block).sum()) for block in blocks)
