"""Source examples to review, where every one is a group: copies of target examples, and labels that look wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from sourcewise.acting.copies import find_copies
from sourcewise.acting.labels import find_dubious_labels
from sourcewise.acting.review_rows import ReviewRow
from sourcewise.core.files import write_whole
from sourcewise.core.results import to_json
from sourcewise.designs.files import write_names
from sourcewise.study.agreement import LabelAgreement

if TYPE_CHECKING:  # torch is slow to import, and only images need it
    from sourcewise.data.dataset import ImageDataset

COLUMNS = ["why", "source", "target", "example", "qvalue", "flagged", "influence", "stderr", "outside", "inside"]
"""Of review.csv."""


def review(
    influences: Mapping[str, xr.Dataset],
    agreement: LabelAgreement | None,
    images: Mapping[str, ImageDataset],
    fdr: float,
) -> tuple[ReviewRow, ...]:
    """Find dubious labels, shown with influences on the first target, and copies.

    images: the source's under "", and those of targets.
    """
    first, dataset = next(iter(influences.items()))
    labels = find_dubious_labels(agreement, first, dataset, fdr) if agreement else []
    return (*labels, *find_copies(influences, images, fdr))


def write(out: Path, rows: Sequence[ReviewRow]) -> None:
    """Write `review.csv`, and the flagged source examples as `review_drop.txt`, for subset=listed."""
    table = pd.DataFrame(to_json(rows), columns=COLUMNS).astype({"example": "Int64"})
    write_whole(out / "review.csv", table.to_csv(index=False, lineterminator="\n").encode())
    flagged = dict.fromkeys(str(row.source) for row in rows if row.flagged)
    title = f"{len(flagged)} source examples; to train without them: subset=listed subset.drop=<this file>"
    write_names(out / "review_drop.txt", title, flagged)
