"""What simulated machines trained, when, and which of it they did at the same time."""

from collections import defaultdict
from dataclasses import dataclass


@dataclass
class Work:
    """A stretch of time in which a host trained a run."""

    run: int
    host: int
    start: float
    end: float = float("inf")
    redone: bool = False
    """Whether the run's record was there when it began."""


@dataclass(frozen=True)
class Findings:
    """What became of a sweep.

    at_once: hosts that trained the same run at the same time, at most. overlaps: how long two did, for each time that
    they did, in seconds. redone: times that a run was begun though its record was there. lost: runs without a whole
    record. seconds: until all machines had ended.
    """

    at_once: int
    overlaps: list[float]
    redone: int
    begun: int
    lost: list[int]
    seconds: float

    @property
    def longest(self) -> float:
        return max(self.overlaps, default=0.0)


def findings(work: list[Work], lost: list[int], seconds: float) -> Findings:
    """Return what became of a sweep from all stretches of work."""
    by_run = defaultdict(list)
    for item in work:
        by_run[item.run].append(item)
    at_once, overlaps = 1, []
    for stretches in by_run.values():
        edges = sorted((edge, step) for item in stretches for edge, step in ((item.start, 1), (item.end, -1)))
        busy, since = 0, 0.0
        for when, step in edges:
            busy += step
            at_once = max(at_once, busy)
            if step == 1 and busy == 2:
                since = when
            elif step == -1 and busy == 1 and when > since:
                overlaps.append(when - since)
    return Findings(at_once, overlaps, sum(item.redone for item in work), len(work), lost, seconds)
