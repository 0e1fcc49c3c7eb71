"""Outputs of models on examples: the one that a study uses, its scale, and how often models predict labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.records.arrays import NO_PREDICTION, VALUE
from sourcewise.records.reading import METRIC
from sourcewise.records.record import TargetOutputs

UNITS = {
    "prob": "probability of the correct class",
    "margin": "logit of the correct class minus logsumexp of the others",
    "correct": "share of models that are right",
    VALUE: "as in the file of outputs",
}
"""Outputs of every example, with their units."""

ACCURACY = "accuracy"
"""The score of models whose predictions are known."""

Outputs = NDArray[np.floating[Any]]


def output_values(outputs: TargetOutputs, output: str) -> Outputs:
    """Return the chosen output of every example, `float[examples]`."""
    if output == "correct":
        return is_correct(outputs).astype(np.float16)
    return outputs.margin if output == "margin" else outputs.prob


def logit_scale(outputs: TargetOutputs, output: str) -> Outputs:
    """Return the output of every example on the scale where effects of groups add up best, `float[examples]`.

    That is the logit for probabilities; other outputs stay as they are.
    """
    return outputs.margin if output == "prob" else output_values(outputs, output)


def is_correct(outputs: TargetOutputs) -> NDArray[np.bool_]:
    """Return whether the model predicts the label of every example, `bool[examples]`."""
    correct: NDArray[np.bool_] = outputs.prediction == outputs.labels
    return correct


def score_name(outputs: TargetOutputs, output: str) -> str:
    """Return what scores models: `accuracy`, or where no predictions are known, the mean of the output."""
    if output.startswith(METRIC):
        return output.removeprefix(METRIC)
    known = output == "correct" or (outputs.prediction != NO_PREDICTION).any()
    return ACCURACY if known else f"mean {output}"


def class_means(values: Outputs, labels: NDArray[np.int32], classes: int) -> NDArray[np.float64]:
    """Return the mean over the examples of each class, `float[classes]`; 0 for a class without any."""
    sizes = np.bincount(labels, minlength=classes)
    return np.bincount(labels, values.astype(np.float64), classes) / np.maximum(sizes, 1)


class LabelAgreement:
    """Outputs of models on the labels of source examples, as sums to which models are added one by one.

    Each is float[2, examples]: over models that did not train on the example, and over those that did. Of the models
    of one subset only the first counts: the others are not independent of it.

    Attributes:
        models: how many models there are.
        prob: sum of the probabilities that they give to the example's label.
        correct: how many of them predict the label.
        labels: int[examples].
    """

    def __init__(self, examples: int) -> None:
        self.models, self.prob, self.correct = np.zeros((3, 2, examples))
        self.labels = np.zeros(examples, np.int32)
        self._subsets = set[bytes]()

    def add(self, mask: NDArray[np.bool_], outputs: TargetOutputs) -> None:
        """Add a model that trained on the source examples `mask: bool[examples]`, and its outputs on all of them."""
        subset = np.packbits(mask).tobytes()
        if subset in self._subsets:
            return
        self._subsets.add(subset)
        self.labels = outputs.labels
        cells: Any = mask.astype(np.intp), np.arange(len(mask))
        self.models[cells] += 1
        self.prob[cells] += outputs.prob
        self.correct[cells] += is_correct(outputs)

    def probabilities(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean held-out and in-sample probability of each label, float[examples]; NaN without a model."""
        with np.errstate(invalid="ignore"):
            held_out, in_sample = self.prob / self.models
        return held_out, in_sample
