"""Stored images: what is written and read back, which part of them, and batches made of them."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import cache_folder
from sourcewise.data import ImageDataset, store
from sourcewise.data.decoding import decode
from sourcewise.data.store import Listing, Store, prepared
from sourcewise.lightning_modules.augmentation import Cutout, Flip, Translate
from sourcewise.lightning_modules.classification import Optimisation
from sourcewise.lightning_modules.crops import CentreCrop, Progressive, RandomResizedCrop
from sourcewise.lightning_modules.data import Batch, Batches, Examples, Normalise
from sourcewise.training.hardware import Hardware
from sourcewise.training.models import small_cnn
from sourcewise.training.run import Run
from sourcewise.training.settings import Source, Target
from sourcewise.training.transfers import Fixed

NAMES = ("a", "b", "c")


def picture(row: int) -> Image.Image:
    """Smooth, coloured by class, each of another size."""
    rng = np.random.default_rng(row)
    small = rng.integers(0, 80, (4, 4, 3), dtype=np.uint8)
    small[..., row % 3] += 150
    return Image.fromarray(small).resize((24 + row % 7, 40 - row % 11), Image.Resampling.BICUBIC)


def listing(count: int = 30, open_: Callable[[int], Image.Image] = picture) -> Listing:
    return Listing(open_, np.arange(count) % 3, NAMES)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    return prepared(listing, str(tmp_path_factory.mktemp("store") / "a.arrow"), side=20)


@pytest.mark.parametrize("schema", [store.SCHEMA, store.SCHEMA + 1])
def test_a_fingerprint_is_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema: int) -> None:
    """Whatever a store's own format becomes, data that stay the same keep the fingerprint that records have."""

    def flat(row: int) -> Image.Image:
        return Image.fromarray(np.full((8, 8, 3), row * 20, np.uint8))

    monkeypatch.setattr(store, "SCHEMA", schema)
    made = prepared(lambda: listing(6, flat), str(tmp_path / "a.arrow"), 8, "raw")
    assert made.fingerprint == "1465071c220cc21e"


def test_a_store_holds_the_images_resized(dataset: ImageDataset) -> None:
    assert dataset.class_names == NAMES
    assert dataset.labels.tolist() == [row % 3 for row in range(30)]
    for row in (0, 7, 29):
        decoded = decode(dataset.images.encoded(row))
        expected = functional.resize(functional.pil_to_tensor(picture(row)), [20], antialias=True)
        assert decoded.shape == expected.shape
        assert dataset.images.sizes[row].tolist() == list(expected.shape[1:])
        assert (decoded.float() - expected.float()).abs().mean() < 6  # a JPEG of quality 90


def test_it_is_made_once_and_read_again(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "b.arrow")
    one = prepared(listing, path, side=20)

    def never() -> Listing:
        raise AssertionError

    two = prepared(never, path, side=20)
    assert two.fingerprint == one.fingerprint
    assert torch.equal(two.images.encoded(5), one.images.encoded(5))
    assert prepared(lambda: listing(29), str(tmp_path / "c"), side=20).fingerprint != one.fingerprint
    with pytest.raises(SourcewiseError, match=r"made with {'side': 20}, not {'side': 24}"):
        prepared(never, path, side=24)
    Path(path).write_bytes(Path(path).read_bytes()[:-100])
    with pytest.raises(SourcewiseError, match="not a whole store"):
        prepared(never, path, side=20)


def test_broken_images_are_an_error_or_are_left_out_and_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def torn(row: int) -> Image.Image:
        file = io.BytesIO()
        picture(row).save(file, "PNG")
        return Image.open(io.BytesIO(file.getvalue()[: 60 if row in (4, 9) else None]))

    with pytest.raises(SourcewiseError, match="image 4 of 30 is broken"):
        prepared(lambda: listing(30, torn), str(tmp_path / "a"), side=20)
    assert [path.name for path in tmp_path.iterdir()] == [".a.lock"]
    found = prepared(lambda: listing(30, torn), str(tmp_path / "a"), side=20, broken="skip")
    assert found.ids.tolist() == [row for row in range(30) if row not in (4, 9)]
    assert found.labels.tolist() == [row % 3 for row in found.ids.tolist()]
    assert "2 of 30 images are broken" in capfd.readouterr().err


