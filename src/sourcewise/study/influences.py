"""Influences at example, class and overall level: one `xarray.Dataset` for each target, with checks and baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from sourcewise.estimation.checks import Checks as Checks  # also for the report
from sourcewise.estimation.contract import Estimator
from sourcewise.estimation.estimators import AUTO, EstimatorSetting
from sourcewise.estimation.fitting import Fit, fit
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.study.baselines import Baseline, compare_baselines
from sourcewise.study.collect import Study
from sourcewise.study.effects import KEYS
from sourcewise.study.outputs import UNITS

SIGN = "positive = keeping the group helps"

LEVELS = {"example": "", "class": "_class", "overall": "_overall"}
"""Levels and the suffix of their variables."""


@dataclass(frozen=True)
class Estimated:
    """Influences on one target.

    Attributes:
        dataset: influences, errors and q-values, as docs/architecture.md lays them out.
        estimator: the one of all levels.
        slopes: float[groups], what the fit predicts overall outputs with.
        checks: by level; without curves overall, and for very many groups.
        baselines: label and feature mapping, by name; empty where the records do not hold them.
    """

    dataset: xr.Dataset
    estimator: Estimator
    slopes: NDArray[np.float64]
    checks: Mapping[str, Checks]
    baselines: Mapping[str, Baseline]


def estimate(
    study: Study, estimator: EstimatorSetting = AUTO, targets: Sequence[str] | None = None
) -> dict[str, Estimated]:
    """Estimate the influences on targets (None: on all), with their checks.

    Raises SourcewiseError for an unknown estimator, fewer than two models, or outputs that are all the same.
    """
    names = targets or list(study.targets)
    with tqdm(total=len(LEVELS) * len(names), unit="fit", leave=False, disable=None) as bar:
        return {name: _estimate_target(study, name, estimator, bar) for name in names}


def _estimate_target(study: Study, name: str, estimator: EstimatorSetting, bar: tqdm[NoReturn]) -> Estimated:
    target = study.targets[name]
    fits: dict[str, Fit] = {}
    for level, outputs in {  # the first chooses the estimator
        "class": target.class_means[:, target.class_sizes > 0],
        "example": target.examples if study.is_large(name) else target.examples.astype(np.float64),
        "overall": target.overall_means[:, None],
    }.items():
        bar.set_description(f"{name}, {level}")
        fits[level] = fit(study.masks, outputs, estimator, study.seeds, level=level)
        estimator = fits[level].method
        bar.update()
    few_groups = study.groups <= GRAM_GROUPS
    checks = {level: fits[level].checks for level in LEVELS}
    for level in ("example", "class") if few_groups else ():
        checks[level] = replace(checks[level], curve=fits[level].curve())
    dataset = _lay_out(study, name, fits)
    baselines: dict[str, Baseline] = {}
    if name in study.mappings:
        masks = study.masks.unpack() if few_groups else None
        baselines = compare_baselines(study.mappings[name], dataset, masks, target.class_means)
    return Estimated(
        dataset=dataset,
        estimator=fits["example"].method,
        slopes=fits["overall"].estimate.slopes[0],
        checks=checks,
        baselines=baselines,
    )


def _lay_out(study: Study, name: str, fits: Mapping[str, Fit]) -> xr.Dataset:
    target, units = study.targets[name], UNITS.get(study.output, study.output)
    variables: dict[str, Any] = {}
    present = target.class_sizes > 0
    for level, suffix in LEVELS.items():
        for key in KEYS:
            table = getattr(fits[level], key)
            if level == "class" and not present.all():  # a class without examples has a row of NaN
                table, rows = np.full((len(present), study.groups), np.nan), table
                table[present] = rows
            dims, values = (("group",), table[0]) if level == "overall" else ((level, "group"), table)
            unit = {"long_name": "Benjamini-Hochberg q-value"} if key == "qvalue" else {"units": units}
            variables[key + suffix] = dims, values, unit
    overall = fits["overall"]
    half = (overall.interval()[1] - overall.influence)[0]
    interval = {"units": units, "long_name": "half of the 95% interval (Student's t)"}
    variables["interval_overall"] = ("group",), half, interval
    coordinates: dict[str, Any] = {
        "example": target.ids,
        "label": ("example", target.labels),
        "class": list(target.class_names),
        "group": study.group_names,
    }
    attributes = {
        "output": study.output,
        "units": units,
        "sign": SIGN,
        "models": study.models,
        "target": name,
        "study": study.header.study,
        "recipe": study.header.recipe,
    }
    if len(np.unique(study.masks.sizes())) == 1:
        attributes["reference"] = "the average group"
    for level, suffix in LEVELS.items():
        for key in ("estimator", "lds", "noise_ceiling", "split_half"):
            value = getattr(fits[level].checks, key)
            if value is not None and value == value:  # not NaN
                attributes[key + suffix] = value
    return xr.Dataset(variables, coordinates, attributes)
