"""Datasets from folders, tables, Hugging Face and torchvision, mixed, split, and with all that is wrong with real ones."""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from conftest import ROOT, compose_config
from PIL import Image

from sourcewise.commands import dry_run as rehearsal
from sourcewise.core.errors import SourcewiseError
from sourcewise.data import ImageDataset, embedded, regroup
from sourcewise.data.load import load
from sourcewise.data.loaders import Folder, HuggingFace, Loader, Memory, Mixture, Table, Torchvision


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sourcewise"


def paint(path: Path, shade: int, side: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (shade, shade, shade)).save(path)
    return path


def folder(root: Path, **classes: int) -> Path:
    """A folder of so many images of each class, class i of shade 20 i + number of the image."""
    for i, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            paint(root / name / f"{number:03}.png", 20 * i + number)
    return root


def shades(dataset: ImageDataset) -> list[int]:
    return dataset.images[:, 0, 0, 0].tolist()


def small(loader: Loader, **settings: Any) -> ImageDataset:
    return load(loader, side=8, format="raw", **settings)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", cat=2, empty=0, eel=1)
    paint(root / "cat" / "deep" / "x.JPG", 9)
    paint(root / "cat" / "._x.png", 99)
    paint(root / ".hidden" / "x.png", 99)
    (root / "cat" / "notes.txt").write_text("no image")
    found = small(Folder(str(root)))
    assert found.class_names == ("cat", "eel", "empty")
    assert (found.labels.tolist(), shades(found)) == ([0, 0, 0, 1], [0, 1, 9, 40])


def test_a_folder_s_classes_may_be_nested_listed_and_named(tmp_path: Path) -> None:
    for i, place in enumerate(("b/bar/1", "a/abbey/1", "a/abbey/2")):
        paint(tmp_path / "SUN" / f"{place}.png", i)
    (tmp_path / "list.txt").write_text("/b/bar/1.png\n\n/a/abbey/2.png\n")
    (tmp_path / "names.txt").write_text("a/abbey Crane, bird\nb/bar Crane, bird\n")
    found = small(Folder(str(tmp_path), "SUN", nested=True, only="list.txt", names="names.txt"))
    assert found.class_names == ("Crane, bird (a/abbey)", "Crane, bird (b/bar)")
    assert shades(found) == [2, 0]
    (tmp_path / "list.txt").write_text("b/bar/1.png\nb/bar/7.png\n")
    with pytest.raises(SourcewiseError, match=r"list.txt: 1 of its 2 images are not there, such as b/bar/7.png"):
        small(Folder(str(tmp_path), "SUN", nested=True, only="list.txt"))


def test_unicode_and_very_long_paths(tmp_path: Path) -> None:
    deep = tmp_path / "データ" / "/".join(["x" * 120] * 8) / ("é" * 100)
    paint(deep / "Straße 🐟" / ("ü" * 100 + ".png"), 7)
    found = small(Folder(str(deep)))
    assert (found.class_names, shades(found)) == (("Straße 🐟",), [7])


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_table_of_paths(tmp_path: Path, kind: str) -> None:
    rows = [("a b/1.png", "10", "x", "train"), ("2.png", "9", "NA", "train"), ("3.png", "9", "x", "test")]
    for i, row in enumerate(rows):
        paint(tmp_path / "pictures" / row[0], i)
    table = pd.DataFrame(rows, columns=["path", "label", "camera", "split"])
    if kind == "parquet":
        table.to_parquet(tmp_path / "t.parquet")
    else:
        table.to_csv(tmp_path / f"t.{kind}", sep="," if kind == "csv" else "\t", index=False)
    whole = Table(str(tmp_path), f"t.{kind}", folder="pictures")
    found = regroup(small(whole), "camera")
    assert (found.class_names, found.labels.tolist()) == (("9", "10"), [1, 0, 0])
    assert (found.group_names, found.groups.tolist()) == (("NA", "x"), [1, 0, 1])
    part = small(Table(str(tmp_path), f"t.{kind}", folder="pictures", where={"split": "test"}))
    assert (part.class_names, part.labels.tolist(), shades(part)) == (("9", "10"), [0], [2])


