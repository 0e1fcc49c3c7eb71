"""Multinomial logistic regression with an L2 penalty, fitted by L-BFGS in double precision."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

TOLERANCE = 1e-7
"""The largest entry of the gradient of the mean loss at which the fit has converged."""


def logistic_regression(
    features: Tensor,
    labels: Tensor,
    classes: int,
    C: float = 1.0,
    weights: Tensor | None = None,
    iterations: int = 1000,
) -> Callable[[Tensor], Tensor]:
    """Return the function from features `[n, f]` to logits `float64[n, classes]` that fits the examples best.

    It minimises C times the sum of the examples' cross-entropies plus half the sum of squared weights, without that of
    the intercepts, as scikit-learn's `LogisticRegression` does: of two classes, the first has the logit 0. The problem
    is convex and the start is zero, so there is nothing random.

    Args:
        features: `[examples, features]`.
        labels: int64[examples], in range(classes).
        classes: the number of classes; one without examples ends up improbable.
        C: the inverse strength of the penalty.
        weights: what each example counts for, `[examples]`; None: 1.
        iterations: of L-BFGS, at most.
    """
    inputs, free = features.double(), classes - 1 if classes == 2 else classes
    matrix = inputs.new_zeros(inputs.shape[1], free, requires_grad=True)
    intercept = inputs.new_zeros(free, requires_grad=True)
    counts = inputs.new_ones(len(inputs)) if weights is None else weights.to(inputs)
    optimiser = torch.optim.LBFGS(
        [matrix, intercept],
        max_iter=iterations,
        max_eval=4 * iterations,
        tolerance_grad=TOLERANCE,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def predict(inputs: Tensor) -> Tensor:
        logits = inputs.double() @ matrix + intercept
        return functional.pad(logits, (classes - free, 0))

    def loss() -> Tensor:
        optimiser.zero_grad()
        losses = functional.cross_entropy(predict(inputs), labels, reduction="none")
        value = ((counts * losses).sum() + matrix.square().sum() / (2 * C)) / counts.sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return lambda inputs: predict(inputs).detach()
