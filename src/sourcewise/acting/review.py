"""Source examples to review, where every one is a group: copies of target examples, and labels that look wrong.

Records with `source.outputs` tell which labels models that did not see them refuse to believe. Copies are found in the
images: an unusual influence on one target example is weak evidence of a copy, since what is merely similar helps too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import binom
from tqdm import tqdm

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import write_whole
from sourcewise.designs.files import write_names
from sourcewise.estimation.arrays import Array, Index, Mask
from sourcewise.estimation.inference import qvalues
from sourcewise.records.record import TargetOutputs

if TYPE_CHECKING:  # torch is slow to import, and only images need it
    from sourcewise.data.dataset import ImageDataset

SIDE = 16
"""Pixels of a side to which larger images are shrunk before they are compared."""
SHIFTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
SCALES = (0.93, 1.0, 1.07)
"""How target images are moved, in pixels, and resized before they are held against the source's."""
NEAR = 5
"""The neighbour whose distance the nearest one's is held against."""
LISTED = 100
"""Rows that a list has, if there are as many; whatever is significant is on it."""
PAIRS = 2**29
"""Pairs of images that are compared at most, at 8 bytes each."""
COLUMNS = ["why", "source", "target", "example", "qvalue", "flagged", "influence", "stderr", "outside", "inside"]


