"""Values of a model on the target examples that choices look at, on those that judge what was chosen, and on all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sourcewise.core.splits import PARTS, Split, parts
from sourcewise.records.record import Header, TargetOutputs
from sourcewise.study.baselines import MAPPINGS
from sourcewise.study.outputs import ACCURACY, class_means, is_correct, output_values, score_name

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Values:
    """A model on some of the target examples: the mean output, and the score."""

    output: float
    score: float


@dataclass(frozen=True)
class SplitValues:
    """A model on the examples that choices look at, on those that judge what was chosen, and on all of them."""

    choosing: Values
    unseen: Values
    every: Values

    @classmethod
    def weighted(cls, values: Sequence[SplitValues], weights: Sequence[float]) -> SplitValues:
        """Return the weighted sums over targets."""

        def total(part: str) -> Values:
            rows = [getattr(item, part) for item in values]
            return Values(*(float(np.dot(weights, [getattr(row, key) for row in rows])) for key in ("output", "score")))

        return cls(total("choosing"), total("unseen"), total("every"))


def split_values(outputs: TargetOutputs, split: Split, metric: str, output: str = "prob") -> SplitValues:
    """Return mean output and score of a model on both sides of a split, and on all examples.

    metric: of the target, see `target_metric`; where predictions are not known, the score is the mean output. output:
        of `outputs.UNITS`.
    """
    values = output_values(outputs, output).astype(np.float64)
    is_scored = score_name(outputs, output) == ACCURACY

    def on(rows: NDArray[np.bool_]) -> Values:
        mean = float(values[rows].mean())
        return Values(mean, _score(outputs, rows, metric) if is_scored else mean)

    choosing, unseen = split.sides(outputs.labels)
    return SplitValues(on(choosing), on(unseen), on(np.ones_like(choosing)))


def target_metric(header: Header, target: str) -> str:
    """Return the metric of a target as its settings name it: one that `split_values` knows, or else accuracy.

    A metric of the user's is a function of what a run has in memory, which a record does not hold.
    """
    settings = header.config.get("target")
    chosen = settings.get(target) if isinstance(settings, Mapping) else None
    metric = chosen.get("metric") if isinstance(chosen, Mapping) else None
    return metric if metric in ("mean_per_class", "prob", "auroc") else "accuracy"


def chosen_mappings(outputs: TargetOutputs, classes: int, split: Split) -> dict[str, Array]:
    """Return label and feature mapping as means over the examples that choices look at, float[classes, groups] by name.

    A table that the record does not hold by parts is missing, but where choices look at all examples.
    """
    labels = outputs.labels
    if split.share == 1:
        tables = {name: getattr(outputs, name) for name in MAPPINGS}
        return {name: table.astype(np.float64) for name, table in tables.items() if table is not None}
    sizes: NDArray[Any] = np.bincount(PARTS * labels.astype(np.int64) + parts(labels), minlength=PARTS * classes)
    weights = (sizes.reshape(classes, PARTS) * split.chosen_parts()).astype(np.float64)
    weights /= np.maximum(weights.sum(1, keepdims=True), 1)
    tables = {name: getattr(outputs, f"{name}_parts") for name in MAPPINGS}
    return {
        name: np.einsum("cp,pcg->cg", weights, table.astype(np.float64))
        for name, table in tables.items()
        if table is not None
    }


def _score(outputs: TargetOutputs, rows: NDArray[np.bool_], metric: str) -> float:
    """Return a metric on some of the examples, as `training.metrics` has it on all; NaN where it is not defined."""
    labels, correct = outputs.labels[rows], is_correct(outputs)[rows]
    if metric == "mean_per_class":
        classes = int(labels.max()) + 1
        return float(
            class_means(correct.astype(np.float64), labels, classes)[np.bincount(labels, minlength=classes) > 0].mean()
        )
    if metric == "prob":
        return float(outputs.prob[rows].mean(dtype=np.float64))
    if metric == "auroc":
        margins = np.where(labels == 1, outputs.margin[rows], -outputs.margin[rows]).astype(np.float64)
        positive, negative = margins[labels == 1], margins[labels == 0]
        if not len(positive) or not len(negative):
            return float("nan")
        return float(stats.mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))
    return float(correct.mean())
