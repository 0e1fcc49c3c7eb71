"""The cheapest of the subsets that were raced which is about as good as the best: for a smaller source at no loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sourcewise.acting.search.candidates import Candidate
from sourcewise.acting.search.smoothing import expected
from sourcewise.estimation.arrays import Array


def cheapest(
    candidates: Sequence[Candidate],
    values: Sequence[Sequence[float]],
    best: Candidate,
    costs: Array,
    tolerance: float,
) -> Candidate | None:
    """Return the candidate that costs least among those expected to lie within a tolerance of the best one.

    Args:
        candidates: subsets, each once.
        best: one of them.
        values: of the models of each candidate; one without models is not considered.
        costs: float[G], what keeping each group costs, in any unit.
        tolerance: in the unit of the values.

    Returns:
        The candidate; None where no other costs less than the best one.
    """
    known = [(candidate, part) for candidate, part in zip(candidates, values, strict=True) if part]
    masks = np.array([candidate.keep for candidate, _ in known])
    expectation = expected(masks, [part for _, part in known])
    place = [candidate for candidate, _ in known].index(best)
    prices = masks @ costs
    is_good = (expectation >= expectation[place] - tolerance) & (prices < prices[place])
    if not is_good.any():
        return None
    return known[int(np.argmin(np.where(is_good, prices, np.inf)))][0]
