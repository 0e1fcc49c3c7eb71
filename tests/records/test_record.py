import errno
import hashlib
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_records import header, make
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from sourcewise.core import names
from sourcewise.core.hashing import fingerprint
from sourcewise.designs import DESIGNS
from sourcewise.records import record
from sourcewise.records.record import Header, Record, RecordError, TargetOutputs


def equal(one: Record, other: Record) -> bool:
    return one.header == other.header and record.digest(one) == record.digest(other)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    item = make(3)
    path = tmp_path / "study" / "run" / "record.safetensors"
    record.write(item, path)
    assert equal(record.read(path), item)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


@given(st.data())
def test_any_record_survives_the_round_trip(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 20))
    labels = hnp.arrays(np.int32, size, elements=st.integers(0, 2))
    halves = hnp.arrays(np.float16, size, elements=st.floats(-1, 1, width=16))
    ids = data.draw(hnp.arrays(np.int32, size))
    outputs = TargetOutputs(ids, data.draw(labels), data.draw(labels), data.draw(halves), data.draw(halves))
    mask = data.draw(hnp.arrays(bool, data.draw(st.integers(1, 70))))
    text = st.text(st.characters(codec="utf-8"), max_size=5)
    names = data.draw(st.none() | st.lists(text, min_size=len(mask), max_size=len(mask), unique=True))
    target = data.draw(st.from_regex(r"[a-z\u00fc][a-z. -]{0,4}", fullmatch=True))
    later = {
        "overrides": data.draw(st.none() | st.lists(text, max_size=3)),
        "random_design": data.draw(st.none() | st.booleans()),
        "group_sizes": data.draw(st.none() | st.lists(st.integers(0), min_size=len(mask), max_size=len(mask))),
    }
    item = Record(mask, {target: outputs}, header(group_names=names, class_names={target: ["a", "b", "ü"]}, **later))
    assert equal(record.from_bytes(record.to_bytes(item), "x"), item)


def test_mappings_survive_the_round_trip_and_records_without_them_have_none() -> None:
    plain = make()
    table = np.arange(42, dtype=np.float32).reshape(3, 14)
    targets = {"pets": replace(plain.targets["pets"], label_mapping=table, feature_mapping=-table)}
    again = record.from_bytes(record.to_bytes(replace(plain, targets=targets)), "x")
    assert np.array_equal(again.targets["pets"].label_mapping, table)
    assert np.array_equal(again.targets["pets"].feature_mapping, -table)
    assert record.digest(again) != record.digest(plain)
    assert record.from_bytes(record.to_bytes(plain), "x").targets["pets"].label_mapping is None


def test_outputs_on_the_source_survive_the_round_trip_and_have_labels_of_their_own() -> None:
    plain = make()
    pets = plain.targets["pets"]
    source = replace(pets, labels=pets.labels + 100, prediction=pets.prediction + 1000)
    again = record.from_bytes(record.to_bytes(replace(plain, source=source)), "x")
    assert again.targets.keys() == {"pets"}
    assert again.source is not None
    assert np.array_equal(again.source.prediction, source.prediction)
    assert record.digest(again) == record.digest(replace(plain, source=source)) != record.digest(plain)


@given(st.lists(st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), max_size=20))
def test_paths_of_examples_survive_the_round_trip_and_do_not_count_in_the_digest(paths: list[str | None]) -> None:
    plain = make(examples=len(paths))
    pets = replace(plain.targets["pets"], packed_paths=record.pack_paths(paths))
    again = record.from_bytes(record.to_bytes(replace(plain, targets={"pets": pets})), "x")
    assert again.targets["pets"].paths is not None
    assert again.targets["pets"].paths.tolist() == paths
    assert record.digest(again) == record.digest(plain)
    assert plain.targets["pets"].paths is None


@pytest.mark.parametrize(
    "content",
    [b"", b"no zlib", zlib.compress(b"a\0b"), zlib.compress(b"\xff" + 11 * b"\0"), zlib.compress(bytes(2**26))],
)
def test_paths_that_lie_are_refused_in_one_line_and_in_little_memory(content: bytes) -> None:
    pets = replace(make().targets["pets"], packed_paths=np.frombuffer(content, np.uint8))
    with pytest.raises(RecordError, match="paths of examples"):
        pets.paths  # noqa: B018


def test_targets_come_in_one_order() -> None:
    plain, names = make(), [f"t{i}" for i in range(8)]
    item = replace(
        plain,
        targets=dict.fromkeys(names[::-1], plain.targets["pets"]),
        header=header(class_names={name: ["a", "b", "c"] for name in names}),
    )
    assert list(record.from_bytes(record.to_bytes(item), "x").targets) == names


def test_columns_have_their_types_whatever_they_came_as() -> None:
    plain = make()
    wide = {
        name: column.astype(np.float64) for name, column in vars(plain.targets["pets"]).items() if column is not None
    }
    assert record.to_bytes(replace(plain, targets={"pets": TargetOutputs(**wide)})) == record.to_bytes(plain)


def test_the_order_of_settings_does_not_matter() -> None:
    config = make().header.config
    assert record.to_bytes(make(config=dict(reversed(config.items())))) == record.to_bytes(make(config=config))


