"""Opens files of images: upright, in grey or colour, on white; and numbers of more than 8 bits made 8 bits."""

import functools
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .gif .ppm .pgm .tif .tiff .webp .avif .heic .heif".split()  # noqa: SIM905
)
"""Files that are images, if there is a decoder for them: see `readable`."""

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners give."""


@functools.cache
def readable() -> frozenset[str]:
    """Return the suffixes of SUFFIXES that can be decoded here: HEIC only where pillow-heif is installed."""
    from PIL import Image  # slow to import, and only needed here

    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN) & SUFFIXES


def is_picture(file: str) -> bool:
    """Return whether a file can be read as an image, by its name."""
    return suffix(file) in readable()


def suffix(file: str) -> str:
    """Return the suffix of a file's name in lower case, with its dot; for millions of files, Path is slow."""
    return os.path.splitext(file)[1].lower()  # noqa: PTH122


def open_image(path: str | Path) -> "Image":
    """Open an image file as `picture` does. Raises OSError, with its path first, for one that is broken."""
    from PIL import Image, UnidentifiedImageError  # slow to import, and only needed here

    formats = readable()  # whatever its suffix says, the file may be of any of them
    try:
        with Image.open(path) as image:
            return picture(image)
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, UnidentifiedImageError) and ".heic" not in formats and _is_heic(path):
            reason = "HEIC needs pip install pillow-heif"
        raise OSError(f"{path}: this image cannot be opened ({reason.replace(f' {str(path)!r}', '')})") from error


def _is_heic(path: str | Path) -> bool:
    """Return whether a file begins as those of cameras and telephones that save HEIC."""
    with Path(path).open("rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc")


def picture(image: "Image | None") -> "Image":
    """Return the image decoded and upright: grey (L), colour (RGB), or numbers of more than 8 bits (I).

    Transparent pixels become white. Raises ValueError for no image, and for floating-point pixels, which have no agreed
    range.
    """
    from PIL import Image, ImageOps  # slow to import, and only needed here

    if image is None:
        raise ValueError("there is no image")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        return Image.fromarray(np.asarray(image).astype(np.int64).clip(0, 2**31 - 1).astype(np.int32))
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(mode)


def depth(largest: int) -> int:
    """Return the bits of the numbers of a dataset whose largest is this: the fewest of DEPTHS that hold it, or its own.

    >>> depth(255), depth(4000), depth(65535), depth(100_000)
    (8, 12, 16, 17)
    """
    return next((bits for bits in DEPTHS if largest < 2**bits), largest.bit_length())


def eight_bit(image: "Image", bits: int) -> "Image":
    """Return an image of `bits` (I) in grey (L): of each number the 8 highest bits."""
    from PIL import Image  # slow to import, and only needed here

    values: NDArray[Any] = np.asarray(image)
    return Image.fromarray((values >> (bits - 8)).astype(np.uint8))


def is_dark(image: "Image") -> bool:
    """Return whether an 8-bit image is nearly black: 99 of 100 values are below 16."""
    counts = np.reshape(image.histogram(), (-1, 256)).sum(0)
    return bool(counts[:16].sum() >= 0.99 * counts.sum())
