"""The embedded default: handwritten digits and rendered letters at 8x8 pixels, with no download.

scikit-learn's digits are cut in two halves: the first belongs to the source, the second to the target. Letters are
rendered with seeded jitter from the fonts that matplotlib ships, the way the digits were made: a 32x32 bitmap, summed
over 4x4 blocks. Everything is cached in a file named by the hash of what it was made from.
"""

import functools
import hashlib
import string
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from sourcewise.core.files import cache_folder, write_atomically
from sourcewise.core.randomness import ranks, uniform
from sourcewise.data.dataset import ImageDataset

SIDE = 8
BLOCK = 4
FONTS = (
    "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSansMono.ttf",
    "DejaVuSansMono-Oblique.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Italic.ttf", "STIXGeneral.ttf", "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf", "cmb10.ttf", "cmr10.ttf", "cmss10.ttf", "cmtt10.ttf",
)  # fmt: skip

Arrays = dict[str, NDArray[np.uint8]]


@functools.cache
def characters(per_letter: NonNegativeInt = 90) -> ImageDataset:
    """Return the source `characters`: 10 classes of handwritten digits, and 26 of `per_letter` rendered capitals."""
    images, labels = _digits("first")
    if not per_letter:
        return ImageDataset(images, labels, tuple(string.digits))
    letters = _letters(per_letter)
    letter_labels = torch.arange(10, 36).repeat_interleave(per_letter)
    return ImageDataset(
        images=torch.cat([images, letters]),
        labels=torch.cat([labels, letter_labels]),
        class_names=tuple(string.digits + string.ascii_uppercase),
    )


@functools.cache
def digits(split: Literal["train", "test"], per_class: int = 5) -> ImageDataset:
    """Return the target `digits`: `per_class` training examples of each digit, the rest for testing."""
    images, labels = _digits("second")
    train = torch.from_numpy(ranks("digits/split", labels.numpy()) < per_class)
    return ImageDataset(images, labels, tuple(string.digits)).select(train if split == "train" else ~train)


def _digits(half: Literal["first", "second"]) -> tuple[Tensor, Tensor]:
    def load() -> Arrays:
        from sklearn.datasets import load_digits  # slow to import, and needed only the first time

        bunch = load_digits()
        return {"images": bunch.images.astype(np.uint8), "labels": bunch.target.astype(np.uint8)}

    arrays = _cached("digits", version("scikit-learn"), load)
    middle = len(arrays["labels"]) // 2
    rows = slice(0, middle) if half == "first" else slice(middle, None)
    images = torch.from_numpy(arrays["images"][rows]).unsqueeze(1)
    return _stretch(images), torch.from_numpy(arrays["labels"][rows]).long()


def _letters(count: int) -> Tensor:
    def load() -> Arrays:
        return {"images": np.stack([_render(letter, i) for letter in string.ascii_uppercase for i in range(count)])}

    content = hashlib.sha256()
    for name in FONTS:
        content.update(_font_path(name).read_bytes())
    made_from = f"{count}/{version('pillow')}/{content.hexdigest()}"
    return _stretch(torch.from_numpy(_cached("letters", made_from, load)["images"]).unsqueeze(1))


def _stretch(counts: Tensor) -> Tensor:
    """Return block sums from 0 to 16 in the full range of uint8, `[n, 1, 8, 8]`."""
    return (counts.float() * (255 / BLOCK**2)).round().to(torch.uint8)


def _render(letter: str, index: int) -> NDArray[np.uint8]:
    """Draw a letter `uint8[8, 8]`, 0 to 16: a random font, then random slant, rotation, size and place."""
    from PIL import Image, ImageDraw

    font, slant, angle, width, height, right, down, weight = uniform(f"letter/{letter}/{index}", 8)
    big = 128
    canvas = Image.new("L", (big, big))
    face = _font(FONTS[int(font * len(FONTS))], 80)
    ImageDraw.Draw(canvas).text((big / 2, big / 2), letter, 255, face, "mm", stroke_width=int(7 * weight))
    left, top, end, bottom = canvas.getbbox() or (0, 0, big, big)
    side = SIDE * BLOCK
    # Inverse map, output pixel to canvas pixel: the glyph's box goes to a box of the digits' usual size.
    turn = np.deg2rad(24 * (angle - 0.5))
    shear = 0.5 * (slant - 0.5)
    down_scale = (bottom - top) / (26 + 6 * height)
    right_scale = max((end - left) / (18 + 10 * width), 0.6 * down_scale)  # a narrow I stays narrow
    scale = np.diag([right_scale, down_scale])
    linear = scale @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [[1, shear], [0, 1]]
    centre = np.array([left + end, top + bottom]) / 2
    offset = centre - linear @ (side / 2 + 3 * np.array([right - 0.5, down - 0.5]))
    matrix = np.column_stack([linear, offset]).ravel().tolist()
    bitmap = canvas.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    ink = np.asarray(bitmap) > 127
    counts: NDArray[np.uint8] = ink.reshape(SIDE, BLOCK, SIDE, BLOCK).sum((1, 3)).astype(np.uint8)
    return counts


@functools.cache
def _font(name: str, size: int):  # type: ignore[no-untyped-def]  # PIL is imported only when something is rendered
    from PIL import ImageFont

    return ImageFont.truetype(str(_font_path(name)), size)


def _font_path(name: str) -> Path:
    from matplotlib import get_data_path

    return Path(get_data_path()) / "fonts" / "ttf" / name


def _cached(name: str, made_from: str, load: Callable[[], Arrays]) -> Arrays:
    """Return the arrays of `load`, from the cache if they are in it. A cache that cannot be written is no error."""
    key = hashlib.sha256(f"1/{name}/{made_from}".encode()).hexdigest()[:16]
    path = cache_folder() / f"{name}-{key}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        arrays = load()
    with suppress(OSError):
        write_atomically(path, save(arrays))
    return arrays