CONTENT = record.to_bytes(make())


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_changed_byte_is_never_read_as_a_result(place: int, change: int) -> None:
    content = bytearray(CONTENT)
    content[place] ^= change
    try:
        again = record.from_bytes(bytes(content), "x")
    except RecordError as error:
        assert "\n" not in str(error)
    else:
        assert equal(again, make())  # white space in the file's own header is all that may differ


@given(st.integers(0, len(CONTENT) - 1))
def test_a_truncated_record_is_one_clear_line(size: int) -> None:
    with pytest.raises(RecordError, match="x: "):
        record.from_bytes(CONTENT[:size], "x")


@given(st.binary(max_size=300))
def test_other_bytes_are_not_a_record(content: bytes) -> None:
    with pytest.raises(RecordError, match="not a whole sourcewise record"):
        record.from_bytes(content, "x")


def test_a_foreign_safetensors_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": np.zeros(3)}, path)
    with pytest.raises(RecordError, match=r"weights\.safetensors: not a whole sourcewise record"):
        record.read(path)


def test_another_schema_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "SCHEMA", 99)
    content = record.to_bytes(make())
    monkeypatch.undo()
    with pytest.raises(RecordError, match="schema 99"):
        record.from_bytes(content, "x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="gone"):
        record.read(tmp_path / "gone")


@pytest.mark.parametrize("column", ["prob", "margin"])
def test_outputs_that_are_not_numbers_are_refused_with_the_run_s_name(column: str) -> None:
    item = make(4)
    values = {name: getattr(item.targets["pets"], name) for name in ("ids", "labels", "prediction", "prob", "margin")}
    values[column] = values[column].copy()
    values[column][2] = np.nan
    with pytest.raises(RecordError, match=r"random-4-seed0.*1 outputs on target pets"):
        Record(item.mask, {"pets": TargetOutputs(**values)}, item.header)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        record.write(make(), tmp_path / "record.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_record_without_the_later_fields_has_the_bytes_and_the_digest_of_the_first_records() -> None:
    text = CONTENT.decode(errors="replace")
    assert "overrides" not in text
    assert "random_design" not in text
    assert hashlib.sha256(CONTENT).hexdigest()[:16] == "d33b1412cb92141c"
    assert record.digest(make())[:16] == "c97e30e40ddb4938"


@pytest.mark.parametrize("design", ["random", "hadamard", "replicated", "full", "ranked", "listed"])
def test_influences_rest_on_random_designs_by_name_unless_the_record_says_it(design: str) -> None:
    assert header(design=design).is_random == DESIGNS[design].is_random
    for stated in (True, False):
        assert header(design=design, random_design=stated).is_random is stated


def test_a_header_names_the_run_that_its_config_describes() -> None:
    fields = {name: getattr(header(), name) for name in ("group_names", "class_names", "fingerprints", "metrics")}
    rest = {"versions": {}, "commit": None, "device": "cpu"}
    config = {**header().config, "target": {}, "model": {"name": "cnn", "width": 8}, "seed": 3}
    config["trainer"] = {"precision": "32", "sync_batchnorm": False, "devices": 1}
    config["subset"] = {"design": "random", "seed": 5}
    made = Header.from_config(config, **fields, **rest)
    assert (made.design, made.subset_seed, made.seed) == ("random", 5, 3)
    assert (
        made.recipe
        == fingerprint(names.recipe(config))
        != fingerprint(names.recipe(config | {"model": {"name": "cnn"}}))
    )
    assert (made.study, made.run) == (names.study_name(config), names.run_name(config))
    chosen = config | {"subset": {"design": "full"}}
    assert Header.from_config(chosen, **fields, **rest).subset_seed is None


def test_a_pipe_in_place_of_a_record_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "record")
    with pytest.raises(RecordError, match=r"record: cannot be read \(not a regular file\)$"):
        record.read(tmp_path / "record")


def test_a_record_of_the_largest_size_is_written_and_read_and_none_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, size = tmp_path / "record.safetensors", len(record.to_bytes(make()))
    monkeypatch.setattr(record, "MAX_BYTES", size)
    record.write(make(), path)
    assert equal(record.read(path), make())
    monkeypatch.setattr(record, "MAX_BYTES", size - 1)
    with pytest.raises(RecordError, match=f"{size:,} bytes; a record has at most"):
        record.read(path)
    with pytest.raises(RecordError, match=f"{size:,} bytes; a record has at most"):
        record.write(make(), path)


def test_digest_ignores_wall_time_and_how_the_run_was_asked_for_and_nothing_else() -> None:
    base = record.digest(make())
    for change in (
        {"seconds": {"pretraining": 99.0}},
        {"overrides": ["model=resnet9"]},
        {"random_design": True},
        {"group_sizes": [3] * 14},
    ):
        assert record.digest(make(**change)) == base
    for change in ({"commit": "other"}, {"seed": 1}, {"metrics": {}}):
        assert record.digest(make(**change)) != base
    assert record.digest(make(1)) != base


def test_the_mask_takes_a_bit_a_group() -> None:
    big = Record(np.ones(80_000, dtype=bool), {}, header(group_names=None))
    assert len(record.to_bytes(big)) < 12_000


def test_equal_records_are_equal_bytes() -> None:
    assert record.to_bytes(make(5)) == record.to_bytes(make(5))
