"""Rows of the list of source examples to review."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.results import json_name

LISTED = 100
"""Rows of a list, if there are as many; all that are significant are on it."""


@dataclass(frozen=True, kw_only=True)
class ReviewRow:
    """One source example that a person should look at; None where a number is unknown.

    Attributes:
        why: `copy` or `label`.
        source: number of the example.
        target: name of the target that the influence is on.
        qvalue: of the test that the example stands out.
        flagged: whether that is significant.
        influence: of the example.
        stderr: its standard error.
    """

    why: str
    source: int
    target: str
    qvalue: float | None
    flagged: bool
    influence: float | None
    stderr: float | None


@dataclass(frozen=True, kw_only=True)
class CopyRow(ReviewRow):
    """A source example that looks like a copy of the target example with the id `example`; the influence is on that."""

    why: str = "copy"
    example: int


@dataclass(frozen=True, kw_only=True)
class LabelRow(ReviewRow):
    """A source example whose label looks wrong; the influence is on the target overall.

    Attributes:
        held_out: mean probability of the label by models that did not train on the example.
        in_sample: the same by models that did.
    """

    why: str = "label"
    held_out: float | None = json_name("outside")
    in_sample: float | None = json_name("inside")


def most_suspicious(order: NDArray[Any], flagged: NDArray[np.bool_]) -> list[int]:
    """Return positions of the rows to list, by rising `order`, the flagged ones first."""
    rows: list[int] = np.lexsort((order, ~flagged))[: max(LISTED, int(flagged.sum()))].tolist()
    return rows


def known(value: Any) -> float | None:
    """Return a number as a float, and NaN as None."""
    return None if np.isnan(value) else float(value)
