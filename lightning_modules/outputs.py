"""The outputs of a model on every example, collected by a torchmetrics Metric."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Outputs(NamedTuple):
    """Outputs per example, each id once: ids, labels and predictions `int64[n]`, prob and margin `float32[n]`.

    prob: the probability of the correct class. margin: its logit minus logsumexp of the others. prediction: the class
    of the largest logit.
    """

    ids: Tensor
    labels: Tensor
    prob: Tensor
    margin: Tensor
    prediction: Tensor

    @classmethod
    def from_logits(cls, logits: Tensor, labels: Tensor, ids: Tensor) -> "Outputs":
        """Return the outputs of logits `[n, classes]` for examples with labels and ids `int64[n]`."""
        prob, margin = correct_class(logits, labels)
        return cls(ids, labels, prob, margin, logits.argmax(1))


class ExampleOutputs(Metric):
    """Collects `prob`, `margin` and `prediction` of every example by its id, over all processes.

    A sampler that pads the last batch of a distributed run shows some examples twice; each counts once.
    """

    full_state_update = False
    higher_is_better = None

    def __init__(self, examples: int) -> None:
        super().__init__()
        self.examples = examples
        for name in Outputs._fields:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Add a batch: logits `[batch, classes]`, labels and ids `int64[batch]`."""
        for name, values in Outputs.from_logits(logits, labels, ids)._asdict().items():
            getattr(self, name).append(values)

    def compute(self) -> Outputs:
        """Return the outputs of all examples, sorted by id. Raises RuntimeError when some are missing."""
        columns = [dim_zero_cat(getattr(self, name)) for name in Outputs._fields]
        ids, rows = _first_rows(columns[0])
        if len(ids) != self.examples:
            raise RuntimeError(f"outputs cover {len(ids)} of {self.examples} test examples")
        return Outputs(ids, *(column[rows] for column in columns[1:]))


def correct_class(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the softmax probability of the correct class, and its margin, both `float32[batch]`.

    logits: `[batch, classes]`; labels: `int64[batch]`. The margin is the logit of the correct class minus logsumexp of
    the others (arXiv 2202.00622), which is the logit of the probability.
    """
    logits = logits.float()
    chosen = labels[:, None]
    correct = logits.gather(1, chosen).squeeze(1)
    margin = correct - logits.scatter(1, chosen, float("-inf")).logsumexp(1)
    return margin.sigmoid(), margin


def _first_rows(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct ids in order, and the row of the first example with each."""
    ordered, rows = ids.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first], rows[first]
