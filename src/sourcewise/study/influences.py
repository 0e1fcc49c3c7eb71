"""Influences at example, class and overall level: one `xarray.Dataset` for each target, with checks and baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, NoReturn, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from sourcewise.estimation.arrays import row_blocks
from sourcewise.estimation.checks import Checks as Checks  # also for the report
from sourcewise.estimation.checks import Point, curve
from sourcewise.estimation.contract import Estimator
from sourcewise.estimation.estimators import AUTO, EstimatorSetting
from sourcewise.estimation.fitting import Fit, fit
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.estimation.shrinkage import Posterior
from sourcewise.study.baselines import Baseline, compare_baselines
from sourcewise.study.collect import Study, StudyTarget
from sourcewise.study.effects import KEYS, POSTERIOR_KEYS
from sourcewise.study.levels import LEVELS, TablesByTarget, class_shares, fit_arguments
from sourcewise.study.outputs import UNITS

SIGN = "positive = keeping the group helps"

LONG_NAMES = {
    "qvalue": {"long_name": "Benjamini-Hochberg q-value"},
    "lfsr": {"long_name": "local false sign rate"},
}


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
    study: Study,
    estimator: EstimatorSetting = AUTO,
    targets: Sequence[str] | None = None,
    looks: int = 1,
    priors: TablesByTarget | None = None,
) -> dict[str, Estimated]:
    """Estimate the influences on targets (None: on all), with their checks.

    q-values are multiplied by `looks`, so that they hold over so many looks at a growing study together.

    Raises SourcewiseError for an unknown estimator, fewer than two models, or outputs that are all the same.
    """
    names = targets or list(study.targets)
    with tqdm(total=len(LEVELS) * len(names), unit="fit", leave=False, disable=None) as bar:
        parts = {
            name: _estimate_target(study, name, estimator, looks, (priors or {}).get(name, {}), bar) for name in names
        }
    curves = _in_step({(name, level): parts[name][1][level] for name in parts for level in parts[name][1]})
    return {
        name: replace(
            estimated,
            checks={
                level: replace(checks, curve=curves.get((name, level))) for level, checks in estimated.checks.items()
            },
        )
        for name, (estimated, _) in parts.items()
    }


Key = TypeVar("Key")


def _in_step(curves: Mapping[Key, Iterator[Point]]) -> dict[Key, list[Point]]:
    """Return the points of curves, worked out size by size: all targets and levels share the matrices of a size."""
    points: dict[Key, list[Point]] = {key: [] for key in curves}
    for row in zip_longest(*curves.values()):
        for key, point in zip(curves, row, strict=True):
            points[key] += [point] if point else []
    return {key: sorted(row) for key, row in points.items()}


def _estimate_target(
    study: Study,
    name: str,
    estimator: EstimatorSetting,
    looks: int,
    priors: Mapping[str, NDArray[np.floating[Any]]],
    bar: tqdm[NoReturn],
) -> tuple[Estimated, dict[str, Iterator[Point]]]:
    """Estimate the influences on one target; return them, and what gives the points of their curves, by level."""
    fits: dict[str, Fit] = {}
    for level, columns in fit_arguments(study, name, priors).items():  # the first chooses the estimator
        bar.set_description(f"{name}, {level}")
        fits[level] = fit(study.masks, estimator=estimator, seeds=study.seeds, level=level, **columns)
        estimator, q = fits[level].method, fits[level].qvalue
        for rows in row_blocks(q.shape) if looks > 1 else ():
            np.minimum(looks * q[rows], 1, out=q[rows])
        bar.update()
    few_groups = study.groups <= GRAM_GROUPS
    curves = {
        level: curve(item.sample, item.method.for_halves, item.checks)
        for level, item in fits.items()
        if few_groups and level != "overall"
    }
    dataset = _lay_out(study, name, fits)
    if looks > 1:
        dataset.attrs["looks"] = looks
    baselines: dict[str, Baseline] = {}
    if name in study.mappings:
        masks = study.masks.unpack() if few_groups else None
        baselines = compare_baselines(study.mappings[name], dataset, masks, study.targets[name].class_means)
    estimated = Estimated(
        dataset=dataset,
        estimator=fits["example"].method,
        slopes=fits["overall"].estimate.slopes[0],
        checks={level: fits[level].checks for level in LEVELS},
        baselines=baselines,
    )
    return estimated, curves


def _posteriors(target: StudyTarget, fits: Mapping[str, Fit]) -> dict[str, Posterior]:
    """Return the posterior of each level. Those of a hierarchy agree: that of a class is the mean over its examples."""
    posteriors = {level: fits[level].posterior for level in LEVELS}
    if not fits["example"].method.needs_hierarchy:
        return posteriors
    examples, member = posteriors["example"].mean, class_shares(target)
    class_mean = np.zeros((member.shape[1], examples.shape[1]))
    for rows in row_blocks(examples.shape):
        class_mean += member[rows].T @ examples[rows]
    share = target.class_sizes[target.class_sizes > 0] / len(target.labels)
    for level, mean in (("class", class_mean), ("overall", share[None] @ class_mean)):
        fitted = posteriors[level]
        lfsr = np.where(np.sign(mean) == np.sign(fitted.mean), fitted.lfsr, 0.5)
        posteriors[level] = Posterior(mean, fitted.sd, np.where(np.isnan(fitted.lfsr), np.nan, lfsr))
    return posteriors


def _lay_out(study: Study, name: str, fits: Mapping[str, Fit]) -> xr.Dataset:
    target, units = study.targets[name], UNITS.get(study.output, study.output)
    variables: dict[str, Any] = {}
    present, posteriors = target.class_sizes > 0, _posteriors(target, fits)
    for level, suffix in LEVELS.items():
        tables = {key: getattr(fits[level], key) for key in KEYS}
        posterior = posteriors[level]
        tables |= dict(zip(POSTERIOR_KEYS, (posterior.mean, posterior.sd, posterior.lfsr), strict=True))
        for key, table in tables.items():
            if level == "example":
                table = table.astype(np.float32, copy=False)  # the largest, and that is how files hold them
            if level == "class" and not present.all():  # a class without examples has a row of NaN
                rows, table = table, np.full((len(present), study.groups), np.nan)
                table[present] = rows
            dims, values = (("group",), table[0]) if level == "overall" else ((level, "group"), table)
            variables[key + suffix] = dims, values, LONG_NAMES.get(key, {"units": units})
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
    if study.header.group_sizes is not None:
        coordinates["group_size"] = "group", study.header.group_sizes
    for key, dim, paths in (("path", "example", study.paths.get(name)), ("group_path", "group", study.paths.get(""))):
        if paths is not None:
            coordinates[key] = dim, np.array([path or "" for path in paths], object)
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
