"""What a user should know of the data before hours of training: empty classes, names nearly alike, and copies."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sourcewise.core.messages import first_names
from sourcewise.data.dataset import ImageDataset

SHOWN = 5
"""Names and pairs of images in a line."""

_NOTES: dict[tuple[str, ...], list[str]] = {}
"""The lines of `notes` in this process, which may do many runs of the same data, by names and fingerprints."""


def notes(source: ImageDataset, targets: Mapping[str, Sequence[ImageDataset]]) -> list[str]:
    """Return a line for each thing that may not be meant.

    Args:
        source: the source.
        targets: training and test images of each target, by its name.
    """
    datasets = [source, *(dataset for parts in targets.values() for dataset in parts)]
    key = (*targets, *(dataset.fingerprint for dataset in datasets))
    if key not in _NOTES:
        _NOTES[key] = _notes(source, targets)
    return _NOTES[key]


def _notes(source: ImageDataset, targets: Mapping[str, Sequence[ImageDataset]]) -> list[str]:
    empty = _empty_classes(source)
    be = "is" if len(empty) == 1 else "are"
    lines = [f"source: no images of {first_names(empty, SHOWN, repr)}, which {be} left out"] if empty else []
    lines += [f"source: {pair}" for pair in _nearly_alike(source.class_names)]
    for name, (train, test) in targets.items():
        lines += [f"target {name}: {line}" for line in _target_notes(source, train, test)]
    return lines


def _target_notes(source: ImageDataset, train: ImageDataset, test: ImageDataset) -> Iterator[str]:
    yield from _nearly_alike(test.class_names)
    untrained = _empty_classes(train)
    untested = [name for name in _empty_classes(test) if name not in untrained]
    if untested:
        names = first_names(untested, SHOWN, repr)
        yield f"all images of {names} train, and none are left to test; take fewer by train.per_class"
    for originals, phrase in ((train, "training images too"), (source, "in the source too")):
        if pairs := copies(test, originals):
            shown = ", ".join(f"{_place(test, row)} (there {_place(originals, copy)})" for row, copy in pairs[:SHOWN])
            yield f"{len(pairs)} of {len(test)} test images are {phrase}: {shown}{', ...' * (len(pairs) > SHOWN)}"


def copies(dataset: ImageDataset, originals: ImageDataset) -> list[tuple[int, int]]:
    """Return the rows of images that the originals have too, each with its first row there.

    Stored images are compared, byte by byte; images in memory that come from no store are not.
    """
    if dataset.digests is None or originals.digests is None:
        return []
    digests, first = np.unique(originals.digests, return_index=True)
    place = np.searchsorted(digests, dataset.digests).clip(max=len(digests) - 1)
    rows = np.flatnonzero(digests[place] == dataset.digests)
    return [(int(row), int(first[place[row]])) for row in rows]


def counts(dataset: ImageDataset) -> list[tuple[str, int]]:
    """Return the name of every class with its number of images."""
    numbers = dataset.labels.bincount(minlength=len(dataset.class_names)).tolist()
    return list(zip(dataset.class_names, numbers, strict=True))


def _empty_classes(dataset: ImageDataset) -> list[str]:
    return [name for name, count in counts(dataset) if count == 0]


def _nearly_alike(names: Sequence[str]) -> Iterator[str]:
    """Yield a line for names that differ in spaces, the form of characters or, if longer than one letter, in case."""
    alike: dict[str, list[str]] = {}
    for name in names:
        plain = " ".join(unicodedata.normalize("NFKC", name).split())
        alike.setdefault(plain.casefold() if len(plain) > 1 else plain, []).append(name)
    for group in alike.values():
        if len(group) > 1:
            yield f"the classes {first_names(group, SHOWN, repr)} have nearly the same name; are they one?"


def _place(dataset: ImageDataset, row: int) -> str:
    path = None if dataset.paths is None else dataset.paths[row]
    return path or f"image {int(dataset.ids[row])} of {dataset.class_names[int(dataset.labels[row])]}"
