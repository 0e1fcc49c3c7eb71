"""A dataset: images in memory or stored, labels, groups, names and a fingerprint of the content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sourcewise.core.errors import SourcewiseError

if TYPE_CHECKING:  # Lightning is slow to import
    from sourcewise.lightning_modules.data import Stored


@dataclass(frozen=True)
class ImageDataset:
    """Images and what is known of them.

    images: uint8[examples, channels, height, width], or stored, each of its own size;
    labels: int64[examples], in range(len(class_names));
    ids: int64[examples], unique names of the examples that survive any selection; groups: int64[examples], in
    range(len(group_names)), what a subset keeps or removes; by default the class. columns: further values per example,
    which can serve as groups. paths: the file of each example as seen from its dataset's root, an object array with
    None where there is no file; digests: uint64[examples], equal where stored images are. Neither counts for the
    fingerprint, and both are None where they are not known.

    Raises SourcewiseError for names that a record could not be read back with.
    """

    images: Tensor | Stored
    labels: Tensor
    class_names: tuple[str, ...]
    ids: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    groups: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    group_names: Sequence[str] = ()
    fingerprint: str = ""
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    paths: NDArray[np.object_] | None = None
    digests: NDArray[np.uint64] | None = None

    def __post_init__(self) -> None:
        # Derived defaults of a frozen dataclass can only be set this way.
        if not len(self.ids):
            object.__setattr__(self, "ids", torch.arange(len(self.labels)))
        if not self.group_names:
            object.__setattr__(self, "groups", self.labels)
            object.__setattr__(self, "group_names", self.class_names)
        _check_names("class", self.class_names)
        if isinstance(self.group_names, tuple | list):  # else numbers
            _check_names("group", self.group_names)
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", self._digest())

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """Colour channels of the images."""
        return self.images.shape[1]

    @property
    def pixels(self) -> Tensor:
        """The images of a dataset that is known to be in memory."""
        assert isinstance(self.images, Tensor)
        return self.images

    def keep_groups(self, mask: NDArray[np.bool_]) -> ImageDataset:
        """Select the examples of groups that a subset `bool[groups]` keeps, in order; names and fingerprint stay."""
        return self.select(torch.from_numpy(mask)[self.groups])

    def select(self, rows: Tensor) -> ImageDataset:
        """Select examples by a bool mask or by indices `[k]`; names and fingerprint stay."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            ids=self.ids[rows],
            groups=self.groups[rows],
            columns={name: values[rows.numpy()] for name, values in self.columns.items()},
            paths=None if self.paths is None else self.paths[rows.numpy()],
            digests=None if self.digests is None else self.digests[rows.numpy()],
        )

    def thumbnails(self, side: int) -> Tensor:
        """Return the images as uint8[examples, channels, s, s], s = `side`, or less if those in memory are smaller."""
        images = self.images
        if isinstance(images, Tensor):
            larger = max(images.shape[2:]) > side
            return functional.interpolate(images, (side, side), mode="bilinear", antialias=True) if larger else images
        out = torch.empty((len(self), self.channels, side, side), dtype=torch.uint8)
        size = images.sizes.min(1, keepdim=True).values.expand(-1, 2)
        images.read(torch.arange(len(self)), torch.cat([(images.sizes - size) // 2, size], 1), out)
        return out

    def _digest(self) -> str:
        state = hashlib.sha256(repr((self.class_names, self.group_names, tuple(self.images.shape))).encode())
        images = [self.images] if isinstance(self.images, Tensor) else []  # a store brings its own fingerprint
        for tensor in (*images, self.labels, self.ids, self.groups):
            state.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        return state.hexdigest()[:16]


def _check_names(kind: str, names: Sequence[str]) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise SourcewiseError(f"{kind} {name!a}: this is not valid UTF-8; give it another name") from error
    if twice := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ():
        raise SourcewiseError(f"{kind} {min(twice)!r}: two have this name")
