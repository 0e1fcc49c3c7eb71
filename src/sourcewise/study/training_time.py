"""How long the runs of a study were training, and in how many stretches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def covered(times: Iterable[tuple[float, float]]) -> float:
    """Return the length of what intervals cover together, in their unit: what several cover counts once.

    >>> covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0)])
    4.0
    """
    total, reached = 0.0, -math.inf
    for start, end in sorted(times):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def stretches(times: Sequence[tuple[float, float]]) -> int:
    """Return how many stretches the intervals of runs form, in seconds; at least one.

    A pause is longer than ten minutes, and than ten of the longest runs.

    >>> stretches([(0.0, 60.0), (50.0, 100.0), (2000.0, 2060.0)])
    2
    """
    pause = max([600.0, *(10 * (end - start) for start, end in times)])
    count, reached = 1, math.inf
    for start, end in sorted(times):
        count += start - reached > pause
        reached = end if reached == math.inf else max(reached, end)
    return count