def test_small_images_are_kept_as_they_are(tmp_path: Path) -> None:
    found = prepared(listing, str(tmp_path / "raw"), side=12, format="raw")
    assert found.images.shape == (30, 3, 12, 12)
    whole = functional.pil_to_tensor(functional.resize(picture(8), [12]))
    top, left = (whole.shape[1] - 12) // 2, (whole.shape[2] - 12) // 2  # torchvision rounds halves to even
    assert torch.equal(found.images[8], whole[:, top : top + 12, left : left + 12])
    grey = prepared(listing, str(tmp_path / "grey"), side=12, format="raw", channels=1)
    assert grey.channels == 1


def test_reading_is_torchvision_s_resized_crop(dataset: ImageDataset) -> None:
    store = dataset.images
    rows = torch.tensor([3, 0, 17])
    boxes = torch.tensor([[1, 2, 15, 10], [0, 0, 20, 20], [4, 4, 9, -13]])  # the last one mirrored
    out = torch.empty(3, 3, 16, 16, dtype=torch.uint8)
    store.read(rows, boxes, out)
    for row, box, found in zip(rows.tolist(), boxes.tolist(), out, strict=True):
        whole, (*corner, width) = decode(store.encoded(row)), box
        expected = functional.resized_crop(whole, *corner, abs(width), [16, 16], antialias=True)
        assert torch.equal(found, expected.flip(-1) if width < 0 else expected)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**30))
def test_boxes_lie_within_the_image(height: int, width: int, seed: int) -> None:
    sizes, generator = torch.tensor([[height, width]] * 20), torch.Generator().manual_seed(seed)
    for crop in (CentreCrop(), RandomResizedCrop(), RandomResizedCrop(scale=(1, 1))):
        top, left, rows, columns = crop(sizes, generator).T
        assert min(top.min(), left.min()) >= 0
        assert min(rows.min(), columns.min()) >= 1
        assert (top + rows).max() <= height
        assert (left + columns).max() <= width
    plain, mirrored = (
        RandomResizedCrop(flip=flip)(sizes, torch.Generator().manual_seed(seed)) for flip in (False, True)
    )
    assert torch.equal(plain, mirrored.abs())


