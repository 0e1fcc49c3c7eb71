"""Label agreement: what models say of the labels of source examples, by whether they trained on the example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.records.record import TargetOutputs
from sourcewise.study.outputs import is_correct

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class LabelAgreement:
    """Sums over models, float[2, examples]: of models that did not train on the example, and of those that did.

    Attributes:
        models: how many models there are.
        prob: sum of the probabilities that they give to the example's label.
        correct: how many of them predict the label.
    """

    models: Sums
    prob: Sums
    correct: Sums

    def probabilities(self) -> tuple[Sums, Sums]:
        """Return the mean held-out and in-sample probability of each label, float[examples]; NaN without a model."""
        with np.errstate(invalid="ignore"):
            held_out, in_sample = self.prob / self.models
        return held_out, in_sample


class LabelAgreementSums:
    """Sums that grow by one model at a time.

    Of the models of one subset only the first counts: the others are not independent of it.
    """

    def __init__(self, examples: int) -> None:
        self._models, self._prob, self._correct = np.zeros((3, 2, examples))
        self._subsets = set[bytes]()

    def add(self, mask: NDArray[np.bool_], outputs: TargetOutputs) -> None:
        """Add a model that trained on the source examples `mask: bool[examples]`, and its outputs on all of them."""
        subset = np.packbits(mask).tobytes()
        if subset in self._subsets:
            return
        self._subsets.add(subset)
        cells: Any = mask.astype(np.intp), np.arange(len(mask))
        self._models[cells] += 1
        self._prob[cells] += outputs.prob
        self._correct[cells] += is_correct(outputs)

    def agreement(self) -> LabelAgreement:
        """Return the sums so far."""
        return LabelAgreement(self._models.copy(), self._prob.copy(), self._correct.copy())
