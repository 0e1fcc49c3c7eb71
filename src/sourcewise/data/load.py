"""From a loader to a dataset: which images are used, and the store that keeps them, named by all that decides it."""

import functools
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt

from sourcewise.core.errors import WORKER, SourcewiseError
from sourcewise.core.files import cache_folder
from sourcewise.core.hashing import fingerprint
from sourcewise.core.randomness import ranks
from sourcewise.data.dataset import ImageDataset
from sourcewise.data.groups import regroup
from sourcewise.data.loaders import Loader
from sourcewise.data.store import SCHEMA, Format, Listing, open_store, prepared

_STAMPS: dict[str, str] = {}
"""Stamps of this worker process by the loaders' reprs."""


def load(
    dataset: Loader,
    side: PositiveInt,
    num_classes: PositiveInt | None = None,
    format: Format = "jpeg",
    channels: Literal[1, 3] = 3,
    quality: Annotated[int, Interval(ge=1, le=100)] = 90,
    broken: Literal["error", "skip"] = "error",
    per_class: PositiveFloat | None = None,
    rest: bool = False,
    cache_dir: str | None = None,
) -> ImageDataset:
    """Return the dataset in its store, which is made first if it is missing, or if the data on disk have changed.

    Args:
        dataset: lists the images.
        side: see `store.prepared`, as are format, channels, quality and broken.
        num_classes: the number of classes that there must be; null: any.
        format: `raw` keeps images in memory, `jpeg` decodes them again and again.
        channels: 3, or 1 for grey.
        quality: of JPEGs.
        broken: `error`, or `skip` to leave out images that cannot be opened, and to count them.
        per_class: the number of images to take from each class, or their share if below 1, the same on every machine.
            null: all.
        rest: take the other images: {per_class: 30} and {per_class: 30, rest: true} split a folder that has no split.
        cache_dir: the folder of stores; null: the cache of this user.

    Raises:
        SourcewiseError: when the data are missing, broken or none are left.
    """
    settings = [SCHEMA, repr(dataset), _stamp(dataset), num_classes, side, format, channels, quality, broken]
    settings += [per_class, rest]
    name = f"{type(dataset).__name__.lower()}-{fingerprint(settings, length=16)}.arrow"
    path = Path(cache_dir or cache_folder()) / name

    def listing() -> Listing:
        images, origin = dataset.listing(), _origin(dataset)
        if num_classes and len(images.class_names) != num_classes:
            raise SourcewiseError(f"{origin}: it has {len(images.class_names)} classes; there should be {num_classes}")
        if (low := int(np.min(np.asarray(images.labels), initial=0))) < 0:
            raise SourcewiseError(f"{origin}: images with label {low}; images that have no label cannot be used")
        chosen = images if per_class is None else _chosen(images, per_class, rest)
        if not len(chosen.labels):
            reason = f": per_class={per_class} takes all for the other part; set it to fewer" * (len(images.labels) > 0)
            raise SourcewiseError(f"{origin}: no image is left{reason}")
        return replace(chosen, origin=origin)

    if not path.exists():
        prepared(listing, str(path), side, format, channels, quality, broken)
    return _cached_store(path)


def stored(fingerprint: str | None, groups: str = "class") -> ImageDataset | None:
    """Return the dataset of this fingerprint if its store is in the cache of this user, else None.

    groups: its groups, `class` or `example`; a fingerprint holds them.
    """
    for path in sorted(cache_folder().glob("*.arrow")):
        with suppress(SourcewiseError):
            if (dataset := regroup(open_store(path, {"schema": SCHEMA}), groups)).fingerprint == fingerprint:
                return dataset
    return None


def _origin(dataset: Loader) -> str:
    """Return where a loader's images are from, in words: its kind and its place."""
    parts = getattr(dataset, "parts", None)
    if isinstance(parts, Mapping):
        return ", ".join(map(_origin, parts.values()))
    root, *below = (getattr(dataset, name, None) or "" for name in ("root", "folder", "file"))
    return " ".join([type(dataset).__name__, *([str(Path(root, *below).absolute())] if root else [])])


def _stamp(dataset: Loader) -> str:
    """Return the loader's stamp; a worker of a sweep, which does many runs of the same data, asks for it once."""
    if WORKER not in os.environ:
        return dataset.stamp()
    if (key := repr(dataset)) not in _STAMPS:
        _STAMPS[key] = dataset.stamp()
    return _STAMPS[key]


@functools.lru_cache(maxsize=32)
def _cached_store(path: Path) -> ImageDataset:
    """Return the dataset of a store, opened once in a process that does many runs."""
    return open_store(path, {"schema": SCHEMA})


def _chosen(listing: Listing, per_class: float, rest: bool) -> Listing:
    """Return the images that `per_class` takes, or the other ones, in their order."""
    labels = np.asarray(listing.labels)
    limit = np.round(per_class * np.bincount(labels))[labels] if per_class < 1 else per_class
    rows: NDArray[np.intp] = np.flatnonzero((ranks("per_class", labels) < limit) != rest)
    return replace(
        listing,
        open=lambda row: listing.open(int(rows[row])),
        labels=labels[rows],
        columns={name: np.asarray(values)[rows] for name, values in listing.columns.items()},
        paths=listing.paths and [listing.paths[row] for row in rows],
        parent=listing,
    )
