"""Races: candidates are retrained with more and more seeds, and the worse half leaves after each rung.

Successive halving (Karnin, Koren and Somekh, ICML 2013), without cheaper rungs: short runs favour more data. The
rungs before the last go by the mean output, which is smoother, and the score together; the last goes by the score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sourcewise.acting.search.candidates import Candidate
from sourcewise.acting.search.smoothing import expected
from sourcewise.study.measurements import Measurement

Models = Callable[[Sequence[tuple[Candidate, int]]], list[list[Measurement]]]
"""Returns the models of each candidate, at least as many as its number says, as far as they did not fail."""


@dataclass(frozen=True)
class Standing:
    """How a candidate stands after a rung: means over its models, on the examples that choices look at.

    Attributes:
        candidate: which.
        models: how many models it has.
        output: mean output.
        score: mean score.
        expected: what is expected of it, in the unit of that which the rung goes by.
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


def race(candidates: Sequence[Candidate], budget: int, models: Models, finalists: int = 2) -> list[list[Standing]]:
    """Return the standings after each rung, best first; the first of the last rung has won.

    budget: runs, see `rungs`. A candidate whose runs all failed leaves. Those that left still
    say something of the others, see `smoothing`.
    """
    remaining, history = list(candidates), []
    trained: dict[Candidate, list[Measurement]] = {}
    steps = rungs(len(candidates), budget, finalists)
    for step, (_, wanted) in enumerate(steps):
        last = step == len(steps) - 1
        trained |= zip(remaining, models([(candidate, wanted) for candidate in remaining]), strict=True)
        known = {candidate: part for candidate, part in trained.items() if part}
        values = [[value(item, last) for item in part] for part in known.values()]
        expectation = expected(np.array([candidate.keep for candidate in known]), values)
        standings = [
            Standing(
                candidate,
                models=len(known[candidate]),
                output=float(np.mean([item.choosing.output for item in known[candidate]])),
                score=float(np.mean([item.choosing.score for item in known[candidate]])),
                expected=float(value),
            )
            for candidate, value in zip(known, expectation, strict=True)
            if candidate in remaining
        ]
        standings.sort(key=lambda item: item.expected, reverse=True)
        left = 1 if last else steps[step + 1][0]
        history.append([replace(item, stays=place < left) for place, item in enumerate(standings)])
        remaining = [standing.candidate for standing in history[-1] if standing.stays]
    return history


def value(item: Measurement, last: bool = False) -> float:
    """Return what a rung goes by: the score in the last one, before it the mean of score and mean output."""
    values = item.choosing
    return values.score if last else (values.score + values.output) / 2
