"""Which output of the models a study is about, and its scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.records.record import TargetOutputs

UNITS = {
    "prob": "probability of the correct class",
    "margin": "logit of the correct class minus logsumexp of the others",
    "correct": "share of models that are right",
}
"""Outputs of every example, with their units."""

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
