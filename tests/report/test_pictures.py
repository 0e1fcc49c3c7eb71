"""Images of examples: which are at hand, as what they reach the page, and how many."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_records as records
import numpy as np
import pytest
import torch
from conftest import ROOT
from fake_reports import EVIL, Page, changed, make_big, make_summary, make_target, render
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from benchmarks import planted
from sourcewise.acting.brittle import BrittleExample, BrittleExamples, BrittleSide
from sourcewise.acting.review import CopyRow, LabelRow, ReviewRow
from sourcewise.acting.subpopulations import ClassSplit, GroupExamples, Subpopulation, Subpopulations
from sourcewise.commands.images import find_images, with_paths
from sourcewise.core.errors import SourcewiseError
from sourcewise.data import ImageDataset, embedded, regroup
from sourcewise.data.store import Listing, prepared
from sourcewise.records.record import Header
from sourcewise.report.sections.context import BYTES, Album
from sourcewise.study.collect import collect
from sourcewise.study.effects import ExampleEffect


def dataset(count: int = 30, channels: int = 1, side: int = 8, classes: tuple[str, ...] = ("a", "b")) -> ImageDataset:
    """Noise; ids are 3 times the position."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    labels = torch.arange(count) % len(classes)
    return ImageDataset(torch.from_numpy(pixels), labels, classes, ids=3 * torch.arange(count))


def decoded(uri: str) -> tuple[str, Image.Image]:
    head, _, data = uri.partition(";base64,")
    return head, Image.open(io.BytesIO(base64.b64decode(data)))


def half_and_half(row: int) -> Image.Image:
    """Wide: grey at both ends, in the middle red or blue."""
    pixels = np.full((40, 120, 3), 128, np.uint8)
    pixels[:, 40:80] = (255, 0, 0) if row % 2 else (0, 0, 255)
    return Image.fromarray(pixels)


def test_small_images_stay_as_they_are_and_large_ones_shrink() -> None:
    small, large = dataset(), dataset(channels=3, side=96)
    album = Album({"pets": small, "": large})
    found = album("pets", 12)  # the fifth
    assert found is not None
    kind, image = decoded(found.uri)
    assert kind == "data:image/png"
    assert np.array_equal(np.asarray(image), small.pixels[4, 0])
    assert (found.name, found.label) == ("pets example 12, class a", "a")
    source = album("", 4)  # of the source, the number
    assert source is not None
    kind, image = decoded(source.uri)
    assert (kind, image.size, image.mode) == ("data:image/jpeg", (64, 64), "RGB")
    assert (source.name, source.label) == ("source example 4, class a", "a")
    smooth = torch.nn.functional.interpolate(large.pixels[4:5], (64, 64), mode="bilinear", antialias=True)[0]
    away = np.asarray(image).astype(float).mean((0, 1)) - smooth.float().numpy().mean((1, 2))
    assert np.abs(away).max() < 3
    assert [album(*missing) for missing in (("cars", 0), ("pets", 13), ("", 30))] == [None] * 3


def test_images_at_hand_name_the_examples_of_records_that_hold_no_paths() -> None:
    study = collect(records.make(seed) for seed in range(3))  # ids 0, 3, 6, ...
    images = replace(dataset(), paths=np.array([f"{i}.png" for i in range(30)], object)).select(torch.arange(20, 0, -1))
    named = with_paths(study, {"pets": images, "other": images}).paths
    assert {key: paths.tolist() for key, paths in named.items()} == {
        "pets": [None, *(f"{i}.png" for i in range(1, 12))]
    }
    again = with_paths(replace(study, paths=named), {"pets": replace(images, paths=images.paths[::-1])})
    assert again.paths["pets"] is named["pets"]


def test_a_stored_image_is_cut_at_its_ends(tmp_path: Path) -> None:
    made = prepared(lambda: Listing(half_and_half, [0, 1], ("a", "b")), str(tmp_path / "a.arrow"), side=40)
    found = Album({"pets": made})("pets", 1)
    assert found is not None
    edge = np.abs(found.pixels.astype(int) - (255, 0, 0)).mean((0, 2))
    assert edge[8:-8].max() < 5  # colours of a JPEG run into each other over some pixels
    assert edge.max() < 40


