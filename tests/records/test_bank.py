"""Banks: all records of a study in one file give what the records give, and one that lies is one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_records import CLASSES, make
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from sourcewise.core.errors import SourcewiseError
from sourcewise.records import bank, record
from sourcewise.records.reading import Records
from sourcewise.records.record import Record
from sourcewise.study.collect import collect
from sourcewise.study.influences import estimate


def varied(seed: int) -> Record:
    """Runs of two targets, some of all groups with mappings, some with outputs on the source, with paths."""
    item = make(seed, metrics={"target/pets/accuracy": seed / 7, "x": seed}, seconds={"pretraining": 1.0 + seed})
    pets = replace(item.targets["pets"], packed_paths=record.pack_paths([f"{i}.png" for i in range(12)]))
    table = np.full((3, 14), seed, np.float32)
    targets = {"pets": replace(pets, label_mapping=table) if seed % 3 == 0 else pets, "cars": pets}
    header = replace(
        item.header, class_names={"pets": CLASSES, "cars": CLASSES}, finished=1e9 + seed, overrides=["a=1"]
    )
    return Record(item.mask, targets, header, pets if seed % 2 else None)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True))
def test_a_bank_gives_the_records_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, seeds: list[int]) -> None:
    items, path = [varied(seed) for seed in seeds], tmp_path_factory.mktemp("bank") / "b.safetensors"
    bank.write(path, items)
    assert [record.to_bytes(item) for item in bank.read(path)] == [record.to_bytes(item) for item in items]


LEAF = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 2.0]) | st.text("ab", max_size=2)
FIELDS = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(LEAF, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner)),
)


@given(st.lists(FIELDS, min_size=1, max_size=5))
def test_headers_are_what_they_share_and_what_each_adds(headers: list[dict[str, Any]]) -> None:
    shared = headers[0]
    for header in headers[1:]:
        shared = bank._common(shared, header)
    again = [bank._merged(shared, bank._beyond(header, shared)) for header in headers]
    assert [json.dumps(header, sort_keys=True) for header in again] == [
        json.dumps(header, sort_keys=True) for header in headers
    ]


def test_an_estimate_of_a_bank_is_that_of_its_records(tmp_path: Path) -> None:
    for seed in range(12):
        item = varied(seed)
        record.write(item, tmp_path / "runs" / item.header.run / "record.safetensors")
    bank.write(tmp_path / "b.safetensors", Records(str(tmp_path / "runs")))
    first, second = (collect(Records(str(tmp_path / name))) for name in ("runs", "b.safetensors"))
    assert first.seconds == second.seconds
    assert first.designs == second.designs
    results = [estimate(study, "difference") for study in (first, second)]
    for target in ("cars", "pets"):
        assert results[0][target].dataset.identical(results[1][target].dataset)
    metric = Records(str(tmp_path / "b.safetensors")).with_output("metric:x")
    assert [float(item.targets["x"].prob[0]) for item in metric] == [0, 1, 10, 11, *range(2, 10)]


def test_other_examples_are_refused(tmp_path: Path) -> None:
    longer = make(1, examples=9)
    with pytest.raises(SourcewiseError, match="random-1-seed0: its examples of pets are not those"):
        bank.write(tmp_path / "b.safetensors", [make(0), longer])
    assert not list(tmp_path.iterdir())


def lying(path: Path, change: str) -> None:
    """Make a bank of three runs a file that lies."""
    bank.write(path, [make(seed) for seed in range(3)])
    if change in ("truncated", "changed", "huge header", "pickle"):
        content = path.read_bytes()
        spoilt = {
            "truncated": content[:-20],
            "changed": content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
            "huge header": (10 * 2**30).to_bytes(8, "little") + content[8:],
            "pickle": b"\x80\x04\x95" + bytes(200),
        }
        path.write_bytes(spoilt[change])
        return
    tensors = load_file(path)
    with bank.safe_open(path, "np") as file:
        content = json.loads(file.metadata()["sourcewise"])
    if change == "fewer rows":
        tensors["pets/prob"] = tensors["pets/prob"][:2]
    elif change == "fewer groups":
        content["shared"]["group_names"] = ["a", "b"]
    elif change == "other groups":
        content["groups"] = 99
    elif change == "other dtype":
        tensors["pets/prob"] = tensors["pets/prob"].astype(np.float64)
    elif change == "unknown column":
        tensors["pets/more"] = tensors["pets/prob"]
    elif change == "rows":
        content["rows"] = {"pets/prob": ["x", None, 3]}
    elif change == "shared":
        content["shared"] = [1]
    elif change == "runs":
        content["runs"] = 7
    elif change == "a record":
        content.pop("kind")
    elif change == "target":
        tensors = {key.replace("pets", "../pets"): value for key, value in tensors.items()}
    tensors.pop("sha256")
    header = json.dumps(content)
    tensors["sha256"] = record._checksum(header, tensors)
    save_file(tensors, path, {"sourcewise": header})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("truncated", "not a whole bank"),
        ("changed", "checksum differs"),
        ("huge header", "not a whole bank"),
        ("pickle", "not a whole bank"),
        ("fewer rows", r"pets/prob has the shape \[2, 12\], for 3 runs"),
        ("fewer groups", "2 group names for 14 groups"),
        ("other groups", "bytes of mask for 99 groups"),
        ("other dtype", "pets/prob is float64"),
        ("unknown column", "missing or unknown parts"),
        ("rows", "missing or unknown parts"),
        ("shared", "missing or unknown parts"),
        ("runs", "missing or unknown parts"),
        ("a record", "name its folder"),
        ("target", "missing or unknown parts"),
    ],
)
def test_a_bank_that_lies_is_one_line(tmp_path: Path, change: str, reason: str) -> None:
    path = tmp_path / "b.safetensors"
    lying(path, change)
    with pytest.raises(SourcewiseError, match=reason) as raised:
        list(Records(str(path)))
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(str(path))


def test_a_missing_bank_and_a_folder_of_such_a_name_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourcewiseError, match="there is no such bank"):
        list(Records(str(tmp_path / "b.safetensors")))
