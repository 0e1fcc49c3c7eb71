"""What a subset keeps or removes: classes, superclasses, examples, or any id per example."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Compose

from sourcewise.commands import train
from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.data import ImageDataset, Numbers, regroup
from sourcewise.designs import draw
from sourcewise.records import record

DATA = ImageDataset(
    torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1),
    torch.tensor([0, 1, 2, 0, 1, 2]),
    ("no", "dog", "eel"),
    columns={"camera": np.array(["b", "a", "b", "b", "a", "a"])},
)


def kept(groups: str, *names: str) -> list[int]:
    """The examples that are left when a dataset keeps the named groups."""
    regrouped = regroup(DATA, groups)
    mask = draw(regrouped.group_names, {"design": "listed", "keep": list(names)})
    return regrouped.keep_groups(mask).images.flatten().tolist()


def test_classes_are_the_default_and_change_nothing() -> None:
    assert regroup(DATA, "class") is DATA


def test_every_example_can_be_a_group() -> None:
    assert kept("example", "4", "0") == [0, 4]


def test_any_column_can_be_the_groups() -> None:
    assert kept("camera", "a") == [1, 4, 5]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.yaml", "no: mammal\ndog: mammal\neel: fish\nunused: x\n"),
        ("m.json", json.dumps({"no": "mammal", "dog": "mammal", "eel": "fish"})),
        ("m.csv", '\ufeffclass,superclass,note\nno,mammal,"a, b"\ndog,mammal\neel,fish\n'),
    ],
)
def test_a_file_can_map_classes_to_groups(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert kept(str(tmp_path / name), "mammal") == [0, 1, 3, 4]
    assert regroup(DATA, str(tmp_path / name)).group_names == ["mammal", "fish"]


@pytest.mark.parametrize("ids", [[7, 7, -1, 7, -1, 7], ["7", "7", "-1", "7", "-1", "7"]])
def test_a_file_can_hold_an_id_per_example(tmp_path: Path, ids: list[int]) -> None:
    np.save(tmp_path / "ids.npy", ids)
    assert kept(str(tmp_path / "ids.npy"), "-1") == [2, 4]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("camra", "choose class, example, camera, a file .*; did you mean camera"),
        ("missing.yaml", "cannot be read .*No such file"),
        ("short.npy", "a whole number or a name for each of the 6 examples"),
        ("float.npy", r"holds float64\[6\]"),
        ("torn.npy", "cannot be read"),
        ("pickle.npy", "cannot be read .*pickle"),
        ("some.csv", "no group for the classes 'eel'$"),
        ("list.yaml", "it should map every class name to a group name"),
        ("deep.yaml", "it should map every class name to a group name"),
        ("broken.json", "cannot be read"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("short.npy", np.arange(5))
    np.save("float.npy", np.arange(6) / 2)
    np.save("pickle.npy", np.array([{}] * 6, dtype=object))
    for name, text in {
        "torn.npy": "",
        "some.csv": "no,a\ndog,b\n",
        "list.yaml": "- no\n",
        "deep.yaml": "no: {a: b}\n",
        "broken.json": "{",
    }.items():
        Path(name).write_text(text)
    with pytest.raises(SourcewiseError, match=f"source.groups={groups}: .*{message}"):
        regroup(DATA, groups)


def test_the_fingerprint_tells_groupings_apart(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", [0, 0, 0, 1, 1, 1])
    np.save(tmp_path / "b.npy", [0, 0, 1, 1, 1, 1])
    made = [regroup(DATA, groups) for groups in ("class", "example", "camera", *map(str, tmp_path.glob("*.npy")))]
    assert len({dataset.fingerprint for dataset in made}) == 5
    assert regroup(DATA, "camera").fingerprint == made[2].fingerprint


def test_a_million_names_are_made_only_when_asked_for() -> None:
    names = Numbers(10**12)  # a list of them would not fit in memory
    assert (len(names), names[-1], names[5:7]) == (10**12, "999999999999", ["5", "6"])


def test_a_run_with_examples_as_groups_has_no_names_in_its_record(tiny: Compose) -> None:
    config = tiny("source.groups=example", "subset.seed=1")
    train.train(config)
    item = record.read(names.run_dir(config) / names.RECORD)
    assert item.header.group_names is None
    assert (item.mask.shape, item.mask.sum()) == ((3238,), 1619)
    assert (names.run_dir(config) / names.RECORD).stat().st_size < 40_000


def test_groups_are_part_of_the_recipe_and_the_default_is_that_of_older_records(tiny: Compose) -> None:
    base = tiny()
    older = {**base, "source": {key: value for key, value in base["source"].items() if key != "groups"}}
    assert names.study_name(base) == names.study_name(older) != names.study_name(tiny("source.groups=example"))


def test_every_source_says_what_its_groups_are() -> None:
    for path in (ROOT / "conf" / "source").glob("*.yaml"):
        text = path.read_text()
        assert "groups: class" in text or "defaults:" in text, path
