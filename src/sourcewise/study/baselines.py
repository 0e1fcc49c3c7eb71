"""Label and feature mapping, which models of the full source give, beside influences: how far both agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from sourcewise.records.record import Record, TargetOutputs

MAPPINGS = ("label_mapping", "feature_mapping")
"""The baselines, as records name them."""


@dataclass(frozen=True)
class GroupScore:
    """A group's score by a baseline; the higher, the more similar it is to the target."""

    group: str
    score: float


@dataclass(frozen=True)
class Baseline:
    """A baseline's ranking of the groups, and how far it agrees with influences; None where that is unknown.

    Attributes:
        overall: all groups, from the most similar to the least.
        classes: the most similar groups, by class.
        spearman_overall: rank correlation with overall influences over groups.
        spearman_class: rank correlation with influences on a class over groups, mean over classes.
        lds_class: LDS of the baseline at class level.
    """

    overall: tuple[GroupScore, ...]
    classes: Mapping[str, tuple[str, ...]]
    spearman_overall: float | None
    spearman_class: float | None
    lds_class: float | None


class MeanMappings:
    """The mean of both mappings over runs that keep all groups, to which runs are added one by one."""

    def __init__(self) -> None:
        self._first: dict[str, TargetOutputs] = {}
        self._sums: dict[tuple[str, str], tuple[NDArray[np.float64], int]] = {}

    def add(self, record: Record) -> None:
        """Add a run; one that does not keep all groups has no mapping."""
        for name, outputs in record.targets.items() if record.mask.all() else ():
            self._first.setdefault(name, outputs)
            for key in (*MAPPINGS, *(f"{mapping}_parts" for mapping in MAPPINGS)):
                if (table := getattr(outputs, key)) is not None:
                    total, runs = self._sums.get((name, key), (np.zeros(table.shape), 0))
                    self._sums[name, key] = total + table, runs + 1

    def means(self) -> dict[str, TargetOutputs]:
        """Return the outputs of the first run with the mean mappings over all, by target."""
        tables: dict[str, dict[str, Any]] = {name: {} for name in self._first}
        for (name, key), (total, runs) in self._sums.items():
            tables[name][key] = (total / runs).astype(np.float32)
        return {name: replace(outputs, **tables[name]) for name, outputs in self._first.items()}


def compare_baselines(
    outputs: TargetOutputs,
    influences: xr.Dataset,
    masks: NDArray[np.bool_] | None = None,
    means: NDArray[np.floating[Any]] | None = None,
    top: int = 3,
) -> dict[str, Baseline]:
    """Compare both baselines with the estimated influences; return them by name, none when the record has none.

    Args:
        outputs: of a run that kept all groups, with the mean mappings over all such runs.
        influences: on the same target, as docs/architecture.md has them.
        masks: bool[models, groups] of the study's random subsets; with `means`, the LDS of the baselines is computed.
        means: float[models, classes], class means of the outputs of those models.
        top: how many groups to name for each class.
    """
    groups = influences["group"].values
    classes, overall, by_class = (influences[key].values for key in ("class", "influence_overall", "influence_class"))
    counts = np.bincount(outputs.labels, minlength=len(classes))
    filled = np.flatnonzero(counts).tolist()
    baselines: dict[str, Baseline] = {}
    for name in MAPPINGS:
        if (table := getattr(outputs, name)) is None:
            continue
        score, lds = counts @ table / counts.sum(), None
        if masks is not None and means is not None:
            predicted = masks @ table.T.astype(np.float64)
            lds = _mean(rank_correlation(predicted[:, row], means[:, row]) for row in filled)
        order = _descending(score)
        baselines[name] = Baseline(
            overall=tuple(map(GroupScore, groups[order].tolist(), score[order].tolist())),
            classes={str(classes[row]): tuple(groups[_descending(table[row])[:top]].tolist()) for row in filled},
            spearman_overall=rank_correlation(score, overall),
            spearman_class=_mean(rank_correlation(table[row], by_class[row]) for row in filled),
            lds_class=lds,
        )
    return baselines


def rank_correlation(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> float | None:
    """Return the rank correlation over entries that both know; None for fewer than three, or when one is constant."""
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)


def _descending(scores: NDArray[Any]) -> NDArray[np.intp]:
    return np.argsort(-scores, kind="stable")


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the known values; None without any."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
