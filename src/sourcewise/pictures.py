"""Thumbnails of examples: as data URIs, for a page that is one file, and as arrays."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # torch is slow to import, and only images need it
    from sourcewise.data import ImageDataset

SIDE = 64
"""Pixels of a side to which larger images are shrunk."""
SMALL = 16
"""Images of so few pixels a side are kept as they are (PNG); others become JPEGs."""
BYTES = 4_000_000
"""What all thumbnails of a page may take; further examples go by their ids."""


@dataclass(frozen=True)
class Picture:
    """One example: uint8[height, width] or [height, width, 3], what it is called, and its class."""

    pixels: NDArray[np.uint8]
    name: str
    label: str

    @property
    def alternative(self) -> str:
        """The text for those who do not see it."""
        return f"{self.name}, class {self.label}"

    @property
    def sharp(self) -> bool:
        """Whether to enlarge it by repeating pixels."""
        return len(self.pixels) <= SIDE // 2

    @cached_property
    def uri(self) -> str:
        """The image itself, as a URI."""
        from PIL import Image  # slow to import

        kind, file = "png" if max(self.pixels.shape) <= SMALL else "jpeg", io.BytesIO()
        Image.fromarray(self.pixels).save(file, kind, quality=85)
        return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass
class Album:
    """Pictures of the examples of datasets, by the names of targets, and "" for the source; each is made once."""

    images: Mapping[str, ImageDataset] = field(default_factory=dict)
    left: int = BYTES
    _made: dict[tuple[str, int], Picture | None] = field(default_factory=dict)

    def __call__(self, name: str, example: int) -> Picture | None:
        """The picture of an example by its id, or of the source by its number; None where there is none to be shown."""
        dataset = self.images.get(name)
        if dataset is None or dataset.channels not in (1, 3) or self.left <= 0:
            return None
        if (name, example) not in self._made:
            self._made[name, example] = _picture(dataset, name, example)
        found = self._made[name, example]
        self.left -= len(found.uri) if found else 0
        return found


def _picture(dataset: ImageDataset, name: str, example: int) -> Picture | None:
    rows = np.flatnonzero(dataset.ids.numpy() == example) if name else np.arange(len(dataset))[example : example + 1]
    if not len(rows):
        return None
    one = dataset.select(dataset.labels.new_tensor(rows))
    pixels = one.thumbnails(SIDE, cut=True)[0].permute(1, 2, 0).numpy()
    pixels = pixels[:, :, 0] if dataset.channels == 1 else pixels
    return Picture(pixels, f"{name or 'source'} example {example}", dataset.class_names[int(one.labels[0])])
