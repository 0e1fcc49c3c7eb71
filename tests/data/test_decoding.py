"""JPEGs of stores are decoded as Pillow decodes them, by a package that may be missing; old stores are read."""

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sourcewise.core.errors import SourcewiseError
from sourcewise.data import decoding
from sourcewise.data.loaders import Folder
from sourcewise.data.store import Listing, Store, prepared

TOLERANCE = 2
"""Levels of 255 by which the standard lets decoders differ; those of libjpeg-turbo agree to the bit."""


def jpeg(image: Image.Image, **settings: object) -> Tensor:
    file = io.BytesIO()
    image.save(file, "JPEG", **settings)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def by_pillow(encoded: Tensor) -> NDArray[np.int64]:
    """Pixels `[channels, height, width]`."""
    pixels = np.asarray(Image.open(io.BytesIO(encoded.numpy().tobytes()))).astype(int)
    return np.moveaxis(pixels.reshape((*pixels.shape[:2], -1)), 2, 0)


def photograph(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(width).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (37, 53), (333, 120)])
@pytest.mark.parametrize("settings", [{"quality": 50}, {"quality": 90}, {"subsampling": 0}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pixels_are_those_of_pillow(size: tuple[int, int], settings: dict[str, object], mode: str) -> None:
    encoded = jpeg(photograph(*size).convert(mode), **settings)
    decoded = decoding.decode(encoded)
    assert decoded.dtype == torch.uint8
    assert decoded.shape == (len(mode), size[1], size[0])
    assert np.abs(decoded.numpy().astype(int) - by_pillow(encoded)).max() <= TOLERANCE


def test_turned_and_transparent_images_are_read_upright_and_on_white(tmp_path: Path) -> None:
    """As Pillow shows them: the decoder, which minds EXIF too, turns nothing a second time."""
    (tmp_path / "a").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter clockwise
    left_black = Image.new("RGB", (60, 30), "white")
    left_black.paste("black", (0, 0, 30, 30))
    left_black.save(tmp_path / "a" / "1.jpg", exif=turned, quality=100)
    Image.new("RGBA", (40, 50), (0, 0, 0, 0)).save(tmp_path / "a" / "2.png")
    images = Folder(str(tmp_path)).listing()
    store = prepared(lambda: images, str(tmp_path / "s.arrow"), side=30).images
    assert isinstance(store, Store)
    assert store.sizes.tolist() == [[60, 30], [37, 30]]
    top_black, white = (decoding.decode(store.encoded(row)).float() for row in range(2))
    assert [list(image.shape[1:]) for image in (top_black, white)] == store.sizes.tolist()
    assert top_black[:, :28].max() < 8
    assert top_black[:, 32:].min() > 247
    assert white.min() > 247


def test_a_store_of_2026_is_read(tmp_path: Path) -> None:
    """It was made when torchvision decoded; whoever changes stores has to read it still."""

    def never() -> Listing:
        raise AssertionError

    path = tmp_path / "store.arrow"
    shutil.copy(ROOT / "tests/data/store_of_2026.arrow", path)
    dataset = prepared(never, str(path), side=16)
    assert (dataset.fingerprint, dataset.labels.tolist()) == ("3bd7179ad9666ecd", [0, 1, 0])
    store = dataset.images
    assert isinstance(store, Store)
    assert store.sizes.tolist() == [[16, 24], [16, 32], [16, 40]]
    out = torch.empty(3, 3, 16, 16, dtype=torch.uint8)
    store.read(torch.arange(3), torch.tensor([[0, 4, 16, 16], [0, 0, 16, -16], [0, 0, 16, 40]]), out)
    for row, found in enumerate(out.double()):
        for half, colour in ((found[:, :7], [200, 40, 90]), (found[:, 9:], [20, 160 - 40 * row, 220])):
            assert (half - torch.tensor(colour)[:, None, None]).abs().max() < 12  # of a JPEG


def test_where_torchcodec_is_missing_or_does_not_load_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding._decoder.cache_clear()
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    try:
        with pytest.raises(SourcewiseError, match=r"^torchcodec.* cannot be imported \(.+\); install") as raised:
            decoding.decode(jpeg(photograph(8, 8)))
    finally:
        decoding._decoder.cache_clear()
    assert "\n" not in str(raised.value)
