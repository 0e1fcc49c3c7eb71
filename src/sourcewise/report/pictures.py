"""Thumbnails of examples: as data URIs, for a page that is one file, and as arrays."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # torch is slow to import, and only images need it
    from sourcewise.data import ImageDataset

SIDE = 64
"""Pixels of a side to which larger images are shrunk."""
BYTES = 4_000_000
"""What all pictures of a page may take; further examples go by their ids."""


@dataclass(frozen=True)
class Picture:
    """One example: uint8[height, width] or [height, width, 3], the same as a URI, in words, and its class alone."""

    pixels: NDArray[np.uint8]
    uri: str
    name: str
    label: str

    def large(self) -> NDArray[np.uint8]:
        """The pixels, of a small picture each several times."""
        times = max(SIDE // len(self.pixels), 1)
        return self.pixels.repeat(times, 0).repeat(times, 1)


@dataclass
class Album:
    """Pictures of the examples of datasets, by the names of targets, and "" for the source.

    left: bytes of URIs. missing: whether some were asked for of datasets that are not at hand.
    """

    images: Mapping[str, ImageDataset] = field(default_factory=dict)
    left: int = BYTES
    missing: bool = False

    def __call__(self, name: str, example: int) -> Picture | None:
        """The picture of an example by its id, or of the source by its number; None where there is none to be shown."""
        dataset = self.images.get(name)
        self.missing |= dataset is None
        if dataset is None or dataset.channels not in (1, 3) or self.left <= 0:
            return None
        rows = np.flatnonzero((dataset.ids if name else np.arange(len(dataset))) == example)
        if not len(rows):
            return None
        from PIL import Image  # slow to import

        one = dataset.select(dataset.labels.new_tensor(rows))
        pixels = one.thumbnails(SIDE)[0].permute(1, 2, 0).numpy()
        pixels = pixels[:, :, 0] if dataset.channels == 1 else pixels
        kind, file = "png" if max(pixels.shape) <= 16 else "jpeg", io.BytesIO()  # so small, a PNG is smaller, and exact
        Image.fromarray(pixels).save(file, kind, quality=85)
        uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
        self.left -= len(uri)
        label = dataset.class_names[int(one.labels[0])]
        return Picture(pixels, uri, f"{name or 'source'} example {example}, class {label}", label)
