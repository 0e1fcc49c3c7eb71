"""Races: candidates are retrained with more and more seeds, and the worse half leaves after each rung.

Successive halving (Karnin, Koren and Somekh, ICML 2013), without cheaper rungs: short runs favour more data. Rungs go
by the score and the mean output, which is smoother, together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sourcewise.acting.search.candidates import Candidate
from sourcewise.acting.search.smoothing import expected
from sourcewise.study.measurements import Measurement

Models = Callable[[Sequence[tuple[Candidate, int]]], list[list[Measurement]]]
"""Returns the models of each candidate, at least as many as its number says, as far as they did not fail."""

Trained = Mapping[tuple[bool, ...], Sequence[Measurement]]
"""Models of subsets, one at least of each, by what the subsets keep."""


@dataclass(frozen=True)
class Standing:
    """How a candidate stands after a rung: means over its models, on the examples that choices look at.

    Attributes:
        candidate: which.
        models: how many models it has.
        output: mean output.
        score: mean score.
        expected: what is expected of it, as `value` has it.
        stays: whether it is in the next rung, or has won.
    """

    candidate: Candidate
    models: int
    output: float
    score: float
    expected: float
    stays: bool = False


def rungs(candidates: int, budget: int, finalists: int = 2) -> list[tuple[int, int]]:
    """Return how many candidates are in each rung, and how many models each has there in all.

    Each rung adds a model of every candidate, whatever the budget. What that leaves of the budget, in runs, all rungs
    take alike, when no candidate has a model yet.

    >>> rungs(12, 56)
    [(12, 1), (6, 3), (3, 6), (2, 11)]
    """
    counts = [candidates]
    while counts[-1] > finalists:
        counts.append(max(finalists, -(-counts[-1] // 2)))
    share = max(0, budget - sum(counts)) // len(counts)
    models = np.cumsum([1 + share // count for count in counts])
    return list(zip(counts, models.tolist(), strict=True))


def least_budget(candidates: int, finalists: int = 2) -> int:
    """Return how many runs a race takes at least when no candidate has a model yet."""
    return sum(count for count, _ in rungs(candidates, 0, finalists))


def race(
    candidates: Sequence[Candidate], budget: int, models: Models, before: Trained | None = None, finalists: int = 2
) -> list[list[Standing]]:
    """Return the standings after each rung, best first; the first of the last rung has won.

    budget: runs, see `rungs`. A candidate whose runs all failed leaves. before: subsets that were trained earlier. They
    and those that left say something of the others, see `smoothing`.
    """
    remaining, history = list(candidates), []
    trained = dict(before or {})
    steps = rungs(len(candidates), budget, finalists)
    for step, (_, wanted) in enumerate(steps):
        made = models([(candidate, wanted) for candidate in remaining])
        trained |= {candidate.keep: part for candidate, part in zip(remaining, made, strict=True) if part}
        expectation = expected_values(trained)
        standings = [
            Standing(
                candidate,
                models=len(trained[candidate.keep]),
                output=float(np.mean([item.choosing.output for item in trained[candidate.keep]])),
                score=float(np.mean([item.choosing.score for item in trained[candidate.keep]])),
                expected=expectation[candidate.keep],
            )
            for candidate in remaining
            if candidate.keep in trained
        ]
        standings.sort(key=lambda item: item.expected, reverse=True)
        left = 1 if step == len(steps) - 1 else steps[step + 1][0]
        history.append([replace(item, stays=place < left) for place, item in enumerate(standings)])
        remaining = [standing.candidate for standing in history[-1] if standing.stays]
    return history


def expected_values(trained: Trained) -> dict[tuple[bool, ...], float]:
    """Return what is expected of each subset that has models, by what it keeps; see `smoothing`."""
    values = [[value(item) for item in models] for models in trained.values()]
    return dict(zip(trained, expected(np.array(list(trained)), values).tolist(), strict=True))


def value(item: Measurement) -> float:
    """Return what rungs go by: the mean of score and mean output."""
    return (item.choosing.score + item.choosing.output) / 2
