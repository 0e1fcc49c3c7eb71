"""The record: all that one run leaves behind, in one safetensors file, and the only module that knows its bytes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sourcewise.errors import SourcewiseError
from sourcewise.files import write_whole

SCHEMA = 1

SOURCE = "source"
"""What outputs on the source are called, and no target is."""


class RecordError(SourcewiseError):
    """This file is not a record that can be used; says which file and why."""


class Damaged(RecordError):  # noqa: N818  # what it is
    """This file is not what was written: truncated, changed, or another kind of file."""


@dataclass(frozen=True)
class TargetOutputs:
    """Outputs on one target, one row per test example, sorted by id.

    ids, labels, prediction: int32[n]; prob (of the correct class) and margin (its logit minus logsumexp of the others):
    float16[n]. label_mapping, feature_mapping: float32[target classes, groups], see `baselines`; only in records of
    runs that keep all groups.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    prediction: NDArray[np.int32]
    prob: NDArray[np.float16]
    margin: NDArray[np.float16]
    label_mapping: NDArray[np.float32] | None = None
    feature_mapping: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Header:
    """What a record says of itself, besides its arrays; all of it JSON.

    group_names: null when groups are examples. metrics: float scalars such as `target/digits/accuracy`.
    fingerprints: dataset name to hash of its content. seconds: wall time by stage.
    """

    study: str
    run: str
    recipe: str
    config: Mapping[str, Any]
    design: str
    subset_seed: int | None
    seed: int
    group_names: list[str] | None
    class_names: Mapping[str, list[str]]
    fingerprints: Mapping[str, str]
    metrics: Mapping[str, float]
    versions: Mapping[str, str]
    commit: str | None
    device: str
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """The subset `mask: bool[groups]`, the outputs on every target, and the header.

    source: outputs on the examples of the source, of runs with `source.outputs=true`.
    """

    mask: NDArray[np.bool_]
    targets: Mapping[str, TargetOutputs]
    header: Header
    source: TargetOutputs | None = None

    @property
    def outputs(self) -> Mapping[str, TargetOutputs]:
        """All outputs, by target; those on the source by the name SOURCE."""
        return {**self.targets, **({SOURCE: self.source} if self.source else {})}

    def __post_init__(self) -> None:
        for target, outputs in self.outputs.items():
            bad = int((~np.isfinite(outputs.prob) | np.isnan(outputs.margin)).sum())
            if bad:
                raise RecordError(f"{self.header.run}: {bad} outputs on target {target} are not numbers")


def write(record: Record, path: Path) -> None:
    """Write atomically: a reader sees the whole record or none. Raises OSError when the disk does not take it."""
    write_whole(path, to_bytes(record))


def read(path: Path) -> Record:
    """Read and verify. Raises RecordError for a missing, truncated, foreign or changed file, or another schema."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return from_bytes(content, str(path))
    except Damaged as error:
        raise Damaged(f"{error}; delete it and repeat the command that made it") from error


def to_bytes(record: Record) -> bytes:
    """The record's file."""
    tensors = {"mask": np.packbits(record.mask)}
    for target, outputs in record.outputs.items():
        for name, dtype in _COLUMNS.items():
            if (column := getattr(outputs, name)) is not None:
                tensors[f"{target}/{name}"] = np.ascontiguousarray(column, dtype=dtype)
    header = json.dumps({"schema": SCHEMA, "groups": len(record.mask), **asdict(record.header)}, sort_keys=True)
    tensors["sha256"] = _checksum(header, tensors)
    return save(tensors, {"sourcewise": header})


def from_bytes(content: bytes, name: str) -> Record:
    """The record in a file's bytes; `name` is what errors call it. Raises RecordError as `read` does."""
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["sourcewise"]
        fields = json.loads(header)
        schema = fields.pop("schema")
        checksum = tensors.pop("sha256")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{name}: not a whole sourcewise record (truncated, or another kind of file)") from error
    if schema != SCHEMA:
        raise RecordError(f"{name}: a record of schema {schema}, and this sourcewise reads schema {SCHEMA}")
    if not np.array_equal(checksum, _checksum(header, tensors)):
        raise Damaged(f"{name}: its content was changed since it was written (checksum differs)")
    try:
        mask = np.unpackbits(tensors.pop("mask"), count=fields.pop("groups")).astype(bool)
        targets: dict[str, dict[str, NDArray[Any]]] = {}
        for key, array in tensors.items():
            target, _, column = key.rpartition("/")
            targets.setdefault(target, {})[column] = array
        outputs = {target: TargetOutputs(**columns) for target, columns in targets.items()}
        source = outputs.pop(SOURCE, None)
        return Record(mask, outputs, Header(**fields), source)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{name}: a record with missing or unknown parts ({error})") from error


def digest(record: Record) -> str:
    """Hash of all that the same config gives again on the same machine: everything but wall time."""
    fields = asdict(record.header) | {"seconds": {}}
    state = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    state.update(record.mask.tobytes())
    for target in sorted(record.outputs):
        for name in _COLUMNS:
            if (column := getattr(record.outputs[target], name)) is not None:
                state.update(column.tobytes())
    return state.hexdigest()


_COLUMNS = {
    "ids": np.int32,
    "labels": np.int32,
    "prediction": np.int32,
    "prob": np.float16,
    "margin": np.float16,
    "label_mapping": np.float32,
    "feature_mapping": np.float32,
}


def _checksum(header: str, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """SHA-256 over the header and all other tensors, `uint8[32]`."""
    state = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        array = tensors[name]
        state.update(f"\0{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        state.update(array.tobytes())
    return np.frombuffer(state.digest(), dtype=np.uint8)
