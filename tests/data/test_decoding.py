"""JPEGs of stores are decoded as Pillow decodes them, by a package that may be missing; old stores are read."""

import io
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, compose_config
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.names import study_name
from sourcewise.data import decoding
from sourcewise.data.loaders import Folder
from sourcewise.data.store import Listing, Store, prepared
from sourcewise.lightning_modules.data import Batches, Examples, Normalise
from sourcewise.training.hardware import Hardware

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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    listing = Listing(lambda row: photograph(60 + row, 50), [0, 1, 0], ("a", "b"))
    found = prepared(lambda: listing, str(tmp_path_factory.mktemp("store") / "s.arrow"), side=50).images
    assert isinstance(found, Store)
    return found


BOXES = torch.tensor([[0, 3, 40, 30], [10, 0, 12, -16], [0, 0, 50, 60]])
"""One of them is mirrored, and one made smaller."""


def differences(store: Store, other: Tensor) -> NDArray[np.int64]:
    expected = torch.empty(3, 3, 16, 16, dtype=torch.uint8)
    store.read(torch.arange(3), BOXES, expected)
    return np.abs(other.cpu().numpy().astype(int) - expected.numpy())


def test_what_a_gpu_does_with_decoded_images_is_the_same(store: Store) -> None:
    """Here the processor does all of it, as a GPU would: torch resizes bytes in whole numbers, and floats."""
    out = torch.empty(3, 16, 16, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    decoding.read_on_gpu([store.encoded(row) for row in range(3)], BOXES, out)
    assert differences(store, out).max() <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_decodes_what_the_processor_decodes(store: Store) -> None:
    for mode in (torch.inference_mode(), torch.enable_grad()):
        with mode:
            out = torch.empty(3, 16, 16, 3, dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
            with ThreadPoolExecutor(1) as pool:  # which knows no mode of its caller's
                pool.submit(store.read, torch.arange(3), BOXES, out).result()
            found = differences(store, out)
        assert found.mean() < 2
        assert found.max() < 24  # decoders enlarge the colour's planes in different ways


def test_a_device_that_decodes_nothing_is_one_clear_line(store: Store) -> None:
    with pytest.raises(SourcewiseError, match=r"^trainer\.decoding=gpu: meta decodes no images \(.+\)$"):
        store.read(torch.arange(3), BOXES, torch.empty(3, 3, 16, 16, dtype=torch.uint8, device="meta"))


@pytest.mark.parametrize("on_device", [False, True])
def test_batches_are_read_on_the_device_where_the_trainer_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch, on_device: bool
) -> None:
    outs: list[Tensor] = []
    monkeypatch.setattr(Store, "read", lambda store, rows, boxes, out: outs.append(out))
    labels = torch.zeros(20, dtype=torch.int64, device="meta")
    examples = Examples(store[torch.arange(20) % 3], labels, labels)
    made = list(Batches(examples, 12, Normalise([0.5] * 3, [0.25] * 3), resolution=16, decode_on_device=on_device))
    assert [batch.inputs.device.type for batch in made] == ["meta", "meta"]
    assert {out.device.type for out in outs} == {"meta" if on_device else "cpu"}
    assert sorted(len(out) for out in outs) == ([10, 10] if on_device else [2, 2, 8, 8])


def test_decoding_on_a_gpu_needs_one_and_is_another_recipe() -> None:
    with pytest.raises(SourcewiseError, match=r"^trainer\.decoding=gpu: trainer\.accelerator=cpu is no GPU"):
        Hardware(decoding="gpu")
    cpu, gpu, other = (
        study_name(compose_config("trainer=gpu", *more))
        for more in ((), ("trainer.decoding=gpu",), ("trainer.threads=2",))
    )
    assert cpu == other != gpu


def test_where_torchcodec_is_missing_or_does_not_load_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    decoding._decoder.cache_clear()
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    try:
        with pytest.raises(SourcewiseError, match=r"^torchcodec.* cannot be imported \(.+\); install") as raised:
            decoding.decode(jpeg(photograph(8, 8)))
    finally:
        decoding._decoder.cache_clear()
    assert "\n" not in str(raised.value)