@pytest.mark.parametrize("name", ["id", "label", "width", "image", "column x"])
def test_a_column_may_have_any_name(tmp_path: Path, name: str) -> None:
    for i in range(3):
        paint(tmp_path / f"{i}.png", i)
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(3)], "what": ["a", "b", "a"], name: ["x", "y", "y"]})
    table.to_csv(tmp_path / "t.csv", index=False)
    for style in ("raw", "jpeg"):
        found = regroup(load(Table(str(tmp_path), "t.csv", label="what"), side=8, format=style), name)
        assert (found.labels.tolist(), found.groups.tolist()) == ([0, 1, 0], [0, 1, 1])


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(pd.to_datetime(["2020-01-01", None, "2021-05-05"])),
        pd.Series([1, None, 2], dtype="Int64"),
        pd.Series(["long", None, "b"], dtype="category"),
        pd.Series(["long", None, "b"]),
    ],
)
def test_what_a_table_misses_is_a_group_of_its_own(tmp_path: Path, values: "pd.Series[Any]") -> None:
    for i in range(3):
        paint(tmp_path / f"{i}.png", i)
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(3)], "label": ["a", "b", "a"], "of": values})
    table.to_parquet(tmp_path / "t.parquet")
    found = regroup(small(Table(str(tmp_path), "t.parquet")), "of")
    first, last = str(values[0]).removesuffix(" 00:00:00"), str(values[2]).removesuffix(" 00:00:00")
    assert [found.group_names[i] for i in found.groups.tolist()] == [first, "", last]


def test_one_label_of_many(tmp_path: Path) -> None:
    for i in range(3):
        paint(tmp_path / f"{i}.png", i)
    (tmp_path / "t.csv").write_text("path,label\n0.png,Mass|Effusion\n1.png,No Effusion\n2.png,Effusion\n")
    (tmp_path / "only.txt").write_text("2.png\n0.png\n")
    found = small(Table(str(tmp_path), "t.csv", positive="Effusion"))
    assert (found.class_names, found.labels.tolist()) == (("no Effusion", "Effusion"), [1, 0, 1])
    assert shades(small(Table(str(tmp_path), "t.csv", only="only.txt"))) == [0, 2]


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (Folder("missing", obtain="Get it."), r"missing: there is no such folder; expected missing/<class>/.*Get it\."),
        (Folder("empty"), "it holds no folders with images"),
        (Folder("splits"), r"splits: its folders \(test, train\) are splits, not classes; set folder to one; expected"),
        (Table(".", "missing.csv", obtain="Get it."), r"missing.csv: No such file or directory\. Get it\."),
        (Table(".", "t.csv", path="file"), "t.csv: no column file; there are path, label"),
        (Table(".", "t.csv"), "t.csv: 1 rows have no label"),
        (Table(".", "t.parquet"), "t.parquet: cannot be read"),
        (Table(".", "u.csv", where={"path": "z"}), r"^Table /\S*/u.csv: no image is left"),
        (Torchvision("Food101", ".", [{}], obtain="Get it."), r"torchvision's Food101: Dataset not found\. Get it\.$"),
        (HuggingFace("empty"), "empty: no Hugging Face dataset with split train"),
    ],
)
def test_what_is_missing_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: Loader, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    folder(Path("splits"), train=1, test=1)
    Path("t.csv").write_text("path,label\na.png,x\nb.png,\n")
    Path("u.csv").write_text("path,label\na.png,x\n")
    Path("t.parquet").write_text("torn")
    with pytest.raises(SourcewiseError, match=message):
        small(loader)


