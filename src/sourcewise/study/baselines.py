"""What one model of the whole source says of the groups, beside influences: how far both agree, and predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from sourcewise.records.record import TargetOutputs

UNAVAILABLE = (
    "Label and feature mapping are not available: they need a run that keeps all groups (python train.py subset=full),"
    " and groups made of whole classes."
)


def compare(
    outputs: TargetOutputs,
    influences: xr.Dataset,
    masks: NDArray[np.bool_] | None = None,
    means: NDArray[np.floating[Any]] | None = None,
    top: int = 3,
) -> dict[str, dict[str, Any]]:
    """Both baselines beside the estimated influences, as JSON by baseline; empty when the record has none.

    Args:
        outputs: of the run that kept all groups.
        influences: on the same target, as docs/architecture.md has them.
        masks: bool[models, groups] of the study's random subsets; with `means`, the LDS of the baselines is given.
        means: float[models, classes], class means of the outputs of those models.
        top: how many groups to name for each class.

    Returns:
        By baseline: `overall` (groups from the most similar to the least, with scores), `classes` (the `top` groups of
        each class), `spearman_overall` and `spearman_class` (correlation with influences over groups; the latter a
        mean over classes), and `lds_class`, null without masks. A correlation that cannot be told is null.
    """

    def named(scores: NDArray[Any]) -> list[tuple[str, float]]:
        order = np.argsort(-scores, kind="stable")
        return list(zip(influences["group"].values[order].tolist(), scores[order].tolist(), strict=True))

    classes, overall, by_class = (influences[key].values for key in ("class", "influence_overall", "influence_class"))
    counts = np.bincount(outputs.labels, minlength=len(classes))
    filled = np.flatnonzero(counts).tolist()
    found: dict[str, dict[str, Any]] = {}
    for name, table in (("label_mapping", outputs.label_mapping), ("feature_mapping", outputs.feature_mapping)):
        if table is None:
            continue
        score, lds = counts @ table / counts.sum(), None
        if masks is not None and means is not None:
            lds = _mean(_spearman(masks @ table[row].astype(np.float64), means[:, row]) for row in filled)
        found[name] = {
            "overall": [{"group": group, "score": value} for group, value in named(score)],
            "classes": {str(classes[row]): [group for group, _ in named(table[row])[:top]] for row in filled},
            "spearman_overall": _spearman(score, overall),
            "spearman_class": _mean(_spearman(table[row], by_class[row]) for row in filled),
            "lds_class": lds,
        }
    return found


def as_text(compared: Mapping[str, Mapping[str, Any]]) -> str:
    """One line on what a comparison says."""
    if not compared:
        return UNAVAILABLE

    def show(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.2f}"

    parts = [
        f"{name.replace('_', ' ')} {show(item['spearman_class'])} by class, {show(item['spearman_overall'])} overall"
        for name, item in compared.items()
    ]
    return f"Rank correlation with what a single model would say: {'; '.join(parts)}."


def _spearman(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float | None:
    """Over the entries that both know; None when fewer than three, or one of them is constant."""
    known = np.isfinite(one) & np.isfinite(other)
    one, other = one[known], other[known]
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(stats.spearmanr(one, other).statistic)


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
