"""Records whose checksum is right, made by somebody who can compute one: refused, or read as what they are."""

import contextlib
import copy
import json
import tracemalloc
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import compose_config
from fake_records import make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from spoiling import spoilt

from sourcewise.commands import estimate
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import record
from sourcewise.records.record import RecordError


def sealed(header: Any, tensors: dict[str, Any]) -> bytes:
    """A file with a valid checksum, whatever it holds."""
    text = json.dumps(header, sort_keys=True)
    return save({**tensors, "sha256": record._checksum(text, tensors)}, {"sourcewise": text})


def parts(seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    item = make(seed)
    tensors = load(record.to_bytes(item))
    del tensors["sha256"]
    header = {"schema": record.SCHEMA, "groups": len(item.mask), **asdict(item.header)}
    return json.loads(json.dumps(header)), tensors


def test_parts_make_a_record() -> None:
    assert record.digest(record.from_bytes(sealed(*parts()), "x")) == record.digest(make())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"groups": 10**15}, "2 bytes of mask for 1000000000000000 groups"),
        ({"groups": -3}, "bytes of mask"),
        ({"groups": "14"}, "missing or unknown parts"),
        ({"groups": True}, "bytes of mask"),
        ({"group_names": ["a"]}, "1 group names for 14 groups"),
        ({"group_names": [7] * 14}, "group_names"),
        ({"study": None}, "study=None: input should be a valid string"),
        ({"study": "\ud800"}, "surrogates"),
        ({"group_names": ["\ud800", *"abcdefghijklm"]}, "surrogates"),
        ({"metrics": {"loss": "much"}}, "metrics="),
        ({"metrics": {"loss": {"_target_": "os.system"}}}, "metrics="),
        ({"class_names": {}}, "pets"),
        ({"class_names": {"pets": ["cat"]}}, "labels that none of its 1 classes has"),
        ({"config": {}}, "subset"),
        ({"class_names": {"pets": ["cat", "cat", "eel"]}}, "names of pets that are not unique"),
        ({"group_names": ["a"] * 14}, "names of group that are not unique"),
        ({"design": "full"}, "(its design is not that of its config, or its source has no name)"),
        ({"config": {"subset": {"design": "random"}, "source": 3}}, "missing or unknown parts"),
        ({"surplus": 1}, "surplus"),
        ({"overrides": [1]}, "overrides="),
        ({"overrides": "model=resnet9"}, "overrides="),
        ({"random_design": 1}, "random_design="),
        ({"group_sizes": [1] * 13}, "sizes of groups that are not those of 14 groups"),
        ({"group_sizes": [-1] * 14}, "sizes of groups that are not those of 14 groups"),
        ({"group_sizes": [1.5] * 14}, "group_sizes"),
    ],
)
def test_a_header_that_lies_is_refused(change: dict[str, Any], said: str) -> None:
    header, tensors = parts()
    with pytest.raises(RecordError, match="x: ") as caught:
        record.from_bytes(sealed(header | change, tensors), "x")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("mask", np.zeros(9, np.uint8), "9 bytes of mask"),
        ("mask", np.zeros(2, np.int32), "missing or unknown parts"),
        ("pets/prob", np.zeros(3, np.float16), "missing or unknown parts"),
        ("pets/prob", np.zeros(12, np.float64), "pets/prob is float64[12]"),
        ("pets/ids", np.zeros(13, np.int32), "pets/labels is int32[12]"),
        ("pets/ids", np.zeros((12, 1), np.int32), "pets/ids is int32[12, 1]"),
        ("pets/labels", np.full(12, -1, np.int32), "labels that none of its 3 classes has"),
        ("pets/prediction", np.full(12, 3, np.int32), "labels that none of its 3 classes has"),
        ("pets/label_mapping", np.zeros((2, 14), np.float32), "pets/label_mapping is float32[2, 14]"),
        ("pets/surplus", np.zeros(1), "surplus"),
        ("pets", np.zeros(1), "missing or unknown parts"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name: str, tensor: Any, said: str) -> None:
    header, tensors = parts()
    with pytest.raises(RecordError) as caught:
        record.from_bytes(sealed(header, tensors | {name: tensor}), "x")
    assert said in str(caught.value)