def test_hugging_face_folders(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "eel"]), camera=datasets.Value("int64")
    )
    images = [Image.new("L", (8, 8), shade) for shade in (1, 2, 3)]
    made = datasets.Dataset.from_dict({"image": images, "label": [1, 0, 1], "camera": [7, 7, 5]}, features)
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=made).save_to_disk(str(tmp_path / "splits"))
    for name in ("one", "splits"):
        found = small(HuggingFace(str(tmp_path / name)))
        assert (found.class_names, found.labels.tolist(), shades(found)) == (("cat", "eel"), [1, 0, 1], [1, 2, 3])
        assert regroup(found, "camera").group_names == ("5", "7")
    with pytest.raises(SourcewiseError, match="no column picture; there are image, label, camera"):
        small(HuggingFace(str(tmp_path / "one"), image="picture"))
    with pytest.raises(SourcewiseError, match="camera must be a column of images, label one of labels"):
        small(HuggingFace(str(tmp_path / "one"), image="camera"))
    torn = datasets.Dataset.from_dict({"image": [images[0], None], "label": [1, 0], "camera": [7, None]}, features)
    torn.save_to_disk(str(tmp_path / "torn"))
    with pytest.raises(SourcewiseError, match="image 1 of 2 is broken"):
        small(HuggingFace(str(tmp_path / "torn")))
    assert shades(small(HuggingFace(str(tmp_path / "torn")), broken="skip")) == [1]
    nameless = datasets.Dataset.from_dict({"image": images[:2], "label": [1, None], "camera": [7, 5]}, features)
    nameless.save_to_disk(str(tmp_path / "nameless"))
    with pytest.raises(SourcewiseError, match="1 rows have no label"):
        small(HuggingFace(str(tmp_path / "nameless")))


def test_torchvision_joins_its_splits(tmp_path: Path) -> None:
    meta = {"train": {"a": ["a/0"], "b": ["b/0"]}, "test": {"a": ["a/1"], "b": []}}
    for split, listed in meta.items():
        (tmp_path / "food-101" / "meta").mkdir(parents=True, exist_ok=True)
        (tmp_path / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(listed))
    for i, name in enumerate(("a/0", "b/0", "a/1")):
        paint(tmp_path / "food-101" / "images" / f"{name}.jpg", 10 * i)
    found = small(Torchvision("Food101", str(tmp_path), [{"split": "train"}, {"split": "test"}]))
    assert (found.class_names, found.labels.tolist(), shades(found)) == (("a", "b"), [0, 1, 0], [0, 10, 20])


def test_configs_fit_torchvision() -> None:
    names = sorted(path.stem for path in (ROOT / "conf/target").glob("*.yaml") if "torchvision@" in path.read_text())
    for name in names:
        config = compose_config(f"target=[{name}]")["target"][name]
        for part in ("train", "test"):
            dataset = config[part]["dataset"]
            made = getattr(torchvision.datasets, dataset["name"])
            for arguments in dataset["parts"]:
                inspect.signature(made).bind(dataset["root"], **arguments)
            for attribute in (dataset.get("labels", "_labels"), dataset.get("classes", "classes")):
                bases = [base for base in made.__mro__ if base.__module__.startswith("torchvision.")]
                code = "".join(map(inspect.getsource, bases))
                assert f"self.{attribute}" in code or hasattr(made, attribute), (name, attribute)
    assert len(names) == 9


def test_mixed_sources_keep_their_classes_apart(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "one", cat=2, A=1), Memory(embedded.characters())
    found = small(Mixture({"pets": Folder(str(one)), "letters": two}), channels=1)
    assert found.class_names[:3] == ("pets/A", "cat", "0")
    assert [name for name in found.class_names if "/" in name] == ["pets/A", "letters/A"]
    assert torch.equal(found.images[3:], embedded.characters().images)
    assert found.labels[3:].tolist() == (embedded.characters().labels + 2).tolist()
    assert regroup(found, "part").groups.bincount().tolist() == [len(found) - 3, 3]


def test_a_seeded_split(tmp_path: Path) -> None:
    root = Folder(str(folder(tmp_path / "data", a=10, b=4, c=2)))
    taken, others = small(root, per_class=3), small(root, per_class=3, rest=True)
    assert taken.labels.bincount().tolist() == [3, 3, 2]
    assert others.labels.bincount().tolist() == [7, 1]
    assert taken.class_names == others.class_names
    assert sorted(shades(taken) + shades(others)) == shades(small(root))
    assert small(root, per_class=0.5).labels.bincount().tolist() == [5, 2, 1]
    assert set(shades(small(root, per_class=1))) < set(shades(taken))


def test_a_store_is_used_again_until_something_changes(tmp_path: Path, cache: Path) -> None:
    root = folder(tmp_path / "data", a=2, b=2)
    first = small(Folder(str(root), obtain="x"))
    assert small(Folder(str(root), obtain="y")) is first
    assert len(list(cache.glob("*.arrow"))) == 1
    with pytest.raises(SourcewiseError, match=r"^Folder /\S*/data: it has 2 classes; there should be 3"):
        small(Folder(str(root)), num_classes=3)
    paint(root / "a" / "new.png", 99)
    assert 99 in shades(small(Folder(str(root))))
    assert len(small(Folder(str(root)), channels=1).images[0]) == 1


