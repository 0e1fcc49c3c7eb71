"""The runs that a search asks for, and who trains them and knows the groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sourcewise.estimation.arrays import Array
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
    """Trains what is not there yet, and knows the groups once a run is done."""

    def __call__(self, trials: Sequence[Trial], state: str = "") -> list[Measurement | None]:
        """Return the measurement of each run, in their order; None for one that failed for good.

        state: where the search stands, for whoever watches.
        """

    def shares(self) -> Array:
        """Return the share of each class in the mean output, float[C]."""

    def listed(self) -> Mapping[str, Sequence[bool]]:
        """Return further candidates, by name."""

    def rankings(self) -> Mapping[str, Array]:
        """Return further rankings, float[G] by name; the higher, the better is it to keep the group."""

    def costs(self) -> Array:
        """Return what keeping each group costs, float[G], in any unit."""

    def exploring_cost(self) -> float:
        """Return what a run that explores costs, in others."""
