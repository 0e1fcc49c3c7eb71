import os
from pathlib import Path

import numpy as np
import pytest
from conftest import compose_config
from fake_records import make, write_study

from sourcewise.core.errors import SourcewiseError
from sourcewise.records import record
from sourcewise.records.reading import Reading, Records


def read(place: Path) -> tuple[list[record.Record], Reading]:
    records = iter(Records(str(place), progress=False))
    return list(records), records


@pytest.mark.parametrize("depth", ["", "study", "runs/study"])
def test_finds_the_records_of_a_run_a_study_or_all_runs(tmp_path: Path, depth: str) -> None:
    write_study(tmp_path / depth, 3)
    write_study(tmp_path / depth / "wandb" / "offline-run-1" / "files", 2)  # W&B's copies are not further records
    found, records = read(tmp_path / depth.split("/")[0])
    assert [item.header.run for item in found] == [f"random-{i}-seed0" for i in range(3)]
    assert not records.left_out


def test_bad_files_are_left_out_and_named(tmp_path: Path) -> None:
    write_study(tmp_path, 4)
    torn = tmp_path / "random-1-seed0" / "record.safetensors"
    torn.write_bytes(torn.read_bytes()[:-7])
    (tmp_path / "random-2-seed0" / "record.safetensors").write_text("hello")
    record.write(make(3), tmp_path / "copy" / "record.safetensors")
    found, records = read(tmp_path)
    assert len(found) == 2
    reasons = {Path(item.path).parent.name: item.reason for item in records.left_out}
    assert reasons.keys() == {"random-1-seed0", "random-2-seed0", "random-3-seed0"}
    assert "truncated" in reasons["random-1-seed0"]
    assert "same run as" in reasons["random-3-seed0"]


def test_a_record_that_is_called_like_another_run_is_left_out(tmp_path: Path) -> None:
    write_study(tmp_path, 3)
    record.write(make(7, run="random-7-seed0-01234567"), tmp_path / "z" / "record.safetensors")
    found, records = read(tmp_path)
    assert len(found) == 3
    assert (
        "it is called random-7-seed0-01234567, and its config is that of random-0-seed0-" in records.left_out[0].reason
    )


def test_studies_of_one_recipe_on_other_data_do_not_mix_and_the_datasets_are_named(tmp_path: Path) -> None:
    config = compose_config()
    data = {"characters": "aa", "digits/train": "bb", "digits/test": "cc"}
    write_study(tmp_path / "a", 2, config=config, fingerprints=data)
    write_study(tmp_path / "b", 3, config=config, study="other-999", fingerprints={**data, "digits/test": "x"})
    with pytest.raises(SourcewiseError, match=r"one recipe and other data \(digits/test differs\) do not mix.*filters"):
        read(tmp_path)
    found = list(Records(str(tmp_path), {"group": "other-999"}, progress=False))
    assert len(found) == 3


def test_no_folder_and_no_records_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SourcewiseError, match="no such folder"):
        read(tmp_path / "nothing")
    with pytest.raises(SourcewiseError, match="no record found"):
        read(tmp_path)
    (tmp_path / "record.safetensors").write_text("x")
    with pytest.raises(SourcewiseError, match="1 could not be used"):
        read(tmp_path)


def test_the_folder_above_the_runs_is_an_error_that_names_the_one_to_read(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(
        SourcewiseError, match=rf"^records={tmp_path}: no record found here; try records={tmp_path}/runs$"
    ):
        read(tmp_path)


def test_recipes_do_not_mix_and_the_error_counts_them(tmp_path: Path) -> None:
    write_study(tmp_path / "a", 3)
    write_study(tmp_path / "b", 2, recipe="other", study="other-999")
    with pytest.raises(SourcewiseError, match=r"made-up-0123456789 \(3 records\), other-999 \(2 records\)"):
        read(tmp_path)


def test_examples_do_not_mix(tmp_path: Path) -> None:
    write_study(tmp_path, 2)
    record.write(make(5, examples=9), tmp_path / "z" / "record.safetensors")
    with pytest.raises(SourcewiseError, match="examples of target pets"):
        read(tmp_path)


def test_changed_data_do_not_mix(tmp_path: Path) -> None:
    write_study(tmp_path, 2)
    record.write(make(5, fingerprints={"made-up": "aa", "pets/test": "cc"}), tmp_path / "z" / "record.safetensors")
    with pytest.raises(SourcewiseError, match="pets/test has fingerprint cc"):
        read(tmp_path)


def test_other_groups_do_not_mix(tmp_path: Path) -> None:
    write_study(tmp_path, 2)
    record.write(make(5, group_names=[*"abcdefghijklmn"]), tmp_path / "z" / "record.safetensors")
    with pytest.raises(SourcewiseError, match="groups"):
        read(tmp_path)


def test_iterating_twice_gives_the_same(tmp_path: Path) -> None:
    write_study(tmp_path, 3)
    records = Records(str(tmp_path), progress=False)
    one, two = list(records), list(records)
    assert np.array_equal([item.mask for item in one], [item.mask for item in two])


def test_what_is_no_regular_file_or_too_large_is_left_out_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path, 2)
    for name in ("fifo", "folder", "zero", "large"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "fifo" / "record.safetensors")
    (tmp_path / "folder" / "record.safetensors").mkdir()
    (tmp_path / "zero" / "record.safetensors").symlink_to("/dev/zero")
    with (tmp_path / "large" / "record.safetensors").open("wb") as file:
        file.truncate(record.MAX_BYTES + 1)
    items, records = read(tmp_path)
    assert len(items) == 2
    reasons = {Path(item.path).parent.name: item.reason for item in records.left_out}
    assert reasons == {
        "fifo": "cannot be read (not a regular file)",
        "folder": "cannot be read (Is a directory)",
        "zero": "cannot be read (not a regular file)",
        "large": "268,435,457 bytes; a record has at most 268,435,456",
    }


def test_an_account_is_of_one_pass(tmp_path: Path) -> None:
    write_study(tmp_path, 3)
    (tmp_path / "random-0-seed0" / "record.safetensors").write_text("hello")
    records = Records(str(tmp_path), progress=False)
    for _ in range(2):
        reading = iter(records)
        assert (reading.used, reading.left_out) == ([], [])
        next(reading)
        assert [len(list(reading)), len(reading.used), len(reading.left_out)] == [1, 2, 1]