class Beliefs:
    """Sums over models of what they say of source examples; rows: models that did not train on the example, and did.

    Of the models of one subset only the first counts: the others are not independent of it. models, prob (of the
    example's label) and right (how many predict it): float[2, examples].
    """

    def __init__(self, examples: int) -> None:
        self.models, self.prob, self.right = np.zeros((3, 2, examples))
        self._subsets = set[bytes]()

    def add(self, mask: Mask, outputs: TargetOutputs) -> None:
        """One more model, which kept the examples bool[examples]."""
        subset = np.packbits(mask).tobytes()
        if subset in self._subsets:
            return
        self._subsets.add(subset)
        at = mask.astype(np.intp), np.arange(len(mask))
        self.models[at] += 1
        self.prob[at] += outputs.prob
        self.right[at] += outputs.prediction == outputs.labels

    def means(self) -> Array:
        """Mean probability of the label, float[2, examples]; NaN where there is no such model."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.prob / self.models)

    def qvalues(self) -> Array:
        """Of "half of the models that do not see the example predict its label, or more": a one-sided sign test.

        Given the source, models of random subsets are independent of each other.
        """
        return qvalues(binom.cdf(self.right[0], self.models[0], 0.5))


def copies(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> tuple[Index, Array]:
    """The nearest target image of every source image, and the p-value of their being so near by chance.

    Distances are those of pixels after centring and scaling, at the best of all `SHIFTS` and `SCALES`. A copy is
    much nearer than the next neighbours. Where images lie evenly in m dimensions, (d1/dk)^m of the distances to the
    first and the k-th neighbour is the least of k - 1 uniform numbers (Facco et al., Sci. Rep. 7, 2017, for k = 2), and
    m is log 2 / median log (d2/d1). A pair's p-value is the larger of two, from what else is near either image.

    Args:
        source: uint8[sources, c, s, s].
        target: uint8[targets, c, s, s].

    Raises:
        SourcewiseError: fewer than NEAR images, or too many, or of fewer pixels a side.
    """
    if not comparable(source, target):
        shapes = " and ".join(f"{len(images):,} images of {images.shape[1:]}" for images in (source, target))
        raise SourcewiseError(f"images: {shapes} cannot be compared")
    # Moving an image does not tell what comes in at its border: that is filled with the border's median, and left out.
    inside = (..., slice(1, -1), slice(1, -1))
    pixels, distance = _scaled(source[inside]).T, np.full((len(target), len(source)), np.inf, np.float32)
    border = np.ones(target.shape[2:], np.bool_)
    border[inside] = False
    target = target - np.median(target[:, :, border], 2)[:, :, None, None].astype(np.float32)
    moves = list(product(SCALES, SHIFTS, SHIFTS))
    for scale, down, right in tqdm(moves, "search for copies", unit="", leave=False, disable=None):
        moved = _moved(target.shape[2], scale, down) @ target @ _moved(target.shape[3], scale, right).T
        np.minimum(distance, 2 - 2 * _scaled(moved[inside]) @ pixels, out=distance)
    np.sqrt(np.maximum(distance, 0), out=distance)
    nearest = distance.argmin(0)
    first, p = distance.min(0), np.zeros(len(source))
    for near, of in ((np.sort(distance, 0)[:NEAR].T, np.arange(len(source))), (np.sort(distance, 1), nearest)):
        one, two, last = np.maximum(near[:, [0, 1, NEAR - 1]].T.astype(np.float64), 1e-6)
        dimension = np.log(2) / max(float(np.median(np.log(two / one))), 1e-6)
        p = np.maximum(p, 1 - (1 - np.minimum(first / last[of], 1) ** dimension) ** (NEAR - 1))
    return nearest, p


def comparable(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> bool:
    """Whether `copies` can hold the images against each other: as large, and neither too few or small nor too many."""
    enough = min(len(source), len(target), *target.shape[2:]) >= NEAR
    return enough and source.shape[1:] == target.shape[1:] and len(source) * len(target) <= PAIRS


def _moved(side: int, scale: float, by: float) -> NDArray[np.float32]:
    """The matrix that resizes a line of pixels about its middle and moves it on: linear between them, 0 beyond."""
    middle = (side - 1) / 2
    at = (np.arange(side) - middle - by) / scale + middle
    return np.asarray(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(side))), np.float32)


def _scaled(images: NDArray[Any]) -> NDArray[np.float32]:
    rows = images.reshape(len(images), -1).astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)


def review(
    influences: Mapping[str, xr.Dataset], beliefs: Beliefs | None, images: Mapping[str, ImageDataset], fdr: float
) -> list[dict[str, Any]]:
    """Rows of `COLUMNS`: `label`s, the least believed first, and `copy`s, the surest first.

    images: the source's under "", and those of targets; compared where they are `comparable`. outside, inside: mean
    probability of a label by models that did not see it, and did. A copy's influence is on its target example, a
    label's on the first target overall.
    """
    rows = []
    if beliefs is not None:
        name, dataset = next(iter(influences.items()))
        outside, inside = beliefs.means()
        effect = {key: dataset[f"{key}_overall"].values for key in ("influence", "stderr")}
        columns = {"outside": outside, "inside": inside, **effect}
        rows += _rows({"why": "label", "target": name}, outside, beliefs.qvalues(), fdr, columns)
    both = [name for name in influences if {"", name} <= images.keys()]
    for name in [name for name in both if len(images[""]) * len(images[name]) <= PAIRS]:
        known = np.flatnonzero(np.isin(images[name].ids.numpy(), influences[name]["example"].values))
        target = images[name].select(images[name].ids.new_tensor(known))
        both_sides = images[""].thumbnails(SIDE).numpy(), target.thumbnails(SIDE).numpy()
        if not comparable(*both_sides):
            continue
        nearest, p = copies(*both_sides)
        ids = target.ids.numpy()[nearest]
        at = influences[name].indexes["example"].get_indexer(pd.Index(ids)), np.arange(len(p))
        effect = {key: influences[name][key].values[at] for key in ("influence", "stderr")}
        rows += _rows({"why": "copy", "target": name}, p, qvalues(p), fdr, {"example": ids, **effect})
    return rows


def _rows(
    about: Mapping[str, str], order: Array, q: Array, fdr: float, columns: Mapping[str, NDArray[Any]]
) -> list[dict[str, Any]]:
    """By rising `order`, the significant ones first."""
    table = {"source": np.arange(len(q)), "qvalue": q, "flagged": q <= fdr, **columns}
    chosen = np.lexsort((order, ~table["flagged"]))[: max(LISTED, int(table["flagged"].sum()))].tolist()
    rows = [{key: values[at].item() for key, values in table.items()} for at in chosen]
    return [{**about, **{key: v if v == v else None for key, v in row.items()}} for row in rows]


def write(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """`review.csv`, and the flagged source examples as `review_drop.txt`, for subset=listed."""
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"example": "Int64"})
    write_whole(out / "review.csv", table.to_csv(index=False, lineterminator="\n").encode())
    flagged = dict.fromkeys(str(row["source"]) for row in rows if row["flagged"])
    about = f"{len(flagged)} source examples; to train without them: subset=listed subset.drop=<this file>"
    write_names(out / "review_drop.txt", about, flagged)
