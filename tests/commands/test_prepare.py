"""only=prepare: what is in the data, and all that can be told of a config without training."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Compose, compose_config
from hydra.errors import InstantiationException
from PIL import Image
from warm_python import interpreter

from sourcewise.commands import dry_run, train
from sourcewise.commands.datasets import fingerprints
from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.messages import print_once
from sourcewise.data import ImageDataset, checks
from sourcewise.data.store import BrokenImageError
from sourcewise.records import record
from sourcewise.training import sizes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    print_once.cache_clear()
    yield
    print_once.cache_clear()


def paint(root: Path, seed: int, side: int = 12, **classes: int) -> Path:
    """A folder of so many random images of each class."""
    rng = np.random.default_rng(seed)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(root / name / f"{number:03}.png")
    return root


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, ...]:
    source, target = paint(tmp_path / "S", 0, a=4, b=3, c=2), paint(tmp_path / "T", 1, a=30, x=28)
    return ("experiment=folders", f"source.root={source}", f"target.imagefolder.root={target}", "source.train.side=16",
            "target.imagefolder.train.side=16")  # fmt: skip


def test_counts_by_class_are_printed(places: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    dry_run.prepare(compose_config(*places, "source.train.per_class=3"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("source: 8 images of 3 classes, ")
    assert lines[1::2] == ["  a 3, b 3, c 2", "  a 20, x 20", "  a 10, x 8"]


def test_many_classes_are_shortened(
    tmp_path: Path, places: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    paint(tmp_path / "many", 2, **{f"c{i:03}": 1 + (i == 77) for i in range(100)})
    dry_run.prepare(compose_config(*places, f"source.root={tmp_path / 'many'}"))
    printed = capsys.readouterr().out.split("imagefolder/train")[0]
    assert "c039 1, ... 60 more classes; all have 1 to 2" in printed
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("source.groups=camera",), "source.groups=camera: choose class, example"),
        (("target.imagefolder.train.channels=1",), "1 colour channels, those of the source 3; make them alike"),
        (("subset=listed", "subset.drop=[d]"), "no group is called 'd'"),
        (
            ("model=torchvision", "model.name=vit_b_16"),
            "model vit_b_16: .* 16 pixels; it takes those of 224: set source.r",
        ),
        (("model=torchvision", "model.name=alexnet"), "model alexnet: it does not take images of 16 pixels"),
    ],
)
def test_what_needs_no_training_is_told(places: tuple[str, ...], overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises((SourcewiseError, InstantiationException), match=message):
        dry_run.prepare(compose_config(*places, *overrides))


def test_a_model_that_takes_other_images_is_told_before_training(places: tuple[str, ...], tmp_path: Path) -> None:
    overrides = (*places, "logger=none", f"runs_dir={tmp_path / 'runs'}", "model=torchvision", "model.name=vit_b_16")
    for config in (compose_config(*overrides), dry_run.shrunk(compose_config(*overrides), str(tmp_path))):
        with pytest.raises(SourcewiseError, match="model vit_b_16: it does not take images of 16 pixels"):
            train.train(config)
    # A resolution that grows is asked about at both ends.
    growing = "{_target_:sourcewise.lightning_modules.crops.Progressive,start:64,end:96,first:0,last:1,step:1}"
    with pytest.raises(SourcewiseError, match="does not take images of 64 pixels; it takes those of 75"):
        train.train(
            compose_config(
                *overrides,
                "model.name=inception_v3",
                f"source.resolution={growing}",
                "target.imagefolder.resolution=96",
            )
        )


def test_a_broken_image_names_its_setting(places: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "S" / "a" / "000.png").write_bytes(b"no image")
    line = r"^/.*/S/a/000.png: this image cannot be opened \(.*\); source.train.broken=skip leaves such images out$"
    for command in (dry_run.prepare, train.train):
        with pytest.raises(BrokenImageError, match=line):
            command(compose_config(*places, "logger=none", f"runs_dir={tmp_path / 'runs'}"))
    (tmp_path / "T" / "x" / "000.png").write_bytes(b"no image")
    with pytest.raises(BrokenImageError, match=r"T/x/000.png: .*; target.imagefolder.t(rain|est).broken=skip leaves"):
        dry_run.prepare(compose_config(*places, "source.train.broken=skip"))
    dry_run.prepare(compose_config(*places, "source.train.broken=skip", "target.imagefolder.train.broken=skip"))


def test_source_groups_without_images_are_left_out(
    places: tuple[str, ...], tiny: Compose, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "S" / "empty").mkdir()
    (tmp_path / "S" / "b2").mkdir()
    (tmp_path / "S" / "b2" / "notes.txt").write_text("x")
    config = tiny(*places, "transfer.epochs=1")
    train.train(config)
    found = record.read(names.run_dir(config) / names.RECORD)
    assert found.header.group_names == ["a", "b", "c"]
    assert "source: no images of 'b2', 'empty', which are left out" in capfd.readouterr().err


def test_one_setting_decides_the_split(places: tuple[str, ...]) -> None:
    parts = compose_config(*places, "target.imagefolder.train.per_class=25")["target"]["imagefolder"]
    taken, rest = (dry_run.instantiate(parts[split], _convert_="all") for split in ("train", "test"))
    assert (len(taken), len(rest)) == (50, 8)
    assert not set(taken.paths) & set(rest.paths)


def test_copies_and_near_names_are_said_once(
    places: tuple[str, ...], tiny: Compose, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = paint(tmp_path / "U", 3, DE=3, FR=2)
    (root / "FR" / "001.png").write_bytes((tmp_path / "S" / "a" / "002.png").read_bytes())
    (root / "DE ").mkdir()
    (root / "DE").joinpath("002.png").rename(root / "DE " / "0.png")
    for split in ("train", "test"):
        (tmp_path / "V").mkdir(exist_ok=True)
        (tmp_path / "V" / split).symlink_to(root)
    small = ("target=[imagefolder]", "target.imagefolder.train.format=raw", "target.imagefolder.resolution=null")
    overrides = (*places[:2], *small, f"target.imagefolder.root={tmp_path / 'V'}", *places[3:])
    lines = (
        "target imagefolder: the classes 'DE', 'DE ' have nearly the same name; are they one?",
        "target imagefolder: 5 of 5 test images are training images too: test/DE/000.png (there train/DE/000.png), ",
        "target imagefolder: 1 of 5 test images are in the source too: test/FR/001.png (there a/002.png)",
    )
    dry_run.prepare(compose_config(*overrides))
    printed = capfd.readouterr().out
    for line in lines:
        assert line in printed
    fingerprints(compose_config(*overrides))  # as a sweep does, before it starts workers
    printed = capfd.readouterr().err
    for line in lines:
        assert printed.count(line) == 1
    print_once.cache_clear()
    for seed in range(2):
        train.train(tiny(*overrides, "transfer.epochs=1", f"seed={seed}"))
    printed = capfd.readouterr().err
    for line in lines:
        assert printed.count(line) == 1


def test_a_process_checks_data_and_models_once(
    places: tuple[str, ...], tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for module, name, results in ((checks, "copies", "_NOTES"), (sizes, "_takes", "_PASSED")):
        monkeypatch.setattr(module, results, {})
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, f=function: calls.append(f.__name__) or f(*given))
    for overrides in ((), ("seed=1",), ("model.width=5",), ("source.train.per_class=2",)):
        train.train(tiny(*places, "transfer.epochs=1", *overrides))
        calls.append("run")
    checked = ["copies", "copies", "_takes"]
    assert calls == [*checked, "run", "run", "_takes", "run", *checked[:2], "run"]


def test_a_class_whose_images_all_train_is_said(places: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    dry_run.prepare(compose_config(*places, "target.imagefolder.train.per_class=28"))
    assert "target imagefolder: all images of 'x' train, and none are left to test" in capsys.readouterr().out


def test_copies_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)

    def dataset(count: int) -> ImageDataset:
        labels = torch.zeros(count, dtype=torch.int64)
        digests = rng.integers(0, 12, count).astype(np.uint64)
        return ImageDataset(torch.zeros(count, 1, 2, 2, dtype=torch.uint8), labels, ("a",), digests=digests)

    for _ in range(50):
        one, other = dataset(int(rng.integers(1, 9))), dataset(int(rng.integers(1, 9)))
        assert one.digests is not None
        assert other.digests is not None
        expected = [
            (row, other.digests.tolist().index(value))
            for row, value in enumerate(one.digests.tolist())
            if value in other.digests.tolist()
        ]
        assert checks.copies(one, other) == expected


@pytest.mark.parametrize(
    ("classes", "near"),
    [
        (("DE", "de"), True), (("A", "a"), False), (("ﬁsh", "fish"), True), (("a  b", "a b"), True),
        (("DE", "DEN"), False), (("1", "1 "), True),
    ],
)  # fmt: skip
def test_names_that_are_nearly_alike(classes: tuple[str, str], near: bool) -> None:
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    found = checks.notes(ImageDataset(images, torch.arange(2), classes), {})
    assert (
        found == [f"source: the classes {classes[0]!r}, {classes[1]!r} have nearly the same name; are they one?"]
    ) == near


def test_another_target_than_an_experiment_s() -> None:
    config = compose_config("experiment=folders", "source.root=/s", "target=[digits]")
    assert list(config["target"]) == ["digits"]


def test_a_first_look_mirrors_nothing() -> None:
    config = compose_config("experiment=folders", "source.root=/s", "target.imagefolder.root=/t")
    assert config["source"]["augmentation"] == config["target"]["imagefolder"]["augmentation"] == []


@pytest.mark.slow
@pytest.mark.parametrize("target", ["digits", "imagefolder"])
def test_folders_with_another_target_is_one_line(places: tuple[str, ...], target: str, tmp_path: Path) -> None:
    command = [interpreter(), str(ROOT / "train.py"), *places[:2], f"target=[{target}]", "only=dry_run"]
    done: Any = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if not line.startswith("preparing ")]) == 1