def test_nested_folders_are_looked_at_as_well(tmp_path: Path) -> None:
    root = folder(tmp_path / "data" / "deep", a=2, b=2).parent
    assert len(small(Folder(str(root), nested=True))) == 4
    paint(root / "deep" / "a" / "new.png", 99)
    assert 99 in shades(small(Folder(str(root), nested=True)))


def test_pictures_are_upright_and_on_white(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    left_black = Image.new("L", (16, 16), 255)
    left_black.paste(0, (0, 0, 8, 16))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter clockwise
    left_black.save(tmp_path / "a" / "1.jpg", exif=turned, quality=100)
    drawing = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (2, 2, 6, 6))
    for name, image in {"2.png": drawing, "3.png": drawing.convert("LA")}.items():
        image.save(tmp_path / "a" / name)
    photo, *drawings = small(Folder(str(tmp_path))).images
    assert (photo[:, :3] < 50).all()
    assert (photo[:, 5:] > 200).all()
    for image in drawings:
        assert image[0].unique().tolist() == [0, 255]
        assert image[:, 0, 0].tolist() == [255] * 3


def test_prepare_looks_for_everything_before_it_makes_anything(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, small = folder(tmp_path / "data", a=2, b=2), ("source.train.side=8", "target=[pets]")
    overrides = ("source=imagefolder", f"source.root={root}", *small, f"target.pets.root={tmp_path / 'pets'}")
    with pytest.raises(SourcewiseError, match=r"pets: No such file or directory\. Oxford-IIIT Pets: get images.tar.gz"):
        rehearsal.prepare(compose_config(*overrides))
    assert not list(cache.glob("*.arrow"))
    with pytest.raises(SourcewiseError, match="1 colour channels, those of the source 3"):
        rehearsal.prepare(compose_config(*overrides[:3], "target=[digits]"))
    assert "source: 4 images of 2 classes, " in capsys.readouterr().out


def pictures(root: Path) -> dict[str, Path]:
    """The same red or grey as every kind of file."""
    red, grey = Image.new("RGB", (8, 8), (204, 0, 0)), Image.new("L", (8, 8), 100)
    kinds = {
        "rgb.png": red,
        "cmyk.jpg": red.convert("CMYK"),
        "palette.png": red.convert("P"),
        "alpha.png": red.convert("RGBA"),
        "grey.png": grey,
        "greyalpha.png": grey.convert("LA"),
        "deep.png": Image.fromarray(np.full((8, 8), 100 * 256 + 30, dtype=np.uint16)),
        "deep.tif": Image.fromarray(np.full((8, 8), 100 * 256 + 30, dtype=np.uint16)),
    }
    root.mkdir(parents=True)
    for name, image in kinds.items():
        image.save(root / name)
    return {name: root / name for name in kinds}


def test_every_kind_of_pixel_becomes_eight_bits(tmp_path: Path) -> None:
    names = sorted(pictures(tmp_path / "data" / "x"))
    found = small(Folder(str(tmp_path / "data")))
    for name, image in zip(names, found.images, strict=True):
        expected = (100, 100, 100) if name.startswith(("grey", "deep")) else (204, 0, 0)
        assert (image[:, 4, 4].int() - torch.tensor(expected)).abs().max() <= 3, name
    grey = small(Folder(str(tmp_path / "data")), channels=1)
    assert grey.images[names.index("deep.png")].unique().tolist() == [100]


def test_broken_images_are_named_or_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "data", a=3, b=1)
    whole = paint(root / "a" / "x.jpg", 5, side=64).read_bytes()
    (root / "a" / "x.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "b" / "empty.png").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(root / "b" / "float.tif")
    with pytest.raises(
        SourcewiseError, match=r"(?i)^/.*/a/x.jpg: this image cannot be opened \(.*truncated.*broken=skip"
    ):
        small(Folder(str(root)))
    assert small(Folder(str(root)), broken="skip").labels.bincount().tolist() == [3, 1]
    printed = capfd.readouterr().err
    assert (
        f"\nFolder {root}: 3 of 7 images are broken and were left out; the first: {root}/a/x.jpg: this image" in printed
    )
