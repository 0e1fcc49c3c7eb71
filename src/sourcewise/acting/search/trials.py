"""The runs that a search asks for, and who trains them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sourcewise.study.measurements import Measurement

Phase = Literal["full", "explore", "race", "move", "verify"]


@dataclass(frozen=True)
class Trial:
    """One run that a search asks for.

    Attributes:
        phase: what it is for.
        round: which time, within the phase.
        keep: which groups it keeps, in the order of their names; None for all, or for a subset that is drawn.
        draw: seed of a subset that is drawn at random; None for one that is chosen.
        seed: training seed.
    """

    phase: Phase
    round: int
    keep: tuple[bool, ...] | None
    draw: int | None
    seed: int


class Trainer(Protocol):
    """Trains what is not there yet. A run that failed for good has no measurement."""

    def __call__(self, trials: Sequence[Trial]) -> list[Measurement | None]:
        """Return the measurement of each run, in their order."""
