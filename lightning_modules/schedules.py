"""Learning-rate schedules: pure functions from training time to a factor of the peak learning rate.

Each is called with the time in epochs (fractions count: the rate changes every step) and the number of epochs.
"""

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """A factor in [0, 1] of the peak learning rate at a time `epoch` of `epochs`."""

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor."""


@dataclass(frozen=True)
class Constant:
    """The peak rate throughout."""

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor."""
        return 1.0


@dataclass(frozen=True)
class Triangular:
    """Linear from 0.2 to 1 at epoch `peak`, then linear to 0 (arXiv 2207.05739, appendix; ffcv's ImageNet schedule)."""

    peak: float
    start: float = 0.2

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor."""
        peak = min(self.peak, epochs)
        if epoch < peak:
            return self.start + (1 - self.start) * epoch / peak
        return max(0.0, (epochs - epoch) / (epochs - peak)) if epochs > peak else 1.0


@dataclass(frozen=True)
class Step:
    """Multiplied by `factor` every `every` epochs."""

    every: float
    factor: float = 0.1

    def __call__(self, epoch: float, epochs: int) -> float:
        """Return the factor."""
        return float(self.factor ** math.floor(epoch / self.every))


@dataclass(frozen=True)
class OneCycle:
    """Cosine from 1/`initial` to 1 over the first `warmup` share, then cosine down to nearly 0 (arXiv 1708.07120).

    The same factors as `torch.optim.lr_scheduler.OneCycleLR` with its default annealing.
    """

    warmup: float = 0.3
    initial: float = 25.0
    final: float = 1e4

    def __call__(self, epoch: float, epochs: int) -> float:
        """The factor."""
        low, end = 1 / self.initial, 1 / self.initial / self.final
        progress = epoch / epochs
        if progress <= self.warmup:
            return _cosine(low, 1.0, progress / self.warmup)
        return _cosine(1.0, end, (progress - self.warmup) / (1 - self.warmup))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
