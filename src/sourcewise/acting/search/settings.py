"""What a search is told: the setting `search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval as Between
from annotated_types import MultipleOf
from pydantic import AllowInfNan, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from sourcewise.acting.search.verification import LEAST
from sourcewise.core.errors import SourcewiseError

MOST_VERIFIED = 4
"""Subsets that a verification trains, at most: the winner, a smaller one, the full source, random removals."""
Finite = AllowInfNan(False)


@dataclass(frozen=True)
class SearchSettings:
    """The setting `search` of conf/train.yaml; see conf/experiment/search.yaml.

    Raises SourcewiseError for a goal that one verification may overrun.
    """

    budget: PositiveInt = 100
    explore: Annotated[float, Between(ge=0, le=0.9)] = 0.2
    choose: Annotated[float, Between(gt=0, le=1), MultipleOf(0.125)] = 0.5
    detect: Annotated[PositiveFloat, Finite] = 0.0075
    verify: PositiveInt = 40
    seed: NonNegativeInt = 0
    weights: Mapping[str, Annotated[PositiveFloat, Finite]] | None = None
    candidates: Sequence[str | Sequence[str | int]] | None = None
    rankings: Sequence[str] | None = None
    proxy: str | None = None
    hours: Annotated[PositiveFloat, Finite] | None = None
    at_most: PositiveInt | None = None
    tolerance: Annotated[NonNegativeFloat, Finite] | None = 0.005
    cost: str | None = None

    def __post_init__(self) -> None:
        """Check the goal against the budget."""
        if self.at_most is not None and self.hours is None and self.at_most < self.budget + self.most_verified:
            raise SourcewiseError(
                f"search.at_most={self.at_most}: the budget and a verification may take"
                f" {self.budget + self.most_verified} runs (search.budget, and {MOST_VERIFIED} times search.verify);"
                " give at least as many"
            )

    @property
    def most_verified(self) -> int:
        """Runs that a verification takes, at most."""
        return MOST_VERIFIED * max(self.verify, LEAST)
