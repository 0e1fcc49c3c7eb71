"""Groups: what a subset keeps or removes, as a pure function of a dataset and one setting."""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError, did_you_mean
from sourcewise.core.messages import first_names
from sourcewise.data.dataset import ImageDataset

MAPPINGS = (".yaml", ".yml", ".json", ".csv")


class Numbers(Sequence[str]):
    """The names "0", "1", ... of groups that are examples: made when asked for, so that a million of them cost nothing.

    >>> Numbers(3)[-1], list(Numbers(2))
    ('2', ['0', '1'])
    """

    def __init__(self, size: int) -> None:
        self._numbers = range(size)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        return list(map(str, self._numbers[at])) if isinstance(at, slice) else str(self._numbers[at])


def regroup(dataset: ImageDataset, groups: str) -> ImageDataset:
    """Return the same examples in other groups, all of which have examples; with `class`, in the dataset's own.

    Args:
        dataset: a dataset whose groups are its classes.
        groups: `class`; `example`, every example a group of its own, named by its number; a YAML, JSON or CSV file from
            class name to group name; a .npy file with an id (a number or a name) per example; or one of the dataset's
            columns.

    Raises:
        SourcewiseError: when the setting is none of these, or the file does not fit the dataset.
    """
    if groups == "class":
        return _without_empty(dataset)
    if groups == "example":
        return _grouped(dataset, torch.arange(len(dataset)).numpy(), Numbers(len(dataset)))
    if groups in dataset.columns:
        return _by_id(dataset, dataset.columns[groups])
    kind = Path(groups).suffix.lower()
    if kind not in (*MAPPINGS, ".npy"):
        choices = ["class", "example", *dataset.columns]
        raise SourcewiseError(
            f"source.groups={groups}: choose {', '.join(choices)}, a file from class to group name"
            f" ({', '.join(MAPPINGS)}) or a .npy file of ids{did_you_mean(groups, choices)}"
        )
    try:
        if kind == ".npy":
            return _by_id(dataset, _ids(groups, len(dataset)))
        mapping = _mapping(Path(groups))
    except (OSError, ValueError, EOFError, yaml.YAMLError) as error:
        raise SourcewiseError(f"source.groups={groups}: cannot be read ({error})") from error
    if missing := [name for name in dataset.class_names if name not in mapping]:
        classes = first_names(missing, show=repr)
        raise SourcewiseError(f"source.groups={groups}: it has no group for the classes {classes}")
    names = list(dict.fromkeys(mapping[name] for name in dataset.class_names))
    group_of_class = np.array([names.index(mapping[name]) for name in dataset.class_names])
    return _without_empty(_grouped(dataset, group_of_class[dataset.labels.numpy()], names))


def _without_empty(dataset: ImageDataset) -> ImageDataset:
    """Return the dataset without the groups that have no examples; nothing could be learned of their effect."""
    groups = dataset.groups.numpy()
    kept = np.bincount(groups, minlength=len(dataset.group_names)) > 0
    if kept.all():
        return dataset
    names = [name for name, keep in zip(dataset.group_names, kept, strict=True) if keep]
    return _grouped(dataset, np.cumsum(kept)[groups] - 1, names)


def _by_id(dataset: ImageDataset, ids: NDArray[Any]) -> ImageDataset:
    names, groups = np.unique(ids, return_inverse=True)
    return _grouped(dataset, groups, tuple(map(str, names.tolist())))


def _grouped(dataset: ImageDataset, groups: NDArray[np.intp], names: Sequence[str]) -> ImageDataset:
    state = hashlib.sha256(dataset.fingerprint.encode())
    state.update(np.ascontiguousarray(groups, dtype=np.int64).tobytes())
    if not isinstance(names, Numbers):
        state.update(repr(tuple(names)).encode())
    ids, digest = torch.from_numpy(groups).long(), state.hexdigest()[:16]
    return replace(dataset, groups=ids, group_names=names, columns={}, fingerprint=digest)


def _ids(path: str, examples: int) -> NDArray[Any]:
    ids: NDArray[Any] = np.load(path, allow_pickle=False)
    if ids.shape != (examples,) or ids.dtype.kind not in "iuU":
        raise SourcewiseError(
            f"source.groups={path}: holds {ids.dtype}{list(ids.shape)};"
            f" it must hold a whole number or a name for each of the {examples} examples"
        )
    return ids


def _mapping(path: Path) -> dict[str, str]:
    text = path.read_text(encoding="utf-8-sig")
    pairs: Iterable[Sequence[Any]]
    if path.suffix.lower() == ".csv":
        pairs = [row[:2] for row in csv.reader(text.splitlines()) if len(row) > 1]
    else:
        content = yaml.load(text, yaml.BaseLoader)  # noqa: S506  # JSON is YAML; this loader makes strings only: no is "no"
        pairs = content.items() if isinstance(content, dict) else []
    if not pairs or not all(isinstance(group, str) for _, group in pairs):
        raise ValueError("it should map every class name to a group name")
    return {str(name): str(group) for name, group in pairs}
