"""What real folders hold besides images: junk, links in circles, other kinds of files; and when files are read again."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.messages import print_once
from sourcewise.data import ImageDataset, pictures
from sourcewise.data.load import load
from sourcewise.data.loaders import Folder, HuggingFace, Loader, Memory, Mixture, Table, Torchvision


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    print_once.cache_clear()
    yield tmp_path / "cache" / "sourcewise"
    pictures.readable.cache_clear()


def small(loader: Loader, **settings: Any) -> ImageDataset:
    return load(loader, side=8, format="raw", **settings)


def paint(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "ab":
        for number in range(3):
            paint(tmp_path / "data" / name / f"{number}.png", 100 + number)
    return tmp_path / "data"


def classes(dataset: ImageDataset) -> dict[str, int]:
    counts = dataset.labels.bincount(minlength=len(dataset.class_names)).tolist()
    return dict(zip(dataset.class_names, counts, strict=True))


def test_junk_is_passed_over_and_other_files_are_counted(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for junk in (
        "__MACOSX/a/0.png",
        "@eaDir/0.png",
        "a/.ipynb_checkpoints/0-checkpoint.png",
        "b/@eaDir/x.png",
        "a/._0.png",
    ):
        paint(root / junk, 1)
    for name in ("a/Thumbs.db", "a/.DS_Store", "a/notes.txt", "b/notes.txt", "b/film.mp4", "b/README"):
        (root / name).write_text("x")
    paint(root / "loose.png", 1)
    assert classes(small(Folder(str(root)))) == {"a": 3, "b": 3}
    said = capfd.readouterr().err
    assert (
        f"{root}: passed over 2 .txt, 2 @eaDir, 1 .DS_Store, 1 ._*, 1 .ipynb_checkpoints, 1 .mp4, 1 Thumbs.db, 1 __MACOSX"
        in said
    )
    assert f"{root}: 1 images lie in no class folder and are left out" in said
    assert set(small(Folder(str(root), nested=True)).class_names) == {"a", "b"}


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JFIF", "avif"])
def test_all_that_pillow_reads_is_read(root: Path, suffix: str) -> None:
    paint(root / "c" / "x.jpg", 50).rename(root / "c" / f"x.{suffix}")
    assert classes(small(Folder(str(root)))) == {"a": 3, "b": 3, "c": 1}


def test_heic_is_read_where_there_is_a_decoder(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    pictures.readable.cache_clear()
    paint(root / "c" / "x.png", 50).rename(root / "c" / "x.heic")
    assert classes(small(Folder(str(root)))) == {"a": 3, "b": 3, "c": 0}
    assert "passed over 1 .heic (HEIC needs pip install pillow-heif)" in capfd.readouterr().err

    def register() -> None:
        monkeypatch.setitem(Image.EXTENSION, ".heic", "PNG")

    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    pictures.readable.cache_clear()
    assert classes(small(Folder(str(root)))) == {"a": 3, "b": 3, "c": 1}


def test_an_image_that_is_heic_under_another_name_says_what_it_needs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    pictures.readable.cache_clear()
    (root / "b" / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(SourcewiseError, match=r"photo.jpg: .* \(HEIC needs pip install pillow-heif\); .*broken=skip"):
        small(Folder(str(root)))
    (root / "b" / "photo.jpg").write_bytes(b"neither")
    with pytest.raises(SourcewiseError, match=r"photo.jpg: .* \(cannot identify image file\)"):
        small(Folder(str(root)))


def test_links_in_circles_are_not_entered(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (root / "a" / "all").symlink_to("..")
    (root / "b" / "up").symlink_to(root.parent)
    (root / "latest").symlink_to("b")
    (root / "b" / "lost.png").symlink_to("gone.png")
    found = small(Folder(str(root)), broken="skip")
    assert classes(found) == {"a": 3, "b": 3, "latest": 3}
    said = capfd.readouterr().err
    assert f"{root}: a/all is a link to a folder that it lies in, and is not entered" in said
    assert f"{root}: b/up is a link to a folder that it lies in, and is not entered" in said
    assert f"{root}: latest is a link to b: their images count twice" in said
    with pytest.raises(SourcewiseError, match=r"/b/lost.png: this image cannot be opened \(No such file"):
        small(Folder(str(root)))


def test_links_to_folders_elsewhere_are_followed(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        (tmp_path / "linked" / name).mkdir(parents=True)
        (tmp_path / "linked" / name / "photos").symlink_to(root / name)
    (tmp_path / "linked" / "c").symlink_to(root / "a")
    found = small(Folder(str(tmp_path / "linked")))
    assert classes(found) == {"a": 3, "b": 3, "c": 3}
    assert "c is a link to a/photos" in capfd.readouterr().err or "a/photos is a link to c" in capfd.readouterr().err


def test_a_root_one_level_too_high_is_noticed(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    high = tmp_path / "photos"
    high.mkdir()
    root.rename(high / "source")
    for name in "xy":
        paint(high / "target" / name / "0.png", 90)
    small(Folder(str(high)))
    assert (
        f"{high}: its classes (source, target) hold folders of images only, such as source/a" in capfd.readouterr().err
    )
    small(Folder(str(high), nested=True))
    paint(high / "target" / "0.png", 90)
    small(Folder(str(high)))
    assert "folders of images only" not in capfd.readouterr().err


def test_every_image_has_its_path(root: Path, tmp_path: Path) -> None:
    found = small(Folder(str(tmp_path), "data"))
    assert list(found.paths) == [f"data/{name}/{i}.png" for name in "ab" for i in range(3)]
    assert list(found.select(found.labels == 1).paths) == ["data/b/0.png", "data/b/1.png", "data/b/2.png"]
    taken = small(Folder(str(root)), per_class=1)
    for path, image in zip(taken.paths, taken.images, strict=True):
        assert (image == 100 + int(Path(path).stem)).all()
    (root / "a" / "0.png").write_bytes(b"")
    assert list(small(Folder(str(root)), broken="skip").paths)[:2] == ["a/1.png", "a/2.png"]
    paint(root / "a" / "0.png", 100)
    (tmp_path / "t.csv").write_text("path,label\nb/1.png,x\na/2.png,y\n")
    assert list(small(Table(str(tmp_path), "t.csv", folder="data")).paths) == ["data/b/1.png", "data/a/2.png"]
    memory = Memory(ImageDataset(found.images, found.labels, found.class_names))
    assert small(memory).paths is None
    mixed = small(Mixture({"one": Folder(str(tmp_path), "data"), "two": memory}))
    assert list(mixed.paths) == [*found.paths, *[None] * 6]


def test_paths_and_stamps_do_not_change_the_fingerprint(root: Path, tmp_path: Path) -> None:
    first = small(Folder(str(root))).fingerprint
    for path in sorted(root.rglob("*.png")):
        os.utime(path, ns=(1, 1))
    assert small(Folder(str(root))).fingerprint == first
    root.rename(tmp_path / "moved")
    (tmp_path / "moved" / "a" / "0.png").rename(tmp_path / "moved" / "a" / "00.png")
    found = small(Folder(str(tmp_path / "moved")))
    assert (found.fingerprint, found.paths[0]) == (first, "a/00.png")


@pytest.mark.parametrize("kind", ["folder", "nested", "table", "torchvision"])
def test_an_image_replaced_under_its_own_name_is_read_again(root: Path, tmp_path: Path, kind: str) -> None:
    loaders: dict[str, Loader] = {
        "folder": Folder(str(root)),
        "nested": Folder(str(tmp_path), nested=True, folder="data"),
        "table": Table(str(tmp_path), "t.csv", folder="data"),
        "torchvision": Torchvision("ImageFolder", str(root), [{}], labels="targets"),
    }
    (tmp_path / "t.csv").write_text("path,label\na/0.png,x\nb/0.png,y\n")
    loader, image = loaders[kind], root / "a" / "0.png"
    before = loader.stamp()
    assert small(loader).images[0].unique().tolist() == [100]
    folder_time = image.parent.stat().st_mtime_ns
    paint(image, 200)
    os.utime(image.parent, ns=(folder_time, folder_time))
    assert loader.stamp() != before
    assert small(loader).images[0].unique().tolist() == [200]
    before = loader.stamp()
    os.utime(image, ns=(5, 5))
    assert loader.stamp() != before


def deep(path: Path, low: int, high: int, dtype: type = np.uint16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.linspace(low, high, 64).reshape(8, 8).astype(dtype)).save(path)


@pytest.mark.parametrize(
    ("suffix", "dtype", "top", "bits"),
    [
        ("png", np.uint16, 4095, 12),
        ("tif", np.int32, 255, 8),
        ("tif", np.int32, 100_000, 17),
        ("png", np.uint16, 65535, 16),
        ("png", np.uint16, 20_000, 16),
    ],
)
def test_numbers_of_more_than_eight_bits_are_read_by_the_range_in_use(
    tmp_path: Path, suffix: str, dtype: type, top: int, bits: int, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    deep(root / "a" / f"0.{suffix}", 0, top // 40, dtype)  # a dark one is dark beside the others
    deep(root / "a" / f"1.{suffix}", 0, top // 40, dtype)
    deep(root / "b" / f"1.{suffix}", 0, top, dtype)
    paint(root / "b" / "2.png", 30)
    found = small(Folder(str(root)), channels=1)
    for image, largest in zip(found.images, (top // 40, top // 40, top), strict=False):
        expected = np.linspace(0, largest, 64).astype(np.int64).reshape(8, 8) // 2 ** (bits - 8)
        assert image[0].tolist() == expected.tolist()
    assert (found.images[3] == 30).all()
    said = f"hold numbers up to {top}; they are taken as {bits}-bit images"
    assert (said in capfd.readouterr().err) == (bits != 16)
    # The images that a split takes do not change the rule.
    for rest in (False, True):  # one of the two lacks the largest number
        part = small(Folder(str(root)), channels=1, per_class=1, rest=rest)
        assert part.images[0].max() == found.images[0].max()


def test_a_black_dataset_is_noticed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        paint(tmp_path / "data" / "ab"[i % 2] / f"{i}.png", 90 * (i == 2))
    small(Folder(str(tmp_path / "data")))
    assert "2 of 3 images are nearly black: 99% of their values are below 16 of 255" in capfd.readouterr().err


def test_hugging_face_says_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))

    def folder(name: str, *files: str) -> str:
        for i, file in enumerate(files):
            paint(tmp_path / name / file, 50 + i)
        return str(tmp_path / name)

    some = folder("some", *(f"{c}/{'train_' * (i == 0)}{i}.png" for c in "ab" for i in range(4)))
    found = small(HuggingFace(some))
    assert (classes(found), list(found.paths)) == ({"a": 1, "b": 1}, ["a/train_0.png", "b/train_0.png"])
    assert f"{some}: 6 of 8 image files are in no split: where some are called like a split" in capfd.readouterr().err
    splits = folder("splits", *(f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in range(2)))
    assert classes(small(HuggingFace(splits, split="test"))) == {"a": 2, "b": 2}
    said = capfd.readouterr().err
    assert f"{splits}: 4 images of split test are taken; not taken: 4 of train" in said
    assert "in no split" not in said
    called = folder("called", *(f"{c}/{i}.png" for c in ("train", "cat") for i in range(2)))
    with pytest.raises(SourcewiseError, match=r"no column label; there are image; is a folder called like a split, or"):
        small(HuggingFace(called))
