"""The examples of a target that choices may look at, and those that judge what was chosen.

Examples of each class are dealt into eighths at random, the same ones for everybody. A split gives some of the eighths
to choices, by its seed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.randomness import permutation, ranks

PARTS = 8
"""Parts that the examples of each class are dealt into."""


def parts(labels: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return the part of every example, int[n] from 0 to PARTS - 1; labels: int[n], of examples sorted by id."""
    return np.asarray((ranks("parts", labels) + labels) % PARTS)


@dataclass(frozen=True)
class Split:
    """Which parts choices look at. share: of the examples, in eighths; 1 for all of them. seed: which ones."""

    share: float = 0.5
    seed: int = 0

    def chosen_parts(self) -> NDArray[np.bool_]:
        """Return which parts choices look at, bool[PARTS]."""
        order = permutation(f"split/{self.seed}", PARTS)
        return np.isin(np.arange(PARTS), order[: round(self.share * PARTS)])

    def is_choosing(self, labels: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return whether choices look at each example, bool[n]; labels: int[n], of examples sorted by id."""
        return np.asarray(self.chosen_parts()[parts(labels)])

    def sides(self, labels: NDArray[np.integer]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the examples that choices look at, and those that judge, bool[n] each.

        Both are all examples where choices look at all, and where there are too few for two sides.
        """
        choosing = self.is_choosing(labels)
        if choosing.all() or not choosing.any():
            choosing = np.ones_like(choosing)
            return choosing, choosing
        return choosing, ~choosing


ALL = Split(1.0)
"""Choices look at all examples, which judge them too."""
HALVES = Split()
"""Choices look at half of the examples, and the other half judges."""