def facts(classes: int = 1, parts: int = 2, name: str = EVIL) -> dict[str, Any]:
    """What the sections with examples show, of examples 0, 3, 6, ..."""
    numbers = {"influence": 0.1, "stderr": 0.01, "qvalue": 0.001}
    effect = ExampleEffect(example=3, class_name=name, group=name, **numbers)
    example = BrittleExample(**vars(effect), mean=0.5, predicted=-0.1, real=None)
    side = BrittleSide(examples=(example,), compared=0)
    part = Subpopulation(group=name, **numbers, examples=tuple(range(0, 60, 3)))
    split = ClassSplit(class_name=name, agreement=0.9, parts=(part,) * parts)
    group = GroupExamples(group=name, helps=(effect,), hurts=(replace(effect, example=6),))
    return {
        "subpopulations": Subpopulations(splits=(split,) * classes, groups=(group,)),
        "brittle": BrittleExamples(base=0, harmed=side, supported=side),
    }


def review_rows(target: str) -> list[ReviewRow]:
    """A copy of example 9, and a dubious label."""
    row: dict[str, Any] = {"source": 4, "target": target, "qvalue": 0.001, "flagged": True}
    row |= {"influence": 0.1, "stderr": 0.02}
    return [CopyRow(**row, example=9), LabelRow(**row, held_out=0.02, in_sample=None)]


def page(images: dict[str, ImageDataset], review: bool = True) -> Page:
    target, about = make_target(name=EVIL, groups=["a", EVIL], classes=["a", EVIL], examples=90)
    summary = make_summary({EVIL: replace(about, **facts())}, 2, review=review_rows(EVIL) if review else ())
    text = render({EVIL: target}, summary, ["subpopulations", "brittle", "review"], images)
    assert text.count(EVIL) == 0
    return Page(text)


def test_sections_show_the_images_of_their_examples_with_words_for_each() -> None:
    found = page({EVIL: dataset(classes=("a", EVIL)), "": dataset(channels=3)})
    images = [attributes for tag, attributes in found.elements if tag == "img"]
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in images)
    words = [str(image["alt"]) for image in images]
    of_target = [f"{EVIL} example {3 * row}, class {('a', EVIL)[row % 2]}" for row in range(12)]
    assert words == [
        *(of_target[i] for i in (1, 2)),  # helped, hurt
        *2 * of_target,  # what leans on the group most, of either part
        *(of_target[i] for i in (1, 1)),  # harmed, supported
        "source example 4, class a",  # a copy: both side by side
        of_target[3],
        "source example 4, class a",  # a dubious label
    ]
    assert "pictures" not in found.text


def test_without_images_examples_go_by_ids_and_the_page_says_how_to_see_them() -> None:
    found = page({})
    assert "img" not in [tag for tag, _ in found.elements]
    assert "0, 3, 6, 9" in found.text
    assert "pictures Examples go by their ids" in found.text


def test_a_page_with_many_images_is_bounded() -> None:
    influences, summary = make_big()
    name = str(influences["digits"]["group"].values[0])
    summary = changed(summary, **facts(classes=1000, parts=4, name=name))
    text = render(influences, summary, None, {"digits": dataset(channels=3, side=64)})
    size = len(text.encode()) / 1e6
    shown = sum(map(len, re.findall('data:image/jpeg[^"]*', text)))
    assert BYTES - 60_000 < shown < BYTES + 10_000
    assert size <= 15


@pytest.fixture
def conf() -> Iterator[None]:
    """Hydra as a command with `--config-dir benchmarks/conf` has it."""
    search = create_config_search_path(str(ROOT / "conf"))
    search.prepend("command-line", f"file://{ROOT / 'benchmarks/conf'}")
    Hydra.create_main_hydra2("test", search)
    yield
    GlobalHydra.instance().clear()