@pytest.mark.parametrize("target", ["../up", "/tmp/up", "..", ".", "", "a/b", "a\0b", "a\nb", "~", "a\\b"])
def test_a_target_that_is_no_folder_s_name_is_refused(target: str) -> None:
    header, tensors = parts()
    renamed = {name.replace("pets", target): array for name, array in tensors.items()}
    with pytest.raises(RecordError, match="missing or unknown parts"):
        record.from_bytes(sealed(header | {"class_names": {target: ["cat", "dog", "eel"]}}, renamed), "x")


def test_a_small_file_takes_little_memory() -> None:
    header, tensors = parts()
    tracemalloc.start()
    for groups in (10**9, 10**15):
        with pytest.raises(RecordError):
            record.from_bytes(sealed(header | {"groups": groups}, tensors), "x")
    shape = {"dtype": "F16", "shape": [10**9], "data_offsets": [0, 2 * 10**9]}
    text = json.dumps({"pets/prob": shape}).encode()
    with pytest.raises(RecordError):
        record.from_bytes(len(text).to_bytes(8, "little") + text, "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


@settings(max_examples=150)
@given(st.data())
def test_cut_copied_and_swapped_bytes_are_never_a_crash_nor_a_wrong_read(data: st.DataObject) -> None:
    content = record.to_bytes(make())
    place = st.integers(0, len(content))
    one, two = sorted((data.draw(place), data.draw(place)))
    other = data.draw(st.binary(max_size=20))
    spoilt_content = data.draw(
        st.sampled_from(
            [
                content[:one] + content[two:],
                content[:two] + content[one:],
                content[:one] + other + content[one:],
                content[:one] + other + content[one + len(other) :],
                data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little") + content[8:],
                content[:8] + content[one : one + 8] + content[16:],
            ]
        )
    )
    try:
        again = record.from_bytes(spoilt_content, "x")
    except RecordError as error:
        assert "\n" not in str(error)
    else:
        assert record.digest(again) == record.digest(make())


STUDY = [parts(seed) for seed in range(8)]


def settings_of(folder: Path) -> dict[str, Any]:
    """A config of estimate.py, for the records in folder/runs."""
    places = (f"records={folder / 'runs'}", f"out={folder / 'out'}")
    return compose_config(*places, "estimator=difference", "curate=true", "logger=none", name="estimate")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(spoilt(STUDY[0][0]))
def test_an_estimate_from_a_record_with_any_header_works_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, header: Any
) -> None:
    folder = tmp_path_factory.mktemp("study")
    runs = folder / "runs"
    for seed, (usual, tensors) in enumerate(STUDY):
        (runs / str(seed)).mkdir(parents=True)
        (runs / str(seed) / "record.safetensors").write_bytes(sealed(header if seed == 0 else usual, tensors))
    with contextlib.suppress(SourcewiseError):
        estimate.estimate(settings_of(folder))
    assert {path.name for path in folder.iterdir()} <= {"runs", "out"}


@pytest.mark.parametrize(
    "subset",
    [
        {"design": "replicated"},
        {"design": "replicated", "seed": 1, "replicas": 0},
        {"design": "ranked"},
        {"design": "ranked", "order": ["x"], "ranking": {}},
        {"design": "listed", "seed": {}},
    ],
)
def test_settings_of_a_subset_that_no_run_has(tmp_path: Path, subset: dict[str, Any]) -> None:
    for seed, (header, tensors) in enumerate(STUDY):
        header = copy.deepcopy(header)
        if seed == 0:
            header["config"]["subset"], header["design"] = subset, subset["design"]
        path = tmp_path / "runs" / str(seed) / "record.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(sealed(header, tensors))
    with contextlib.suppress(SourcewiseError):
        estimate.estimate(settings_of(tmp_path))
