"""Source examples to review, where every one is a group: copies of target examples, and labels that look wrong.

Copies are found in the pixels (see `copies`): an unusual influence on one target example is weak evidence of a copy,
since what is merely similar helps too. Labels look wrong where models that did not train on the example predict others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import beta, binom

from sourcewise.acting import copies
from sourcewise.core.files import write_atomically
from sourcewise.core.results import json_name, to_json
from sourcewise.designs.files import write_names
from sourcewise.estimation.arrays import Array
from sourcewise.estimation.inference import qvalues
from sourcewise.study.outputs import LabelAgreement

if TYPE_CHECKING:  # torch is slow to import, and only images need it
    from sourcewise.data.dataset import ImageDataset

SIDE = 16
"""Pixels of a side to which larger images are shrunk before they are compared."""
DROPPED = "review_drop.txt"
"""The list of the flagged source examples."""
LISTED = 100
"""Rows of a list, if there are as many; all that are significant are on it."""
WRONG = 0.1
"""Share of a class whose labels may be wrong without making wrong labels usual."""
COLUMNS = ["why", "source", "target", "example", "qvalue", "flagged", "influence", "stderr", "outside", "inside"]
COLUMNS += ["path", "example_path"]
"""Of review.csv."""


@dataclass(frozen=True, kw_only=True)
class ReviewRow:
    """One source example that a person should look at; NaN where a number is unknown.

    Attributes:
        why: `copy` or `label`.
        source: number of the example.
        path: its file as seen from the source's root; None where that is not known.
        target: name of the target that the influence is on.
        qvalue: of the test that the example stands out.
        flagged: whether that is significant.
        influence: of the example.
        stderr: its standard error.
    """

    why: str
    source: int
    path: str | None = None
    target: str
    qvalue: float
    flagged: bool
    influence: float
    stderr: float


@dataclass(frozen=True, kw_only=True)
class CopyRow(ReviewRow):
    """A source example that looks like a copy of the target example with the id `example`; the influence is on that.

    example_path: its file, as `path`.
    """

    why: str = "copy"
    example: int
    example_path: str | None = None


@dataclass(frozen=True, kw_only=True)
class LabelRow(ReviewRow):
    """A source example whose label looks wrong; the influence is on the target overall.

    Attributes:
        held_out: mean probability of the label by models that did not train on the example.
        in_sample: the same by models that did.
    """

    why: str = "label"
    held_out: float = json_name("outside")
    in_sample: float = json_name("inside")


def review(
    influences: Mapping[str, xr.Dataset],
    agreement: LabelAgreement | None,
    images: Mapping[str, ImageDataset],
    fdr: float,
) -> tuple[ReviewRow, ...]:
    """Find dubious labels, those with the lowest held-out probability first, and copies, the surest first.

    Args:
        influences: by target; those on the first one are shown beside labels.
        agreement: of the models with the labels; without it, labels are not judged.
        images: the source's under "", and those of targets. Targets whose images are not at hand, are too many, or
            cannot be compared with the source's, are left out.
        fdr: q-value up to which an example is flagged.
    """
    first, dataset = next(iter(influences.items()))
    rows = _dubious_labels(agreement, first, dataset, fdr) if agreement else []
    for name in influences:
        if {"", name} <= images.keys() and len(images[""]) * len(images[name]) <= copies.PAIRS:
            rows += _copies(name, influences[name], images[""], images[name], fdr)
    return tuple(rows)


def disagreement_qvalues(agreement: LabelAgreement) -> Array:
    """Return q-values, float[examples], of the larger of two one-sided p-values of each label.

    One is that of a sign test. Its null hypothesis: half of the models that did not see the example predict its label,
    or more. Given the source, models of random subsets are independent of each other. The other judges the example
    against the models' own errors, see `surprise`: where models cannot tell a class, no label of it stands out.
    """
    correct, models = agreement.correct[0], agreement.models[0]
    return qvalues(np.maximum(binom.cdf(correct, models, 0.5), surprise(correct, models, agreement.labels)))


def surprise(correct: Array, models: Array, labels: NDArray[np.integer[Any]]) -> Array:
    """Return p-values of "so few models predict the label, as for right labels of its class", float[examples].

    Examples of a class are easy and hard, so the share of models that predict the label differs between them by more
    than chance. It is taken as beta-distributed, with the mean and the variance that it has over the class. Shares
    below the class's lowest tenth count as that here, so that a few wrong labels do not make themselves usual.

    Args:
        correct: float[examples], how many models predict the label.
        models: float[examples], of how many that did not see the example.
        labels: int[examples].
    """
    share, p = (correct + 1) / (models + 2), np.ones(len(labels))
    for label in np.unique(labels[models > 0]):
        rows = (labels == label) & (models > 0)
        usual = np.maximum(share[rows], np.quantile(share[rows], WRONG))
        mean, variance = usual.mean(), max(usual.var(), 1e-6)
        size = max(mean * (1 - mean) / variance - 1, 1e-6)
        p[rows] = beta.cdf(share[rows], mean * size, (1 - mean) * size)
    return p


def write(out: Path, rows: Sequence[ReviewRow]) -> None:
    """Write `review.csv`, and the flagged source examples as `review_drop.txt`, for subset=listed."""
    table = pd.DataFrame(to_json(rows), columns=COLUMNS).astype({"example": "Int64"})
    write_atomically(out / "review.csv", table.to_csv(index=False, lineterminator="\n").encode())
    flagged = dict.fromkeys(str(row.source) for row in rows if row.flagged)
    title = f"{len(flagged)} source examples; to train without them: subset=listed subset.drop=<this file>"
    write_names(out / DROPPED, title, flagged)


def _dubious_labels(agreement: LabelAgreement, name: str, influences: xr.Dataset, fdr: float) -> list[ReviewRow]:
    held_out, in_sample = agreement.probabilities()
    q = disagreement_qvalues(agreement)
    influence, stderr = (influences[f"{key}_overall"].values for key in ("influence", "stderr"))
    columns = {"qvalue": q, "influence": influence, "stderr": stderr, "held_out": held_out, "in_sample": in_sample}
    columns |= _paths(influences)
    return _most_suspicious(LabelRow, name, columns, held_out, fdr)


def _copies(
    name: str, influences: xr.Dataset, source: ImageDataset, target: ImageDataset, fdr: float
) -> list[ReviewRow]:
    recorded = np.flatnonzero(np.isin(target.ids.numpy(), influences["example"].values))
    target = target.select(target.ids.new_tensor(recorded))
    pixels = source.thumbnails(SIDE).numpy(), target.thumbnails(SIDE).numpy()
    if not copies.are_comparable(*pixels):
        return []
    nearest, p = copies.nearest_images(*pixels)
    ids = target.ids.numpy()[nearest]
    cells = influences.indexes["example"].get_indexer(pd.Index(ids)), np.arange(len(ids))
    influence, stderr = (influences[key].values[cells] for key in ("influence", "stderr"))
    columns = {"qvalue": qvalues(p), "influence": influence, "stderr": stderr, "example": ids}
    columns |= _paths(influences, cells[0])
    return _most_suspicious(CopyRow, name, columns, p, fdr)


def _paths(influences: xr.Dataset, examples: NDArray[np.intp] | None = None) -> dict[str, NDArray[Any]]:
    """Return columns with the paths that are known, of source examples and of target examples at these positions."""
    columns = {"path": influences["group_path"].values} if "group_path" in influences.coords else {}
    if examples is not None and "path" in influences.coords:
        columns["example_path"] = influences["path"].values[examples]
    return columns


def _most_suspicious(
    kind: Callable[..., ReviewRow], target: str, columns: Mapping[str, NDArray[Any]], score: Array, fdr: float
) -> list[ReviewRow]:
    """Return rows of the examples to list, from columns [examples]: the flagged ones first, then by rising `score`."""
    flagged = columns["qvalue"] <= fdr
    listed = np.lexsort((score, ~flagged))[: max(LISTED, int(flagged.sum()))].tolist()
    return [
        kind(
            target=target,
            source=i,
            flagged=bool(flagged[i]),
            **{key: column[i : i + 1].tolist()[0] for key, column in columns.items()},
        )
        for i in listed
    ]