def header(source: ImageDataset | None = None, **changes: Any) -> Header:
    """Of records of the embedded default, or with a source of which every example is a group."""
    prints = {"characters": "aa", "digits/test": embedded.digits("test").fingerprint}
    prints |= {"planted_leaks": regroup(source, "example").fingerprint} if source else {}
    config = {"source": {"name": "planted_leaks" if source else "characters"}}
    groups = {"group_names": None} if source else {}
    return records.header(
        **{"config": config, "class_names": {"digits": ["0"]}, "fingerprints": prints, **groups, **changes}
    )


@pytest.mark.usefixtures("conf")
def test_datasets_in_memory_are_at_hand_under_their_names_if_they_are_the_records(monkeypatch: Any) -> None:
    found = find_images("auto", header())
    assert list(found) == ["digits"]
    assert found["digits"].fingerprint == embedded.digits("test").fingerprint
    leaks = planted.leaks()
    assert list(find_images("auto", header(leaks))) == ["digits", ""]
    assert find_images(None, header(leaks)) == {}
    assert list(find_images("auto", header(planted.leaks(seed=1)))) == ["digits"]  # other leaks
    assert find_images("auto", header(fingerprints={"digits/test": "bb"})) == {}
    assert find_images("auto", header(fingerprints={})) == {}


@pytest.mark.usefixtures("conf")
def test_nothing_but_names_is_taken_from_records(tmp_path: Path) -> None:
    call = {"_target_": "pathlib.Path.touch", "_args_": [str(tmp_path / "touched")]}
    config = {"source": {"name": "characters", "train": call}, "target": {"digits": {"test": call, "root": "${x}"}}}
    assert list(find_images("auto", header(config=config))) == ["digits"]
    for name in ("../target/digits", "characters,digits", "${oc.env:HOME}", "nowhere", "true", "'", 3):
        assert find_images("auto", header(config={"source": {"name": name}})) == {}
    outside = tmp_path / "outside.yaml"
    outside.write_text(f"train: {{_target_: shutil.rmtree, path: {tmp_path}}}")
    name = os.path.relpath(outside.with_suffix(""), ROOT / "conf/source")
    assert find_images("auto", header(config={"source": {"name": name}}, group_names=None)) == {}
    assert list(tmp_path.iterdir()) == [outside]


def test_stores_are_known_by_their_fingerprints_without_any_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = [tmp_path / "sourcewise" / f"{name}.arrow" for name in "abc"]
    paths[0].parent.mkdir()
    paths[0].write_bytes(b"broken")
    listings = [Listing(half_and_half, [0, 1, 1][:count], ("x", "y")) for count in (2, 3)]
    stores = [prepared(lambda one=one: one, str(path), side=40) for one, path in zip(listings, paths[1:], strict=True)]
    found = find_images("auto", records.header(fingerprints={"pets/test": stores[1].fingerprint}))
    assert {name: len(dataset) for name, dataset in found.items()} == {"pets": 3}
    assert find_images("auto", records.header(fingerprints={"pets/test": "bb"})) == {}


@pytest.mark.usefixtures("conf")
def test_images_of_files_that_have_no_store_are_not_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sourcewise.data.load.load", lambda **_: pytest.fail("that would read files"))
    about = {"class_names": {"cifar10": ["a"]}, "config": {"source": {"name": "cifar10"}}}
    assert find_images("auto", header(**about, fingerprints={"cifar10/test": "bb"})) == {}


@pytest.mark.usefixtures("conf")
def test_chosen_images_are_those_of_the_records_or_refused() -> None:
    leaks = planted.leaks()
    found = find_images({"source": "planted_leaks"}, header(leaks))
    assert list(found) == ["", "digits"]
    assert list(find_images({"source": "planted_leaks"}, header())) == ["digits"]  # groups of many: no copies to find
    with pytest.raises(SourcewiseError, match="planted_mislabels has other images or groups than the records"):
        find_images({"source": "planted_mislabels"}, header(leaks))
    with pytest.raises(SourcewiseError, match="digits has other images"):
        find_images({"target": "[digits]"}, header(fingerprints={"digits/test": "bb"}))
