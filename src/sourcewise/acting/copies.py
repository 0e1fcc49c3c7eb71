"""Images that are nearer to each other than chance would have it, by their pixels."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import Array, Index

SHIFTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
SCALES = (0.93, 1.0, 1.07)
"""How target images are moved, in pixels, and resized before they are compared with the source's."""
NEAR = 5
"""The neighbour with whose distance that of the nearest is compared."""
PAIRS = 2**29
"""Pairs of images that are compared at most, at 8 bytes each."""


def nearest_images(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> tuple[Index, Array]:
    """Find the nearest target image of every source image, and the p-value of their being so near by chance.

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
    if not are_comparable(source, target):
        shapes = " and ".join(f"{len(images):,} images of {images.shape[1:]}" for images in (source, target))
        raise SourcewiseError(f"images: {shapes} cannot be compared")
    # What a move brings in at the border is not known: it is filled with the border's median, and left out.
    inner = (..., slice(1, -1), slice(1, -1))
    pixels, distance = _scaled(source[inner]).T, np.full((len(target), len(source)), np.inf, np.float32)
    border = np.ones(target.shape[2:], np.bool_)
    border[inner] = False
    target = target - np.median(target[:, :, border], 2)[:, :, None, None].astype(np.float32)
    moves = list(product(SCALES, SHIFTS, SHIFTS))
    for scale, down, right in tqdm(moves, "search for copies", unit="", leave=False, disable=None):
        moved = _moved(target.shape[2], scale, down) @ target @ _moved(target.shape[3], scale, right).T
        np.minimum(distance, 2 - 2 * _scaled(moved[inner]) @ pixels, out=distance)
    np.sqrt(np.maximum(distance, 0), out=distance)
    nearest = distance.argmin(0)
    first, p = distance.min(0), np.zeros(len(source))
    for near, place in ((np.sort(distance, 0)[:NEAR].T, np.arange(len(source))), (np.sort(distance, 1), nearest)):
        closest, second, last = np.maximum(near[:, [0, 1, NEAR - 1]].T.astype(np.float64), 1e-6)
        dimension = np.log(2) / max(float(np.median(np.log(second / closest))), 1e-6)
        p = np.maximum(p, 1 - (1 - np.minimum(first / last[place], 1) ** dimension) ** (NEAR - 1))
    return nearest, p


def are_comparable(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> bool:
    """Return whether images can be compared: of one size, and neither too few or small nor too many."""
    enough = min(len(source), len(target), *target.shape[2:]) >= NEAR
    return enough and source.shape[1:] == target.shape[1:] and len(source) * len(target) <= PAIRS


def _moved(side: int, scale: float, shift: float) -> NDArray[np.float32]:
    """Return the matrix that resizes a line of pixels about its middle and shifts it: linearly, with 0 outside."""
    middle = (side - 1) / 2
    position = (np.arange(side) - middle - shift) / scale + middle
    return np.asarray(np.maximum(0, 1 - np.abs(position[:, None] - np.arange(side))), np.float32)


def _scaled(images: NDArray[Any]) -> NDArray[np.float32]:
    rows = images.reshape(len(images), -1).astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6), np.float32)
