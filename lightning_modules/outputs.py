"""What a transferred model says of every target example, as a torchmetrics Metric."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class Outputs(NamedTuple):
    """Per example, sorted by id, each id once: ids, labels and predictions `int64[n]`, prob and margin `float32[n]`."""

    ids: Tensor
    labels: Tensor
    prob: Tensor
    margin: Tensor
    prediction: Tensor


class ExampleOutputs(Metric):
    """Collects `prob`, `margin` and `prediction` of every example by its id, over all processes.

    A sampler that pads the last batch of a distributed run shows some examples twice; each counts once.
    """

    full_state_update = False
    higher_is_better = None
    ids: list[Tensor]
    labels: list[Tensor]
    prob: list[Tensor]
    margin: list[Tensor]
    prediction: list[Tensor]

    def __init__(self, examples: int) -> None:
        super().__init__()
        self.examples = examples
        for name in Outputs._fields:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Add a batch: logits `[batch, classes]`, labels and ids `int64[batch]`."""
        prob, margin = correct_class(logits, labels)
        for name, values in zip(Outputs._fields, (ids, labels, prob, margin, logits.argmax(1)), strict=True):
            getattr(self, name).append(values)

    def compute(self) -> Outputs:
        """The outputs of all examples. Raises RuntimeError when some are missing."""
        columns = [_joined(getattr(self, name)) for name in Outputs._fields]
        ids, first = _first_of_each(columns[0])
        if len(ids) != self.examples:
            raise RuntimeError(f"outputs cover {len(ids)} of {self.examples} test examples")
        return Outputs(ids, *(column[first] for column in columns[1:]))


def correct_class(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax probability of the correct class, and margin: its logit minus logsumexp of the others (arXiv 2202.00622).

    logits `[batch, classes]`, labels `int64[batch]`; both results `float32[batch]`. The margin is the logit of prob.
    """
    logits = logits.float()
    chosen = labels[:, None]
    correct = logits.gather(1, chosen).squeeze(1)
    margin = correct - logits.scatter(1, chosen, float("-inf")).logsumexp(1)
    return margin.sigmoid(), margin


def _joined(values: list[Tensor] | Tensor) -> Tensor:
    return values if isinstance(values, Tensor) else torch.cat(values)


def _first_of_each(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ids in order, and where each stands first."""
    ordered, where = ids.sort(stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new], where[new]
