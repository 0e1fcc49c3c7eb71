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

THUMBNAIL_SIDE = 64
"""Pixels of a side to which larger images are shrunk."""
BYTES = 4_000_000
"""Size of all pictures of a page; when it is used up, further examples are shown by their ids alone."""


@dataclass(frozen=True)
class Picture:
    """The thumbnail of one example.

    pixels: uint8[height, width] or uint8[height, width, 3]. uri: the same image as a data URI. name: a description.
    label: the name of the example's class.
    """

    pixels: NDArray[np.uint8]
    uri: str
    name: str
    label: str

    def large(self) -> NDArray[np.uint8]:
        """Return the pixels, those of a small picture repeated so that it is about THUMBNAIL_SIDE pixels high."""
        times = max(THUMBNAIL_SIDE // len(self.pixels), 1)
        return self.pixels.repeat(times, 0).repeat(times, 1)


@dataclass
class Album:
    """The pictures of a page, which are made when a section asks for them, until BYTES are used up.

    images: datasets by the name of the target, and that of the source under "". budget: bytes that are left for URIs.
    missing: whether a section asked for an example of a dataset that is not here.
    """

    images: Mapping[str, ImageDataset] = field(default_factory=dict)
    budget: int = BYTES
    missing: bool = False

    def __call__(self, target: str, example: int) -> Picture | None:
        """Return the picture of a target's example by its id, or, for the target "", of a source example by its number.

        Return None if its dataset is not here, holds no such example or no images, or if the budget is used up.
        """
        dataset = self.images.get(target)
        self.missing |= dataset is None
        if dataset is None or dataset.channels not in (1, 3) or self.budget <= 0:
            return None
        rows = np.flatnonzero((dataset.ids if target else np.arange(len(dataset))) == example)
        if not len(rows):
            return None
        from PIL import Image  # slow to import

        selected = dataset.select(dataset.labels.new_tensor(rows))
        pixels = selected.thumbnails(THUMBNAIL_SIDE)[0].permute(1, 2, 0).numpy()
        pixels = pixels[:, :, 0] if dataset.channels == 1 else pixels
        kind, file = "png" if max(pixels.shape) <= 16 else "jpeg", io.BytesIO()  # a tiny PNG is smaller, and exact
        Image.fromarray(pixels).save(file, kind, quality=85)
        uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
        self.budget -= len(uri)
        label = dataset.class_names[int(selected.labels[0])]
        return Picture(pixels, uri, f"{target or 'source'} example {example}, class {label}", label)
