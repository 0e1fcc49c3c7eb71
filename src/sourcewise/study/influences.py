"""Influences at example, class and overall level: one `xarray.Dataset` for each target, with checks and baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from sourcewise.estimation.contract import Estimator
from sourcewise.estimation.estimators import AUTO, EstimatorSetting
from sourcewise.estimation.fitting import Fit, fit
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.study.baselines import Baseline, compare
from sourcewise.study.collect import Study
from sourcewise.study.effects import KEYS
from sourcewise.study.outputs import UNITS

SIGN = "positive = keeping the group helps"

LEVELS = {"example": "", "class": "_class", "overall": "_overall"}
"""Levels and the suffix of their variables."""

SMALL = 2**25
"""Up to this many outputs and influences, float64 costs nothing that anybody would notice; beyond, float32 and disk."""


@dataclass(frozen=True, kw_only=True)
class LevelChecks:
    """How far influences at one level can be trusted; None stands for what these models cannot tell.

    Attributes:
        estimator: the one that was used.
        lds: held-out linear datamodeling score.
        lds_interval: its 95% interval.
        noise_ceiling: the LDS of a perfect predictor.
        split_half: correlation of influences from two halves of the models.
        more_models: how many more models would bring `split_half` to 0.8.
        candidates: LDS of every estimator that was tried.
        verdict: all that in words.
        curve: (models, LDS, split-half) for growing numbers of models; not made overall, nor for very many groups.
    """

    estimator: str
    lds: float | None
    lds_interval: tuple[float | None, float | None]
    noise_ceiling: float | None
    split_half: float | None
    more_models: int | None
    candidates: Mapping[str, float | None]
    verdict: str
    curve: tuple[tuple[int, float, float], ...] | None = None


@dataclass(frozen=True)
class Estimated:
    """Influences on one target.

    Attributes:
        dataset: influences, errors and q-values, as docs/architecture.md lays them out.
        estimator: the one at example level.
        slopes: float[groups], what the fit predicts overall outputs with.
        checks: by level.
        baselines: label and feature mapping, by name; empty where the records do not hold them.
    """

    dataset: xr.Dataset
    estimator: Estimator
    slopes: NDArray[np.float64]
    checks: Mapping[str, LevelChecks]
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
    has_examples = target.class_sizes > 0
    fits: dict[str, Fit] = {}
    for level, outputs in {
        "example": _in_memory(target.examples, study),
        "class": target.class_means[:, has_examples],
        "overall": target.overall_means[:, None],
    }.items():
        bar.set_description(f"{name}, {level}")
        fits[level] = fit(study.masks, outputs, estimator, study.seeds, level=level)
        bar.update()
    few_groups = study.groups <= GRAM_GROUPS
    checks = {level: _checks(fitted, few_groups and level != "overall") for level, fitted in fits.items()}
    dataset = _lay_out(study, name, fits, checks)
    baselines: dict[str, Baseline] = {}
    if name in study.mappings:
        masks = study.masks.unpack() if few_groups else None
        baselines = compare(study.mappings[name], dataset, masks, target.class_means)
    return Estimated(
        dataset=dataset,
        estimator=fits["example"].method,
        slopes=fits["overall"].estimate.slopes[0],
        checks=checks,
        baselines=baselines,
    )


def _in_memory(examples: NDArray[np.floating[Any]], study: Study) -> NDArray[np.floating[Any]]:
    """Return outputs in float64 where they and their influences are few."""
    few = examples.shape[1] * max(study.models, study.groups) <= SMALL
    return examples.astype(np.float64) if few else examples


def _lay_out(study: Study, name: str, fits: Mapping[str, Fit], checks: Mapping[str, LevelChecks]) -> xr.Dataset:
    target, units = study.targets[name], UNITS.get(study.output, study.output)
    variables: dict[str, Any] = {}
    for level, suffix in LEVELS.items():
        for key in KEYS:
            table = getattr(fits[level], key)
            if level == "class":
                table = _all_classes(table, target.class_sizes > 0)
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
    for level, suffix in LEVELS.items():
        for key in ("estimator", "lds", "noise_ceiling", "split_half"):
            if (value := getattr(checks[level], key)) is not None:
                attributes[key + suffix] = value
    return xr.Dataset(variables, coordinates, attributes)


def _all_classes(table: NDArray[Any], has_examples: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the rows of a table with a row of NaN for every class without examples."""
    if has_examples.all():
        return table
    rows = np.full((len(has_examples), table.shape[1]), np.nan)
    rows[has_examples] = table
    return rows


def _checks(fitted: Fit, with_curve: bool) -> LevelChecks:
    low, high = fitted.lds_interval
    points = [(point.models, point.lds, point.split_half) for point in fitted.curve()] if with_curve else None
    return LevelChecks(
        estimator=fitted.estimator,
        lds=_known(fitted.lds),
        lds_interval=(_known(low), _known(high)),
        noise_ceiling=_known(fitted.noise_ceiling),
        split_half=_known(fitted.split_half),
        more_models=fitted.more_models,
        candidates={name: _known(lds) for name, lds in fitted.candidates.items()},
        verdict=fitted.verdict,
        curve=None if points is None else tuple(points),
    )


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
