"""Learning-rate schedules: pure functions from training time to a factor of the peak learning rate.

Each is called with the time in epochs (fractions count: the rate changes every step) and the number of epochs.
"""

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """A function from the time in epochs to a factor in [0, 1] of the peak learning rate."""

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor at the time `epoch` of `epochs`, which may be a fraction."""


@dataclass(frozen=True)
class Constant:
    """The peak rate throughout."""

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return 1 at any time."""
        return 1.0


@dataclass(frozen=True)
class Triangular:
    """Linear from 0.2 to 1 at epoch `peak`, then linear to 0 (arXiv 2207.05739, appendix; ffcv's ImageNet schedule)."""

    peak: float
    start: float = 0.2

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor at the time `epoch` of `epochs`."""
        peak = min(self.peak, epochs)
        if epoch < peak:
            return self.start + (1 - self.start) * epoch / peak
        return max(0.0, (epochs - epoch) / (epochs - peak)) if epochs > peak else 1.0


@dataclass(frozen=True)
class Step:
    """A rate that is multiplied by `factor` every `every` epochs."""

    every: float
    factor: float = 0.1

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor at the time `epoch` of `epochs`."""
        return float(self.factor ** math.floor(epoch / self.every))
