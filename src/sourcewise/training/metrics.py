"""Metrics of a transferred model: functions from its outputs on the test examples to one number.

A user adds one by its dotted path, as in `target.pets.metric=my_metrics.worst_class`.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torchmetrics.functional.classification import binary_auroc, multiclass_accuracy

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.extensions import find
from sourcewise.lightning_modules.outputs import Outputs

Metric: TypeAlias = Callable[[Outputs, int], float]
"""From the outputs on all test examples and the number of classes to a number, of which more is better.

Raises SourcewiseError, with one line that says why, where it is not defined.
"""


def accuracy(outputs: Outputs, classes: int) -> float:
    """Return the share of the examples that are predicted correctly."""
    return float(multiclass_accuracy(outputs.prediction, outputs.labels, classes, average="micro"))


def mean_per_class(outputs: Outputs, classes: int) -> float:
    """Return the mean over classes of the accuracy on each, over those that have examples."""
    each = multiclass_accuracy(outputs.prediction, outputs.labels, classes, average="none")
    # torchmetrics' own macro average counts classes without examples as wrong.
    return float(each[outputs.labels.bincount(minlength=classes) > 0].mean())


def prob(outputs: Outputs, classes: int) -> float:
    """Return the mean probability of the correct class."""
    return float(outputs.prob.double().mean())


def auroc(outputs: Outputs, classes: int) -> float:
    """Return the area under the ROC curve of the second of two classes.

    Raises SourcewiseError unless there are two classes and both have examples.
    """
    if classes != 2 or not 0 < outputs.labels.sum() < len(outputs.labels):
        raise SourcewiseError("it is for targets of two classes that both have test examples")
    # Of two classes, the margin is the logit of the correct one.
    logit = torch.where(outputs.labels == 1, outputs.margin, -outputs.margin)
    return float(binary_auroc(logit.double().sigmoid(), outputs.labels))


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "mean_per_class": mean_per_class,
    "prob": prob,
    "auroc": auroc,
}
"""The metrics that every run records, where they are defined."""


def short_name(name: str) -> str:
    """Return the name under which a metric is recorded: the last part of a dotted path.

    >>> short_name("my_metrics.worst_class"), short_name("accuracy")
    ('worst_class', 'accuracy')
    """
    return name.rpartition(".")[2]


def check(name: str, labels: torch.Tensor, classes: int) -> None:
    """Raise SourcewiseError unless the metric exists and is defined for a model that is right on all examples.

    name: a key of `METRICS`, or the dotted path of a function. labels: int64[n], of the test examples.
    """
    setting, metric = f"target metric={name}", find(METRICS, name, "target metric")
    if metric is not METRICS.get(short_name(name), metric):
        raise SourcewiseError(f"{setting}: sourcewise has another metric of this name; choose another name")
    sure = torch.ones(len(labels))
    try:
        value = metric(Outputs(torch.arange(len(labels)), labels, sure, sure, labels), classes)
    except SourcewiseError as error:
        raise SourcewiseError(f"{setting}: {error}") from error
    if not isinstance(value, int | float):
        raise SourcewiseError(f"{setting}: it returned {value!r}; a metric returns one number")


def scores(outputs: Outputs, classes: int, name: str) -> dict[str, float]:
    """Return the metrics of `METRICS` and a target's own, `name`, by their names, without those that are undefined."""
    values = {}
    for key, metric in {**METRICS, short_name(name): find(METRICS, name, "target metric")}.items():
        try:
            values[key] = float(metric(outputs, classes))
        except SourcewiseError:
            continue
    return values