@pytest.mark.parametrize("size", [(256, 256), (256, 400), (300, 60)])
def test_random_crops_are_distributed_as_torchvision_s(size: tuple[int, int]) -> None:
    count = 2000
    ours = RandomResizedCrop()(torch.tensor([size] * count), torch.Generator().manual_seed(0)).numpy()
    image = torch.empty(3, *size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array(
            [v2.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
            if hasattr(v2.RandomResizedCrop, "get_params")
            else [list(v2.RandomResizedCrop(8).make_params([image]).values()) for _ in range(count)]
        )
    mirrored = RandomResizedCrop(flip=True)(torch.tensor([size] * count), torch.Generator().manual_seed(0))[:, 3] < 0
    assert 0.45 < mirrored.float().mean() < 0.55
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3


def test_progressive_resizing_is_ffcv_s() -> None:
    side = Progressive(160, 192, 11, 13)
    expected = [int(np.round(np.interp(epoch, [11, 13], [160, 192]) / 32)) * 32 for epoch in range(16)]
    assert [side(epoch) for epoch in range(16)] == expected == [160] * 12 + [192] * 4


def batches(dataset: ImageDataset, **options: object) -> list[Batch]:
    examples = Examples(dataset.images, dataset.labels, dataset.ids)
    defaults = {
        "order_seed": 1,
        "augmentation": (Flip(), Translate(1), Cutout(3)),
        "crop": RandomResizedCrop(),
        "resolution": Progressive(8, 16, 1, 2, step=8),
    }
    return list(Batches(examples, 12, Normalise([0.5] * 3, [0.25] * 3), **{**defaults, **options}))


def test_batches_depend_on_seed_and_epoch_alone(dataset: ImageDataset) -> None:
    one, two, other = batches(dataset), batches(dataset, threads=3), batches(dataset, augmentation_seed=1)
    for a, b, c in zip(one, two, other, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.ids, c.ids)
        assert not torch.equal(a.inputs, c.inputs)
    assert [batch.inputs.shape[-1] for batch in batches(dataset, epoch=2)] == [16, 16, 16]
    assert [batch.inputs.shape[-1] for batch in one] == [8, 8, 8]


def test_processes_take_parts_of_every_batch(dataset: ImageDataset) -> None:
    parts = [batches(dataset, rank=rank, processes=2) for rank in range(2)]
    for whole, *both in zip(batches(dataset), *parts, strict=True):
        assert torch.equal(whole.inputs, torch.cat([part.inputs for part in both]))
        assert torch.equal(whole.ids, torch.cat([part.ids for part in both]))


def test_a_subset_reads_its_own_images_alone(dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encoded = Store.encoded
    monkeypatch.setattr(
        Store, "encoded", lambda store, row: (seen.append(int(store._rows[row])), encoded(store, row))[1]
    )
    batches(dataset.keep_groups(np.array([False, True, False])))
    assert sorted(seen) == list(range(1, 30, 3))


def test_an_abandoned_epoch_stops_decoding(dataset: ImageDataset) -> None:
    examples = Examples(dataset.images, dataset.labels, dataset.ids)
    iterator = iter(Batches(examples, 2, Normalise([0.5] * 3, [0.25] * 3), order_seed=1, resolution=8))
    next(iterator)
    iterator.close()


def parts(dataset: ImageDataset) -> tuple[Source, Target]:
    recipe = {"epochs": 2, "batch_size": 10, "lr": 0.05}
    source = Source(
        "s",
        dataset,
        Normalise([0.5] * 3, [0.25] * 3),
        Optimisation(**recipe),
        augmentation=[Flip()],
        crop=RandomResizedCrop((0.5, 1)),
        resolution=Progressive(8, 16, 0, 1, step=8),
    )
    return source, Target(dataset, dataset, Fixed(**recipe), resolution=16)


def outputs(source: Source, target: Target) -> tuple[np.ndarray, dict[str, float]]:
    run = Run(source, {"t": target}, small_cnn, Hardware(), {"design": "full"}, 0)
    engine = run.engine()
    found, scores = run.transfer(engine, run.pretrain(engine), "t")
    assert found.ids.tolist() == list(range(30))
    return found.margin.astype(np.float32), scores


def test_a_run_on_stored_images(dataset: ImageDataset, capfd: pytest.CaptureFixture[str]) -> None:
    source, target = parts(dataset)
    cached, _ = outputs(source, target)
    assert np.array_equal(cached, outputs(source, target)[0])
    assert capfd.readouterr().err == ""
    # A crop that does what the centre crop does, but does not say so.
    plain, _ = outputs(source, replace(target, crop=lambda sizes, generator: CentreCrop()(sizes, generator)))
    np.testing.assert_allclose(cached, plain, atol=5e-3)
    assert "target t: the backbone runs in every epoch" in capfd.readouterr().err
    outputs(source, replace(target, crop=RandomResizedCrop()))
    assert capfd.readouterr().err == ""  # said once


def test_views_that_do_not_fit_are_one_clear_line(dataset: ImageDataset) -> None:
    source, _ = parts(dataset)
    with pytest.raises(SourcewiseError, match="set resolution"):
        replace(source, resolution=None)
    memory = ImageDataset(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.arange(3), NAMES)
    with pytest.raises(SourcewiseError, match="crop is for stored images"):
        replace(source, train=memory)


@pytest.mark.parametrize("built", ["a string", 3, [print]])
def test_what_builds_no_augmentations_is_one_clear_line(dataset: ImageDataset, built: object) -> None:
    source, target = parts(dataset)
    with pytest.raises(SourcewiseError, match="source .*: augmentation is a list of"):
        replace(source, augmentation=built)
    with pytest.raises(SourcewiseError, match="target: augmentation is a list of"):
        replace(target, augmentation=built)


def test_images_in_memory_are_resized_after_augmentation() -> None:
    memory = ImageDataset(torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8), torch.zeros(5).long(), NAMES)
    (small,), (large,) = (batches(memory, crop=None, resolution=side) for side in (None, 24))
    assert torch.equal(large.inputs, functional.resize(small.inputs, [24, 24], antialias=True))


def test_a_user_without_a_home_is_told_where_stores_can_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    file = cache_folder() / "a.arrow"
    with pytest.raises(
        SourcewiseError, match=r"a\.arrow: cannot be made \(.*cache_dir of source\.train, or by XDG_CACHE_HOME"
    ):
        prepared(pytest.fail, str(file), side=8)
